"""Metrics against figures worked by hand."""

import math

import pytest

from phi_vision.data.template import TEMPLATES, Template
from phi_vision.evaluate.metrics import METRICS, metrics_for, price_error


def record(title="Coat", category="COATS", price=100.0):
    return {"title": title, "category3_code": category, "full_price": price}


TRUE = [
    record("Wool Coat", "COATS", 100.0),
    record("Silk Scarf", "SCARVES", 200.0),
    record("Linen Shirt", "SHIRTS", 50.0),
    record("Wool Coat", "COATS", 400.0),
]
PREDICTED = [
    record("Wool Coat", "COATS", 110.0),   # 10 % off
    record("Silk Shirt", "SHIRTS", 100.0),  # half
    None,                                  # could not be read
    record("Wool Coat", "HATS", 400.0),    # a category that is never true
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parse_rate",        3 / 4),
        ("title_exact",       2 / 4),
        ("title_fuzzy",       (1 + 0.7 + 0 + 1) / 4),
        ("category_accuracy", 1 / 4),
        # COATS: 2·1 / (2 true + 1 said); SCARVES: 0; SHIRTS: 0 (said once, for the scarf).
        ("category_macro_f1", (2 / 3 + 0 + 0) / 3),
        # Unread counts as a price of 0: an error of 50, of 100 %, and of 2 in the symmetric form.
        ("price_mae",         (10 + 100 + 50 + 0) / 4),
        ("price_median_ape",  (0.1 + 0.5) / 2),
        ("price_smape",       (20 / 210 + 200 / 300 + 2 + 0) / 4),
        ("price_within_10",   2 / 4),
    ],
)  # fmt: skip
def test_figures_by_hand(name, value):
    assert METRICS[name](PREDICTED, TRUE) == pytest.approx(value)


def test_perfect_answers_have_the_best_figures():
    for name, metric in METRICS.items():
        assert metric(TRUE, TRUE) == (1 if metric.higher_is_better else 0), name


def test_silence_is_the_worst_title_and_category_and_a_price_of_zero():
    silent = [None] * len(TRUE)
    assert METRICS["title_fuzzy"](silent, TRUE) == 0
    assert METRICS["category_macro_f1"](silent, TRUE) == 0
    assert METRICS["price_mae"](silent, TRUE) == (100 + 200 + 50 + 400) / 4
    assert METRICS["price_median_ape"](silent, TRUE) == 1
    assert METRICS["price_smape"](silent, TRUE) == 2


@pytest.mark.parametrize("price", [None, "100.0", math.nan, math.inf, True])
def test_an_answer_without_a_number_is_a_price_of_zero(price):
    assert METRICS["price_mae"]([record(price=price)], [record(price=100.0)]) == 100


@pytest.mark.parametrize("price", [None, math.nan, 0.0, -5.0])
def test_samples_without_a_true_price_do_not_count(price):
    true = [record(price=price), record(price=100.0)]
    assert METRICS["price_mae"]([record(price=7.0), record(price=90.0)], true) == 10
    assert METRICS["price_within_10"]([None, record(price=90.0)], true) == 1
    assert math.isnan(METRICS["price_smape"]([None], true[:1]))


def test_ten_percent_is_within_ten_percent():
    true = [record(price=0.3), record(price=19.0), record(price=19.0)]
    said = [record(price=0.33), record(price=17.1), record(price=17.0)]
    assert METRICS["price_within_10"](said, true) == pytest.approx(2 / 3)


def test_price_error_of_one_sample():
    assert price_error(record(price=150.0), record(price=100.0)) == 0.5
    assert price_error(None, record(price=100.0)) == 1


def test_metrics_of_absent_fields_are_left_out():
    title_only = Template(name="t", question="?", answer="It is {title}", layout="chat")
    assert list(metrics_for(title_only)) == ["parse_rate", "title_exact", "title_fuzzy"]
    assert metrics_for(TEMPLATES["product"]) == METRICS


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        METRICS["title_exact"](PREDICTED[:1], TRUE)
