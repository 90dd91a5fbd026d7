"""Acceptance: the calibrated confidence in each field of a prediction, and what needs no review.

The numbers are those of an evaluation: `metrics.thresholds` reads or chooses them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from phi_vision.data.prediction import Prediction

RECORD = "whole record"  # all fields together; with its blank never the name of a field
MAX_CONFIDENCE = 1 - 1e-6  # larger ones are clipped: single precision hardly tells them from 1


class PlattScaler(NamedTuple):
    """A linear map from the log-odds of a confidence to those of a correct prediction."""

    slope: float
    intercept: float

    def apply(self, confidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn confidences into probabilities; NaN stays NaN."""
        return np.asarray(expit(self.slope * log_odds(confidence) + self.intercept))


def log_odds(confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the log-odds of confidences, none of them infinite."""
    return np.asarray(logit(np.clip(confidence, 1 - MAX_CONFIDENCE, MAX_CONFIDENCE)))


class AcceptanceRule(NamedTuple):
    """How the confidence in one field is calibrated, and from where on its values are accepted."""

    scaler: PlattScaler | None  # None where no confidence in it was evaluated
    threshold: float | None  # calibrated confidence to accept from; None: nothing is accepted
    limitation: str = ""  # why there is no threshold


class Decision(NamedTuple):
    """The calibrated confidence in a prediction, where it is known, and what needs no review."""

    confidence: dict[str, float]
    accept: dict[str, bool]


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """The rules of an evaluated run, for each field of its template and for RECORD."""

    rules: Mapping[str, AcceptanceRule]
    target: float | None  # precision promised of what is accepted; None: none is promised

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the template."""
        return tuple(name for name in self.rules if name != RECORD)

    @property
    def is_calibrated(self) -> bool:
        """Whether the confidence in every field can be calibrated."""
        return all(self.rules[field].scaler is not None for field in self.fields)

    def calibrate(
        self, confidence: Mapping[str, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        """Calibrate the confidence in each field and in the whole record; unknown ones are NaN.

        Input:  {"title": [0.9, NaN], "full_price": [0.8, 0.8]}
        Output: {"title": [0.81, NaN], "full_price": [0.66, 0.66], "whole record": [0.58, NaN]}
        """
        fields = {field: confidence[field] for field in self.fields}
        raw = fields | {RECORD: np.prod([*fields.values()], axis=0)}
        return {
            name: np.full(len(raw[name]), math.nan) if scaler is None else scaler.apply(raw[name])
            for name, (scaler, *_) in self.rules.items()
        }

    def accept(self, calibrated: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.bool_]]:
        """Decide what reaches its threshold; {} where no precision is promised."""
        return {
            name: calibrated[name] >= (math.inf if threshold is None else threshold)
            for name, (_, threshold, _) in self.rules.items()
            if self.target is not None
        }

    def decide(self, prediction: Prediction) -> Decision:
        """Calibrate and accept a single prediction; one that does not parse is not accepted."""
        known = {} if prediction.record is None else prediction.confidence
        raw = {field: np.array([known.get(field, math.nan)]) for field in self.fields}
        calibrated = self.calibrate(raw)
        accepted = self.accept(calibrated)
        return Decision(
            {name: float(value) for name, (value,) in calibrated.items() if not np.isnan(value)},
            {name: bool(value) for name, (value,) in accepted.items()},
        )
