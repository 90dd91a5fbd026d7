"""Profile of a dataset: all that drawing data like it needs. It can be saved and given away.

It names no value that fewer than `MIN_GROUPS` groups share: no title, code, link or image.
"""

import base64
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from operator import itemgetter
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter
from sklearn.metrics import mutual_info_score

from phi_vision.data.dataset import GROUP_COLUMNS, ID_COLUMNS, IMAGE_COLUMNS
from phi_vision.data.samples import Value
from phi_vision.io.atomic import write_bytes
from phi_vision.synthetic import column_models, compound_values, marked_columns, observation
from phi_vision.synthetic.column_models import Column, Facts, Role, count, count_by, label, number
from phi_vision.synthetic.observation import FORMAT, IMAGE_FIELDS, PATH, SIZE, Observation, failure

VERSION, READABLE = 4, (3, 4)
MIN_DATASET_GROUPS = 20
"""With fewer, enough groups share nearly nothing, and the drawn data would not resemble any."""
ROWS = "rows in a group"  # name of the size of a group among the columns
GAPS: Mapping[column_models.Level, str] = {"group": "(gaps of a group)", "row": "(gaps of a row)"}

_NAMING_COLUMNS = {*ID_COLUMNS, *GROUP_COLUMNS, "name", "product_name", "description"}
"""Columns that name a product: never a category, however often a name is shared."""
_FIXED_ROLES: dict[str, Role] = {PATH: "code", SIZE: "category", FORMAT: "category"}
_OF_SIZE = (observation.LONGEST, observation.ASPECT, observation.DENSITY)  # follow from the size
_ORDER = ("category", "number", "marked", "flag", "text", "code", "empty")
_WITH_GAPS = ("number", "marked", "text", "code")  # roles of columns whose gaps have a pattern
_MAX_CATEGORIES, _MAX_WHOLE_CATEGORIES = 50, 20
_MOSTLY = 0.9
_CONSTANT = 0.95  # of the groups: real exports have a few slips


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The measurements of a dataset."""

    version: int
    schema: str  # columns and types, as Arrow serialises them, in base64, without metadata
    splits: Mapping[str, int]  # split -> rows
    groups: int
    leaf: str | None  # the finest category column, on which numbers and texts depend
    columns: tuple[Column, ...]  # facts about images among them, in the order of drawing
    repeated_rows: float  # fraction of rows that equal another in every column
    repeated_images: float  # fraction of images that another row of the same group has, too
    borrowed_images: float  # fraction of images that a row of another group has, too

    def arrow_schema(self) -> pa.Schema:
        """Return the columns and types of the dataset."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema)))

    def categories(self) -> list[Column]:
        """List the category columns, helpers and facts about images left out."""
        found = [c for c in self.columns if c.role == "category" and not c.helper]
        return [column for column in found if column.name not in IMAGE_FIELDS]

    def private_columns(self) -> list[str]:
        """List columns whose real values may not appear: titles, texts, codes, file names."""
        return [column.name for column in self.columns if column.role in ("text", "code")]


def save_profile(profile: Profile, file: Path) -> None:
    """Write a profile as JSON that a person can review before giving it away."""
    text = TypeAdapter(Profile).dump_json(profile, indent=1, exclude_defaults=True)
    write_bytes(file, text + b"\n")


def load_profile(file: Path) -> Profile:
    """Read a profile; one of another version is an error."""
    try:
        profile = TypeAdapter(Profile).validate_json(file.read_bytes())
        if profile.version not in READABLE:
            raise ValueError(f"found version {profile.version}")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise failure("no_profile", file=file, version=VERSION, error=reason) from error
    return profile


def profile_dataset(data: Observation) -> Profile:
    """Measure a dataset; one with too few groups for anonymity is an error."""
    sizes = count((row.record.get(SIZE), row.group) for row in data.rows).values
    # The longest side and the aspect of an image depend on its size; all rare sizes are None.
    hidden = [{} if row.record.get(SIZE) in sizes else {SIZE: None} for row in data.rows]
    rows = [(row.record | each, row.group) for row, each in zip(data.rows, hidden, strict=True)]
    groups: defaultdict[int, list[Mapping[str, Value]]] = defaultdict(list)
    for record, group in rows:
        groups[group].append(record)
    if len(groups) < MIN_DATASET_GROUPS:
        raise failure("few_groups", groups=len(groups), minimum=MIN_DATASET_GROUPS)
    columns = _classify(data.schema, rows, list(groups.values()))
    gaps = _add_gaps(columns, [record for record, _ in rows])
    firsts = [({**rs[0], ROWS: float(len(rs))}, group) for group, rs in groups.items()]
    facts: dict[str, Facts] = {"group": firsts, "row": rows}
    leaf = find_leaf([column for column in columns if column.role == "category"], firsts)
    columns.sort(key=lambda column: column.name != leaf)
    network = build_network(columns, facts)
    measured = [*network, *build_network(gaps, facts, network)]
    others = [column for column in columns if column.role != "category"]
    others = [_find_market(c, network, facts) if c.role == "marked" else c for c in others]
    others.sort(key=lambda column: (column.level == "row", _ORDER.index(column.role)))
    for column in (*others, Column(name=ROWS, role="number", level="group")):
        parent = SIZE if column.name in _OF_SIZE else leaf
        measured.append(_measure(replace(column, parent=parent), measured, facts[column.level]))
    images = [(image.digest, row.group) for row in data.rows for image in row.images]
    unlike = {(*row.record.items(), *(image.digest for image in row.images)) for row in data.rows}
    owners, digests = set(images), {digest for digest, _ in images}
    schema = pa.schema([pa.field(each.name, each.type, each.nullable) for each in data.schema])
    return Profile(
        version=VERSION,
        schema=base64.b64encode(schema.serialize()).decode(),
        splits=dict(data.splits),
        groups=len(groups),
        leaf=leaf,
        columns=tuple(measured),
        repeated_rows=round(1 - len(unlike) / len(rows), 4),
        repeated_images=round(1 - len(owners) / max(1, len(images)), 4),
        borrowed_images=round((len(owners) - len(digests)) / max(1, len(images)), 4),
    )


def find_leaf(columns: Sequence[Column], facts: Facts) -> str | None:
    """Find the column with the finest categories: the leaves of the category tree.

    Columns named after categories precede others, as colours may be more varied than they.
    """
    names = [c.name for c in columns if c.level == "group" and c.name not in IMAGE_FIELDS]
    named = [name for name in names if "categor" in name.lower()] or names
    labels = {name: [label(record, name) for record, _ in facts] for name in named}
    return max(named, key=lambda name: mutual_info_score(labels[name], labels[name]), default=None)


def build_network(
    columns: Sequence[Column], facts: Mapping[str, Facts], earlier: Sequence[Column] = ()
) -> list[Column]:
    """Arrange categories in a tree in which each follows the most informative one before it.

    This is the Bayesian network of Chow & Liu (1968), those of groups before those of rows; the
    first column is its root, unless there are earlier ones.
    """
    waiting = [column for column in columns if column.role == "category"]
    nodes = [*earlier]
    for level, known in facts.items():
        cells = {c.name: [label(record, c.name) for record, _ in known] for c in waiting + nodes}
        labels = {name: np.unique(each, return_inverse=True)[1] for name, each in cells.items()}
        while ours := [column for column in waiting if column.level == level]:
            above = [node.name for node in nodes if node.level in (level, "group")]
            pairs = [(name, column) for column in ours for name in above]
            links = [(_information(labels[name], labels[c.name]), name, c) for name, c in pairs]
            strength, parent, column = max(links, key=itemgetter(0), default=(0.0, "", ours[0]))
            if strength <= 0:
                parent, column = "", ours[0]
            values = [(label(r, parent), r.get(column.name), group) for r, group in known]
            overall = count((value, group) for _, value, group in values)
            given = count_by(values) if parent else {}
            node = replace(column, parent=parent or None, overall=overall, given=given)
            if node.separator:
                node = compound_values.measure_parts(node, [pair[1:] for pair in values])
            nodes.append(node)
            waiting.remove(column)
    return nodes[len(earlier) :]


def _information(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> float:
    """Return the mutual information in nats without its bias (Miller & Madow)."""
    bias = one.max() * other.max() / (2 * len(one))
    return float(mutual_info_score(one, other) - bias)


def _measure(column: Column, earlier: Sequence[Column], facts: Facts) -> Column:
    cells = [record.get(column.name) for record, _ in facts]
    filled = [fact for fact, cell in zip(facts, cells, strict=True) if cell not in (None, "")]
    if column.role in ("flag", "empty"):
        return column
    pattern = GAPS[column.level] if column.name not in IMAGE_FIELDS else ""
    named = {value for each in earlier if each.name == pattern for value in each.overall.values}
    rare = [r.get(column.name) for r, _ in facts if r.get(pattern) not in named]
    missing, blank = (round(rare.count(gap) / max(1, len(rare)), 4) for gap in (None, ""))
    column = replace(column, missing=missing, blank=blank)
    known = [each for each in earlier if column.level in (each.level, "row")]
    names = {role: [e.name for e in known if e.role == role and not e.helper] for role in _ORDER}
    if column.role == "number" and filled:
        numbers = [] if column.name in IMAGE_FIELDS else names["number"]
        column = column_models.measure_numbers(column, filled, numbers)
    elif column.role == "marked" and filled:
        column = marked_columns.measure_marked(column, filled, names["number"])
    elif column.role == "text" and filled:
        column = column_models.measure_wording(column, filled)
    elif filled:
        references = [*names["code"], *names["text"], *names["category"]]
        column = column_models.measure_codes(column, filled, references)
    is_modelled = {"number": column.overall.named, "marked": column.numbers}.get(column.role, True)
    return column if filled and is_modelled else replace(column, role="empty")


def _classify(
    schema: pa.Schema, facts: Facts, groups: Sequence[Sequence[Mapping[str, Value]]]
) -> list[Column]:
    """Assign a role and a level to each column."""
    names = [name for name in schema.names if name not in IMAGE_COLUMNS]
    columns = []
    for name in (*names, *IMAGE_FIELDS):
        pairs = [(record.get(name), group) for record, group in facts]
        filled = [pair for pair in pairs if pair[0] not in (None, "")]
        if not filled and name in IMAGE_FIELDS:
            continue
        several = [[record.get(name) for record in group] for group in groups if group[1:]]
        equal = [len({*cells}) == 1 for cells in several]
        unlike = [len({*cells}) == len(cells) for cells in several]
        constant = name not in IMAGE_FIELDS and (not several or fmean(equal) >= _CONSTANT)
        differs = not constant and bool(several) and fmean(unlike) >= _MOSTLY
        column = Column(name=name, role="empty", level="group" if constant else "row")
        is_free = name not in _NAMING_COLUMNS and name not in IMAGE_FIELDS
        separator = compound_values.find_separator(filled) if is_free else ""
        is_marked = is_free and marked_columns.are_marked(filled)
        role = "marked" if is_marked else "category" if separator else _role(name, filled)
        role = _FIXED_ROLES.get(name, role)
        columns.append(replace(column, role=role, differs=differs, separator=separator))
    numbers = [column.name for column in columns if column.role == "number"]
    return [_find_flag(column, numbers, facts) for column in columns]


def _find_market(column: Column, network: Sequence[Column], facts: Mapping[str, Facts]) -> Column:
    """Find the category that the marks of a column follow most, such as the country."""

    def marked(record: Mapping[str, Value]) -> dict[str, Value]:
        return {**record, column.name: marked_columns.split(record.get(column.name))[1]}

    marks = {level: [(marked(r), group) for r, group in known] for level, known in facts.items()}
    (node,) = build_network([replace(column, role="category")], marks, network)
    return replace(column, of=(node.parent or "",))


def _add_gaps(columns: Sequence[Column], records: Sequence[dict[str, Value]]) -> list[Column]:
    """Add to records what they lack, by level, as the values of further columns; return these.

    Input:  the weights of two groups, "1.2 kg" and None
    Output: "(gaps of a group)": "{}" and '{"weight": null}'
    """
    lacking = {name for record in records for name, cell in record.items() if cell in (None, "")}
    gapped = [c for c in columns if c.role in _WITH_GAPS and c.name in lacking - {*IMAGE_FIELDS}]
    names = {level: [c.name for c in gapped if c.level == level] for level in GAPS}
    for record in records:
        for level, pattern in GAPS.items():
            cells = {name: record.get(name) for name in names[level]}
            record[pattern] = json.dumps({n: c for n, c in cells.items() if c in (None, "")})
    helper = partial(Column, role="category", helper=True)
    return [helper(name=GAPS[level], level=level) for level in GAPS if names[level]]


def _role(name: str, values: Sequence[tuple[Value, int]]) -> Role:
    distinct, names_product = len({value for value, _ in values}), name in _NAMING_COLUMNS
    match values[:1]:
        case []:
            return "empty"
        case [(bool(), _)]:
            return "category"
        case [(float(), _)]:
            return "number"
        case [(int(), _)]:
            if distinct >= _MOSTLY * len(values) or names_product:
                return "code"
            return "category" if distinct <= _MAX_WHOLE_CATEGORIES else "number"
    groups = len({group for _, group in values})
    few = distinct <= _MAX_CATEGORIES and groups >= 1.5 * distinct
    shared = distinct <= groups / column_models.MIN_GROUPS
    if not names_product and (few or (shared and count(values).rest <= len(values) / 2)):
        return "category"
    spaced = sum(" " in str(value).strip() for value, _ in values)
    return "text" if spaced > (1 - _MOSTLY) * len(values) or name in ("title", "name") else "code"


def _find_flag(column: Column, numbers: Sequence[str], facts: Facts) -> Column:
    """Turn a category of two values into a flag where it always compares the same two numbers."""
    values = {record.get(column.name) for record, _ in facts}
    if column.role not in ("category", "code") or values != {0, 1}:
        return column
    flags = np.array([bool(record[column.name]) for record, _ in facts])
    for pair in permutations(numbers, 2):
        low, high = (np.array([number(record, name) for record, _ in facts]) for name in pair)
        if ((flags == (low < high)) | np.isnan(low + high)).all():
            return replace(column, role="flag", level="row", of=pair)
    return column
