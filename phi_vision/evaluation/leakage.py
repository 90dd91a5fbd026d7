"""What judged samples have in common with training, so that their answers may be mere memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from phi_vision.data.samples import Sample
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
from phi_vision.prepare.pipeline import PrepareConfig

Progress = Callable[[int, int], None]
"""Called with how many samples were looked at, of how many."""


def find_leakage(
    samples: Sequence[Sample],
    training: Sequence[Sample],
    progress: Progress | None = None,
) -> dict[str, str]:
    """Find samples that training has all but seen: the same image, a near one, the same group.

    They are told as `phi-vision prepare` does by default, save that long chains of near images
    are not cut: a chain leaks at each of its links. Titles tie nothing here, as different styles
    may share one; `evaluate.slices` parts the samples by it.

    Input:  sample "a" with the image of training sample "x" and the group of "y"; sample "b"
    Output: {"a": "same image as x, same group as y"}

    Args:
        samples: To judge on.
        training: What the model learnt from.
        progress: Called as it goes.

    Returns:
        Sample id -> what it has in common with which training samples, for those that have.

    Raises:
        ValueError: An image cannot be decoded; names the sample.
    """
    traits = list(_traits([*training, *samples], progress))
    # Near images are told below; a tolerance here would only cost time.
    ties = group_rows(traits, tolerance=0).links
    twins = {
        SAME_IMAGE: _twins(ties[SAME_IMAGE], len(training)),
        NEAR_IMAGE: _near_twins(traits, len(training)),
        SAME_GROUP: _twins(ties[SAME_GROUP], len(training)),
    }
    leakage = {}
    for place, sample in enumerate(samples, start=len(training)):
        found = {kind: twin[place] for kind, twin in twins.items() if place in twin}
        if SAME_IMAGE in found:
            found.pop(NEAR_IMAGE, None)
        if found:
            words = (f"{kind} as {training[twin].id}" for kind, twin in found.items())
            leakage[sample.id] = ", ".join(words)
    return leakage


def _traits(samples: Sequence[Sample], progress: Progress | None) -> Iterator[RowKeys]:
    # Decoding leaves Python to other threads, and `map` keeps the order.
    with ThreadPoolExecutor() as pool:
        for number, (sample, seen) in enumerate(
            zip(samples, pool.map(_look, samples), strict=True)
        ):
            yield RowKeys(
                number=number,
                id=sample.id,
                title=None,
                group=sample.group,
                digests=tuple(digest for digest, _ in seen),
                hashes=tuple(value for _, value in seen),
            )
            if progress is not None:
                progress(number + 1, len(samples))


def _look(sample: Sample) -> list[tuple[str, int | None]]:
    """Describe each image: by its pixels, and how it looks."""
    return [(pixel_digest(image), perceptual_hash(image)) for image in sample.open_images()]


def _twins(ties: Links, trained: int) -> dict[int, int]:
    """Map each row after the trained ones to the first trained one that it shares a key with.

    Input:  rows 0 1 2 2 hold keys 7 7 8 7, of which rows 0 and 1 are trained
    Output: {2: 0}
    """
    first: dict[int, int] = {}
    twins: dict[int, int] = {}
    for row, key in zip(ties.rows.tolist(), ties.keys.tolist(), strict=True):
        if row < trained:
            first.setdefault(key, row)
        elif key in first:
            twins[row] = min(first[key], twins.get(row, trained))
    return twins


def _near_twins(traits: Sequence[RowKeys], trained: int) -> dict[int, int]:
    """Map each row after the trained ones to the trained one that it looks most like, if any does.

    Of those that are equally alike, the first.
    """
    holders: dict[int, list[int]] = {}
    for place, trait in enumerate(traits):
        for look in trait.hashes:
            if look is not None:
                holders.setdefault(look, []).append(place)
    looks: Hashes = np.array(list(holders), dtype=np.uint64)
    nearest: dict[int, tuple[int, int]] = {}
    for one, other in _close(looks):
        apart = hamming(one, other)
        trained_one = min(holders[other])
        if trained_one < trained:
            for place in holders[one]:
                if place >= trained:
                    nearest[place] = min((apart, trained_one), nearest.get(place, (65, 0)))
    return {place: twin for place, (_, twin) in nearest.items()}


def _close(looks: Hashes) -> Iterable[tuple[int, int]]:
    """Give each look with itself and with those near it, in both orders."""
    pairs = looks[near_pairs(looks, PrepareConfig.tolerance)].tolist()
    yield from ((look, look) for look in looks.tolist())
    for one, other in pairs:
        yield one, other
        yield other, one
