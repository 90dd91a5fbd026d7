"""The privacy check: no real title, code, link or image may appear in what was drawn.

Real values are remembered as hashes, 8 bytes each, so that a dataset of millions fits in memory.
Texts are compared without regard to case, blanks and HTML entities; images by their bytes and
by their look.
"""

import html
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from phi_vision.data.samples import Value
from phi_vision.io.hashing import hash_bits
from phi_vision.synthetic.reading import Seen, Shot

NEAR = 2
"""Bits of the look in which a copy may differ. Scaling and encoding again change no more than that;
by chance one drawing in 80 came so near to one of 735 real photographs, and costs another one."""

PATH_COLUMN = "image.path"
"""How the file names beside the images are called in profiles and reports."""

Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What a real dataset holds, as hashes.

    Attributes:
        texts: column -> hashes of its values, sorted.
        digests: of the images' bytes, sorted.
        looks: perceptual hashes of the images, sorted; flat ones have none.
    """

    texts: Mapping[str, Hashes]
    digests: Hashes
    looks: Hashes

    def hold_text(self, text: Value, columns: Sequence[str]) -> bool:
        """Whether a text is a real value of any of the columns."""
        hashed = np.uint64(_hash(text))
        return any(_has(self.texts[c], hashed) for c in columns if c in self.texts)

    def hold_image(self, shot: Shot) -> bool:
        """Whether an image has the bytes or, but for `NEAR` bits, the look of a real one."""
        if _has(self.digests, np.uint64(shot.digest)):
            return True
        if shot.look is None or not len(self.looks):
            return False
        wanted = np.uint64(shot.look) ^ _NEAR_MASKS
        places = np.searchsorted(self.looks, wanted)
        places[places == len(self.looks)] = 0
        return bool((self.looks[places] == wanted).any())


class SecretKeeper:
    """Collects what must not appear, row by row."""

    def __init__(self) -> None:
        self._texts: dict[str, array[int]] = {}
        self._digests = array("Q")
        self._looks = array("Q")

    def add(self, seen: Seen) -> None:
        """Remember a row's texts and whole numbers, and its images."""
        for column, value in seen.record.items():
            if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                self._remember(column, value)
        for shot in seen.shots:
            self._digests.append(shot.digest)
            if shot.look is not None:
                self._looks.append(shot.look)
            if shot.path:
                self._remember(PATH_COLUMN, shot.path)

    def close(self) -> Secrets:
        """Sort what was collected."""
        return Secrets(
            texts={column: _sorted(hashes) for column, hashes in self._texts.items()},
            digests=_sorted(self._digests),
            looks=_sorted(self._looks),
        )

    def _remember(self, column: str, value: Value) -> None:
        self._texts.setdefault(column, array("Q")).append(_hash(value))


def _hash(text: Value) -> int:
    return hash_bits(" ".join(html.unescape(str(text)).casefold().split()))


def _sorted(hashes: "array[int]") -> Hashes:
    return np.unique(np.frombuffer(hashes, dtype=np.uint64))


def _has(hashes: Hashes, wanted: np.uint64) -> bool:
    place = int(np.searchsorted(hashes, wanted))
    return place < len(hashes) and bool(hashes[place] == wanted)


def _near_masks() -> Hashes:
    """All 2081 ways to change at most `NEAR` of 64 bits."""
    masks = {0}
    for _ in range(NEAR):
        masks |= {mask ^ (1 << bit) for mask in masks for bit in range(64)}
    return np.array(sorted(masks), dtype=np.uint64)


_NEAR_MASKS = _near_masks()
