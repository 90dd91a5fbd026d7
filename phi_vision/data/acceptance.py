"""Acceptance: the calibrated confidence in each field of a prediction, and what needs no review.

The numbers are those of an evaluation: `metrics.thresholds` reads or chooses them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from phi_vision.data.kinds.path_kind import SEPARATOR, levels_of
from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Value

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
    accepted_path: dict[str, str | None]  # of each path, as far down as it is accepted


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """The rules of an evaluated run: of its fields, of levels of paths, and of RECORD."""

    rules: Mapping[str, AcceptanceRule]
    target: float | None  # precision promised of what is accepted; None: none is promised
    levels: Mapping[str, Sequence[str]] = field(default_factory=dict)  # as `Template.levels`

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the template."""
        return tuple(name for name in self.known if name not in chain(*self.levels.values()))

    @property
    def known(self) -> tuple[str, ...]:
        """What a prediction has a confidence in: fields, and levels of paths."""
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
        raw = {name: confidence[name] for name in self.known}
        raw[RECORD] = np.prod([raw[name] for name in self.fields], axis=0)
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

    def back_off(
        self, field: str, values: Sequence[Value], accepted: Mapping[str, NDArray[np.bool_]]
    ) -> list[str | None]:
        """Cut each value of a path to the deepest level that is accepted; None where none is.

        Input:  "Apparel > Tops > T-Shirts", of which the first two levels are accepted
        Output: "Apparel > Tops"
        """
        cut = list[str | None]()
        for place, value in enumerate(values):
            depths = [d for d, name in enumerate(self.levels[field], 1) if accepted[name][place]]
            whole = levels_of(value)
            depth = len(whole) if accepted[field][place] else max(depths, default=0)
            cut.append(SEPARATOR.join(whole[:depth]) or None)
        return cut

    def decide(self, prediction: Prediction) -> Decision:
        """Calibrate and accept a single prediction; one that does not parse is not accepted."""
        known = {} if prediction.record is None else prediction.confidence
        raw = {name: np.array([known.get(name, math.nan)]) for name in self.known}
        calibrated = self.calibrate(raw)
        accepted, record = self.accept(calibrated), prediction.record or {}
        levels = [*self.levels] if accepted else []
        paths = {path: self.back_off(path, [record.get(path)], accepted)[0] for path in levels}
        return Decision(
            {name: float(value) for name, (value,) in calibrated.items() if not np.isnan(value)},
            {name: bool(value) for name, (value,) in accepted.items()},
            paths,
        )
