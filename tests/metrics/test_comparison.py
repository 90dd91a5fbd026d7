"""Several answerers, judged on the same samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.template import TEMPLATES, Template
from phi_vision.metrics.comparison import (
    Comparison,
    CorrectCounts,
    EvaluatedSystem,
    compare,
    count_correct,
    find_disagreements,
)
from phi_vision.metrics.scores import significance

PRODUCT = TEMPLATES["product"]


def answer(
    number: int, predicted: Mapping[str, object] | None = None, *, template: Template = PRODUCT
) -> ScoredPrediction:
    """An answer about sample `number`: right but for what is said otherwise."""
    truth = {"title": f"Coat {number}", "category3_code": "AB"[number % 2], "full_price": 100.0}
    text = "" if predicted == {} else template.render({**truth, **(predicted or {})})
    return ScoredPrediction(
        id=f"s{number}",
        group=f"g{number // 2}",
        truth=truth,
        prediction=Prediction.parse(text, template),
    )


def system(
    name: str, predictions: Sequence[ScoredPrediction], template: Template = PRODUCT
) -> EvaluatedSystem:
    return EvaluatedSystem(name=name, template=template, predictions=predictions)


def wrong_at(*places: int, count: int = 40) -> list[ScoredPrediction]:
    return [
        answer(number, {"category3_code": "C"} if number in places else None)
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """The second reads 12 more categories than the first, the third says nothing at all."""
    return compare(
        [
            system("first", wrong_at(*range(14))),
            system("second", wrong_at(12, 13)),
            system("silent", [answer(number, {}) for number in range(40)]),
        ]
    )


def test_each_is_evaluated_and_the_differences_are_against_the_first(comparison: Comparison):
    accuracy = [comparison.estimates[name]["category3_code_accuracy"] for name in comparison.names]
    assert [estimate.value for estimate in accuracy] == [0.65, 0.95, 0.0]
    assert list(comparison.differences) == ["second", "silent"]
    difference = comparison.differences["second"]["category3_code_accuracy"]
    assert difference.value == pytest.approx(0.3)
    assert difference.low > 0
    assert comparison.differences["silent"]["category3_code_accuracy"].value == -0.65


def test_a_lower_error_and_a_smaller_bias_are_better(comparison: Comparison):
    silent = comparison.differences["silent"]
    assert silent["full_price_mae"].value == -100.0
    assert comparison.estimates["silent"]["full_price_bias"].value == -1.0
    assert silent["full_price_bias"].value == -1.0


def test_the_same_predictions_differ_by_nothing_as_far_as_20_groups_can_tell():
    twins = compare([system(name, wrong_at(1, 5)) for name in ("one", "two")])
    # There is no rank correlation with prices that are all the same.
    known = [f for f in twins.differences["two"].values() if not math.isnan(f.value)]
    assert len(known) == len(twins.metrics) - 1
    assert {difference.value for difference in known} == {0.0}
    unseen = 1 - 0.025 ** (1 / 20)
    accuracy = twins.differences["two"]["category3_code_accuracy"]
    assert (accuracy.low, accuracy.high) == pytest.approx((-unseen, unseen))
    # An error has no upper limit, so its difference has no exact bound.
    assert twins.differences["two"]["full_price_mae"] == (0.0, -math.inf, math.inf)
    assert significance(twins.differences["two"]["full_price_mae"]) == "not significant"


def test_pairing_makes_the_difference_narrower_than_the_values_are():
    hard = set(range(100))  # everybody fails these, so they say nothing about the difference
    own = {*range(100, 114, 2)}
    one, two = wrong_at(*hard, *own, count=200), wrong_at(*hard, count=200)
    pair = compare([system("one", one), system("two", two)])
    estimate = pair.estimates["one"]["category3_code_accuracy"]
    difference = pair.differences["two"]["category3_code_accuracy"]
    assert difference.high - difference.low < (estimate.high - estimate.low) / 3


def test_the_order_of_the_predictions_does_not_matter_and_the_rest_is_left_out():
    pair = compare([system("one", wrong_at(1)), system("two", wrong_at(1, 2)[29::-1])])
    assert pair.samples == 30
    assert pair.groups == 15
    assert pair.left_out == {"one": 10, "two": 0}
    assert [each.id for each in pair.predictions["two"]] == [f"s{number}" for number in range(30)]
    difference = pair.differences["two"]["category3_code_accuracy"].value
    assert difference == pytest.approx(-1 / 30)


def test_other_wordings_are_compared_by_the_fields_they_share():
    short = replace(PRODUCT, name="short", answer="{title} is a {category3_code:category}")
    predicted = [answer(number, template=short) for number in range(6)]
    predicted = [
        replace(each, truth={name: each.truth[name] for name in short.fields}) for each in predicted
    ]
    pair = compare([system("long", wrong_at()[:6]), system("short", predicted, short)])
    assert pair.fields == ("title", "category3_code")
    assert "full_price_mae" not in pair.metrics
    assert pair.estimates["short"]["category3_code_accuracy"].value == 1.0


def test_one_group_has_values_but_no_intervals():
    single = [replace(each, group="g") for each in wrong_at(0)[:4]]
    pair = compare([system("one", single), system("two", single)])
    value, low, _ = pair.differences["two"]["category3_code_accuracy"]
    assert value == 0.0
    assert math.isnan(low)


def test_samples_that_only_some_predict_correctly_are_found_and_counted(comparison: Comparison):
    found = find_disagreements(compare([system("a", wrong_at(0, 1)), system("b", wrong_at(1, 2))]))
    assert [each.predictions["a"].id for each in found] == ["s0", "s2"]
    assert found[0].fields == ("category3_code",)
    assert found[0].truth["category3_code"] == "A"

    changes = count_correct(comparison, "second")
    assert changes["category3_code"] == CorrectCounts(
        both=26, only_reference=0, only_other=12, neither=2
    )
    assert changes["title"] == CorrectCounts(both=40, only_reference=0, only_other=0, neither=0)
    everywhere = find_disagreements(comparison)
    assert len(everywhere) == 40
    assert len(everywhere[0].fields) == 3


def test_numbers_within_ten_percent_do_not_disagree():
    near = [answer(0, {"full_price": 109.0}), answer(1, {"full_price": 150.0})]
    found = find_disagreements(compare([system("a", wrong_at()[:2]), system("b", near)]))
    assert [each.predictions["b"].id for each in found] == ["s1"]


@pytest.mark.parametrize(
    ("systems", "problem"),
    [
        ([system("a", wrong_at())], "found only a; pass at least two"),
        ([system("a", wrong_at()), system("a", wrong_at())], "'a' is passed twice"),
        (
            [system("a", wrong_at()[:3]), system("b", wrong_at()[3:])],
            "no sample was predicted by all: a has 3, such as 's0'; b has 37, such as 's3'",
        ),
        (
            [system("a", [answer(0), answer(0)]), system("b", [answer(0)])],
            "'a' has 2 predictions for 1 samples",
        ),
        (
            [system("a", [answer(0)]), system("b", [replace(answer(0), group="other")])],
            "its group is 'g0' in a and 'other' in b; evaluate both on the same data",
        ),
        (
            [
                system("a", [answer(0)]),
                system("b", [replace(answer(0), truth={**answer(0).truth, "full_price": 9.0})]),
            ],
            "differs between the evaluations: its full_price is 100.0 in a and 9.0 in b",
        ),
        (
            [
                system("a", [answer(0)]),
                system("b", [answer(0)], replace(PRODUCT, answer="{full_price}")),
            ],
            "the templates share no field of the same kind: a has 'Product: ",
        ),
    ],
)
def test_incomparable_systems_are_reported(systems: list[EvaluatedSystem], problem: str):
    with pytest.raises(ValueError, match="(?s)" + problem):
        compare(systems)


def test_a_truth_that_is_no_number_is_the_same_as_itself():
    unknown = replace(answer(0), truth={**answer(0).truth, "full_price": np.nan})
    other = replace(answer(0), truth={**answer(0).truth, "full_price": float("nan")})
    pair = compare([system("a", [unknown, answer(2)]), system("b", [other, answer(2)])])
    assert pair.samples == 2
