"""Acceptance: what an evaluation allows to take over without review."""

import math

import numpy as np
import pytest

from phi_vision.data.acceptance import RECORD, Acceptance, AcceptanceRule, PlattScaler
from phi_vision.data.prediction import Prediction

EQUAL = PlattScaler(1.0, 0.0)
RULES = {
    "title": AcceptanceRule(PlattScaler(0.5, 0.0), 0.75),
    "full_price": AcceptanceRule(EQUAL, None, "No threshold."),
    RECORD: AcceptanceRule(EQUAL, 0.72),
}


def numbers(values: list[float]) -> np.ndarray:
    return np.array(values)


def test_columns_are_calibrated_and_what_reaches_its_threshold_is_accepted() -> None:
    acceptance = Acceptance(rules=RULES, target=0.9)
    nan = math.nan
    raw = {"title": numbers([0.9, 0.8, nan]), "full_price": numbers([0.8, 1.0, 0.8])}
    calibrated = acceptance.calibrate(raw)
    assert list(calibrated) == ["title", "full_price", RECORD]
    assert calibrated["title"] == pytest.approx([0.75, 2 / 3, nan], nan_ok=True)
    assert calibrated["full_price"] == pytest.approx([0.8, 1.0, 0.8], abs=2e-6)
    assert calibrated[RECORD] == pytest.approx([0.72, 0.8, nan], nan_ok=True)
    accepted = {name: flags.tolist() for name, flags in acceptance.accept(calibrated).items()}
    assert accepted["title"] == [calibrated["title"][0] >= 0.75, False, False]
    assert accepted["full_price"] == [False] * 3  # no threshold: nothing, however confident
    assert accepted[RECORD][1:] == [True, False]


def test_without_a_target_nothing_is_accepted_or_rejected() -> None:
    acceptance = Acceptance(rules=RULES, target=None)
    decision = acceptance.decide(prediction({"title": 0.99, "full_price": 0.5}))
    assert decision.accept == {}
    assert list(decision.confidence) == ["title", "full_price", RECORD]


def test_a_single_prediction_gets_the_values_of_a_column() -> None:
    acceptance = Acceptance(rules=RULES, target=0.9)
    confidence = {"title": 0.93, "full_price": 0.871}
    decision = acceptance.decide(prediction(confidence))
    column = acceptance.calibrate({name: numbers([each] * 9) for name, each in confidence.items()})
    assert decision.confidence == {name: values[0] for name, values in column.items()}
    assert decision.accept == {"title": True, "full_price": False, RECORD: True}


def test_what_does_not_parse_or_has_no_confidence_needs_a_review() -> None:
    acceptance = Acceptance(rules=RULES, target=0.9)
    sure = {"title": 1.0, "full_price": 1.0}
    unparsed = Prediction(text="?", record=None, confidence=sure)
    for each in (unparsed, prediction({})):
        assert acceptance.decide(each) == ({}, dict.fromkeys(RULES, False), {})
    partial = acceptance.decide(prediction({"title": 1.0}))
    assert partial.accept == {"title": True, "full_price": False, RECORD: False}
    assert list(partial.confidence) == ["title"]


def test_a_field_without_an_evaluated_confidence_stays_uncalibrated() -> None:
    unknown = RULES | {"full_price": AcceptanceRule(None, None, "No prediction has a confidence.")}
    acceptance = Acceptance(rules=unknown, target=0.9)
    assert not acceptance.is_calibrated
    assert Acceptance(rules=RULES, target=0.9).is_calibrated
    decision = acceptance.decide(prediction({"title": 0.99, "full_price": 0.99}))
    assert "full_price" not in decision.confidence
    assert decision.accept["full_price"] is False


def test_a_path_is_cut_to_the_deepest_level_that_is_accepted() -> None:
    levels = ("shelf level 1", "shelf level 2", "shelf level 3")
    rules = dict.fromkeys(("shelf", *levels, RECORD), AcceptanceRule(EQUAL, 0.8))
    acceptance = Acceptance(rules=rules, target=0.9, levels={"shelf": levels})
    assert acceptance.fields == ("shelf",)

    def accepted(value: str | None, *confidence: float) -> str | None:
        known = dict(zip((*levels, "shelf"), confidence, strict=False))
        held = Prediction(text="", record={"shelf": value}, confidence=known)
        return acceptance.decide(held).accepted_path["shelf"]

    deep = "Apparel > Tops > Shirts > Polo"
    assert accepted(deep, 0.99, 0.9, 0.85, 0.81) == deep
    assert accepted(deep, 0.99, 0.9, 0.85, 0.79) == "Apparel > Tops > Shirts"
    assert accepted(deep, 0.99, 0.9, 0.7, 0.6) == "Apparel > Tops"
    assert accepted(deep, 0.7, 0.6, 0.5, 0.4) is None
    assert accepted("Shoes", 0.9) == "Shoes"
    assert accepted(None, 0.9, 0.9, 0.9, 0.9) is None
    promised = Acceptance(rules=rules, target=None, levels={"shelf": levels})
    none = Prediction(text="", record={"shelf": deep}, confidence={"shelf": 0.99})
    assert promised.decide(none).accepted_path == {}


def prediction(confidence: dict[str, float]) -> Prediction:
    return Prediction(text="", record={"title": "a", "full_price": 1.0}, confidence=confidence)
