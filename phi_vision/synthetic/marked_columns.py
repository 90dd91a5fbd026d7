"""Quantities and money in a column: how their marks and numbers are measured and drawn.

Marks are units and currencies: drawn by market and category, as GBP in one country and kg for
coats, and never invented. The numbers of each are measured apart.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from phi_vision.data.kinds import money_kind, quantity_kind
from phi_vision.data.kinds.marked_number import format_amount
from phi_vision.data.samples import Value
from phi_vision.synthetic import column_models
from phi_vision.synthetic.column_models import Column, Facts, count, count_by, label

_MOSTLY = 0.9  # of the values have a mark that enough groups share


def split(value: Value) -> tuple[float, str]:
    """Split a quantity or money: "1.5 kg" -> 1.5, "kg"; 0 and no mark of another value."""
    return quantity_kind.split(value) or money_kind.split(value) or (0.0, "")


def are_marked(pairs: Sequence[tuple[Value, int]]) -> bool:
    """Whether nearly all (value, group) pairs have one of a few marks: "500 g" and "1.2 kg"."""
    marks = count((split(value)[1], group) for value, group in pairs)
    return sum(n for mark, n in marks.named if mark) >= max(1, _MOSTLY * len(pairs))


def measure_marked(column: Column, facts: Facts, earlier: Sequence[str]) -> Column:
    """Measure the marks that enough groups share, by market and category, and the numbers of each.

    Input:  "500 g" in 9 groups, "1.2 kg" in 7, all in GB and of the category Belts
    Output: words {"GB": g 9 times and kg 7 times, "GB Belts": likewise}, numbers {"g": …, "kg": …}
    """
    by_mark = defaultdict[Value, list[tuple[Mapping[str, Value], int]]](list)
    marks = list[tuple[str, Value, int]]()
    for record, group in facts:
        amount, mark = split(record[column.name])
        by_mark[mark].append(({**record, column.name: amount}, group))
        marks += [(key, mark, group) for key in (*_keys(column, record), "") if mark]
    words = {key: replace(table, rest=0) for key, table in count_by(marks).items()}
    shared = words[""].values if words else ()
    measure = partial(column_models.measure_numbers, column, earlier=earlier)
    numbers = {str(mark): measure(by_mark[mark]) for mark in shared}
    return replace(column, words=words, numbers=numbers)


def draw_marked(column: Column, record: Mapping[str, Value], rng: random.Random) -> str | None:
    """Draw a number and its mark: "1.5 kg"."""
    known = (column.words[key] for key in _keys(column, record) if key in column.words)
    mark = str(next(known, column.words[""]).draw(rng))
    amount = column.numbers[mark].draw_number(rng, record)
    return None if amount is None else f"{format_amount(amount)} {mark}"


def _keys(column: Column, record: Mapping[str, Value]) -> list[str]:
    """Return the keys of tables of marks, the narrowest first: "GB Belts", "GB"."""
    market = label(record, column.of[0])
    return [f"{market} {label(record, column.parent)}", market]
