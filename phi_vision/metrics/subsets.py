"""The model's figures on some of the samples: on slices, and without those that leak."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.metrics.bootstrap import Counts, Estimate, Figure
from phi_vision.metrics.combining import Marks
from phi_vision.metrics.field_metrics import Metric, headline_metrics
from phi_vision.metrics.slices import find_slices

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

    figures: Mapping[str, Figure]
    """Headline metric -> figure."""


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """Judged samples that training has all but seen, and what they do to the figures."""

    found: Mapping[str, str]
    """Sample -> what it has in common with training."""

    without: Mapping[str, Figure]
    """Metric -> the model's figure on the other samples; empty where there are none."""

    effect: Mapping[str, Figure]
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
            figures=figures_of(
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
) -> Leaks:
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
        return Leaks(found=leaked, without={}, effect={})
    without = _within(metrics, marked, counts, clean, list(metrics))
    everything = {name: metrics[name].of_marks(marks, counts) for name, marks in marked.items()}
    effect = {name: everything[name].minus(estimate) for name, estimate in without.items()}
    return Leaks(found=leaked, without=figures_of(without), effect=figures_of(effect))


def figures_of(row: Mapping[str, Estimate]) -> dict[str, Figure]:
    """Give each estimate with its interval."""
    return {name: estimate.figure() for name, estimate in row.items()}


def _within(
    metrics: Mapping[str, Metric],
    marked: Marked,
    counts: Counts,
    places: NDArray[np.bool_],
    names: Sequence[str],
) -> dict[str, Estimate]:
    """Estimate metrics on some of the samples, on the same draws."""
    return {name: metrics[name].of_marks(marked[name][places], counts[:, places]) for name in names}
