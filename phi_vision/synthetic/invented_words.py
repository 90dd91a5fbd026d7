"""Draws records and plans images after a profile: group by group, each in one split.

Values that turn out to be real ones are drawn again; nothing here writes or paints.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from phi_vision.data.samples import Value
from phi_vision.synthetic.bayes_network import Node
from phi_vision.synthetic.code_patterns import Pattern
from phi_vision.synthetic.column_models import Column, Flag, Level, Prices, Ratio
from phi_vision.synthetic.privacy import PATH_COLUMN, Secrets
from phi_vision.synthetic.profile import Profile
from phi_vision.synthetic.render.garment import Garment
from phi_vision.synthetic.shares import RARE, Drawn
from phi_vision.synthetic.shots import ShotPlan, choose_garment, dye, is_colour, plan_shot
from phi_vision.synthetic.text_grammar import Grammar
from phi_vision.synthetic.word_lists import invent, shape_of

_TRIES = 50
_BLOCK = 512
"""Rows among which the order is shuffled, so that colours of a style do not stand together."""
_LARGEST_GROUP = 50
_NEW_WORD = "Aaaaaaa"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A row that is to be written: its record, and the images that are to be drawn."""

    split: str
    record: Mapping[str, Value]
    shots: tuple[ShotPlan, ...]
    paths: tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """What the rows of a group have in common."""

    name: str
    drawn: Mapping[str, Drawn]
    record: Mapping[str, Value]
    rows: list[Planned] = field(default_factory=list)


class Inventor:
    """Draws records that no real row has.

    Args:
        profile: what they are to be like.
        rows: how many.
        seed: of everything.
        secrets: what must not appear; None where only the profile is at hand.
    """

    def __init__(self, profile: Profile, *, rows: int, seed: int, secrets: Secrets | None) -> None:
        self.profile = profile
        self.rows = rows
        self._seed = seed
        self._secrets = secrets
        self._rng = random.Random(f"likeness {seed}")
        self._schema = profile.arrow_schema()
        self._nodes = {node.column: node for node in profile.network}
        self._used: dict[str, set[Value]] = {}
        self._names: dict[tuple[str, Value, int], str] = {}
        self._latest: dict[tuple[str, Drawn], str] = {}
        self._latest_shots: dict[str, ShotPlan] = {}
        self._wanted = _quotas(profile.splits, rows)

    def plan(self) -> Iterator[Planned]:
        """Yield all rows, groups whole within a split, in a shuffled order."""
        block: list[Planned] = []
        done = number = 0
        while done < self.rows:
            split = max(self._wanted, key=lambda name: self._wanted[name])
            rows = self._group(number, split, most=self._wanted[split])
            self._wanted[split] -= len(rows)
            block += rows
            done += len(rows)
            number += 1
            if len(block) >= _BLOCK or done == self.rows:
                self._rng.shuffle(block)
                yield from block
                block = []

    def _group(self, number: int, split: str, most: int) -> list[Planned]:
        drawn: dict[str, Drawn] = {}
        record: dict[str, Value] = {}
        self._fill("group", drawn, record)
        group = _Group(name=f"{self._seed} {number}", drawn=drawn, record=record)
        for place in range(min(most, self._size(drawn))):
            if group.rows and self._rng.random() < self.profile.repeated_rows:
                group.rows.append(group.rows[-1])
            else:
                group.rows.append(self._row(group, place, split))
        return group.rows

    def _size(self, drawn: Mapping[str, Drawn]) -> int:
        sizes = self.profile.group_sizes
        leaf = drawn.get(self.profile.leaf or "")
        size = sizes.get("" if leaf is RARE else str(leaf), sizes[""]).draw(self._rng)
        size = sizes[""].draw(self._rng) if size is RARE else size
        if size is RARE:
            # A size that few groups have: somewhere beyond those that many have.
            common = [value for value in sizes[""].values if isinstance(value, int)]
            size = min(_LARGEST_GROUP, max(common, default=1) + self._rng.randint(1, 3))
        assert isinstance(size, int)
        return max(1, size)

    def _row(self, group: _Group, place: int, split: str) -> Planned:
        drawn, record = dict(group.drawn), dict(group.record)
        self._fill("row", drawn, record, group.rows)
        shots = self._plan_shots(group, record, split, place)
        paths = tuple(self._path(record, number) for number in range(len(shots)))
        ordered = {name: record.get(name) for name in self._schema.names}
        return Planned(split=split, record=ordered, shots=shots, paths=paths)

    def _fill(
        self,
        level: Level,
        drawn: dict[str, Drawn],
        record: dict[str, Value],
        siblings: Sequence[Planned] = (),
    ) -> None:
        """Draw the columns of a level: the categories, then what depends on them."""
        columns = [column for column in self.profile.columns if column.level == level]
        named = {column.name for column in columns}
        for node in self.profile.network:
            if node.column in named:
                used = [row.record[node.column] for row in siblings] if node.differs else []
                drawn[node.column] = node.draw(self._rng, drawn, used)
                value = drawn[node.column]
                record[node.column] = None if value is RARE else value
        # Names are made up last, since they belong to coarser categories drawn after them.
        for node in self.profile.network:
            if node.column in named and drawn[node.column] is RARE:
                record[node.column] = self._rare_name(node, record)
        for column in columns:
            if column.role != "category":
                record[column.name] = self._value(column, drawn, record)

    def _value(
        self, column: Column, drawn: Mapping[str, Drawn], record: Mapping[str, Value]
    ) -> Value:
        if column.role == "empty" or self._rng.random() < column.missing:
            return None
        if self._rng.random() < column.blank / max(1e-9, 1 - column.missing):
            return ""
        leaf = drawn.get(self.profile.leaf or "")
        match column.model:
            case Prices():
                return self._typed(column.name, self._price(column.model, leaf))
            case Ratio():
                return self._typed(column.name, self._follow(column.model, record))
            case Flag(lower=lower, higher=higher):
                return self._typed(column.name, float(_below(record, lower, higher)))
            case Grammar():
                return self._text(column, column.model, leaf)
            case Pattern():
                return self._code(column, column.model, record)
        raise AssertionError(f"the column {column.name!r} has a role but no model")

    def _price(self, prices: Prices, leaf: Drawn) -> float:
        known = (amounts for value, amounts in prices.by_category if value == leaf)
        amounts = next(known, prices.whole) if leaf is not RARE else prices.whole
        amount = amounts.draw(self._rng)
        return amount if amount in amounts.points.values else prices.whole.settle(amount, self._rng)

    def _follow(self, ratio: Ratio, record: Mapping[str, Value]) -> float | None:
        base = record.get(ratio.of)
        if not isinstance(base, int | float):
            return None
        if ratio.others is None or self._rng.random() < ratio.share:
            return round(base * ratio.usual, ratio.amounts.decimals)
        return ratio.amounts.settle(base * ratio.others.draw(self._rng), self._rng)

    def _typed(self, column: str, number: float | None) -> Value:
        kind = self._schema.field(column).type
        if number is None:
            return None
        if pa.types.is_boolean(kind):
            return bool(number)
        whole = pa.types.is_integer(kind) or pa.types.is_temporal(kind)
        return round(number) if whole else number

    def _text(self, column: Column, grammar: Grammar, leaf: Drawn) -> str:
        key = (column.name, leaf)
        if key in self._latest and self._rng.random() < grammar.repeats:
            return self._latest[key]
        used = self._used.setdefault(column.name, set())
        for _ in range(_TRIES):
            text = grammar.draw(self._rng, leaf)
            if text and text not in used and not self._is_real(text):
                break
        else:  # Few words make few titles; a made-up one makes another.
            text = self._widen(column.name, text, used)
        used.add(text)
        self._latest[key] = text
        return text

    def _code(self, column: Column, pattern: Pattern, record: Mapping[str, Value]) -> Value:
        used = self._used.setdefault(column.name, set())
        kind = self._schema.field(column.name).type
        whole = pa.types.is_integer(kind)
        for tries in range(2 * _TRIES):
            text = pattern.draw(self._rng, record)
            if tries >= _TRIES:  # Nothing is left in this pattern: a mark makes room.
                text += invent("9999" if whole else "-a9", self._rng)
            value = int(text) % 2 ** (kind.bit_width - 1) if whole else text
            if not (pattern.unique and value in used) and not self._is_real(value):
                break
        else:
            raise self._out_of_names(column.name)
        if pattern.unique:
            used.add(value)
        return value

    def _path(self, record: Mapping[str, Value], number: int) -> str | None:
        shots = self.profile.shots
        if shots is None or shots.paths is None:
            return None
        for tries in range(2 * _TRIES):
            path = shots.paths.draw(self._rng, record)
            mark = f"-{number}" if number else ""
            mark += invent("-a9", self._rng) if tries >= _TRIES else ""
            stem, dot, ending = path.rpartition(".")
            path = f"{stem}{mark}{dot}{ending}" if dot else path + mark
            if not self._is_real(path):
                return path
        raise self._out_of_names(PATH_COLUMN)

    def _rare_name(self, node: Node, record: Mapping[str, Value]) -> Value:
        """Make up the name of a category that may not be named, the same one each time.

        A rare category gets one of as many names as there are rare ones; where categories nest,
        each name belongs to one coarser category.
        """
        kind = self._schema.field(node.column).type
        if pa.types.is_boolean(kind):  # Of two truth values, it is the one that is not named.
            return True not in node.shares.values
        above = record.get(node.nests_in) if node.nests_in else None
        width = len(self._nodes[node.nests_in].shares.values) if node.nests_in else 1
        names = max(1, round(node.shares.rest_values / max(1, width)))
        key = (node.column, above, self._rng.randrange(names))
        if key not in self._names:
            self._names[key] = self._make_name(node)
        name = self._names[key]
        return int(name) if pa.types.is_integer(kind) else name

    def _make_name(self, node: Node) -> str:
        values = [value for value in node.shares.values if value not in (None, "")]
        taken = {*map(str, values), *self._names.values()}
        for tries in range(2 * _TRIES):
            shape = shape_of(str(self._rng.choice(values))) if values else _NEW_WORD
            if tries >= _TRIES:  # All of the short ones may be taken: 0 to 9.
                shape += shape[-1]
            name = invent(shape, self._rng)
            if name not in taken and not self._is_category(node.column, name):
                return name
        raise self._out_of_names(node.column)

    def _plan_shots(
        self, group: _Group, record: Mapping[str, Value], split: str, place: int
    ) -> tuple[ShotPlan, ...]:
        shots = self.profile.shots
        if shots is None:
            return ()
        count = shots.counts.draw(self._rng)
        count = count if isinstance(count, int) else 1
        garment = self._garment(group, record)
        plans = []
        for number in range(count):
            plan = plan_shot(shots, garment, f"{group.name} {place} {number}")
            earlier = [shot for row in group.rows for shot in row.shots]
            if earlier and self._rng.random() < self._repeats():
                plan = self._rng.choice(earlier)
            elif split in self._latest_shots and self._rng.random() < shots.borrowed:
                plan = self._latest_shots[split]
            plans.append(plan)
        if plans and not group.rows:
            self._latest_shots[split] = plans[0]
        return tuple(plans)

    def _repeats(self) -> float:
        """Chance that an image repeats one of its group, where there is one before it."""
        shots, profile = self.profile.shots, self.profile
        assert shots is not None
        rows = sum(profile.splits.values())
        return min(1.0, shots.repeated * rows / max(1, rows - profile.groups))

    def _garment(self, group: _Group, record: Mapping[str, Value]) -> Garment:
        """Choose what a row shows: the group's thing, in the row's colour."""
        titles = [column.name for column in self.profile.columns if column.role == "text"]
        categories = sorted(
            (node.column for node in self.profile.network),
            key=lambda column: (column != self.profile.leaf, column),
        )
        texts = [str(record.get(column) or "") for column in (*titles, *categories)]
        colours = [text for column in categories if is_colour(text := str(record.get(column)))]
        fallback = str(record.get(self.profile.leaf or "") or "")
        garment = choose_garment(texts, "", fallback, group.name)
        return dye(garment, colours[0] if colours else "", self._rng)

    def _widen(self, column: str, text: str, used: set[Value]) -> str:
        for _ in range(_TRIES):
            longer = f"{invent(_NEW_WORD, self._rng)} {text}".strip()
            if longer not in used and not self._is_real(longer):
                return longer
        raise self._out_of_names(column)

    def _is_real(self, value: Value) -> bool:
        secrets = self._secrets
        return secrets is not None and secrets.hold_text(value, self.profile.private_columns)

    def _is_category(self, column: str, name: str) -> bool:
        return self._secrets is not None and self._secrets.hold_text(name, [column])

    def _out_of_names(self, column: str) -> ValueError:
        return ValueError(
            f"cannot invent another value for the column {column!r}: {_TRIES} tries gave values "
            "that exist; ask for fewer rows"
        )


def _quotas(splits: Mapping[str, int], rows: int) -> dict[str, int]:
    """Share rows out to splits as the dataset does, at least one each where there are enough.

    Input:  {"train": 616, "validation": 61, "test": 66}, 100 rows
    Output: {"train": 83, "validation": 8, "test": 9}
    """
    total = sum(splits.values())
    quotas = {name: max(1, rows * size // total) for name, size in splits.items() if size}
    largest = max(quotas, key=lambda name: quotas[name])
    quotas[largest] += rows - sum(quotas.values())
    if quotas[largest] < 1:
        raise ValueError(
            f"{rows} rows are too few for the splits {', '.join(quotas)}; ask for at least "
            f"{len(quotas)}"
        )
    return quotas


def _below(record: Mapping[str, Value], lower: str, higher: str) -> bool:
    low, high = record.get(lower), record.get(higher)
    return isinstance(low, int | float) and isinstance(high, int | float) and low < high
