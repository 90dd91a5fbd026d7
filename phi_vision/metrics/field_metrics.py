"""METRICS: how good generated records are, by what a field holds; each one figure over all samples.

An answer that could not be read (None) or lacks a field is wrong: 0 for texts and categories. As a
number it is read as 0, as a shop would see a price: absolute error = the true number, relative
error = 1, symmetric error = 2 (its greatest value), not within 10 %. So no answer is left out of a
mean, and silence is worth no more than saying 0. Samples whose true number is missing, zero or
negative have no relative error and do not count in any metric of numbers.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from phi_vision.data.samples import Record, Value
from phi_vision.data.template import Kind, Template
from phi_vision.metrics.aggregation import (
    Combine,
    Marks,
    macro_f1,
    mean,
    median,
    overlap_f1,
    rank_correlation,
    root_mean,
)
from phi_vision.metrics.bootstrap import BootstrapDistribution, Counts
from phi_vision.metrics.category_hierarchy import Tree
from phi_vision.metrics.distances import (
    LARGEST,
    NEARLY,
    Numbers,
    absolute,
    chrf,
    edit_similarity,
    relative,
    rouge_l,
    signed,
    squared_log,
    symmetric,
    within,
)

Predicted = Sequence[Record | None]
"""What was answered about each sample; None where the answer could not be read."""

Better = Literal["higher", "lower", "zero"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure in two steps, so that resampling for an interval repeats only the second."""

    name: str
    """What reports and recipes call it, such as "full_price_mae"."""

    field: str | None
    """The field it reads; None for a metric of the whole answer."""

    kind: Kind | None
    """What that field holds."""

    per_sample: Callable[[Predicted, Sequence[Record]], Marks]
    """Marks every sample: an array whose first axis is the samples."""

    aggregate: Combine
    """Turns marks, and how often each sample was drawn, into the figure of each draw."""

    better: Better
    """Which way is good; `zero`: neither too much nor too little."""

    decimals: int
    """How many decimals a reader wants to see."""

    description: str
    """What it measures, in one sentence, with the formula."""

    def __call__(self, predicted: Predicted, true: Sequence[Record]) -> float:
        """Measure predicted records against true ones, sample by sample."""
        return self.estimate(predicted, true, np.empty((0, len(true)))).value

    def estimate(
        self, predicted: Predicted, true: Sequence[Record], counts: Counts
    ) -> BootstrapDistribution:
        """Measure predicted records against true ones, also on each draw of samples."""
        return self.of_marks(self.per_sample(predicted, true), counts)

    def of_marks(self, marks: Marks, counts: Counts) -> BootstrapDistribution:
        """Turn the marks of samples into the figure, also on each draw of them."""
        once = np.ones((1, len(marks)))
        return BootstrapDistribution(
            float(self.aggregate(marks, once)[0]), self.aggregate(marks, counts)
        )


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A metric that does not know yet which field it will read; the rest as in `Metric`."""

    per_sample: Callable[["Cells"], Marks]
    """Marks every sample, given what was said and what is true."""

    aggregate: Combine
    description: str
    better: Better = "higher"
    decimals: int = 3

    needs_tree: bool = False
    """Only for fields with levels above them."""

    def of(self, field: str, kind: Kind, short: str, tree: Tree | None) -> Metric:
        """Make it the metric of one field."""

        def per_sample(predicted: Predicted, true: Sequence[Record]) -> Marks:
            return self.per_sample(Cells(field=field, predicted=predicted, true=true, tree=tree))

        return Metric(
            name=f"{field}_{short}",
            field=field,
            kind=kind,
            per_sample=per_sample,
            aggregate=self.aggregate,
            better=self.better,
            decimals=self.decimals,
            description=self.description,
        )


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One field of all samples: what was said there, and what is true."""

    field: str
    predicted: Predicted
    true: Sequence[Record]
    tree: Tree | None = None

    def pairs(self) -> Iterator[tuple[bool, Value, Value]]:
        """Yield, sample by sample, whether anything was said, what was said, and what is true."""
        for record, truth in zip(self.predicted, self.true, strict=True):
            said = record is not None and self.field in record
            yield said, record[self.field] if record and said else None, truth[self.field]


def metrics_for(
    template: Template, trees: Mapping[str, Tree | None] | None = None
) -> dict[str, Metric]:
    """Choose the metrics of a template's fields, by what each holds.

    Input:  "{title}, {category3_code:category}", no trees
    Output: parse_rate, title_exact, ..., category3_code_accuracy, category3_code_macro_f1

    Args:
        template: Names the fields.
        trees: Field -> the levels above it, for those that have any.

    Returns:
        Name -> metric, `parse_rate` first, then field by field.
    """
    found = [PARSE_RATE]
    for field, kind in template.kinds.items():
        tree = (trees or {}).get(field)
        for short, measure in METRICS[kind].items():
            if tree is not None or not measure.needs_tree:
                found.append(measure.of(field, kind, short, tree))
    return {metric.name: metric for metric in found}


def headline_metrics(template: Template) -> tuple[str, ...]:
    """Name the one metric of each field that a reader looks at first.

    Output: ("title_similarity", "category3_code_accuracy", "full_price_median_ape")
    """
    return tuple(f"{field}_{HEADLINE[kind]}" for field, kind in template.kinds.items())


def as_number(value: Value) -> float | None:
    """Take a value as a number: a finite one, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of more than 308 digits
        return None


def relative_error(predicted: Value, true: Value) -> float:
    """Relative error |predicted − true| / true; NaN where the true number is not positive.

    Input:  150.0 for 100.0; None for 100.0
    Output: 0.5; 1.0
    """
    return float(relative(*_as_numbers([(predicted, true)]).T)[0])


def is_correct(kind: Kind, said: Value, true: Value) -> bool:
    """Whether what was read is right: equal, or, of numbers, at most 10 % off.

    An answer that could not be read is never right, whatever is true: do not ask about it.
    """
    number, truth = as_number(said), as_number(true)
    if kind != "number" or number is None or truth is None:
        return said == true
    return abs(number - truth) <= (0.1 + NEARLY) * abs(truth)


def _parsed(predicted: Predicted, true: Sequence[Record]) -> Marks:
    pairs = zip(predicted, true, strict=True)
    return np.array([record is not None for record, _ in pairs], dtype=float)


def _equal(cells: Cells) -> Marks:
    return np.array([was_said and said == true for was_said, said, true in cells.pairs()], float)


def _of_texts(alike: Callable[[str, str], float]) -> Callable[[Cells], Marks]:
    """Mark how alike texts are: 1 for the same, 0 where nothing was said."""

    def mark(cells: Cells) -> Marks:
        marks = []
        for was_said, said, true in cells.pairs():
            texts = ["" if value is None else str(value) for value in (said, true)]
            # Measures of parts have none to compare in empty texts; saying the same is right.
            same = float(texts[0] == texts[1])
            marks.append((same or alike(*texts)) if was_said else 0.0)
        return np.array(marks, dtype=float)

    return mark


def _categories(cells: Cells) -> Marks:
    """Number the categories; rows of (true, said), −1 for one that is never true."""
    pairs = list(cells.pairs())
    places = {value: place for place, value in enumerate(dict.fromkeys(true for *_, true in pairs))}
    rows = [
        (places[true], places.get(said, -1) if was_said else -1) for was_said, said, true in pairs
    ]
    return np.array(rows, dtype=float).reshape(-1, 2)


def _branches(cells: Cells) -> Marks:
    """Compare branches of the tree; rows of (how much is shared, said, true).

    Input:  BOOTS said for SANDALS, both below SHOES below WOMEN
    Output: (2, 3, 3)
    """
    tree = cells.tree
    assert tree is not None, "asked for a tree's metric without a tree"
    rows = []
    for was_said, value, truth in cells.pairs():
        said, true = tree.branch(value) if was_said else frozenset(), tree.branch(truth)
        rows.append((len(said & true), len(said), len(true)))
    return np.array(rows, dtype=float).reshape(-1, 3)


def _numbers(cells: Cells) -> Marks:
    return _as_numbers([(said, true) for _, said, true in cells.pairs()])


def _as_numbers(pairs: Sequence[tuple[Value, Value]]) -> Marks:
    """Rows of (said, true): 0 where no number was said, NaN where the true one is not > 0."""
    rows = []
    for said, true in pairs:
        number = as_number(true)
        positive = number is not None and number > 0
        rows.append((as_number(said) or 0.0, number if positive else math.nan))
    return np.array(rows, dtype=float).reshape(-1, 2).clip(-LARGEST, LARGEST)


def _of_numbers(error: Callable[[Numbers, Numbers], Marks]) -> Callable[[Cells], Marks]:
    """Mark each sample with an error: a function of said and true numbers."""

    def mark(cells: Cells) -> Marks:
        return error(*_numbers(cells).T)

    return mark


PARSE_RATE = Metric(
    name="parse_rate",
    field=None,
    kind=None,
    per_sample=_parsed,
    aggregate=mean,
    better="higher",
    decimals=3,
    description="Share of answers that can be read: they have exactly the template's form.",
)

METRICS: dict[Kind, dict[str, Measure]] = {
    "text": {
        "exact": Measure(
            per_sample=_equal,
            aggregate=mean,
            description="Share of answers that give the text character for character.",
        ),
        "similarity": Measure(
            per_sample=_of_texts(edit_similarity),
            aggregate=mean,
            description="How alike the texts are: mean of 1 − edits / length of the longer text "
            "(Levenshtein).",
        ),
        "rouge_l": Measure(
            per_sample=_of_texts(rouge_l),
            aggregate=mean,
            description="Words in common and in order: mean of 2 · longest common subsequence / "
            "(words said + true words), without case and punctuation (ROUGE-L).",
        ),
        "chrf": Measure(
            per_sample=_of_texts(chrf),
            aggregate=mean,
            description="Character sequences in common: mean F2 of those of 1 to 6 characters, "
            "from 0 to 1 (chrF).",
        ),
    },
    "category": {
        "accuracy": Measure(
            per_sample=_equal,
            aggregate=mean,
            description="Share of answers that give the right category.",
        ),
        "macro_f1": Measure(
            per_sample=_categories,
            aggregate=macro_f1,
            description="Rare categories count as much as frequent ones: mean over the true "
            "categories of F1 = 2 · right / (times true + times said).",
        ),
        "hierarchical_f1": Measure(
            per_sample=_branches,
            aggregate=overlap_f1,
            needs_tree=True,
            description="A neighbour in the right branch is half right: 2 · shared / "
            "(said + true), of categories with all that stand above them, the root left out "
            "(hierarchical F).",
        ),
    },
    "number": {
        "mae": Measure(
            per_sample=_of_numbers(absolute),
            aggregate=mean,
            better="lower",
            decimals=2,
            description="Mean absolute error: mean of |said − true|, in the number's own unit.",
        ),
        "median_ape": Measure(
            per_sample=_of_numbers(relative),
            aggregate=median,
            better="lower",
            description="Half of the answers are at least this near: median of "
            "|said − true| / true.",
        ),
        "mape": Measure(
            per_sample=_of_numbers(relative),
            aggregate=mean,
            better="lower",
            description="Mean absolute percentage error, as a fraction: mean of "
            "|said − true| / true.",
        ),
        "smape": Measure(
            per_sample=_of_numbers(symmetric),
            aggregate=mean,
            better="lower",
            description="Symmetric error from 0 to 2: mean of 2 · |said − true| / (|said| + true).",
        ),
        "rmsle": Measure(
            per_sample=_of_numbers(squared_log),
            aggregate=root_mean,
            better="lower",
            description="Root mean squared logarithmic error: √ mean of "
            "(ln(1 + said) − ln(1 + true))².",
        ),
        "within_5": Measure(
            per_sample=_of_numbers(partial(within, share=0.05)),
            aggregate=mean,
            description="Share of answers at most 5 % off: |said − true| ≤ 0.05 · true.",
        ),
        "within_10": Measure(
            per_sample=_of_numbers(partial(within, share=0.1)),
            aggregate=mean,
            description="Share of answers at most 10 % off: |said − true| ≤ 0.1 · true.",
        ),
        "within_25": Measure(
            per_sample=_of_numbers(partial(within, share=0.25)),
            aggregate=mean,
            description="Share of answers at most 25 % off: |said − true| ≤ 0.25 · true.",
        ),
        "spearman": Measure(
            per_sample=_numbers,
            aggregate=rank_correlation,
            description="Is more said where more is true: correlation of the ranks of said and "
            "true numbers (Spearman), 0 where the same is said of all.",
        ),
        "bias": Measure(
            per_sample=_of_numbers(signed),
            aggregate=mean,
            better="zero",
            description="Too much (above 0) or too little: mean of (said − true) / true.",
        ),
    },
}
"""Kind of field -> short name -> measure. Another metric is one function and one entry."""

HEADLINE: dict[Kind, str] = {
    "text": "similarity",
    "category": "accuracy",
    "number": "median_ape",
}
"""Kind of field -> the short name of the metric to look at first."""
