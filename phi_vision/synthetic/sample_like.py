"""Writes sample data like a real dataset: `phi-vision sample --like DATASET --rows N --out DIR`.

Profiles the dataset, draws records and images after the profile, group by group, checks that they
contain nothing real, and reports their fidelity. The images are drawings as in the sample catalog:
they show the thing that the words of the title and the categories name ("Trench Coat", "Tees",
"navy"); a category without a known word always gets the same kind of thing.
"""

import json
import random
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from phi_vision.data.dataset import IMAGE_COLUMNS
from phi_vision.data.samples import Value
from phi_vision.data.template import TEMPLATE_FILE, find_template, write_template
from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.io.hashing import hash_bits
from phi_vision.io.image_decoding import encode_image
from phi_vision.synthetic import (
    catalog,
    column_models,
    compound_values,
    drawing,
    fidelity,
    marked_columns,
    observation,
    profile,
)
from phi_vision.synthetic.column_models import HIDDEN, RARE, Column, label, number
from phi_vision.synthetic.drawing import Garment, draw, random_scene
from phi_vision.synthetic.observation import ASPECT, DENSITY, FORMAT, LONGEST, RealValues, failure
from phi_vision.synthetic.profile import GAPS, ROWS, Profile

Record = dict[str, Value]

_BLOCK = 512  # rows among which the order is shuffled, so that colours of a style are apart
_ROW_GROUP = 100
_TRIES, _IMAGE_TRIES = 50, 10
# Pixels that `draw` can paint (its noise is 1024 wide); beyond, a drawing is scaled.
_MAX_SIDE, _MIN_SIDE = 1000, 64
_QUALITIES = range(25, 97)
_USUAL = {LONGEST: 512, ASPECT: 1.0, DENSITY: 0.25}


def write_sample_like(
    dataset: Path, out: Path, *, rows: int, seed: int, progress: catalog.Progress | None = None
) -> fidelity.Fidelity:
    """Draw a dataset that resembles a real one and contains nothing of it.

    Writes OUT/data/<split>-00000-of-00001.parquet with the columns and types of the dataset, its
    template, OUT/fidelity.md and OUT/fidelity.json (distances, and the privacy check),
    OUT/profile.json (the measurements; can be given away and used in place of the dataset) and
    OUT/README.md, all of them atomically; OUT must be free. The same dataset, rows and seed give
    the same bytes. `progress` gets (done, total) after each image. Many images are drawn by one
    process a core, so a script that calls this needs `if __name__ == "__main__":`.
    """
    check_folder_is_free(out)
    data, real = None, RealValues()
    if dataset.suffix == ".json":
        model = profile.load_profile(dataset)
    else:
        data = observation.observe(dataset, real.add)
        model = profile.profile_dataset(data)
    with atomic_folder(out) as folder:
        synthesizer = _Synthesizer(model, rows=rows, seed=seed, real=real)
        redrawn = synthesizer.write(folder / "data", progress)
        found = fidelity.measure(data, folder, model, real, rows=rows, redrawn=redrawn)
        report = asdict(found)
        splits = [name for name, size in model.splits.items() if size]
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (folder / "fidelity.json").write_text(text, encoding="utf-8")
        catalog.render("fidelity.md.j2", folder / "fidelity.md", **report)
        catalog.render("sample_card.md.j2", folder / "README.md", rows=rows, splits=splits)
        profile.save_profile(model, folder / "profile.json")
        if (dataset / TEMPLATE_FILE).is_file():  # the fields that it asks for are there, too
            write_template(find_template(str(dataset)), folder / TEMPLATE_FILE)
    return found


class ImagePlan(NamedTuple):
    """An image to draw: the same plan gives the same bytes."""

    garment: Garment
    seed: str
    width: int
    height: int
    density: float  # bytes per pixel of the file
    format: str  # "JPEG"


class _PlannedRow(NamedTuple):
    split: str
    record: Record
    images: tuple[ImagePlan, ...]


class _Synthesizer:
    """Draws records that no real row has; `real` is empty where only the profile is available."""

    def __init__(self, model: Profile, *, rows: int, seed: int, real: RealValues) -> None:
        self._model, self._rows, self._seed, self._real = model, rows, seed, real
        self._rng = random.Random(f"synthesizer {seed}")
        self._types = {column.name: column.type for column in model.arrow_schema()}
        self._invented: dict[tuple[str, int], Value] = {}
        self._texts: defaultdict[tuple[str, str], list[Value]] = defaultdict(list)
        self._used: defaultdict[str, set[str]] = defaultdict(set)
        self._latest_images: dict[str, ImagePlan] = {}
        self._left = _quotas(model.splits, rows)

    def write(self, folder: Path, progress: catalog.Progress | None) -> int:
        """Draw everything and write it split by split; return how many images were drawn again."""
        folder.mkdir()
        schema = catalog.add_features(self._model.arrow_schema(), images=IMAGE_COLUMNS)
        done = redrawn = 0
        with ExitStack() as stack:
            run = stack.enter_context(catalog.parallel_map(self._rows))
            files = {}
            for split in (split for split, size in self._model.splits.items() if size):
                file = folder / f"{split}-00000-of-00001.parquet"
                files[split] = stack.enter_context(pq.ParquetWriter(file, schema))
            for block in self._plan():
                plans = list(dict.fromkeys(image for row in block for image in row.images))
                images: dict[ImagePlan, bytes] = {}
                for image, encoded in zip(plans, run(draw_image, plans), strict=True):
                    images[image], tries = self._draw_until_new(image, encoded)
                    redrawn += tries
                    if progress:
                        progress(min(done + len(images), self._rows), self._rows)
                done += len(block)
                for split, file in files.items():
                    cells = [_cells(row, images) for row in block if row.split == split]
                    arrays = [_array([row.get(f.name) for row in cells], f) for f in schema]
                    file.write_table(pa.Table.from_arrays(arrays, schema=schema), _ROW_GROUP)
        return redrawn

    def _draw_until_new(self, plan: ImagePlan, encoded: bytes) -> tuple[bytes, int]:
        """Return an image that is like no real one, and how many were drawn again for it."""
        for tries in range(_IMAGE_TRIES):
            if not self._real.contains_image(observation.inspect_image(encoded)):
                return encoded, tries
            encoded = draw_image(plan._replace(seed=f"{plan.seed} again {tries}"))
        raise failure("no_new_image", kind=plan.garment.kind, tries=_IMAGE_TRIES)

    def _plan(self) -> Iterator[list[_PlannedRow]]:
        """Yield all rows in shuffled blocks, groups whole within a split."""
        block: list[_PlannedRow] = []
        number = 0
        while any(self._left.values()):
            split = max(self._left, key=lambda name: self._left[name])
            group = self._plan_group(f"{self._seed} {number}", split)
            self._left[split] -= len(group)
            block += group
            number += 1
            if len(block) >= _BLOCK or not any(self._left.values()):
                self._rng.shuffle(block)
                yield block
                block = []

    def _plan_group(self, name: str, split: str) -> list[_PlannedRow]:
        shared = self._draw("group", {}, [])
        rows: list[_PlannedRow] = []
        for place in range(min(self._left[split], max(1, round(number(shared, ROWS, 1))))):
            if rows and self._rng.random() < self._model.repeated_rows:
                rows.append(rows[-1])
                continue
            record = self._draw("row", shared, [row.record for row in rows])
            images = self._plan_images(f"{name} {place}", split, record, rows)
            rows.append(_PlannedRow(split, record, images))
        return rows

    def _draw(self, level: str, record: Record, siblings: Sequence[Record]) -> Record:
        """Add the columns of a level, each after those that it depends on."""
        record = dict(record)
        for column in self._model.columns:
            if column.level == level and column.helper:
                record[column.name] = column.draw(self._rng, record)
            elif column.level == level:
                gap = self._gap(column, record)
                if not gap or column.role == "number":  # from which others may follow
                    record[column.name] = self._value(column, record, siblings)
                if gap:
                    record[column.name + HIDDEN] = record.get(column.name)
                    record[column.name] = gap[0]
        return record

    def _gap(self, column: Column, record: Record) -> list[str | None]:
        """Draw whether a cell is missing, [None], blank, [""], or neither."""
        pattern = record.get(GAPS[column.level], RARE)
        if pattern != RARE and column.name not in observation.IMAGE_FIELDS:
            gaps = json.loads(str(pattern))
            return [gaps[column.name]] if column.name in gaps else []
        drawn = self._rng.random()
        return [None] if drawn < column.missing else [""] * (drawn < column.missing + column.blank)

    def _value(self, column: Column, record: Record, siblings: Sequence[Record]) -> Value:
        kind = self._types.get(column.name, pa.string())
        if column.role == "category":
            used = [row[column.name] for row in siblings] if column.differs else []
            return self._category(column, record, used, kind)
        if column.role == "number":
            drawn = column.draw_number(self._rng, record)
            return round(drawn) if drawn is not None and pa.types.is_integer(kind) else drawn
        if column.role == "marked":
            return marked_columns.draw_marked(column, record, self._rng)
        if column.role == "flag":
            low, high = (number(record, name) for name in column.of)
            return low < high if pa.types.is_boolean(kind) else int(low < high)
        return self._text(column, record, kind) if column.role in ("text", "code") else None

    def _category(
        self, column: Column, record: Record, used: Sequence[Value], kind: pa.DataType
    ) -> Value:
        """Draw a category; a rare one gets one of as many invented names as there are rare ones."""
        rng, parent = self._rng, record.get(column.parent or "")
        if column.level == "group" and parent in self._invented.values():
            rng = random.Random(f"{self._seed} {column.name} {parent}")  # the same for all its rows
        value = column.draw(rng, record, used)
        key = (column.name, rng.randrange(max(1, column.overall.rest_values)))
        if value != RARE or key in self._invented:
            return self._invented[key] if value == RARE else value
        known = column.overall.values
        if pa.types.is_boolean(kind):  # the one of two truth values that is not named
            return True not in known
        if column.separator:
            value = self._compound(column, rng)
            return self._invented.setdefault(key, value)
        shapes = [column_models.shape_of(str(value)) for value in known if value not in (None, "")]

        def draw(mark: bool) -> str:
            shape = rng.choice(shapes or [column_models.NEW_WORD])
            return column_models.invent(shape + shape[-1] * mark, rng)  # 0 to 9 may all be taken

        taken = {*map(str, known), *map(str, self._invented.values())}
        name = self._draw_new(draw, column.name, taken, [column.name])
        return self._invented.setdefault(key, int(name) if pa.types.is_integer(kind) else name)

    def _compound(self, column: Column, rng: random.Random) -> str:
        """Put a rare list or path together, of which no invented part is real or used twice."""
        parts, used = observation.parts_of(column.name), self._used[f"parts of {column.name}"]

        def invent(shape: str) -> str:
            def draw(mark: bool) -> str:
                return column_models.invent(shape + shape[-1] * mark, rng)

            part = self._draw_new(draw, column.name, used, [parts, column.name])
            used.add(part)
            return part

        def draw(mark: bool) -> str:
            return compound_values.put_together(column, rng, invent, is_new=mark)

        taken = {*map(str, column.overall.values), *map(str, self._invented.values())}
        return self._draw_new(draw, column.name, taken, [])

    def _text(self, column: Column, record: Record, kind: pa.DataType) -> Value:
        rng, whole = self._rng, pa.types.is_integer(kind)
        earlier = self._texts[column.name, label(record, column.parent)]
        if earlier and rng.random() < column.repeats:
            return rng.choice(earlier)
        ending = "9999" if whole else " Aaaaaa" if column.role == "text" else "-a9"

        def draw(mark: bool) -> str:
            text = column_models.draw_text(column, record, rng)
            text = _append(text, column_models.invent(ending, rng)) if mark else text
            # An integer that the type can hold.
            return str(int(re.sub(r"\D", "", text)) % 2 ** (kind.bit_width - 1)) if whole else text

        used = self._used[column.name]
        text = self._draw_new(draw, column.name, used, self._model.private_columns())
        used.add(text)
        earlier.append(int(text) if whole else text)
        return earlier[-1]

    def _draw_new(
        self, draw: Callable[[bool], str], column: str, taken: Collection[str], among: Sequence[str]
    ) -> str:
        """Draw a text that is neither taken nor a real one of some columns, marked if need be."""
        for tries in range(2 * _TRIES):
            text = draw(tries >= _TRIES)
            if text and text not in taken and not self._real.contains_text(text, among):
                return text
        raise failure("no_new_value", column=column, tries=2 * _TRIES)

    def _plan_images(
        self, name: str, split: str, record: Record, rows: Sequence[_PlannedRow]
    ) -> tuple[ImagePlan, ...]:
        """Plan images of the group's thing in the row's colour, some of them repeated."""
        model, rng = self._model, self._rng
        texts = [str(record[column.name]) for column in model.columns if column.role == "text"]
        leaf = label(record, model.leaf)
        categories = [leaf, *(str(record[column.name]) for column in model.categories())]
        colours, group = " ".join(categories), name.rpartition(" ")[0]
        garment = choose_garment([*texts, *categories], colours, leaf, group)
        earlier = [image for row in rows for image in row.images]
        # Chance that an image repeats one of its group, where there is one before it.
        total = sum(model.splits.values())
        repeats = model.repeated_images * total / max(1, total - model.groups)
        images = []
        for place in range(round(number(record, observation.COUNT, 0))):
            image = plan_image(record, garment, f"{name} {place}")
            if earlier and rng.random() < repeats:
                image = rng.choice(earlier)
            elif rng.random() < model.borrowed_images:
                image = self._latest_images.get(split, image)
            images.append(image)
        if images and not rows:
            self._latest_images[split] = images[0]
        return tuple(images)


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
        raise failure("few_rows", rows=rows, splits=", ".join(quotas), minimum=len(quotas))
    return quotas


def _append(name: str, mark: str) -> str:
    """Put a mark before the ending of a name: "coats/a.jpg", "-2" -> "coats/a-2.jpg"."""
    return re.sub(r"(\.\w+)?$", lambda match: mark + match[0], name, count=1)


def _cells(row: _PlannedRow, images: Mapping[ImagePlan, bytes]) -> dict[str, Any]:
    path = row.record.get(observation.PATH)
    names = [path and _append(str(path), f"-{n}" * (n > 0)) for n in range(len(row.images))]
    pairs = zip(row.images, names, strict=True)
    structs = [{"bytes": images[image], "path": name} for image, name in pairs]
    return {**row.record, **dict.fromkeys(IMAGE_COLUMNS, structs)}


def _array(cells: Sequence[Any], column: pa.Field) -> pa.Array:
    """Convert the cells of a column to its type."""
    kind = column.type
    if column.name not in IMAGE_COLUMNS:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            mark = observation.LIST_MARK
            cells = [cell.split(mark) if cell else None if cell is None else [] for cell in cells]
        *steps, plain = (kind, *(observation.plain_types(kind) or []))
        array = pa.array(cells, plain)
        for step in reversed(steps):
            array = array.cast(step)
        return array
    if not pa.types.is_list(kind) and not pa.types.is_large_list(kind):
        cells = [images[0] if images else None for images in cells]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        cells = [image and image["bytes"] for image in cells]
    return pa.array(cells, kind)


def plan_image(record: Mapping[str, Value], garment: Garment, seed: str) -> ImagePlan:
    """Plan an image of a garment after the drawn facts about images in a record."""
    longest, aspect, density = (float(record.get(f) or usual) for f, usual in _USUAL.items())
    width, height = (max(1, round(longest * min(1, side))) for side in (aspect, 1 / aspect))
    name = str(record.get(FORMAT))
    return ImagePlan(garment, seed, width, height, density, name if name in WRITERS else "JPEG")


def draw_image(plan: ImagePlan) -> bytes:
    """Draw an image and write it in about the planned number of bytes."""
    wanted = (plan.width, plan.height)
    zoom = max(min(1.0, _MAX_SIDE / max(wanted)), _MIN_SIDE / min(wanted))
    width, height = (max(1, min(_MAX_SIDE, round(side * zoom))) for side in wanted)
    scene = replace(random_scene(random.Random(plan.seed)), width=width, height=height)
    image = draw(plan.garment, scene)
    if image.size != wanted:
        image = image.resize(wanted, Image.Resampling.LANCZOS)
    return WRITERS[plan.format](image, round(plan.density * plan.width * plan.height))


def choose_garment(texts: Iterable[str], colours: str, fallback: str, seed: str) -> Garment:
    """Choose a garment by words, the most informative text first; else `fallback` gives the kind.

    Input:  texts ("Wool Trench Coat", "OUTERWEAR"), colours "Navy"
    Output: a trench coat of wool in navy
    """
    rng = random.Random(f"garment {seed}")
    words = [word for text in texts for word in reversed(_words(text))]
    known = next((_KINDS[word] for word in words if word in _KINDS), None)
    kind = known or drawing.KINDS[hash_bits(fallback) % len(drawing.KINDS)]
    garment = drawing.random_garment(rng, kind)
    materials = (word for word in words if word in drawing.CHOICES[kind].materials)
    garment = replace(garment, material=next(materials, garment.material))
    colour = next((_COLOURS[word] for word in _words(colours) if word in _COLOURS), None)
    if colour:
        return replace(garment, colour=colour, rgb=drawing.random_dye(rng, colour))
    return garment


def _words(text: str) -> list[str]:
    """Split into words, and pairs of words at the end: "polo shirt" is met before "shirt"."""
    words = re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())
    return [*words, *(f"{one} {other}" for one, other in pairwise(words))]


def _write_jpeg(image: Image.Image, size: int) -> bytes:
    """Write a JPEG of the lowest quality that has at least a size in bytes."""
    write = partial(encode_image, image, "JPEG")
    place = bisect_left(_QUALITIES, size, key=lambda quality: len(write(quality=quality)))
    return write(quality=_QUALITIES[min(place, len(_QUALITIES) - 1)])


_KINDS = {
    word: kind
    for kind, entry in drawing.VOCABULARY["kinds"].items()
    for word in (kind, *entry["words"].split())
}
_COLOURS = {colour: colour for colour in drawing.COLOURS} | {
    word: colour
    for colour, words in drawing.VOCABULARY["colour_words"].items()
    for word in words.split()
}

WRITERS: dict[str, Callable[[Image.Image, int], bytes]] = {
    "JPEG": _write_jpeg,
    "PNG": lambda image, size: encode_image(image, "PNG"),
    "WEBP": lambda image, size: encode_image(image, "WEBP", quality=85),
}
"""Name of a file format -> its writer for an image and a size in bytes, which only JPEG obeys."""
