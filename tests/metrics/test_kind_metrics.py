"""Metrics of lists, quantities, money and booleans by hand; their baselines."""

import math

import pytest
from draws import check_draws

from phi_vision.data.kinds.marked_number import format_amount
from phi_vision.data.template import Template
from phi_vision.metrics.constant_baselines import typical_value
from phi_vision.metrics.field_metrics import headline_metrics, metrics_for, value_error

SHOP = Template(
    name="shop",
    question="?",
    answer="{colours:list}, {weight:quantity}, {price:money}, {hood:boolean}, {kind:path}",
    layout="chat",
)
METRICS = metrics_for(SHOP)


def records(*rows):
    return [row and dict(zip(SHOP.fields, row, strict=True)) for row in rows]


TRUE = records(
    ("red; blue", "500 g", "20 EUR", True, "A > B > C"),
    ("red",       "2 kg",  "50 USD", False, "A > B"),
    ("green",     "10 cm", "10 EUR", True, "D > E > F"),
    ("blue; red", "1 l",   "30 EUR", False, "A > B > C"),
)  # fmt: skip
PREDICTED = records(
    ("blue; red", "0.5 kg", "22 EUR", True, "A > B > C"),   # all right; the price is 10 % off
    ("red; pink", "3 kg",   "50 EUR", True, "A > C"),   # half too heavy, another currency
    ("blue",      "10 g",   "5 EUR",  False, "D"),  # another dimension
    None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("colours_exact_set",        1 / 4),
        ("colours_set_precision",    3 / 5),
        ("colours_set_recall",       3 / 6),
        ("colours_set_f1",           2 * 3 / (5 + 6)),
        # Errors 0, 0.5; 1 of another dimension and of what does not parse.
        ("weight_median_ape",        (0.5 + 1) / 2),
        ("weight_mape",              (0 + 0.5 + 1 + 1) / 4),
        ("weight_within_5",          1 / 4),
        ("weight_within_10",         1 / 4),
        ("weight_within_25",         1 / 4),
        ("weight_unit_accuracy",     2 / 4),
        ("price_median_ape",         (0.5 + 1) / 2),
        ("price_mape",               (0.1 + 1 + 0.5 + 1) / 4),
        ("price_within_5",           0),
        ("price_within_10",          1 / 4),
        ("price_within_25",          1 / 4),
        ("price_currency_accuracy",  2 / 4),
        ("hood_accuracy",            1 / 4),
        ("hood_precision",           1 / 2),
        ("hood_recall",              1 / 2),
        ("hood_f1",                  2 * 1 / (2 + 2)),
        ("kind_accuracy",            1 / 4),
        ("kind_level_1_accuracy",    3 / 4),
        ("kind_level_1_coverage",    3 / 4),
        ("kind_level_2_accuracy",    1 / 4),
        ("kind_level_2_coverage",    2 / 4),
        ("kind_level_3_accuracy",    1 / 3),  # of the three samples with a third level
        ("kind_level_3_coverage",    1 / 3),
        # Shared 3 + 1 + 1; predicted 3 + 2 + 1, true 3 + 2 + 3 + 3.
        ("kind_path_precision",      5 / 6),
        ("kind_path_recall",         5 / 11),
        ("kind_path_f1",             2 * 5 / (6 + 11)),
    ],
)  # fmt: skip
def test_values_by_hand(name, value):
    assert METRICS[name](PREDICTED, TRUE) == pytest.approx(value)


def test_every_metric_is_computed_by_hand_and_best_where_all_is_right():
    for name, metric in METRICS.items():
        assert metric(TRUE, TRUE) == {"higher": 1, "lower": 0}[metric.better], name
        assert metric.description.endswith("."), name
    assert headline_metrics(SHOP) == (
        *("colours_set_f1", "weight_median_ape", "price_median_ape", "hood_accuracy"),
        "kind_path_f1",
    )


def test_what_does_not_parse_is_as_bad_as_what_is_left_out():
    for name, metric in METRICS.items():
        if name != "parse_rate":
            assert metric([{}] * 4, TRUE) == pytest.approx(metric([None] * 4, TRUE), nan_ok=True)


def test_a_draw_is_as_good_as_its_samples_repeated():
    check_draws(METRICS, PREDICTED * 3, TRUE * 3, of_a_group=2)


def test_values_of_another_kind_are_wrong_and_crash_nothing():
    odd = records(*[(each,) * 5 for each in (None, "", "heavy", 7, -1.5, math.nan, True, "1 xx")])
    true = TRUE * 2
    for metric in METRICS.values():
        assert math.isfinite(metric(odd, true)) or metric.aggregate == "overlap_precision"
    for field, kind in SHOP.kinds.items():
        assert value_error(kind, "heavy", TRUE[0][field]) == 1


@pytest.mark.parametrize(
    ("field", "values", "typical"),
    [
        ("colours", ["red; blue", "red", "red; blue"], "red; blue"),
        ("weight", ["500 g", "0.7 kg", "900 g", "3 cm"], "700 g"),
        ("price", ["20 EUR", "30 EUR", "900 USD"], "25 EUR"),
        ("price", ["cheap"], None),
        ("hood", [True, False, True], True),
    ],
)
def test_a_baseline_predicts_the_most_frequent_or_the_median(field, values, typical):
    assert typical_value(SHOP, field, values) == typical


def test_amounts_are_written_without_exponents():
    assert [format_amount(n) for n in (0.5, 12.0, 1e16, 1e-7)] == [
        *("0.5", "12", "10000000000000000", "0.0000001"),
    ]
