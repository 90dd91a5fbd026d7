"""Profile: what is known of a dataset that is to be resembled. It can be saved and given away.

It names no value that fewer than `FEWEST` groups share: no title, no code, no link, no image.
`profile_dataset` measures, `save_profile` and `load_profile` keep it as JSON.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from phi_vision.data.dataset import IMAGE_COLUMNS
from phi_vision.data.samples import Value
from phi_vision.synthetic.bayes_network import Facts, Node, build_network, finest
from phi_vision.synthetic.code_patterns import measure_pattern
from phi_vision.synthetic.column_models import (
    Column,
    assign_roles,
    differs,
    facts_of,
    find_ratio,
    measure_prices,
    members,
)
from phi_vision.synthetic.privacy import PATH_COLUMN
from phi_vision.synthetic.reading import Observed, Seen
from phi_vision.synthetic.shares import Shares, tally
from phi_vision.synthetic.shots import Shots, measure_shots
from phi_vision.synthetic.text_grammar import measure_grammar

VERSION = 1
FEWEST_GROUPS = 20
"""Below, nearly nothing is shared by enough groups, and the drawn data would resemble nothing."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is known of a dataset.

    Attributes:
        version: of this form.
        schema: columns and types, as Arrow serialises them, in base64, without its metadata.
        splits: split -> rows.
        groups: how many groups were measured.
        leaf: the finest column of categories, on which prices and titles depend.
        group_sizes: value of `leaf` -> rows in a group; "" for all.
        network: the categories, in the order in which they are drawn.
        columns: all columns but images, in the order in which they are drawn.
        shots: what the images are like; None without images.
        repeated_rows: share of rows that are the same as another in every column.
    """

    version: int
    schema: str
    splits: Mapping[str, int]
    groups: int
    leaf: str | None
    group_sizes: Mapping[str, Shares]
    network: tuple[Node, ...]
    columns: tuple[Column, ...]
    shots: Shots | None
    repeated_rows: float

    def arrow_schema(self) -> pa.Schema:
        """The columns and types of the dataset."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema)))

    @property
    def private_columns(self) -> tuple[str, ...]:
        """Columns whose real values may not appear: titles, texts, codes, links, file names."""
        named = [column.name for column in self.columns if column.role in ("text", "code")]
        return (*named, PATH_COLUMN)


def profile_dataset(seen: Observed) -> Profile:
    """Measure what was seen of a dataset.

    Raises:
        ValueError: It has too few groups to hide one among them.
    """
    rows = seen.rows
    groups = members(rows)
    if len(groups) < FEWEST_GROUPS:
        raise ValueError(
            f"cannot resemble a dataset of {len(groups)} groups: no product would be hidden among "
            f"others; give one of at least {FEWEST_GROUPS} groups"
        )
    columns = assign_roles(seen.schema, rows)
    leaf, network = _network(columns, rows)
    columns = _measure_columns(_in_order(columns), rows, leaf)
    return Profile(
        version=VERSION,
        schema=_bare(seen.schema),
        splits=dict(seen.splits),
        groups=len(groups),
        leaf=leaf,
        group_sizes=_group_sizes(groups, leaf),
        network=tuple(network),
        columns=tuple(columns),
        shots=_shots(rows, columns),
        repeated_rows=_repeated_rows(rows),
    )


def save_profile(profile: Profile, file: Path) -> None:
    """Write a profile as JSON that a person can read through before giving it away."""
    text = json.dumps(asdict(profile), indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def load_profile(file: Path) -> Profile:
    """Read a profile.

    Raises:
        ValueError: The file holds no profile, or one of another version.
    """
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = data["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} holds no profile ({error}); give the profile.json that "
            "`phi-vision sample --like` writes, or a dataset's folder"
        ) from error
    if version != VERSION:
        raise ValueError(
            f"{file} is a profile of version {version}, this program reads version {VERSION}; "
            "profile the dataset again"
        )
    parts = {
        "group_sizes": {name: Shares.load(each) for name, each in data["group_sizes"].items()},
        "network": tuple(Node.load(each) for each in data["network"]),
        "columns": tuple(Column.load(each) for each in data["columns"]),
        "shots": Shots.load(data["shots"]) if data["shots"] else None,
    }
    return Profile(**{**data, **parts})


def _bare(schema: pa.Schema) -> str:
    """Serialise names and types without their metadata, which may say anything."""
    fields = [pa.field(column.name, column.type, column.nullable) for column in schema]
    return base64.b64encode(pa.schema(fields).serialize()).decode()


def _network(columns: Sequence[Column], rows: Sequence[Seen]) -> tuple[str | None, list[Node]]:
    """Arrange the categories, those of groups first, beginning with the finest."""
    shared = [c.name for c in columns if c.role == "category" and c.level == "group"]
    own = [c.name for c in columns if c.role == "category" and c.level == "row"]
    by_group, by_row = facts_of(rows, "group"), facts_of(rows, "row")
    leaf = finest(shared, by_group)
    ordered = sorted(shared, key=lambda column: column != leaf)
    nodes = build_network(ordered, by_group, differing=())
    unlike = [column for column in own if differs(column, rows)]
    return leaf, nodes + build_network(own, by_row, above=shared, differing=unlike)


def _in_order(columns: Sequence[Column]) -> list[Column]:
    """Order columns as they are drawn: what others follow from goes first."""
    roles = ("category", "number", "flag", "text", "code", "empty")
    levels = ("group", "row")
    return sorted(columns, key=lambda c: (levels.index(c.level), roles.index(c.role)))


def _measure_columns(
    columns: Sequence[Column], rows: Sequence[Seen], leaf: str | None
) -> list[Column]:
    measured: list[Column] = []
    facts = {"group": facts_of(rows, "group"), "row": facts_of(rows, "row")}
    for column in columns:
        measured.append(_measure(column, measured, facts[column.level], leaf))
    # Flags compare numbers that may be drawn after them.
    return sorted(measured, key=lambda column: column.role == "flag")


def _measure(column: Column, earlier: Sequence[Column], facts: Facts, leaf: str | None) -> Column:
    if column.role in ("category", "flag", "empty"):
        return column
    values = [record.get(column.name) for record, _ in facts]
    column = replace(
        column,
        missing=round(sum(value is None for value in values) / len(values), 4),
        blank=round(sum(value == "" for value in values) / len(values), 4),
    )
    said = [pair for pair in facts if pair[0].get(column.name) not in (None, "")]
    if column.role == "number":
        numbers = [each.name for each in earlier if each.role in ("number", "ratio")]
        ratio = find_ratio(column.name, numbers, said)
        if ratio is not None:
            return replace(column, role="ratio", model=ratio)
        prices = measure_prices(column.name, said, leaf)
        return replace(column, model=prices, role="number" if prices else "empty")
    if column.role == "text":
        titles = [(str(r[column.name]), r.get(leaf or ""), group) for r, group in said]
        return replace(column, model=measure_grammar(titles))
    mentions = [(str(record[column.name]), record, group) for record, group in said]
    return replace(column, model=measure_pattern(mentions, _likeliest(earlier)))


def _likeliest(columns: Sequence[Column]) -> list[str]:
    """Order what a code may repeat: codes before titles before categories; no prices."""
    roles = ("code", "text", "category")
    named = [column for column in columns if column.role in roles]
    return [column.name for column in sorted(named, key=lambda c: roles.index(c.role))]


def _group_sizes(groups: Sequence[Sequence[Seen]], leaf: str | None) -> dict[str, Shares]:
    sizes = {"": tally((len(group), group[0].group) for group in groups)}
    leaves: dict[Value, list[Sequence[Seen]]] = {}
    for group in groups:
        leaves.setdefault(group[0].record.get(leaf or ""), []).append(group)
    for value, some in leaves.items():
        shares = tally((len(group), group[0].group) for group in some)
        if shares.named:
            sizes[str(value)] = shares
    return sizes


def _shots(rows: Sequence[Seen], columns: Sequence[Column]) -> Shots | None:
    if not any(row.shots for row in rows):
        return None
    named = [(row.shots[0].path, row) for row in rows if row.shots]
    mentions = [(path, row.record, row.group) for path, row in named if path]
    paths = measure_pattern(mentions, _likeliest(columns)) if mentions else None
    return measure_shots(rows, paths)


def _repeated_rows(rows: Sequence[Seen]) -> float:
    distinct = {(*row.record.items(), *(shot.digest for shot in row.shots)) for row in rows}
    return round(1 - len(distinct) / len(rows), 4)


def is_image(field: pa.Field) -> bool:
    """Whether a column holds images."""
    return field.name in IMAGE_COLUMNS
