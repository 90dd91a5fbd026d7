"""The three tiers of an optional field; models that always or never say that there is nothing."""

import math

import numpy as np
import pytest
from draws import check_draws

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.evaluation.report import explain
from phi_vision.metrics.constant_baselines import constant, typical_value
from phi_vision.metrics.field_metrics import headline_metrics, metrics_for
from phi_vision.metrics.scores import Scores, score

SHOP = Template(
    name="shop",
    question="?",
    answer="{title}, {colour:category?}, {care?}, {price:number?}",
    layout="chat",
)
METRICS = metrics_for(SHOP)
TIERS = ("overall", "has_value_precision", "has_value_recall", "has_value_f1", "missing_f1")
NAN = math.nan
COLOURS = ["red", "red", "blue", None, None]


def record(colour=None, care=None, price=None):
    return {"title": "Coat", "colour": colour, "care": care, "price": price}


def colours(*values):
    return [None if value == "unparsed" else record(value) for value in values]


def measured(predicted, true, field="colour"):
    return [METRICS[f"{field}_{name}"](predicted, true) for name in TIERS]


@pytest.mark.parametrize(
    ("predicted", "tiers", "accuracy"),
    [
        (["red", "green", None, None, "blue"], [0.4, 2 / 3, 2 / 3, 2 / 3, 0.5], 0.5),
        ([None] * 5, [0.4, NAN, 0.0, 0.0, 4 / 7], NAN),
        (["red", "red", "blue", "red", "red"], [0.6, 0.6, 1.0, 0.75, 0.0], 1.0),
        (COLOURS, [1, 1, 1, 1, 1], 1.0),
        # A prediction that does not parse has no value, and is not right where there is none.
        (["red", "red", "blue", None, "unparsed"], [0.8, 1, 1, 1, 2 / 3], 1.0),
    ],
)
def test_tiers_by_hand(predicted, tiers, accuracy):
    said, true = colours(*predicted), colours(*COLOURS)
    assert measured(said, true) == pytest.approx(tiers, nan_ok=True)
    assert METRICS["colour_accuracy"](said, true) == pytest.approx(accuracy, nan_ok=True)


def test_errors_of_every_kind_are_those_of_the_value():
    true = [record("red", "wash at 30", 100.0), record("red", "wash at 30", 100.0), record()]
    said = [record("blue", "wash at 40", 80.0), record(), record("red", "x", 5.0)]
    overall = [METRICS[f"{field}_overall"](said, true) for field in ("colour", "care", "price")]
    assert overall == pytest.approx([0, 0.9 / 3, 0.8 / 3])
    assert METRICS["price_median_ape"](said, true) == pytest.approx(0.2)
    assert METRICS["price_mae"](said, true) == pytest.approx(20)
    assert METRICS["care_exact"](said, true) == 0


def test_the_headline_metric_counts_all_samples():
    assert headline_metrics(SHOP) == (
        *("title_similarity", "colour_overall", "care_overall", "price_overall"),
    )


def test_a_draw_is_as_good_as_its_samples_repeated():
    said = [*colours("red", None, "blue", "red", None, "unparsed"), *colours(*"abc")]
    true = [*colours("red", "red", None, None, None, "blue"), *colours("a", "b", None)]
    check_draws(METRICS, said, true)


def sample(number: int) -> Sample:
    held = record(("red", "blue", None)[number % 3], "wash", 100.0 + number)
    return Sample(id=f"s{number}", group=f"g{number}", images=(), record=held)


def scored(*guesses: str | None) -> Scores:
    samples = [sample(number) for number in range(30)]
    texts = [SHOP.render({**s.record, "colour": guesses[n % 3]}) for n, s in enumerate(samples)]
    predictions = [Prediction.parse(text, SHOP) for text in texts]
    baselines = {"constant": constant(samples, SHOP, len(samples))}
    return score({"model": predictions}, samples, SHOP, training=samples, baselines=baselines)


def test_a_model_that_always_says_nothing_is_exposed():
    scores = scored(None, None, None)
    colour = explain(scores, "missing")[0]
    assert colour.startswith(
        "colour: 10 of 30 samples have no value, the model writes “not visible”"
    )
    assert "for 30 of 30: overall 0.33" in colour
    assert colour.endswith("It always does, so it has not learned this field.")
    assert scores.estimates["model"]["colour_has_value_f1"].value == 0
    assert scores.differences["constant"]["colour_has_value_recall"].value == -1


def test_a_model_that_never_says_nothing_is_exposed():
    scores = scored("red", "blue", "red")
    colour, care, price = explain(scores, "missing")
    assert "for 0 of 30" in colour
    assert "F1 of having none 0.00; where both have a value, accuracy 1.000." in colour
    assert colour.endswith("It never does, so it invents what the image does not show.")
    assert scores.estimates["model"]["colour_has_value_precision"].value == pytest.approx(2 / 3)
    assert scores.estimates["model"]["colour_missing_f1"].value == 0
    # Nothing is to be said of fields that always have a value.
    assert "never" not in care + price


def test_a_baseline_predicts_nothing_where_most_have_nothing():
    assert typical_value(SHOP, "colour", [None, None, "red"]) is None
    assert typical_value(SHOP, "colour", [None, "red", "red", "blue"]) == "red"
    assert typical_value(SHOP, "price", [math.nan, None, 3.0]) is None
    assert typical_value(SHOP, "price", [math.nan, 1.0, 3.0]) == 2.0
    assert np.isnan(METRICS["colour_accuracy"](colours(None), colours("red")))
