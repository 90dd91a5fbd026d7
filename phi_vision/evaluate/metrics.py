"""METRICS: how good generated records are, each as one number over parallel lists.

An answer that could not be read (None) or lacks a value is wrong: 0 for titles and categories. For
prices it is read as a price of 0, as a shop would see it: absolute error = the true price, relative
error = 1, symmetric error = 2 (its greatest value), not within 10 %. So silence never pays, and no
answer is left out of a mean. Samples whose true price is missing, zero or negative have no relative
error and do not count in any price metric.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz

from phi_vision.data.sample import Record, Value
from phi_vision.data.template import Template

TITLE, CATEGORY, PRICE = "title", "category3_code", "full_price"
"""The fields that metrics know; a template that lacks one is not measured by its metrics."""

Predicted = Sequence[Record | None]
Marks = NDArray[Any]
Prices = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure in two steps, so that resampling for an interval repeats only the second."""

    field: str | None
    """The field it reads; None for a metric of the whole answer."""

    mark: Callable[[Predicted, Sequence[Record]], Marks]
    """Marks every sample: an array whose first axis is the samples."""

    combine: Callable[[Marks], float]
    """Turns the marks of some samples into the figure."""

    higher_is_better: bool = True

    decimals: int = 3
    """How many decimals a reader wants to see."""

    def __call__(self, predicted: Predicted, true: Sequence[Record]) -> float:
        """Measure predicted records against true ones, sample by sample."""
        return self.combine(self.mark(predicted, true))


def metrics_for(template: Template) -> dict[str, Metric]:
    """Choose the metrics whose field the template writes."""
    return {
        name: metric
        for name, metric in METRICS.items()
        if metric.field is None or metric.field in template.fields
    }


def as_price(value: Value) -> float | None:
    """Take a value as a price: a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def price_error(predicted: Record | None, true: Record) -> float:
    """Relative price error |predicted − true| / true; NaN where the true price is not positive."""
    return float(_of_prices(_relative)([predicted], [true])[0])


def _parsed(predicted: Predicted, true: Sequence[Record]) -> Marks:
    return np.array([record is not None for record in predicted], dtype=float)


def _equal(field: str) -> Callable[[Predicted, Sequence[Record]], Marks]:
    def mark(predicted: Predicted, true: Sequence[Record]) -> Marks:
        pairs = zip(predicted, true, strict=True)
        return np.array(
            [p is not None and field in p and p[field] == t[field] for p, t in pairs], dtype=float
        )

    return mark


def _similar_title(predicted: Predicted, true: Sequence[Record]) -> Marks:
    """Mark how alike the titles are: 1 − insertions and deletions / both lengths (rapidfuzz ratio).

    Input:  "Wool Coat" for "Wool Cape"
    Output: 0.667
    """
    pairs = zip(predicted, true, strict=True)
    return np.array(
        [
            0.0 if p is None else fuzz.ratio(_text(p.get(TITLE)), _text(t[TITLE])) / 100
            for p, t in pairs
        ]
    )


def _text(value: Value) -> str:
    return "" if value is None else str(value)


def _categories(predicted: Predicted, true: Sequence[Record]) -> Marks:
    """Number the categories; rows of (true, predicted), −1 for one that is never true."""
    numbers: dict[Value, int] = {}
    for record in true:
        numbers.setdefault(record[CATEGORY], len(numbers))
    return np.array(
        [
            (numbers[t[CATEGORY]], -1 if p is None else numbers.get(p.get(CATEGORY), -1))
            for p, t in zip(predicted, true, strict=True)
        ]
    ).reshape(-1, 2)


def _macro_f1(categories: Marks) -> float:
    """Mean over the true categories of F1 = 2 · right / (times true + times predicted)."""
    true, predicted = categories.T
    size = categories.max(initial=0) + 1
    times_true = np.bincount(true, minlength=size)
    times_predicted = np.bincount(predicted[predicted >= 0], minlength=size)
    right = np.bincount(true[true == predicted], minlength=size)
    occurs = times_true > 0
    return _mean(2 * right[occurs] / (times_true + times_predicted)[occurs])


def _prices(predicted: Predicted, true: Sequence[Record]) -> Marks:
    """Rows of (predicted, true): 0 where no price was said, NaN where the true one is not > 0."""
    rows = []
    for answer, record in zip(predicted, true, strict=True):
        price = as_price(record[PRICE])
        said = as_price(answer.get(PRICE)) if answer is not None else None
        rows.append((said or 0.0, price if price is not None and price > 0 else math.nan))
    return np.array(rows, dtype=float).reshape(-1, 2)


def _of_prices(
    error: Callable[[Prices, Prices], Marks],
) -> Callable[[Predicted, Sequence[Record]], Marks]:
    """Mark each sample with an error of its price: a function of predicted and true prices."""

    def mark(predicted: Predicted, true: Sequence[Record]) -> Marks:
        said, price = _prices(predicted, true).T
        return error(said, price)

    return mark


def _absolute(said: Prices, price: Prices) -> Marks:
    return np.abs(said - price)


def _relative(said: Prices, price: Prices) -> Marks:
    return np.abs(said - price) / price


def _symmetric(said: Prices, price: Prices) -> Marks:
    """2·|p − t| / (|p| + |t|), from 0 to 2: the form of the Amazon ML Challenge, as a fraction."""
    return 2 * np.abs(said - price) / (np.abs(said) + price)


def _within_10(said: Prices, price: Prices) -> Marks:
    # A price that is exactly 10 % off is within, also where floats say 0.10000000000000009.
    return np.where(np.isnan(price), np.nan, _relative(said, price) <= 0.1 + 1e-9)


def _mean(marks: Marks) -> float:
    marks = marks[~np.isnan(marks)]
    return float(marks.mean()) if marks.size else math.nan


def _median(marks: Marks) -> float:
    marks = marks[~np.isnan(marks)]
    return float(np.median(marks)) if marks.size else math.nan


METRICS: dict[str, Metric] = {
    "parse_rate": Metric(field=None, mark=_parsed, combine=_mean),
    "title_exact": Metric(field=TITLE, mark=_equal(TITLE), combine=_mean),
    "title_fuzzy": Metric(field=TITLE, mark=_similar_title, combine=_mean),
    "category_accuracy": Metric(field=CATEGORY, mark=_equal(CATEGORY), combine=_mean),
    "category_macro_f1": Metric(field=CATEGORY, mark=_categories, combine=_macro_f1),
    "price_mae": Metric(
        field=PRICE,
        mark=_of_prices(_absolute),
        combine=_mean,
        higher_is_better=False,
        decimals=2,
    ),
    "price_median_ape": Metric(
        field=PRICE, mark=_of_prices(_relative), combine=_median, higher_is_better=False
    ),
    "price_smape": Metric(
        field=PRICE, mark=_of_prices(_symmetric), combine=_mean, higher_is_better=False
    ),
    "price_within_10": Metric(field=PRICE, mark=_of_prices(_within_10), combine=_mean),
}
"""Name -> metric; call one with predicted and true records."""
