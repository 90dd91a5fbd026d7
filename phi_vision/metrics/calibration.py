"""Calibration of the confidence, and the auto-accept threshold for a target precision.

Results on recalibrated confidence and on precision above the threshold are cross-fitted: on five
folds of whole groups, fitted and chosen on four and measured on the fifth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phi_vision.data.acceptance import RECORD
from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.template import Template
from phi_vision.metrics import platt_scaling as platt
from phi_vision.metrics.bootstrap import TAILS, Counts, Estimate, distribution, mean
from phi_vision.metrics.field_metrics import failure, is_field_correct, is_right_to_level
from phi_vision.metrics.platt_scaling import Flags, Names, Numbers

BINS = 10  # as in most publications, so that calibration errors can be compared
MAX_POINTS = 200  # points of a risk curve: a chart shows no more
UNKNOWN = Estimate(math.nan, math.nan, math.nan)


class Bin(NamedTuple):
    """Predictions of similar confidence: their mean confidence, and accuracy with its interval."""

    confidence: float
    accuracy: float
    low: float
    high: float
    samples: int


class RiskPoint(NamedTuple):
    """The share of all samples that is accepted, and that of wrong predictions among those."""

    coverage: float
    risk: float


@dataclass(frozen=True, kw_only=True)
class SelectiveThreshold:
    """The confidence from which predictions can be accepted without review, cross-fitted."""

    target: float  # target precision
    threshold: float | None
    """Accept predictions with a recalibrated confidence of at least this; None where no threshold
    is known to reach the target."""
    coverage: Estimate  # share of all samples that is accepted
    precision: Estimate  # share of correct predictions among those; NaN without any


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration of the confidence in one field.

    `raw_error` is the expected calibration error (ECE), the mean distance between confidence and
    accuracy over ten bins of equal size, `raw_brier` the mean squared distance of the confidence
    from 1 where correct and 0 where wrong; `error`, `brier` and `recalibrated_bins` are the same of
    the recalibrated confidence, cross-fitted. Of too few data, estimates are NaN and tuples empty.
    """

    samples: int
    with_confidence: int  # samples with a confidence; predictions that do not parse have none
    accuracy: float  # share of correct predictions among those with a confidence
    raw_error: Estimate
    error: Estimate
    chance_error: float  # ECE that chance alone causes on as many samples with a perfect confidence
    raw_brier: Estimate
    brier: Estimate
    bins: tuple[Bin, ...]
    recalibrated_bins: tuple[Bin, ...]
    risk_curve: tuple[RiskPoint, ...]  # from the most confident prediction to all
    aurc: float  # area under the risk-coverage curve: the mean risk over all coverages; 0 is best
    slope: float  # of the Platt scaling: below 1 where the model is overconfident
    intercept: float
    auto_accept: SelectiveThreshold | None
    limitations: str  # what could not be measured, and why; "" where everything was


def calibrations(
    predictions: Sequence[ScoredPrediction],
    template: Template,
    counts: Counts,
    *,
    target: float | None,
    seed: int,
) -> dict[str, Calibration]:
    """Measure the calibration of each field with any known confidence, of each level of a path, and
    of the whole record, which is correct where all its fields are; its confidence is the product of
    theirs."""
    measured = {}
    for field in template.fields:
        confidence = np.array([_confidence(each, field) for each in predictions])
        correct = [is_field_correct(template, field, each) for each in predictions]
        if not np.isnan(confidence).all():
            measured[field] = (confidence, np.array(correct, dtype=bool))
    if len(measured) == len(template.fields):
        # A field of this very name is measured with the others.
        confidences, corrects = zip(*measured.values(), strict=True)
        measured[RECORD] = (np.prod(confidences, axis=0), np.all(corrects, axis=0))
    for field, names in template.levels.items():
        for depth, name in enumerate(names, start=1):
            confidence = np.array([_confidence(each, name) for each in predictions])
            correct = [is_right_to_level(field, depth, each) for each in predictions]
            if not np.isnan(confidence).all():
                measured[name] = (confidence, np.array(correct, dtype=bool))
    groups = [each.group for each in predictions]
    return {
        name: calibrate(*pair, groups, counts, target=target, seed=seed)
        for name, pair in measured.items()
    }


def calibrate(
    confidence: Numbers,
    correct: Flags,
    groups: Sequence[str],
    counts: Counts,
    *,
    target: float | None,
    seed: int,
) -> Calibration:
    """Measure the calibration of a confidence, before and after recalibration.

    The confidence is NaN where it is unknown: such a prediction is never accepted."""
    if target is not None and not 0 < target < 1:
        raise failure("target_precision", target=target)
    names, known = np.asarray(groups, dtype=object), ~np.isnan(confidence)
    raw, is_right, resamples = confidence[known], correct[known], counts[:, known]
    scaler = platt.fit_platt_scaler(raw, is_right)
    crossed, accepted = platt.cross_fit(confidence, correct, names, target=target, seed=seed)
    fitted = ~np.isnan(crossed)
    recalibrated = (crossed[fitted], correct[fitted])
    correlation = platt.intraclass_correlation(is_right - scaler.apply(raw), names[known])
    auto_accept = None
    if target is not None:
        threshold = platt.choose_threshold(scaler.apply(raw), is_right, names[known], target)
        coverage, precision = Estimate(0.0, 0.0, 0.0), UNKNOWN
        if not accepted.any():
            threshold = None
        elif threshold is not None:
            coverage = _mean_estimate(accepted.astype(np.float64), counts)
            precision = _share(correct[accepted], names[accepted], correlation)
        auto_accept = SelectiveThreshold(
            target=target, threshold=threshold, coverage=coverage, precision=precision
        )
    by_chance = _chance_errors(raw, is_right, resamples)
    by_chance = by_chance[~np.isnan(by_chance)]
    curve, area = risk_curve(confidence, correct)
    return Calibration(
        samples=len(correct),
        with_confidence=len(raw),
        accuracy=float(is_right.mean()) if len(is_right) else math.nan,
        raw_error=calibration_error(raw, is_right, resamples),
        error=calibration_error(*recalibrated, counts[:, fitted]),
        chance_error=float(by_chance.mean()) if by_chance.size else math.nan,
        raw_brier=_mean_estimate((raw - is_right) ** 2, resamples),
        brier=_mean_estimate((crossed - correct)[fitted] ** 2, counts[:, fitted]),
        bins=_bins(raw, is_right, names[known], correlation),
        recalibrated_bins=_bins(*recalibrated, names[fitted], correlation),
        risk_curve=curve,
        aurc=area,
        slope=scaler.slope,
        intercept=scaler.intercept,
        auto_accept=auto_accept,
        limitations=_limitations(len(raw), int(fitted.sum()), auto_accept),
    )


def assign_bins(probability: Numbers) -> NDArray[np.int64]:
    """Assign probabilities to BINS bins of equal size; equal ones share that of the middle one.

    Input:  0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 0.9 0.9 and nine times 1.0
    Output: 0 0 1 1 2 2 3 3 4 4 4 and nine times 7
    """
    from scipy.stats import rankdata

    ranks = rankdata(probability, method="average") - 0.5
    return np.asarray(ranks * BINS // max(len(ranks), 1), dtype=np.int64)


def calibration_error(probability: Numbers, correct: Flags, counts: Counts) -> Estimate:
    """Compute the expected calibration error: mean |confidence − accuracy| over the bins.

    Resampling adds noise to noise: where the error is small, resampled errors exceed the measured
    one by about as much as that exceeds the true one; where it is large, they do not. So the
    interval joins the percentile and the basic bootstrap interval (Davison and Hinkley, 1997, 5.2,
    5.3). It begins at 0 where chance alone may well cause such an error."""
    if not len(correct):
        return UNKNOWN
    value, low, high = distribution(
        lambda rows, counts: np.abs(_bin_gaps(rows[:, 0], rows[:, 1], counts)).sum(axis=1),
        *(np.stack([probability, correct], axis=1), counts, (0.0, 1.0)),
    ).estimate()
    if math.isnan(low):
        return Estimate(value, low, high)
    by_chance = np.nanquantile(_chance_errors(probability, correct, counts), TAILS[1])
    lower = 0.0 if value <= by_chance else max(0.0, min(low, 2 * value - high))
    return Estimate(value, lower, max(high, 2 * value - low))


def risk_curve(confidence: Numbers, correct: Flags) -> tuple[tuple[RiskPoint, ...], float]:
    """Compute the expected risk of accepting the most confident one, two, three, ... predictions.

    Returns up to MAX_POINTS points at which the confidence changes, and the area under the curve:
    the mean risk over all coverages. Predictions of unknown confidence (NaN) come last."""
    if not len(correct):
        return (), math.nan
    confidence = np.where(np.isnan(confidence), -math.inf, confidence)
    order = np.argsort(-confidence, kind="stable")
    accepted = np.arange(1, len(order) + 1)
    ends = platt.last_of_equal(confidence[order])
    wrong = np.cumsum(~correct[order])[ends]
    expected = np.interp(accepted, np.append(0, ends + 1), np.append(0, wrong))
    coverages, risks = accepted[ends] / len(accepted), wrong / accepted[ends]
    shown = np.unique(np.linspace(0, len(ends) - 1, MAX_POINTS).round().astype(int))
    points = (RiskPoint(float(coverages[at]), float(risks[at])) for at in shown)
    return tuple(points), float((expected / accepted).mean())


def _confidence(each: ScoredPrediction, field: str) -> float:
    confidence = each.prediction.confidence.get(field)
    if each.prediction.record is None or confidence is None:
        return math.nan
    if not 0 <= confidence <= 1:
        raise failure("no_probability", field=field, id=each.id, confidence=confidence)
    return confidence


def _bins(
    probability: Numbers, correct: Flags, groups: Names, correlation: float
) -> tuple[Bin, ...]:
    bin_of = assign_bins(probability)
    masks = [bin_of == number for number in np.unique(bin_of)]
    return tuple(
        Bin(
            float(probability[mask].mean()),
            *_share(correct[mask], groups[mask], correlation),
            int(mask.sum()),
        )
        for mask in masks
    )


def _share(correct: Flags, groups: Names, correlation: float) -> Estimate:
    """Compute the share of correct predictions with its exact interval."""
    share, size = float(correct.mean()), platt.effective_sizes(groups, correlation)[-1]
    return Estimate(share, *(float(platt.binomial_bound(share, size, tail)) for tail in TAILS))


def _limitations(known: int, fitted: int, auto_accept: SelectiveThreshold | None) -> str:
    if not known:
        return "No prediction has a confidence."
    if not fitted:
        return "Recalibration was not measured: all predictions are of one group."
    if auto_accept is None or auto_accept.threshold is not None:
        return ""
    needed = math.ceil(math.log(1 - platt.CERTAINTY_OF_ALL) / math.log(auto_accept.target))
    return (
        f"No threshold is known to reach a precision of {auto_accept.target:g}: that takes at "
        f"least {needed} of the most confident predictions, of as many groups, without an error, "
        "or more with few."
    )


def _mean_estimate(values: Numbers, counts: Counts) -> Estimate:
    return distribution(mean, values, counts, (0.0, 1.0)).estimate() if len(values) else UNKNOWN


def _chance_errors(probability: Numbers, correct: Flags, counts: Counts) -> Numbers:
    """Resample calibration errors of a perfect confidence: the resampled gaps lie around the
    measured ones as those would lie around 0."""
    gaps = _bin_gaps(probability, correct, np.ones((1, len(correct))))
    return np.asarray(np.abs(_bin_gaps(probability, correct, counts) - gaps).sum(axis=1))


def _bin_gaps(probability: Numbers, correct: Numbers | Flags, counts: Counts) -> Numbers:
    """Sum probability − correct by resample and bin of the measured samples, over all samples."""
    gaps = np.zeros((len(correct), BINS))
    gaps[np.arange(len(correct)), assign_bins(probability)] = probability - correct
    total = counts.sum(axis=1, keepdims=True)
    return np.asarray(counts @ gaps / np.where(total > 0, total, math.nan))
