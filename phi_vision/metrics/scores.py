"""score: metrics of predictions with confidence intervals, beside baselines and image ablations."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from phi_vision.data.kinds.field_kind import Predicted
from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.samples import Record, Sample
from phi_vision.data.template import Template
from phi_vision.io.formatting import read_yaml
from phi_vision.metrics import bootstrap, field_metrics, slices
from phi_vision.metrics.bootstrap import BootstrapDistribution, Counts, Estimate
from phi_vision.metrics.calibration import Calibration, calibrations
from phi_vision.metrics.category_hierarchy import find_hierarchy
from phi_vision.metrics.field_metrics import Metric, failure
from phi_vision.metrics.slices import Leakage, Slice, UnseenCounts, Values, with_intervals

SYSTEMS = read_yaml(__file__, "systems.yaml")
"""Evaluated system -> its description; in the order of tables."""

MIN_PARSED = 0.5  # share that must parse to be evidence: others are wrong with any image

Significance = Literal["better", "worse", "not significant"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The results of an evaluation."""

    template: Template
    samples: int
    groups: int
    seed: int
    metrics: Mapping[str, Metric]
    estimates: Mapping[str, Mapping[str, Estimate]]  # system of SYSTEMS -> metric -> estimate
    differences: Mapping[str, Mapping[str, Estimate]]  # by system; above 0: the model is better
    predictions: tuple[ScoredPrediction, ...]  # of the model, in the order of the samples
    uses_image: bool | None  # whether other samples' images make it worse; None: not tested
    shuffled_image_check: str  # the same in words, with estimates
    slices: tuple[Slice, ...]
    leakage: Leakage | None
    unseen: Mapping[str, UnseenCounts]  # of each field of categories or paths
    calibrations: Mapping[str, Calibration]  # of each field, and of "whole record"
    best_achievable: Mapping[str, float]  # metric -> noise ceiling, where it is known


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
    """Score predictions on held-out samples.

    Args:
        predictions: System of `SYSTEMS` -> one prediction per sample, in order; needs "model".
        training: For slices and category hierarchies.
        baselines: System of `SYSTEMS` -> predicted records, which may lack fields.
        leaked: Sample -> what it shares with training; None where not tested.
        target_precision: Share of correct predictions wanted among those accepted automatically.
    """
    if not samples or not training:
        which = "to evaluate on" if not samples else "to learn from"
        raise failure("no_samples", which=which)
    categories = template.fields_of("category")
    metrics = field_metrics.metrics_for(
        template, {field: find_hierarchy(field, training) for field in categories}
    )
    truth = [template.select(sample.record) for sample in samples]
    values = _sample_values(metrics, predictions, baselines or {}, truth, template)
    model, groups = values["model"], [sample.group for sample in samples]
    counts = bootstrap.draw_groups(groups, seed=seed)
    table = {
        system: {name: metrics[name].distribution(each, counts) for name, each in row.items()}
        for system, row in values.items()
    }
    scored = tuple(
        ScoredPrediction(id=sample.id, group=sample.group, truth=record, prediction=prediction)
        for sample, record, prediction in zip(samples, truth, predictions["model"], strict=True)
    )
    headline = {name: metrics[name] for name in field_metrics.headline_metrics(template)}
    uses_image, check = _check_shuffled_images(headline, values, counts)
    return Scores(
        template=template,
        samples=len(samples),
        groups=len(set(groups)),
        seed=seed,
        metrics=metrics,
        estimates={system: with_intervals(row) for system, row in table.items()},
        differences={
            system: paired_differences({name: metrics[name] for name in row}, table["model"], row)
            for system, row in table.items()
            if system != "model"
        },
        predictions=scored,
        uses_image=uses_image,
        shuffled_image_check=check,
        slices=slices.score_slices(headline, model, counts, samples, training, template),
        leakage=slices.measure_leakage(metrics, model, counts, samples, leaked),
        unseen=slices.count_unseen(scored, training, template),
        calibrations=calibrations(scored, template, counts, target=target_precision, seed=seed),
        best_achievable=dict(best_achievable or {}),
    )


def significance(difference: Estimate) -> Significance:
    """Return the result of a paired comparison; not significant if the interval contains 0."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "not significant"


def paired_difference(
    metric: Metric, one: BootstrapDistribution, other: BootstrapDistribution
) -> BootstrapDistribution:
    """Compute by how much the first is better; both on the same resamples."""
    if metric.better == "higher":
        return one.minus(other)
    if metric.better == "zero":
        one, other = (
            each._replace(value=abs(each.value), resampled=np.abs(each.resampled))
            for each in (one, other)
        )
    return other.minus(one)


def paired_differences(
    metrics: Mapping[str, Metric],
    one: Mapping[str, BootstrapDistribution],
    other: Mapping[str, BootstrapDistribution],
) -> dict[str, Estimate]:
    """Estimate for each metric by how much the first is better."""
    return with_intervals(
        {name: paired_difference(each, one[name], other[name]) for name, each in metrics.items()}
    )


def _sample_values(
    metrics: Mapping[str, Metric],
    predictions: Mapping[str, Sequence[Prediction]],
    baselines: Mapping[str, Predicted],
    truth: Sequence[Record],
    template: Template,
) -> dict[str, Values]:
    """Compute the values of each sample: for predictions all metrics, for baselines some."""
    records: dict[str, Predicted] = dict(baselines)
    for system, found in predictions.items():
        if len(found) != len(truth):
            counts = {"predictions": len(found), "samples": len(truth)}
            raise failure("missing_predictions", system=SYSTEMS[system], **counts)
        records[system] = [each.record for each in found]
    values: dict[str, Values] = {}
    for system in filter(records.__contains__, SYSTEMS):
        # A baseline predicts the same fields for all samples; the parse rate takes all of them.
        known = set(template.fields if system in predictions else records[system][0] or ())
        values[system] = {
            name: metric.values(records[system], truth)
            for name, metric in metrics.items()
            if ({metric.field} if metric.field else set(template.fields)) <= known
        }
    return values


def _check_shuffled_images(
    headline: Mapping[str, Metric], values: Mapping[str, Values], counts: Counts
) -> tuple[bool | None, str]:
    """Decide whether the images of other samples make the predictions worse, and describe it."""
    if "shuffled" not in values:
        return None, "Not tested whether the images matter: shuffled images were skipped."
    systems = ("model", "shuffled")
    parsed = np.all([values[system]["parse_rate"] > 0 for system in systems], axis=0)
    parse = f"{parsed.sum()} of {len(parsed)} samples have predictions that parse"
    if parsed.mean() < MIN_PARSED:
        return None, f"Not tested whether the images matter: {parse} with both images."
    own, other = (slices.on_subset(headline, values[each], counts, parsed) for each in systems)
    losses = paired_differences(headline, own, other)
    groups = min((bootstrap.effective_groups(each.groups) for each in own.values()), default=0.0)
    if groups < bootstrap.MIN_GROUPS:
        few = f"{groups:.2g} groups are too few to tell"
        return None, f"Not tested whether the images matter: {few}."
    estimates = "; ".join(
        f"{name} from {own[name].value:.3f} to {other[name].value:.3f} (worse by {loss.value:.3f}, "
        + (
            f"95 %: {loss.low:.3f} to {loss.high:.3f})"
            if math.isfinite(loss.low)
            else "no interval)"
        )
        for name, loss in losses.items()
    )
    if not parsed.all():
        estimates += f"; {parse} with both images, and only these count"
    if any(loss.low > 0 for loss in losses.values()):
        return True, f"The images matter: with shuffled images {estimates}."
    return False, (
        "NO SIGN THAT THE IMAGES MATTER: no metric is significantly worse with the images of other "
        f"samples: {estimates}. The samples are too few, the model has not learned to use the "
        "images, or they do not reach it: evaluate more samples, train longer, or check that "
        "pixel_values and image_sizes are passed."
    )
