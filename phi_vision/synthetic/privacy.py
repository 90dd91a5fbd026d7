"""The privacy check: no real title, code, link or image may appear in drawn data.

Real values are kept as hashes, 8 bytes each, so that a dataset of millions fits in memory.
Texts are compared without regard to case, blanks and HTML entities; images by their bytes and
by their perceptual hash.
"""

import html
from array import array
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from phi_vision.data.samples import Value
from phi_vision.io.hashing import hash_bits
from phi_vision.synthetic.observation import ImageFacts, ObservedRow
from phi_vision.synthetic.profile import PATH_COLUMN, Profile

MAX_DISTANCE = 4
"""Bits of the perceptual hash in which a copy may differ after scaling and encoding again; other
products differ in 20 or more."""

Hashes = npt.NDArray[np.uint64]


class RealValues:
    """The texts and images of a real dataset as hashes: first all rows are added, then queried."""

    def __init__(self) -> None:
        self._texts: defaultdict[str, array[int]] = defaultdict(lambda: array("Q"))
        self._digests, self._perceptual = array("Q"), array("Q")

    def add(self, row: ObservedRow) -> None:
        """Add the texts and whole numbers of a row, and its images."""
        for column, value in row.record.items():
            if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                self._texts[column].append(_hash(value))
        for image in row.images:
            self._digests.append(image.digest)
            if image.perceptual_hash is not None:
                self._perceptual.append(image.perceptual_hash)
            if image.path:
                self._texts[PATH_COLUMN].append(_hash(image.path))

    @cached_property
    def texts(self) -> dict[str, Hashes]:
        """Column -> hashes of its values, sorted."""
        return {column: _sorted(hashes) for column, hashes in self._texts.items()}

    @cached_property
    def digests(self) -> Hashes:
        """Hashes of the bytes of the images, sorted."""
        return _sorted(self._digests)

    @cached_property
    def _perceptual_hashes(self) -> Hashes:
        return _sorted(self._perceptual)

    def contains_text(self, text: Value, columns: Sequence[str]) -> bool:
        """Whether a text is a real value of any of the columns."""
        hashed = _hash(text)
        return any(_contains(self.texts[c], hashed) for c in columns if c in self.texts)

    def contains_image(self, image: ImageFacts) -> bool:
        """Whether an image is real: by its bytes, or by its perceptual hash."""
        if _contains(self.digests, image.digest):
            return True
        if image.perceptual_hash is None:
            return False
        distances = np.bitwise_count(self._perceptual_hashes ^ np.uint64(image.perceptual_hash))
        return bool((distances <= MAX_DISTANCE).any())


def check_row(row: ObservedRow, profile: Profile, real: RealValues) -> None:
    """Check that a drawn row holds nothing real.

    Raises:
        ValueError: A title, text, code, link, file name, rare category or image is real.
    """
    private = profile.private_columns
    found = [
        name
        for name in private
        if (value := row.record.get(name)) and real.contains_text(value, private)
    ]
    for node in profile.network:
        value = row.record.get(node.column)
        if value not in node.frequencies.values and real.contains_text(value, [node.column]):
            found.append(node.column)
    for image in row.images:
        if image.path and real.contains_text(image.path, private):
            found.append(PATH_COLUMN)
        if real.contains_image(image):
            found.append("image")
    if found:
        raise ValueError(
            f"the privacy check failed: real values were found in {', '.join(found)} of a drawn "
            "row, so nothing was written; try another seed, and report this"
        )


def _hash(text: Value) -> int:
    return hash_bits(" ".join(html.unescape(str(text)).casefold().split()))


def _sorted(hashes: "array[int]") -> Hashes:
    return np.unique(np.frombuffer(hashes, dtype=np.uint64))


def _contains(hashes: Hashes, wanted: int) -> bool:
    place = int(np.searchsorted(hashes, np.uint64(wanted)))
    return place < len(hashes) and int(hashes[place]) == wanted
