"""Profile of a dataset: all that drawing data like it needs. It can be saved and given away.

It names no value that fewer than `MIN_GROUPS` groups share: no title, code, link or image.
"""

import base64
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter
from sklearn.metrics import mutual_info_score

from phi_vision.data.dataset import GROUP_COLUMNS, ID_COLUMNS, IMAGE_COLUMNS
from phi_vision.data.samples import Value
from phi_vision.synthetic import text_models
from phi_vision.synthetic.distributions import (
    MIN_GROUPS,
    RARE,
    Amounts,
    Frequencies,
    Rare,
    count,
    count_by,
    measure_amounts,
)
from phi_vision.synthetic.image_style import ImageStyle, measure_images
from phi_vision.synthetic.observation import Observation, ObservedRow

Role = Literal["category", "number", "ratio", "flag", "text", "code", "empty"]
Level = Literal["group", "row"]
Facts = Sequence[tuple[Mapping[str, Value], int]]
"""(record, group), one for each group or one for each row."""

VERSION = 2
MIN_DATASET_GROUPS = 20
"""With fewer, enough groups share nearly nothing, and the drawn data would not resemble any."""
PATH_COLUMN = "image.path"
"""Name of the file names beside the images in profiles and reports."""

_NAMING_COLUMNS = {*ID_COLUMNS, *GROUP_COLUMNS, "name", "product_name", "description"}
"""Columns that name a product: never a category, however often a name is shared."""
_ORDER = ("category", "number", "flag", "text", "code", "empty")
_MAX_CATEGORIES, _MAX_WHOLE_CATEGORIES = 50, 20
_MOSTLY = 0.9
_CONSTANT = 0.95  # of the groups: real exports have a few slips


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A price that follows from another: a currency, or a discount."""

    of: str  # the column it follows from
    usual: float  # the most frequent factor
    share: float  # how often it applies
    others: Amounts | None  # the other factors; None where there are too few to measure
    amounts: Amounts  # the endings of the column's own numbers


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A truth value that compares two numbers, such as `flg_discount`."""

    lower: str
    higher: str


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Numbers by category; "" for all."""

    by_category: Mapping[str, Amounts]


@dataclass(frozen=True, kw_only=True)
class ColumnProfile:
    """How the values of a column are drawn."""

    name: str
    role: Role  # "empty" also for types without a model (lists, bytes)
    level: Level  # whether a value belongs to the group or to each row
    missing: float = 0.0  # fraction of null
    blank: float = 0.0  # fraction of empty text
    model: Prices | Ratio | Flag | text_models.Grammar | text_models.CodePattern | None = None


@dataclass(frozen=True, kw_only=True)
class Node:
    """One category column of a Bayesian network in the form of a tree (Chow & Liu 1968)."""

    column: str
    parent: str | None  # the column that is most informative about it
    frequencies: Frequencies
    given: Mapping[str, Frequencies]  # value of the parent -> frequencies among those
    differs: bool  # whether the rows of a group have different values, as colours of a style have

    def draw(
        self, rng: random.Random, record: Mapping[str, Value], used: Sequence[Value] = ()
    ) -> Value | Rare:
        """Draw a value that fits those drawn before, and none that the group has used."""
        given = self.given.get(str(record.get(self.parent or "")), Frequencies())
        value = given.draw(rng, without=used)
        if value is RARE:
            return self.frequencies.draw(rng, without=(*used, *given.values))
        return value


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The measurements of a dataset."""

    version: int
    schema: str  # columns and types, as Arrow serialises them, in base64, without metadata
    splits: Mapping[str, int]  # split -> rows
    groups: int
    leaf: str | None  # the finest category column, on which prices and titles depend
    group_sizes: Mapping[str, Frequencies]  # value of `leaf` -> rows in a group; "" for all
    network: tuple[Node, ...]  # in the order in which they are drawn, as the columns
    columns: tuple[ColumnProfile, ...]  # without images
    images: ImageStyle | None
    repeated_rows: float  # fraction of rows that equal another in every column

    def arrow_schema(self) -> pa.Schema:
        """Return the columns and types of the dataset."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema)))

    @property
    def private_columns(self) -> tuple[str, ...]:
        """Columns whose real values may not appear: titles, texts, codes, links, file names."""
        named = [column.name for column in self.columns if column.role in ("text", "code")]
        return (*named, PATH_COLUMN)


def profile_dataset(data: Observation) -> Profile:
    """Measure a dataset.

    Raises:
        ValueError: It has too few groups for anonymity.
    """
    rows, groups = data.rows, group_rows(data.rows)
    if len(groups) < MIN_DATASET_GROUPS:
        raise ValueError(
            f"cannot model a dataset of {len(groups)} groups: no product would be anonymous; use "
            f"one of at least {MIN_DATASET_GROUPS} groups"
        )
    facts: dict[Level, Facts] = {
        "group": [(group[0].record, group[0].group) for group in groups],
        "row": [(row.record, row.group) for row in rows],
    }
    columns = _assign_roles(data.schema, facts["row"], groups)
    categories = [column for column in columns if column.role == "category"]
    shared = [column.name for column in categories if column.level == "group"]
    own = [column.name for column in categories if column.level == "row"]
    leaf = find_leaf(shared, facts["group"])
    network = build_network(sorted(shared, key=lambda name: name != leaf), facts["group"])
    differing = {name for name in own if _fraction(groups, name, distinct=True) >= _MOSTLY}
    network += build_network(own, facts["row"], above=shared, differing=differing)
    measured: list[ColumnProfile] = []
    for column in sorted(columns, key=lambda c: (c.level == "row", _ORDER.index(c.role))):
        measured.append(_measure(column, measured, facts[column.level], leaf))
    sizes = [(_label(group[0].record, leaf), len(group), group[0].group) for group in groups]
    distinct = {(*row.record.items(), *(image.digest for image in row.images)) for row in rows}
    schema = pa.schema([pa.field(each.name, each.type, each.nullable) for each in data.schema])
    return Profile(
        version=VERSION,
        schema=base64.b64encode(schema.serialize()).decode(),
        splits=dict(data.splits),
        groups=len(groups),
        leaf=leaf,
        group_sizes={**count_by(sizes), "": count((size, group) for _, size, group in sizes)},
        network=tuple(network),
        # Flags compare numbers that may be drawn after them.
        columns=tuple(sorted(measured, key=lambda column: column.role == "flag")),
        images=measure_images(rows, _references(measured)),
        repeated_rows=round(1 - len(distinct) / len(rows), 4),
    )


def save_profile(profile: Profile, file: Path) -> None:
    """Write a profile as JSON that a person can review before giving it away."""
    file.write_bytes(TypeAdapter(Profile).dump_json(profile, indent=1) + b"\n")


def load_profile(file: Path) -> Profile:
    """Read a profile.

    Raises:
        ValueError: The file holds no profile, or one of another version.
    """
    try:
        profile = TypeAdapter(Profile).validate_json(file.read_bytes())
        if profile.version != VERSION:
            raise ValueError(f"found version {profile.version}")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} holds no profile of version {VERSION} ({str(error).splitlines()[0]}); use the "
            "profile.json that `phi-vision sample --like` writes, or a dataset's folder"
        ) from error
    return profile


def group_rows(rows: Iterable[ObservedRow]) -> list[list[ObservedRow]]:
    """Collect rows by group, in order of first appearance."""
    groups: defaultdict[int, list[ObservedRow]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    return list(groups.values())


def build_network(
    columns: Sequence[str],
    facts: Facts,
    *,
    above: Sequence[str] = (),
    differing: Collection[str] = (),
) -> list[Node]:
    """Arrange columns so that each follows the one that is most informative about it.

    Args:
        columns: to arrange; the first is the root.
        facts: (record, group) pairs.
        above: columns that are drawn before and that these may depend on.
        differing: those of `columns` whose values differ within a group.
    """
    labels = {
        name: np.unique([_label(record, name) for record, _ in facts], return_inverse=True)[1]
        for name in (*above, *columns)
    }

    def information(one: str, other: str) -> float:
        """Mutual information in nats without its bias (Miller & Madow)."""
        chance = labels[one].max() * labels[other].max() / (2 * len(facts))
        return float(mutual_info_score(labels[one], labels[other]) - chance)

    placed, waiting, nodes = list(above), list(columns), []
    while waiting:
        links = [(information(one, other), one, other) for other in waiting for one in placed]
        strength, parent, column = max(links, key=lambda link: link[0], default=(0.0, "", ""))
        if strength <= 0:
            parent, column = "", waiting[0]
        values = [(_label(record, parent), record.get(column), group) for record, group in facts]
        shared = count((of, group) for of, _, group in values).values if parent else ()
        node = Node(
            column=column,
            parent=parent or None,
            frequencies=count((value, group) for _, value, group in values),
            given={of: each for of, each in count_by(values).items() if of in shared},
            differs=column in differing,
        )
        nodes.append(node)
        placed.append(column)
        waiting.remove(column)
    return nodes


def find_leaf(columns: Sequence[str], facts: Facts) -> str | None:
    """Find the column with the finest categories: the leaves of the category tree.

    Columns named after categories go before others, as colours may be more varied than they.
    """
    named = [column for column in columns if "categor" in column.lower()]

    def entropy(column: str) -> float:
        labels = [_label(record, column) for record, _ in facts]
        return float(mutual_info_score(labels, labels))

    return max(named or columns, key=entropy, default=None)


def find_ratio(column: str, earlier: Sequence[str], facts: Facts) -> Ratio | None:
    """Find the column that a number usually follows from by one factor.

    Input:  full_price 100, 80, 50; price 100, 80, 35
    Output: Ratio(of="full_price", usual=1.0, share=0.667, …)
    """
    found = [_ratio(column, other, facts) for other in earlier]
    ratios = [ratio for ratio in found if ratio is not None and ratio.share > 0.5]
    return max(ratios, key=lambda ratio: ratio.share, default=None)


def _ratio(column: str, other: str, facts: Facts) -> Ratio | None:
    both = [(_number(r, column), _number(r, other), group) for r, group in facts]
    pairs = [(n, of, group) for n, of, group in both if n is not None and of is not None and of > 0]
    amounts = measure_amounts([(number, group) for number, _, group in pairs])
    if amounts is None or len({group for _, _, group in pairs}) < MIN_GROUPS:
        return None
    factors = [number / of for number, of, _ in pairs]
    ((usual, _),) = Counter(round(factor, 3) for factor in factors).most_common(1)
    usual = round(median(factor for factor in factors if round(factor, 3) == usual), 6)
    half = 0.51 * 10.0**-amounts.decimals
    odd = [(round(n / of, 2), group) for n, of, group in pairs if abs(n - of * usual) > half]
    return Ratio(
        of=other,
        usual=usual,
        share=round(1 - len(odd) / len(pairs), 4),
        others=measure_amounts(odd, endings=False),
        amounts=replace(amounts, means=(), points=Frequencies()),
    )


def _measure(
    column: ColumnProfile, earlier: Sequence[ColumnProfile], facts: Facts, leaf: str | None
) -> ColumnProfile:
    if column.role in ("category", "flag", "empty"):
        return column
    name, size = column.name, len(facts)
    filled = [pair for pair in facts if pair[0].get(name) not in (None, "")]
    blank = sum(record.get(name) == "" for record, _ in facts)
    missing = round((size - len(filled) - blank) / size, 4)
    column = replace(column, missing=missing, blank=round(blank / size, 4))
    if column.role == "number":
        numbers = [each.name for each in earlier if each.role in ("number", "ratio")]
        ratio = find_ratio(name, numbers, filled)
        if ratio is not None:
            return replace(column, role="ratio", model=ratio)
        prices = _measure_prices(name, filled, leaf)
        return replace(column, model=prices, role="number" if prices else "empty")
    if column.role == "text":
        texts = [(str(record[name]), _label(record, leaf), group) for record, group in filled]
        return replace(column, model=text_models.measure_grammar(texts))
    mentions = [text_models.Mention(str(r[name]), r, group) for r, group in filled]
    return replace(column, model=text_models.measure_pattern(mentions, _references(earlier)))


def _measure_prices(name: str, facts: Facts, leaf: str | None) -> Prices | None:
    numbers = [(_label(r, leaf), float(str(r[name])), group) for r, group in facts]
    whole = measure_amounts([(number, group) for _, number, group in numbers])
    if whole is None:
        return None
    by_category = {"": whole}
    for category in count((category, group) for category, _, group in numbers).values:
        among = [(number, group) for each, number, group in numbers if each == category]
        amounts = measure_amounts(among, endings=False)
        if leaf and amounts:
            by_category[str(category)] = replace(amounts, decimals=whole.decimals)
    return Prices(by_category=by_category)


def _references(columns: Sequence[ColumnProfile]) -> list[str]:
    """List what a code may repeat: codes before titles before categories; no prices."""
    roles = ("code", "text", "category")
    return [column.name for role in roles for column in columns if column.role == role]


def _assign_roles(
    schema: pa.Schema, facts: Facts, groups: Sequence[Sequence[ObservedRow]]
) -> list[ColumnProfile]:
    """Classify each column, images left out, without measuring it yet."""
    columns = []
    for field in schema:
        if field.name not in IMAGE_COLUMNS:
            pairs = [(record.get(field.name), group) for record, group in facts]
            role = _role(field, [pair for pair in pairs if pair[0] not in (None, "")])
            constant = _fraction(groups, field.name, distinct=False) >= _CONSTANT
            columns.append(
                ColumnProfile(name=field.name, role=role, level="group" if constant else "row")
            )
    numbers = [column.name for column in columns if column.role == "number"]
    return [_find_flag(column, numbers, facts) for column in columns]


def _fraction(groups: Sequence[Sequence[ObservedRow]], name: str, *, distinct: bool) -> float:
    """Return the fraction of groups of several rows in which all values are distinct, or equal."""
    found = [
        len({row.record.get(name) for row in group}) == (len(group) if distinct else 1)
        for group in groups
        if len(group) > 1
    ]
    return sum(found) / len(found) if found else float(not distinct)


def _role(field: pa.Field, values: Sequence[tuple[Value, int]]) -> Role:
    distinct = len({value for value, _ in values})
    if not values or pa.types.is_time(field.type):
        return "empty"
    if isinstance(values[0][0], bool):
        return "category"
    names_product = field.name in _NAMING_COLUMNS
    if isinstance(values[0][0], int | float):
        if not pa.types.is_integer(field.type):
            return "number"
        if distinct >= _MOSTLY * len(values) or names_product:
            return "code"
        return "category" if distinct <= _MAX_WHOLE_CATEGORIES else "number"
    groups = len({group for _, group in values})
    few = distinct <= _MAX_CATEGORIES and groups >= 1.5 * distinct
    mostly_named = count(values).rest <= len(values) / 2 and distinct <= groups / MIN_GROUPS
    if not names_product and (few or mostly_named):
        return "category"
    spaced = sum(" " in str(value).strip() for value, _ in values)
    words = spaced > (1 - _MOSTLY) * len(values) or field.name in ("title", "name")
    return "text" if words else "code"


def _find_flag(column: ColumnProfile, numbers: Sequence[str], facts: Facts) -> ColumnProfile:
    """Turn a category of two values into a flag where it always compares the same two numbers."""
    if column.role not in ("category", "code"):
        return column
    if {record.get(column.name) for record, _ in facts} != {0, 1}:
        return column
    for lower, higher in permutations(numbers, 2):
        compared = {
            (bool(record[column.name]), low < high)
            for record, _ in facts
            if (low := _number(record, lower)) is not None
            and (high := _number(record, higher)) is not None
        }
        if compared <= {(True, True), (False, False)}:
            return replace(column, role="flag", level="row", model=Flag(lower=lower, higher=higher))
    return column


def _label(record: Mapping[str, Value], column: str | None) -> str:
    return str(record.get(column or ""))


def _number(record: Mapping[str, Value], column: str) -> float | None:
    value = record.get(column)
    return float(value) if isinstance(value, int | float) else None
