"""Leakage: near-duplicates between the evaluated samples and the training data."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from phi_vision.data.samples import Sample, join_samples
from phi_vision.evaluation.config import Progress
from phi_vision.io.hashing import perceptual_hash, pixel_digest
from phi_vision.io.process import map_in_threads
from phi_vision.prepare import dedup
from phi_vision.prepare.prepare_config import PrepareConfig


def find_leakage(
    samples: Sequence[Sample],
    training: Sequence[Sample],
    progress: Progress = lambda done, total: None,
) -> dict[str, str]:
    """Find samples with an image, a near-duplicate image (by the defaults of `phi-vision prepare`,
    without its cut of long chains) or a group of the training data. Equal titles are no leakage, as
    different products share them; slices show their effect.

    Input:  sample "a" with the image of training sample "x" and the group of "y"; sample "b"
    Output: {"a": "same image as x, same group as y"}, without "b"
    """
    rows = list(_row_keys(join_samples(training, samples), progress))
    links = dedup.group_rows(rows, tolerance=0).links
    # As prepare numbers the hashes, in order of first appearance, but without its cut of chains.
    known = dict.fromkeys(value for row in rows for value in row.hashes if value is not None)
    hashes = np.array([*known], dtype=np.uint64)
    pairs = dedup.near_pairs(hashes, PrepareConfig.tolerance)
    distances = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    near = np.column_stack([distances, pairs]).tolist()
    shared: dict[int, dict[str, str]] = {}
    for kind in (dedup.SAME_IMAGE, dedup.NEAR_IMAGE, dedup.SAME_GROUP):
        found = _first_matches(links[kind], near if kind == dedup.NEAR_IMAGE else [], len(training))
        for place, match in found.items():
            if kind != dedup.NEAR_IMAGE or dedup.SAME_IMAGE not in shared.get(place, ()):
                shared.setdefault(place, {})[kind] = f"{kind} as {training[match].id}"
    first = len(training)
    return {samples[at - first].id: ", ".join(shared[at].values()) for at in sorted(shared)}


def _row_keys(samples: Sequence[Sample], progress: Progress) -> Iterator[dedup.RowKeys]:
    def hash_images(sample: Sample) -> tuple[str, list[tuple[str, int | None]]]:
        images = sample.open_images()
        return sample.group, [(pixel_digest(image), perceptual_hash(image)) for image in images]

    for number, (group, found) in enumerate(map_in_threads(hash_images, samples)):
        digests, hashes = tuple(zip(*found, strict=True)) or ((), ())
        yield dedup.RowKeys(number=number, id="", group=group, digests=digests, hashes=hashes)
        progress(number + 1, len(samples))


def _first_matches(links: dedup.Links, near: Iterable[list[int]], trained: int) -> dict[int, int]:
    """Map each later row to the first of the `trained` rows with the nearest key."""
    pairs = list(zip(links.rows.tolist(), links.keys.tolist(), strict=True))
    first = {key: row for row, key in reversed(pairs) if row < trained}
    # Key -> (distance, key) of those alike.
    alike = {key: [(0, key)] for _, key in pairs}
    for distance, one, other in near:
        alike.setdefault(one, []).append((distance, other))
        alike.setdefault(other, []).append((distance, one))
    nearest: dict[int, tuple[int, int]] = {}
    for row, key in pairs:
        found = [(distance, first[known]) for distance, known in alike[key] if known in first]
        if found and row >= trained:
            nearest[row] = min([*found, nearest.get(row, found[0])])
    return {row: match for row, (_, match) in nearest.items()}
