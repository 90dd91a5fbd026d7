"""Leakage: near-duplicates between the evaluated samples and the training data."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from phi_vision.data.samples import Sample
from phi_vision.evaluation.config import Progress
from phi_vision.io.hashing import hamming, perceptual_hash, pixel_digest
from phi_vision.prepare.dedup import (
    NEAR_IMAGE,
    SAME_GROUP,
    SAME_IMAGE,
    Hashes,
    Links,
    RowKeys,
    group_rows,
    near_pairs,
)
from phi_vision.prepare.prepare_config import PrepareConfig


def find_leakage(
    samples: Sequence[Sample], training: Sequence[Sample], progress: Progress | None = None
) -> dict[str, str]:
    """Find samples with an image, a near-duplicate image or a group of the training data.

    Uses the defaults of `phi-vision prepare`, but does not cut long chains of near-duplicates.
    Equal titles are no leakage, as different products share them; slices show their effect.

    Input:  sample "a" with the image of training sample "x" and the group of "y"; sample "b"
    Output: {"a": "same image as x, same group as y"}

    Returns:
        Id of each leaked sample -> what it shares with which training samples.

    Raises:
        ValueError: An image cannot be decoded; has the id of the sample.
    """
    rows = list(_row_keys([*training, *samples], progress))
    # Near-duplicates are found below; a tolerance here would only cost time.
    links = group_rows(rows, tolerance=0).links
    matches = {
        SAME_IMAGE: _same_key(links[SAME_IMAGE], len(training)),
        NEAR_IMAGE: _near_images(rows, len(training)),
        SAME_GROUP: _same_key(links[SAME_GROUP], len(training)),
    }
    leaked = {}
    for place, sample in enumerate(samples, start=len(training)):
        found = {kind: match[place] for kind, match in matches.items() if place in match}
        if SAME_IMAGE in found:
            found.pop(NEAR_IMAGE, None)
        if found:
            shared = (f"{kind} as {training[match].id}" for kind, match in found.items())
            leaked[sample.id] = ", ".join(shared)
    return leaked


def _row_keys(samples: Sequence[Sample], progress: Progress | None) -> Iterator[RowKeys]:
    # Decoding releases the GIL, and `map` keeps the order.
    with ThreadPoolExecutor() as pool:
        for number, hashes in enumerate(pool.map(_hash_images, samples)):
            yield RowKeys(
                number=number,
                id=samples[number].id,
                title=None,
                group=samples[number].group,
                digests=tuple(digest for digest, _ in hashes),
                hashes=tuple(value for _, value in hashes),
            )
            if progress is not None:
                progress(number + 1, len(samples))


def _hash_images(sample: Sample) -> list[tuple[str, int | None]]:
    return [(pixel_digest(image), perceptual_hash(image)) for image in sample.open_images()]


def _same_key(links: Links, trained: int) -> dict[int, int]:
    """Map each later row to the first of the `trained` rows that shares a key with it.

    Input:  rows 0 1 2 2 have keys 7 7 8 7, and 2 rows are trained
    Output: {2: 0}
    """
    first: dict[int, int] = {}
    matches: dict[int, int] = {}
    for row, key in zip(links.rows.tolist(), links.keys.tolist(), strict=True):
        if row < trained:
            first.setdefault(key, row)
        elif key in first:
            matches[row] = min(first[key], matches.get(row, trained))
    return matches


def _near_images(rows: Sequence[RowKeys], trained: int) -> dict[int, int]:
    """Map each later row to the first of the `trained` rows with the nearest perceptual hash."""
    first: dict[int, int] = {}
    later: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        for value in (each for each in row.hashes if each is not None):
            if place < trained:
                first.setdefault(value, place)
            else:
                later.setdefault(value, []).append(place)
    hashes: Hashes = np.array([*{**first, **later}], dtype=np.uint64)
    near = hashes[near_pairs(hashes, PrepareConfig.tolerance)].tolist()
    pairs = [*zip(first, first, strict=True), *near, *(pair[::-1] for pair in near)]
    nearest: dict[int, tuple[int, int]] = {}
    for known, value in pairs:
        for place in later.get(value, ()) if known in first else ():
            candidate = (hamming(known, value), first[known])
            nearest[place] = min(candidate, nearest.get(place, candidate))
    return {place: match for place, (_, match) in nearest.items()}
