"""Metrics on subsets of the samples: slices, and the samples that do not leak."""

import io
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phi_vision.data.samples import Sample, Value
from phi_vision.data.template import Template
from phi_vision.metrics.aggregation import Marks
from phi_vision.metrics.bootstrap import BootstrapDistribution, Counts, Estimate
from phi_vision.metrics.field_metrics import Metric, as_number, headline_metrics

LEAST = 5
"""Samples that a category must have: figures of fewer say nothing."""

MOST = 12
"""Categories that are shown by themselves; more make a table that nobody reads."""

Names = Sequence[str]
"""For each sample, the name of the part that it is in."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some of the samples, and what they have in common."""

    by: str
    """What the samples are parted by: a field, "image size", "style in training", ..."""

    name: str
    """Which part this is: "COATS", "100 to 250", "seen"."""

    places: NDArray[np.bool_]
    """Whether each sample is in it."""


def find_slices(
    samples: Sequence[Sample], training: Sequence[Sample], template: Template
) -> list[Part]:
    """Part samples by categories, bands of numbers, image size, and by what training has seen.

    The parts of one kind hold every sample once.

    Input:  categories COATS (7 samples), BELTS (5), HATS (2), full prices 90 to 800, ...
    Output: category3_code: COATS, BELTS, 1 other; full_price: below 150, 150 to 290, ...;
            image size: 300 to 640 px, ...; style in training: unseen; title in training: seen

    Args:
        samples: To part.
        training: What the model learnt from; decides the bands of numbers.
        template: Its fields.
    """
    records = [template.select(sample.record) for sample in samples]
    learnt = [template.select(sample.record) for sample in training]
    parts = []
    for field in template.fields_of("category"):
        parts += _parts(field, *_categories([record[field] for record in records]))
    for field in template.fields_of("number"):
        bands = _bands([record[field] for record in records], [each[field] for each in learnt])
        parts += _parts(field, *bands)
    parts += _parts("image size", *_sizes(samples))
    groups = {sample.group for sample in training}
    parts += _seen("style in training", [sample.group in groups for sample in samples])
    for field in template.fields_of("text"):
        texts = {each[field] for each in learnt}
        parts += _seen(f"{field} in training", [record[field] in texts for record in records])
    return parts


def _parts(by: str, names: Names, order: Iterable[str]) -> list[Part]:
    """Make a part of each name that a sample has, in the order given."""
    of = np.array(names, dtype=object)
    present = set(names)
    return [Part(by=by, name=name, places=of == name) for name in order if name in present]


def _seen(by: str, seen: Sequence[bool]) -> list[Part]:
    return _parts(by, ["seen" if each else "unseen" for each in seen], ("seen", "unseen"))


def _categories(values: Sequence[Value]) -> tuple[Names, list[str]]:
    """Name each value by itself, and rare ones together.

    Input:  A (7 times), B (5 times), C, D
    Output: A, B and "2 others"
    """
    counted = Counter("none" if value is None else str(value) for value in values)
    # By number, then by name: not by which sample comes first.
    ranked = sorted(counted, key=lambda name: (-counted[name], name))
    frequent = [name for name in ranked if counted[name] >= LEAST][:MOST]
    rest = len(counted) - len(frequent)
    others = f"{rest} other{'s' * (rest > 1)}"
    names = ["none" if value is None else str(value) for value in values]
    return [name if name in frequent else others for name in names], [*frequent, others]


def _bands(values: Sequence[Value], known: Sequence[Value]) -> tuple[Names, list[str]]:
    """Name each number by the fifth of the known ones that it is in; a band begins with its edge.

    Input:  known 10, 20, ..., 100; values 5, 28, 30, 999, None
    Output: "below 28", "28 to 46", "28 to 46", "from 82", "none"
    """
    numbers = [number for number in map(as_number, known) if number is not None]
    # Four digits tell bands apart and can be read; rounded before anything is put in a band.
    exact = np.quantile(numbers, [0.2, 0.4, 0.6, 0.8]).tolist() if numbers else []
    edges = sorted({float(f"{edge:.4g}") for edge in exact})
    between = [f"{low:.10g} to {high:.10g}" for low, high in pairwise(edges)]
    ends = [f"below {edges[0]:.10g}", f"from {edges[-1]:.10g}"] if edges else ["all", "all"]
    bands = [ends[0], *between, ends[1]]
    names = []
    for number in map(as_number, values):
        place = 0 if number is None else bisect_right(edges, number)
        names.append("none" if number is None else bands[place])
    return names, [*dict.fromkeys(bands), "none"]


def _sizes(samples: Sequence[Sample]) -> tuple[Names, list[str]]:
    """Name each sample by the third of longest sides that it is in, and by the ends of that third.

    Input:  images of 300×200, 400×400, 90×500, 800×600, 900×20, 1000×900 pixels
    Output: "300 to 400 px" twice, "500 to 800 px" twice, "900 to 1000 px" twice
    """
    sides = [_longest_side(sample) for sample in samples]
    known = [side for side in sides if side is not None]
    # Edges are sides that exist, so that sides which are all alike make one band.
    edges = np.quantile(known, [1 / 3, 2 / 3], method="lower").tolist() if known else []
    thirds: dict[int, list[int]] = {}
    for side in sorted(known):
        thirds.setdefault(bisect_left(edges, side), []).append(side)
    bands: dict[int, str] = {}
    for third in thirds.values():
        ends = f"{third[0]} px" if third[0] == third[-1] else f"{third[0]} to {third[-1]} px"
        bands |= dict.fromkeys(third, ends)
    names = ["none" if side is None else bands[side] for side in sides]
    return names, [*dict.fromkeys(bands.values()), "none"]


def _longest_side(sample: Sample) -> int | None:
    """Read the longest side of the first image, in pixels, without decoding it."""
    if not sample.images:
        return None
    try:
        with Image.open(io.BytesIO(sample.images[0])) as image:
            return max(image.size)
    except (OSError, ValueError, Image.DecompressionBombError):
        # What breaks an image is told by whoever must show it to the model, not here.
        return None


Marked = Mapping[str, Marks]
"""Metric -> a mark for each sample."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The model's figures on a part of the samples."""

    by: str
    """What the samples are parted by: a field, the image's size, ..."""

    name: str
    samples: int
    groups: int

    estimates: Mapping[str, Estimate]
    """Headline metric -> figure."""


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Judged samples that training has all but seen, and what they do to the figures."""

    leaked: Mapping[str, str]
    """Sample -> what it has in common with training."""

    without: Mapping[str, Estimate]
    """Metric -> the model's figure on the other samples; empty where there are none."""

    effect: Mapping[str, Estimate]
    """Metric -> the figure on all samples minus that on the others."""


def judge_slices(
    metrics: Mapping[str, Metric],
    marked: Marked,
    counts: Counts,
    samples: Sequence[Sample],
    training: Sequence[Sample],
    template: Template,
) -> tuple[Slice, ...]:
    """Judge each slice of the samples by the headline metrics, on the same draws.

    Args:
        metrics: What can be measured.
        marked: The model's marks.
        counts: How often each sample was drawn.
        samples: What was judged on.
        training: What was learnt from.
        template: Names the fields.
    """
    return tuple(
        Slice(
            by=part.by,
            name=part.name,
            samples=int(part.places.sum()),
            groups=len(
                {each.group for each, is_in in zip(samples, part.places, strict=True) if is_in}
            ),
            estimates=with_intervals(
                _within(metrics, marked, counts, part.places, headline_metrics(template))
            ),
        )
        for part in find_slices(samples, training, template)
    )


def judge_without(
    metrics: Mapping[str, Metric],
    marked: Marked,
    counts: Counts,
    samples: Sequence[Sample],
    leaked: Mapping[str, str],
) -> Leakage:
    """Judge the samples that training has not all but seen.

    Args:
        metrics: What can be measured.
        marked: The model's marks.
        counts: How often each sample was drawn.
        samples: What was judged on.
        leaked: Sample -> what it has in common with training.
    """
    clean = np.array([sample.id not in leaked for sample in samples])
    if clean.all() or not clean.any():
        return Leakage(leaked=leaked, without={}, effect={})
    without = _within(metrics, marked, counts, clean, list(metrics))
    everything = {name: metrics[name].of_marks(marks, counts) for name, marks in marked.items()}
    effect = {name: everything[name].minus(estimate) for name, estimate in without.items()}
    return Leakage(leaked=leaked, without=with_intervals(without), effect=with_intervals(effect))


def with_intervals(row: Mapping[str, BootstrapDistribution]) -> dict[str, Estimate]:
    """Give each estimate with its interval."""
    return {name: estimate.estimate() for name, estimate in row.items()}


def _within(
    metrics: Mapping[str, Metric],
    marked: Marked,
    counts: Counts,
    places: NDArray[np.bool_],
    names: Sequence[str],
) -> dict[str, BootstrapDistribution]:
    """Estimate metrics on some of the samples, on the same draws."""
    return {name: metrics[name].of_marks(marked[name][places], counts[:, places]) for name in names}
