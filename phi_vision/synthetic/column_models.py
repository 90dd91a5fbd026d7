"""What each column of a dataset is: a category, an amount, a text, a code; and how it is drawn.

A rule per role says what is measured of it. The roles are tried in the order of `_role`.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from phi_vision.data.dataset import GROUP_COLUMNS, ID_COLUMNS, IMAGE_COLUMNS
from phi_vision.data.samples import Value
from phi_vision.synthetic.amounts import Amounts, measure_amounts
from phi_vision.synthetic.bayes_network import Facts
from phi_vision.synthetic.code_patterns import Pattern
from phi_vision.synthetic.reading import Seen, can_resemble
from phi_vision.synthetic.shares import FEWEST, tally
from phi_vision.synthetic.text_grammar import Grammar

Role = Literal["category", "number", "ratio", "flag", "text", "code", "empty"]
Level = Literal["group", "row"]

RECORD_COLUMNS = frozenset({*ID_COLUMNS, *GROUP_COLUMNS, "name", "product_name", "description"})
"""Columns that name a product, never structure, however often a name is shared."""

_MOST_CATEGORIES = 50
_WHOLE_CATEGORIES = 20
_MOSTLY = 0.9
_CONSTANT = 0.95
"""Share of the groups of several rows in which a value must be the same to belong to the group;
real exports have a few slips."""
_USUALLY = 0.5


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A price that follows from another: a currency, or a discount.

    Attributes:
        of: the column it follows from.
        usual: by which factor it usually does.
        share: how often it does.
        others: the other factors; None where there are too few to tell.
        amounts: how the column's own numbers lie, for their endings.
    """

    of: str
    usual: float
    share: float
    others: Amounts | None
    amounts: Amounts

    @staticmethod
    def load(data: Mapping[str, Any]) -> "Ratio":
        """Build from what `dataclasses.asdict` and JSON made of it."""
        others = Amounts.load(data["others"]) if data["others"] else None
        return Ratio(**{**data, "others": others, "amounts": Amounts.load(data["amounts"])})


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A truth value that says whether one number is below another: `flg_discount`."""

    lower: str
    higher: str

    @staticmethod
    def load(data: Mapping[str, Any]) -> "Flag":
        """Build from what `dataclasses.asdict` and JSON made of it."""
        return Flag(**data)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Numbers, in all and for each category that enough groups have."""

    whole: Amounts
    by_category: tuple[tuple[Value, Amounts], ...]

    @staticmethod
    def load(data: Mapping[str, Any]) -> "Prices":
        """Build from what `dataclasses.asdict` and JSON made of it."""
        by_category = tuple((value, Amounts.load(each)) for value, each in data["by_category"])
        return Prices(whole=Amounts.load(data["whole"]), by_category=by_category)


Model = Prices | Ratio | Flag | Grammar | Pattern


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column is and how it is drawn.

    Attributes:
        name: of the column.
        role: what it is; "empty" also for what cannot be resembled (lists, bytes).
        level: whether its value belongs to the group or to each row.
        missing: share of null.
        blank: share of empty text.
        model: how its values are; None for categories, which are in the network, and "empty".
    """

    name: str
    role: Role
    level: Level
    missing: float = 0.0
    blank: float = 0.0
    model: Model | None = None

    @staticmethod
    def load(data: Mapping[str, Any]) -> "Column":
        """Build from what `dataclasses.asdict` and JSON made of it."""
        model = LOADERS[data["role"]](data["model"]) if data["model"] is not None else None
        return Column(**{**data, "model": model})


def assign_roles(schema: pa.Schema, rows: Sequence[Seen]) -> list[Column]:
    """Find out what each column is, images left out, without measuring it yet."""
    columns = [
        Column(
            name=field.name,
            role=_role(field, rows) if can_resemble(field.type) else "empty",
            level=_level(field.name, rows),
        )
        for field in schema
        if field.name not in IMAGE_COLUMNS
    ]
    numbers = [column.name for column in columns if column.role == "number"]
    return [_find_flag(column, numbers, rows) for column in columns]


def members(rows: Sequence[Seen]) -> list[list[Seen]]:
    """Gather rows by group, in order of first appearance."""
    groups: dict[int, list[Seen]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return list(groups.values())


def facts_of(rows: Sequence[Seen], level: Level) -> Facts:
    """List (record, group) pairs: each row's, or the first row's of each group."""
    chosen = rows if level == "row" else [group[0] for group in members(rows)]
    return [(row.record, row.group) for row in chosen]


def measure_prices(column: str, facts: Facts, leaf: str | None) -> Prices | None:
    """Measure the numbers of a column, in all and by category."""
    numbers = [(_number(record[column]), record, g) for record, g in facts if _has(record, column)]
    whole = measure_amounts([(number, group) for number, _, group in numbers])
    if whole is None:
        return None
    by_category = []
    named = tally((record.get(leaf or ""), group) for _, record, group in numbers).values
    for value in named if leaf else ():
        among = [(n, group) for n, record, group in numbers if record.get(leaf or "") == value]
        amounts = measure_amounts(among)
        if amounts is not None:
            by_category.append((value, replace(amounts, endings={}, decimals=whole.decimals)))
    return Prices(whole=whole, by_category=tuple(by_category))


def find_ratio(column: str, earlier: Sequence[str], facts: Facts) -> Ratio | None:
    """Find the column that a number usually follows from by one factor.

    Input:  full_price 100, 80, 50; price 100, 80, 35
    Output: Ratio(of="full_price", usual=1.0, share=0.667, …)
    """
    found = [_ratio(column, other, facts) for other in earlier]
    ratios = [ratio for ratio in found if ratio is not None and ratio.share > _USUALLY]
    return max(ratios, key=lambda ratio: ratio.share, default=None)


def _ratio(column: str, other: str, facts: Facts) -> Ratio | None:
    both = [
        (_number(record[column]), _number(record[other]), group)
        for record, group in facts
        if _has(record, column) and _has(record, other) and _number(record[other]) > 0
    ]
    amounts = measure_amounts([(number, group) for number, _, group in both])
    if amounts is None or len({group for _, _, group in both}) < FEWEST:
        return None
    factors = [number / of for number, of, _ in both]
    ((usual, _),) = Counter(round(factor, 3) for factor in factors).most_common(1)
    usual = round(statistics.median(f for f in factors if round(f, 3) == usual), 6)
    half = 0.51 * 10.0**-amounts.decimals
    odd = [(number / of, group) for number, of, group in both if abs(number - of * usual) > half]
    others = measure_amounts([(round(factor, 2), group) for factor, group in odd])
    return Ratio(
        of=other,
        usual=usual,
        share=round(1 - len(odd) / len(both), 4),
        others=replace(others, endings={}) if others else None,
        amounts=replace(amounts, means=(), points=replace(amounts.points, named=())),
    )


def _find_flag(column: Column, numbers: Sequence[str], rows: Sequence[Seen]) -> Column:
    values = {row.record.get(column.name) for row in rows}
    if column.role not in ("category", "code") or values != {0, 1}:
        return column
    for lower in numbers:
        for higher in numbers:
            if lower != higher and all(
                _flags(row.record, column.name, lower, higher) for row in rows
            ):
                return replace(
                    column, role="flag", level="row", model=Flag(lower=lower, higher=higher)
                )
    return column


def _flags(record: Mapping[str, Value], flag: str, lower: str, higher: str) -> bool:
    if not (_has(record, lower) and _has(record, higher)):
        return True
    return bool(record[flag]) == (_number(record[lower]) < _number(record[higher]))


def _role(field: pa.Field, rows: Sequence[Seen]) -> Role:
    pairs = [(row.record.get(field.name), row.group) for row in rows]
    said = [(value, group) for value, group in pairs if value not in (None, "")]
    distinct = len({value for value, _ in said})
    if not said:
        return "empty"
    if isinstance(said[0][0], bool):
        return "category"
    if isinstance(said[0][0], int | float):
        return _role_of_number(field, distinct, len(said))
    if field.name not in RECORD_COLUMNS and _is_category(said, distinct):
        return "category"
    spaced = sum(" " in str(value).strip() for value, _ in said)
    is_words = spaced > (1 - _MOSTLY) * len(said) or field.name in ("title", "name")
    return "text" if is_words else "code"


def _role_of_number(field: pa.Field, distinct: int, count: int) -> Role:
    whole = pa.types.is_integer(field.type)
    if whole and (distinct >= _MOSTLY * count or field.name in RECORD_COLUMNS):
        return "code"
    return "category" if whole and distinct <= _WHOLE_CATEGORIES else "number"


def _is_category(said: Sequence[tuple[Value, int]], distinct: int) -> bool:
    """Whether values are structure: mostly shared by enough groups, or few and met again."""
    shares = tally(said)
    groups = len({group for _, group in said})
    few = distinct <= _MOST_CATEGORIES and groups >= 1.5 * distinct
    return few or (
        shares.total - shares.rest >= _USUALLY * shares.total and distinct <= groups / FEWEST
    )


def _level(column: str, rows: Sequence[Seen]) -> Level:
    """Whether all rows of a group have the same value, in nearly all groups of several."""
    several = [group for group in members(rows) if len(group) > 1]
    same = sum(len({row.record.get(column) for row in group}) == 1 for group in several)
    return "group" if same >= _CONSTANT * len(several) else "row"


def differs(column: str, rows: Sequence[Seen]) -> bool:
    """Whether all rows of a group have different values, in nearly all groups of several."""
    several = [group for group in members(rows) if len(group) > 1]
    unlike = sum(len({r.record.get(column) for r in group}) == len(group) for group in several)
    return bool(several) and unlike >= _MOSTLY * len(several)


def _has(record: Mapping[str, Value], column: str) -> bool:
    return record.get(column) is not None


def _number(value: Value) -> float:
    assert isinstance(value, int | float)
    return float(value)


LOADERS: dict[str, Callable[[Mapping[str, Any]], Model]] = {
    "number": Prices.load,
    "ratio": Ratio.load,
    "flag": Flag.load,
    "text": Grammar.load,
    "code": Pattern.load,
}
"""Role -> what reads its model back from a saved profile."""
