"""Draws records and plans images after a profile: group by group, each in one split.

Values that turn out to be real are drawn again; nothing here writes or paints.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from phi_vision.data.samples import Value
from phi_vision.synthetic import image_style
from phi_vision.synthetic.distributions import RARE
from phi_vision.synthetic.image_style import ImagePlan
from phi_vision.synthetic.privacy import RealValues
from phi_vision.synthetic.profile import (
    PATH_COLUMN,
    ColumnProfile,
    Flag,
    Level,
    Node,
    Prices,
    Profile,
    Ratio,
)
from phi_vision.synthetic.render.garment import Garment
from phi_vision.synthetic.text_models import NEW_WORD, CodePattern, Grammar, invent, shape_of

Record = dict[str, Value]

_TRIES = 50
_BLOCK = 512
"""Rows among which the order is shuffled, so that colours of a style are not neighbours."""
_MAX_GROUP_SIZE = 50


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """A row to write: its record, and the images to draw."""

    split: str
    record: Mapping[str, Value]
    images: tuple[ImagePlan, ...]
    paths: tuple[str | None, ...]


class Synthesizer:
    """Draws records that no real row has.

    Args:
        profile: the model.
        rows: how many.
        seed: of everything.
        real: values that must not appear; None where only the profile is available.
    """

    def __init__(self, profile: Profile, *, rows: int, seed: int, real: RealValues | None) -> None:
        self.profile = profile
        self._seed = seed
        self._real = real
        self._rng = random.Random(f"synthesizer {seed}")
        self._schema = profile.arrow_schema()
        self._used: defaultdict[str, set[Value]] = defaultdict(set)
        self._invented: dict[tuple[str, int], Value] = {}
        self._below_rare: dict[tuple[str, Value], Value] = {}
        self._latest_texts: dict[tuple[str, str], str] = {}
        self._latest_images: dict[str, ImagePlan] = {}
        self._left = _quotas(profile.splits, rows)

    def plan(self) -> Iterator[PlannedRow]:
        """Yield all rows, groups whole within a split, in a shuffled order."""
        block: list[PlannedRow] = []
        number = 0
        while any(self._left.values()):
            split = max(self._left, key=lambda name: self._left[name])
            group = self._plan_group(f"{self._seed} {number}", split)
            self._left[split] -= len(group)
            block += group
            number += 1
            if len(block) >= _BLOCK or not any(self._left.values()):
                self._rng.shuffle(block)
                yield from block
                block = []

    def _plan_group(self, name: str, split: str) -> list[PlannedRow]:
        shared: Record = {}
        self._fill("group", shared, [])
        rows: list[PlannedRow] = []
        for place in range(min(self._left[split], self._group_size(shared))):
            if rows and self._rng.random() < self.profile.repeated_rows:
                rows.append(rows[-1])
                continue
            record = dict(shared)
            self._fill("row", record, [row.record for row in rows])
            images = self._plan_images(name, place, split, record, rows)
            paths = tuple(self._path(record, number) for number in range(len(images)))
            ordered = {column: record.get(column) for column in self._schema.names}
            rows.append(PlannedRow(split=split, record=ordered, images=images, paths=paths))
        return rows

    def _group_size(self, record: Record) -> int:
        everywhere = self.profile.group_sizes[""]
        size = self.profile.group_sizes.get(self._leaf(record), everywhere).draw(self._rng)
        size = everywhere.draw(self._rng) if size is RARE else size
        if not isinstance(size, int):  # a rare size: beyond those that many groups have
            common = [value for value in everywhere.values if isinstance(value, int)]
            size = min(_MAX_GROUP_SIZE, max(common, default=1) + self._rng.randint(1, 3))
        return max(1, size)

    def _fill(self, level: Level, record: Record, siblings: Sequence[Mapping[str, Value]]) -> None:
        """Draw the columns of a level: the categories, then those that depend on them."""
        columns = {column.name: column for column in self.profile.columns if column.level == level}
        for node in self.profile.network:
            if node.column in columns:
                used = [row[node.column] for row in siblings] if node.differs else []
                record[node.column] = self._category(node, level, record, used)
        for name, column in columns.items():
            if column.role != "category":
                record[name] = self._value(column, record)

    def _category(self, node: Node, level: Level, record: Record, used: Sequence[Value]) -> Value:
        """Draw a category; a rare one gets one of as many invented names as there are rare ones."""
        parent = (node.column, record.get(node.parent or ""))
        if parent in self._below_rare:  # an invented category has one coarser category
            return self._below_rare[parent]
        value = node.draw(self._rng, record, used)
        if value is RARE:
            key = (node.column, self._rng.randrange(max(1, node.frequencies.rest_values)))
            if key not in self._invented:
                self._invented[key] = self._invent_category(node)
            value = self._invented[key]
        if level == "group" and parent[1] in self._invented.values():
            self._below_rare[parent] = value
        return value

    def _invent_category(self, node: Node) -> Value:
        kind, column = self._schema.field(node.column).type, node.column
        if pa.types.is_boolean(kind):  # the one of two truth values that is not named
            return True not in node.frequencies.values
        values = [str(value) for value in node.frequencies.values if value not in (None, "")]

        def draw(mark: bool) -> str:
            shape = shape_of(self._rng.choice(values or [NEW_WORD]))
            return invent(shape + shape[-1] * mark, self._rng)  # 0 to 9 may all be taken

        taken = {*values, *map(str, self._invented.values())}
        name = self._draw_new(column, draw, taken, private=[column])
        return int(name) if pa.types.is_integer(kind) else name

    def _value(self, column: ColumnProfile, record: Record) -> Value:
        rng, leaf = self._rng, self._leaf(record)
        if column.role == "empty" or rng.random() < column.missing:
            return None
        if rng.random() < column.blank / max(1e-9, 1 - column.missing):
            return ""
        match column.model:
            case Prices(by_category=prices):
                amounts = prices.get(leaf, prices[""])
                amount = amounts.draw(rng)
                known = amount in amounts.points.values
                return self._typed(column, amount if known else prices[""].snap(amount, rng))
            case Ratio(of=of, usual=usual, share=share, others=others, amounts=amounts):
                base = record.get(of)
                if not isinstance(base, int | float):
                    return None
                if others is None or rng.random() < share:
                    return self._typed(column, round(base * usual, amounts.decimals))
                return self._typed(column, amounts.snap(base * others.draw(rng), rng))
            case Flag(lower=lower, higher=higher):
                low, high = record.get(lower), record.get(higher)
                numbers = isinstance(low, int | float) and isinstance(high, int | float)
                return self._typed(column, float(numbers and low < high))  # type: ignore[operator]
            case Grammar() as grammar:
                return self._text(column, grammar, leaf)
            case CodePattern() as pattern:
                return self._code(column, pattern, record)
        raise AssertionError(f"the column {column.name!r} has a role but no model")

    def _typed(self, column: ColumnProfile, number: float) -> Value:
        kind = self._schema.field(column.name).type
        if pa.types.is_boolean(kind):
            return bool(number)
        whole = pa.types.is_integer(kind) or pa.types.is_temporal(kind)
        return round(number) if whole else number

    def _text(self, column: ColumnProfile, grammar: Grammar, category: str) -> str:
        key, used = (column.name, category), self._used[column.name]
        if key in self._latest_texts and self._rng.random() < grammar.repeats:
            return self._latest_texts[key]

        def draw(mark: bool) -> str:
            text = grammar.draw(self._rng, category)
            return f"{invent(NEW_WORD, self._rng)} {text}".strip() if mark else text

        text = self._draw_new(column.name, draw, used)
        used.add(text)
        self._latest_texts[key] = text
        return text

    def _code(self, column: ColumnProfile, pattern: CodePattern, record: Record) -> Value:
        used, kind = self._used[column.name], self._schema.field(column.name).type
        whole = pa.types.is_integer(kind)

        def draw(mark: bool) -> str:
            text = pattern.draw(self._rng, record)
            text += invent("9999" if whole else "-a9", self._rng) if mark else ""
            return str(int(text) % 2 ** (kind.bit_width - 1)) if whole else text

        text = self._draw_new(column.name, draw, used if pattern.unique else ())
        used.add(text)
        return int(text) if whole else text

    def _path(self, record: Record, number: int) -> str | None:
        pattern = self.profile.images.paths if self.profile.images else None
        if pattern is None:
            return None

        def draw(mark: bool) -> str:
            stem, dot, ending = pattern.draw(self._rng, record).rpartition(".")
            suffix = f"-{number}" if number else ""
            suffix += invent("-a9", self._rng) if mark else ""
            return f"{stem}{suffix}.{ending}" if dot else ending + suffix

        return self._draw_new(PATH_COLUMN, draw)

    def _draw_new(
        self,
        column: str,
        draw: Callable[[bool], str],
        taken: Collection[Value] = (),
        private: Sequence[str] | None = None,
    ) -> str:
        """Draw a text that is neither taken nor real, with a mark where there are few others."""
        private = self.profile.private_columns if private is None else private
        for tries in range(2 * _TRIES):
            text = draw(tries >= _TRIES)
            is_real = self._real is not None and self._real.contains_text(text, private)
            if text and text not in taken and not is_real:
                return text
        raise ValueError(
            f"cannot invent another value for the column {column!r}: {2 * _TRIES} tries gave "
            "values that exist; ask for fewer rows"
        )

    def _leaf(self, record: Record) -> str:
        return str(record.get(self.profile.leaf or ""))

    def _plan_images(
        self, name: str, place: int, split: str, record: Record, rows: Sequence[PlannedRow]
    ) -> tuple[ImagePlan, ...]:
        style, rng = self.profile.images, self._rng
        if style is None:
            return ()
        count = style.counts.draw(rng)
        garment = self._garment(name, record)
        earlier = [image for row in rows for image in row.images]
        # Chance that an image repeats one of its group, where there is one before it.
        total = sum(self.profile.splits.values())
        repeats = style.repeated * total / max(1, total - self.profile.groups)
        images = []
        for number in range(count if isinstance(count, int) else 1):
            image = image_style.plan_image(style, garment, f"{name} {place} {number}")
            if earlier and rng.random() < repeats:
                image = rng.choice(earlier)
            elif rng.random() < style.borrowed:
                image = self._latest_images.get(split, image)
            images.append(image)
        if images and not rows:
            self._latest_images[split] = images[0]
        return tuple(images)

    def _garment(self, name: str, record: Record) -> Garment:
        """Choose the garment that a row shows: the group's thing, in the row's colour."""
        leaf = self.profile.leaf or ""
        titles = [column.name for column in self.profile.columns if column.role == "text"]
        nodes = sorted((node.column != leaf, node.column) for node in self.profile.network)
        categories = [str(record.get(column) or "") for _, column in nodes]
        texts = [*(str(record.get(column) or "") for column in titles), *categories]
        colour = next((text for text in categories if image_style.find_colour(text)), "")
        garment = image_style.choose_garment(texts, "", str(record.get(leaf) or ""), name)
        return image_style.dye(garment, colour, self._rng)


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
