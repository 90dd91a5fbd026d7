"""score: what replies are worth, with intervals, beside rivals, with and without the image.

Takes replies and not a model, so that an adapter, an export, a server and a file are judged alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.metrics.bootstrap import BootstrapDistribution, Estimate, draw_groups
from phi_vision.metrics.calibration import Calibration, calibrations
from phi_vision.metrics.category_hierarchy import find_tree
from phi_vision.metrics.field_metrics import Metric, Predicted, headline_metrics, metrics_for
from phi_vision.metrics.slices import (
    Leakage,
    Marked,
    Slice,
    judge_slices,
    judge_without,
    with_intervals,
)

SYSTEMS = {
    "model": "the model",
    "constrained": "the model, limited to the template",
    "base": "the model before fine-tuning",
    "constant": "the same answer for all: the most frequent, the median",
    "category_median": "the median of the category that the model names",
    "nearest": "the nearest training image, by the model's own vision tower",
    "boosting": "gradient boosting on colours, shapes and edges",
    "withheld": "the model, without an image: the same answer for all",
    "twin": "a twin trained without images",
    "blank": "the model, shown white images",
    "shuffled": "the model, shown other samples' images",
}
"""Who answers -> in words; in the order in which tables show them."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Everything an evaluation found."""

    template: Template
    samples: int
    groups: int
    seed: int

    metrics: Mapping[str, Metric]
    """What was measured, in the order of the template's fields."""

    estimates: Mapping[str, Mapping[str, Estimate]]
    """Who of `WHO` -> metric -> figure; where it applies."""

    differences: Mapping[str, Mapping[str, Estimate]]
    """Rival -> metric -> by how much the model is better (below 0: worse), on the same draws."""

    predictions: tuple[ScoredPrediction, ...]
    """The model's, in the order of the samples."""

    uses_image: bool | None
    """Whether answers get worse with other samples' images; None where that was not tested."""

    shuffled_image_check: str
    """The same in words, with figures."""

    slices: tuple[Slice, ...]

    leakage: Leakage | None
    """None where it was not looked for."""

    calibrations: Mapping[str, Calibration]
    """Field, or "record" for all of them -> how far its confidence can be trusted."""

    best_achievable: Mapping[str, float]
    """Metric -> the best value that noise in the data allows, where known."""


def score(
    predictions: Mapping[str, Sequence[Prediction]],
    samples: Sequence[Sample],
    template: Template,
    *,
    training: Sequence[Sample],
    baselines: Mapping[str, Predicted] | None = None,
    leaked: Mapping[str, str] | None = None,
    target_precision: float | None = None,
    seed: int = 0,
    best_achievable: Mapping[str, float] | None = None,
) -> Scores:
    """Judge replies about held-out samples.

    Args:
        replies: Who of `WHO` -> a reply for each sample, in their order; "model" must be there.
        samples: Held-out samples whose records are the truth.
        template: Reads the replies.
        training: What the model learnt from: tells slices and trees of categories.
        rivals: Who of `WHO` -> records that were made without any model; a rival that lacks a field
            is not measured by it.
        leaked: Sample -> what it has in common with training; None where nobody looked.
        target_precision: Share of right answers wanted among those that are used; finds the
            confidence from which on to use them.
        seed: Of the draws.
        floor: Metric -> the best value that noise in the data allows, to show beside.

    Raises:
        ValueError: There are no samples, a record lacks a field of the template, or there are not
            as many replies as samples.
    """
    if not samples or not training:
        which = "to evaluate on" if not samples else "to learn from"
        raise ValueError(f"found no samples {which}; give at least one")
    trees = {field: find_tree(field, training) for field in template.fields_of("category")}
    metrics = metrics_for(template, trees)
    scored = _read_predictions(predictions["model"], samples, template)
    marked = _mark_all(metrics, predictions, baselines or {}, samples, template)
    groups = [sample.group for sample in samples]
    counts = draw_groups(groups, seed=seed)
    table = {
        system: {name: metrics[name].of_marks(marks, counts) for name, marks in theirs.items()}
        for system, theirs in marked.items()
    }
    differences = _differences(metrics, table)
    uses_image, shuffled_image_check = _check_shuffled_images(
        headline_metrics(template), table, differences
    )
    return Scores(
        template=template,
        samples=len(samples),
        groups=len(set(groups)),
        seed=seed,
        metrics=metrics,
        estimates={system: with_intervals(row) for system, row in table.items()},
        differences={system: with_intervals(row) for system, row in differences.items()},
        predictions=scored,
        uses_image=uses_image,
        shuffled_image_check=shuffled_image_check,
        slices=judge_slices(metrics, marked["model"], counts, samples, training, template),
        leakage=None
        if leaked is None
        else judge_without(metrics, marked["model"], counts, samples, leaked),
        calibrations=calibrations(
            scored, template, counts, groups=groups, target=target_precision, seed=seed
        ),
        best_achievable=dict(best_achievable or {}),
    )


def significance(difference: Estimate) -> str:
    """Say what a margin shows: "better", "worse" or "not told apart" (its interval holds 0)."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "not significant"


def _read_predictions(
    predictions: Sequence[Prediction], samples: Sequence[Sample], template: Template
) -> tuple[ScoredPrediction, ...]:
    _refuse_gaps("model", predictions, samples)
    return tuple(
        ScoredPrediction(
            id=sample.id,
            group=sample.group,
            truth=template.select(sample.record),
            prediction=reply,
        )
        for sample, reply in zip(samples, predictions, strict=True)
    )


def _mark_all(
    metrics: Mapping[str, Metric],
    predictions: Mapping[str, Sequence[Prediction]],
    baselines: Mapping[str, Predicted],
    samples: Sequence[Sample],
    template: Template,
) -> dict[str, Marked]:
    """Mark what everybody said about every sample: replies by all metrics, rivals by some."""
    truth = [template.select(sample.record) for sample in samples]
    predicted: dict[str, Predicted] = dict(baselines)
    for system, given in predictions.items():
        _refuse_gaps(system, given, samples)
        predicted[system] = [prediction.record for prediction in given]
    return {
        system: {
            name: metric.per_sample(predicted[system], truth)
            for name, metric in metrics.items()
            if system in predictions or _answers_with(metric, predicted[system], template)
        }
        for system in SYSTEMS
        if system in predicted
    }


def _answers_with(metric: Metric, records: Predicted, template: Template) -> bool:
    """Whether records have what a metric reads: its field, or all of them."""
    fields = set(records[0] or ())
    return fields >= set(template.fields) if metric.field is None else metric.field in fields


def _refuse_gaps(system: str, predictions: Sequence[Prediction], samples: Sequence[Sample]) -> None:
    if len(predictions) != len(samples):
        raise ValueError(
            f"{SYSTEMS[system]} has {len(predictions)} predictions for {len(samples)} samples; "
            "there must be one for each sample, in their order"
        )


def _differences(
    metrics: Mapping[str, Metric], table: Mapping[str, Mapping[str, BootstrapDistribution]]
) -> dict[str, dict[str, BootstrapDistribution]]:
    return {
        system: {
            name: paired_difference(metrics[name], table["model"][name], theirs)
            for name, theirs in row.items()
        }
        for system, row in table.items()
        if system != "model"
    }


def paired_difference(
    metric: Metric, one: BootstrapDistribution, other: BootstrapDistribution
) -> BootstrapDistribution:
    """Say by how much the first is better than the second; both are of the same draws."""
    if metric.better == "higher":
        return one.minus(other)
    if metric.better == "lower":
        return other.minus(one)
    distances = (
        BootstrapDistribution(abs(each.value), np.abs(each.drawn)) for each in (other, one)
    )
    return next(distances).minus(next(distances))


def _check_shuffled_images(
    headline: Sequence[str],
    table: Mapping[str, Mapping[str, BootstrapDistribution]],
    differences: Mapping[str, Mapping[str, BootstrapDistribution]],
) -> tuple[bool | None, str]:
    """Say whether other samples' images make the answers worse, and by how much."""
    if "shuffled" not in table:
        return None, "Not tested whether the images matter: the shuffled pass was left out."
    harms = {name: differences["shuffled"][name].estimate() for name in headline}
    estimates = "; ".join(
        f"{name} from {table['model'][name].value:.3f} to {table['shuffled'][name].value:.3f} "
        f"(worse by {harm.value:.3f}, 95 %: {harm.low:.3f} to {harm.high:.3f})"
        for name, harm in harms.items()
    )
    if all(math.isnan(harm.low) for harm in harms.values()):
        return None, "Not tested whether the images matter: too few groups or fields."
    if any(harm.low > 0 for harm in harms.values()):
        return True, f"The images matter: with others' images {estimates}."
    return False, (
        "NO SIGN THAT THE IMAGES MATTER: answers are as good with other samples' images: "
        f"{estimates}. The model has not learned to look, or the images do not reach it: train "
        "longer, or check that pixel_values and image_sizes are passed."
    )
