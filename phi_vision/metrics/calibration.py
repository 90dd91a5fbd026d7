"""How far a model's confidence can be trusted, and from which confidence on to use its answers.

What is said of recalibrated confidence and of the precision from a threshold on is cross-fitted: on
five folds of whole groups, fitted and chosen on four, measured on the fifth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.template import Template
from phi_vision.metrics.bootstrap import Counts, Estimate
from phi_vision.metrics.field_metrics import is_correct
from phi_vision.metrics.platt_scaling import (
    CERTAINTY,
    Flags,
    Names,
    Numbers,
    PlattScaler,
    choose_threshold,
    correlation,
    cross_fit,
    fit_line,
    independent_samples,
    share_bound,
)
from phi_vision.metrics.reliability import (
    UNKNOWN,
    brier,
    calibration_error,
    chance_error,
    in_bins,
    mean_estimate,
    risks,
)

RECORD = "whole record"
"""What the calibration of all fields together is called."""

MOST_POINTS = 200
"""Of a curve: more cannot be told apart in a chart."""


class Bin(NamedTuple):
    """Answers of about the same confidence."""

    confidence: float
    """Their mean confidence."""

    accuracy: float
    """The share of them that is right: the same as the confidence, were it calibrated."""

    low: float
    """The lower end of the 95 % interval of `right`."""

    high: float
    """Its upper end."""

    samples: int


class RiskPoint(NamedTuple):
    """What happens if only the most confident answers are used."""

    coverage: float
    """The share of all samples whose answers are used."""

    risk: float
    """The share of wrong ones among those."""


@dataclass(frozen=True, kw_only=True)
class SelectiveThreshold:
    """From which confidence on answers can be used unseen, for a wanted precision."""

    target: float
    """The wanted share of right answers among those that are used."""

    threshold: float | None
    """Use answers whose recalibrated confidence, `Calibration.apply`, is at least this; None where
    no threshold is known to reach the target, so that nothing can be used unseen."""

    coverage: Estimate
    """The share of all samples whose answers are used; cross-fitted."""

    precision: Estimate
    """The share of right answers among those; cross-fitted. NaN where none is used."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far the confidence in one field can be trusted.

    Figures are NaN and tuples empty where too little is known for them; `words` says why.
    """

    samples: int
    """How many were judged."""

    with_confidence: int
    """For how many of them a confidence is known; an answer that cannot be read has none."""

    accuracy: float
    """The share of right answers among those with a confidence."""

    raw_error: Estimate
    """The expected calibration error: how far confidence and share of right answers lie apart, on
    average over ten bins of equal size."""

    error: Estimate
    """The same of the recalibrated confidence; cross-fitted."""

    chance_error: float
    """What the error would be by chance alone, on as many samples, were the confidence perfect: an
    error near it is none."""

    raw_brier: Estimate
    """The mean squared distance of the confidence from 1 where right and 0 where wrong."""

    brier: Estimate
    """The same of the recalibrated confidence; cross-fitted."""

    bins: tuple[Bin, ...]
    """By rising confidence."""

    recalibrated_bins: tuple[Bin, ...]
    """By rising recalibrated confidence; cross-fitted."""

    risk_curve: tuple[RiskPoint, ...]
    """By rising coverage, from the most confident answer to all."""

    aurc: float
    """The area under the curve: the mean risk over all coverages; 0 is best."""

    slope: float
    """Of the recalibration: below 1 where the model is too sure of itself."""

    intercept: float

    auto_accept: SelectiveThreshold | None
    """None where no precision was asked for."""

    limitations: str
    """What could not be found out, and why; "" where all was."""

    def apply(self, confidence: float) -> float:
        """Recalibrate: turn a raw confidence into the probability that the answer is right."""
        return float(PlattScaler(self.slope, self.intercept).apply(np.array([confidence]))[0])


def calibrations(
    predictions: Sequence[ScoredPrediction],
    template: Template,
    counts: Counts,
    *,
    groups: Sequence[str],
    target: float | None,
    seed: int,
) -> dict[str, Calibration]:
    """Measure each field whose confidence is known anywhere, and all fields together.

    A record is right where all its fields are, and as sure as the product of their confidences.

    Output: {"title": ..., "category3_code": ..., "full_price": ..., "record": ...}, or {}

    Args:
        answers: The model's.
        template: Its fields.
        counts: Draws of the samples.
        groups: Of the samples.
        target: Wanted precision; finds from which confidence on answers can be used unseen.
        seed: Of the folds.

    Raises:
        ValueError: A confidence is no probability, or the target no share.
    """
    sure = {
        field: np.array([_confidence(a, field) for a in predictions]) for field in template.fields
    }
    right = {
        field: np.array(
            [_is_correct(answer, field, template) for answer in predictions], dtype=bool
        )
        for field in template.fields
    }
    known = [field for field in template.fields if not np.isnan(sure[field]).all()]
    judged = {field: (sure[field], right[field]) for field in known}
    if len(known) == len(template.fields):
        # A field that has this very name is measured with the others.
        judged[RECORD] = (np.prod([*sure.values()], axis=0), np.all([*right.values()], axis=0))
    return {
        name: calibrate(confidence, rights, groups, counts, target=target, seed=seed)
        for name, (confidence, rights) in judged.items()
    }


def calibrate(
    confidence: Numbers,
    right: Flags,
    groups: Sequence[str],
    counts: Counts,
    *,
    target: float | None,
    seed: int,
) -> Calibration:
    """Measure how far a confidence can be trusted, before and after it is recalibrated.

    Input:  confidence 0.9 of ten answers of ten groups, of which seven are right
    Output: raw_error 0.2; raw_brier 0.25 = 0.7 · 0.1² + 0.3 · 0.9²

    Args:
        confidence: Between 0 and 1; NaN where it is not known. Such an answer is never used unseen.
        right: Whether the answer is.
        groups: Of the samples.
        counts: Draws of the samples, of shape (draws, samples).
        target: Wanted precision.
        seed: Of the folds.

    Raises:
        ValueError: The target is no share.
    """
    if target is not None and not 0 < target < 1:
        raise ValueError(
            f"the target precision is {target}; give a share above 0 and below 1, such as 0.95"
        )
    known = ~np.isnan(confidence)
    names = np.asarray(groups, dtype=object)
    seen, held, drawn = right[known], names[known], counts[:, known]
    raw = confidence[known]
    line = fit_line(raw, seen)
    crossed = cross_fit(confidence, right, groups, target=target, seed=seed)
    measured = known & ~np.isnan(crossed.probability)
    fitted = crossed.probability[measured]
    coverages, shares, area = risks(confidence, right)
    alike = correlation(seen - line.apply(raw), held)
    auto_accept = None
    if target is not None:
        threshold = choose_threshold(line.apply(raw), seen, held, target)
        auto_accept = _auto_accept(target, threshold, crossed.filled, right, names, counts, alike)
    return Calibration(
        samples=len(right),
        with_confidence=int(known.sum()),
        accuracy=float(seen.mean()) if len(seen) else math.nan,
        raw_error=calibration_error(raw, seen, drawn),
        error=calibration_error(fitted, right[measured], counts[:, measured]),
        chance_error=chance_error(raw, seen, drawn),
        raw_brier=brier(raw, seen, drawn),
        brier=brier(fitted, right[measured], counts[:, measured]),
        bins=_bins(raw, seen, held, alike),
        recalibrated_bins=_bins(fitted, right[measured], names[measured], alike),
        risk_curve=_points(coverages, shares),
        aurc=area,
        slope=line.slope,
        intercept=line.intercept,
        auto_accept=auto_accept,
        limitations=_missing(len(raw), len(fitted), auto_accept),
    )


def _confidence(answer: ScoredPrediction, field: str) -> float:
    """The confidence in a field, NaN where it is not known or the answer cannot be read."""
    if answer.prediction.record is None or field not in answer.prediction.confidence:
        return math.nan
    confidence = answer.prediction.confidence[field]
    if not 0 <= confidence <= 1:
        raise ValueError(
            f"the confidence in {field!r} of sample {answer.id!r} is {confidence}; give a "
            "probability from 0 to 1, or none"
        )
    return confidence


def _is_correct(answer: ScoredPrediction, field: str, template: Template) -> bool:
    if answer.prediction.record is None:
        return False
    return is_correct(template.kinds[field], answer.prediction.record[field], answer.truth[field])


def _bins(probability: Numbers, right: Flags, groups: Names, alike: float) -> tuple[Bin, ...]:
    of = in_bins(probability)
    bins = []
    for places in (of == number for number in np.unique(of)):
        _, low, high = _share(right[places], groups[places], alike)
        sure, share = probability[places].mean(), right[places].mean()
        bins.append(Bin(float(sure), float(share), low, high, int(places.sum())))
    return tuple(bins)


def _share(right: Flags, groups: Names, alike: float) -> Estimate:
    """The share of right answers, with its exact interval."""
    if not len(right):
        return UNKNOWN
    share, independent = np.array([right.mean()]), np.array([independent_samples(groups, alike)])
    low, high = (float(share_bound(share, independent, tail)[0]) for tail in (0.025, 0.975))
    return Estimate(float(share[0]), low, high)


def _points(coverages: Numbers, shares: Numbers) -> tuple[RiskPoint, ...]:
    """Keep MOST_POINTS of a curve, evenly, with both ends."""
    kept = np.linspace(0, len(coverages) - 1, MOST_POINTS) if len(coverages) else np.empty(0)
    places = np.unique(kept.round().astype(int))
    return tuple(RiskPoint(float(coverages[place]), float(shares[place])) for place in places)


def _auto_accept(
    target: float,
    threshold: float | None,
    filled: Flags,
    right: Flags,
    groups: Names,
    counts: Counts,
    alike: float,
) -> SelectiveThreshold:
    """Measure what was used of the folds; nothing is, where no threshold is known to be good."""
    if threshold is None or not filled.any():
        return SelectiveThreshold(
            target=target, threshold=None, coverage=Estimate(0.0, 0.0, 0.0), precision=UNKNOWN
        )
    return SelectiveThreshold(
        target=target,
        threshold=threshold,
        coverage=mean_estimate(filled.astype(np.float64), counts),
        precision=_share(right[filled], groups[filled], alike),
    )


def _missing(known: int, measured: int, auto_accept: SelectiveThreshold | None) -> str:
    """Say what could not be found out, and why."""
    if not known:
        return "The confidence of no answer is known."
    if not measured:
        return "Recalibration was not measured: all answers are of one group."
    if auto_accept is None or auto_accept.threshold is not None:
        return ""
    needed = math.ceil(math.log(1 - CERTAINTY) / math.log(auto_accept.target))
    return (
        f"No threshold is known to give a precision of {auto_accept.target:g}: it takes at least "
        f"{needed} of the most confident answers, of as many groups, without a wrong one, or more "
        "with few."
    )
