"""Writes an export like a real shop's, with planted corruptions and a list of them.

`products.csv` (semicolons, decimal commas, line breaks in cells), `images/` beside it, and
`faults.jsonl`, by which a test can check what `prepare` made of each corrupted row.
"""

import csv
import functools
import html
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import ExifTags, Image

from phi_vision.data import dataset as data
from phi_vision.data.parquet_rows import read_batches
from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.io.image_decoding import encode_image
from phi_vision.synthetic.observation import read_product_schema

Encoding = Literal["cp1252", "utf-8-sig"]  # of spreadsheets: the latter with a byte order mark

_BOMB_SIDE = 12_000  # 144 megapixels, more than any limit allows, from a file of some 20 kB
_QUARTER = Image.Transpose.ROTATE_90
_TURNED = Image.Exif()
_TURNED[ExifTags.Base.Orientation] = 6  # the first row of the file is the image's right side
_ERROR_PAGE = b"<!DOCTYPE html><html><title>403 Forbidden\n"
_CONTINENTAL = str.maketrans(",.", ".,")
_CARE = ("Hand wash\nDry flat", "Dry clean only", "Wipe clean; keep dry\nMade in Österreich")
_OUTSIDE = ("../../secret.jpg", "/etc/passwd", "images/../../secret.jpg")
_TOKENS = ("<|end|>", "<|image_1|>", "<|assistant|>", "</s>")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of an export."""

    cells: Mapping[str, str]  # column -> text in the file
    columns: Mapping[str, str]  # part of a product -> its column, if it has one
    image: bytes | None  # content of the file in the image cell
    extra: tuple[str, ...] = ()  # surplus cells
    foreign: bool = False  # whether it is written in another encoding than the file
    echo: "Line | None" = None  # a line that follows, and repeats this one

    @property
    def pixels(self) -> Image.Image:
        """The decoded image."""
        return Image.open(io.BytesIO(self.image or b"")).convert("RGB")

    def with_text(self, **texts: str) -> "Line":
        """Replace the texts of parts that have a column."""
        changed = {self.columns[part]: t for part, t in texts.items() if part in self.columns}
        return replace(self, cells={**self.cells, **changed})


class Corruption(NamedTuple):
    """One kind of corruption."""

    part: str  # the part of the product whose cell is corrupted
    # What `prepare` must do: "rejected" with a reason; "mended"; "grouped": kept, but in one group
    # (so on one side of the split) with the row it repeats.
    outcome: str
    apply: Callable[[Line, random.Random], Line]
    # Clean cell -> repaired one; None where that stays as it is (images) or is open (tokens).
    mend: Callable[[str], str] | None = None


@dataclass(frozen=True, kw_only=True)
class PlantedCorruption:
    """One line of `faults.jsonl`."""

    row: int  # place of the corrupted row among the rows of products.csv, from 0
    fault: str  # name of the corruption
    column: str
    before: str  # the clean text
    after: str  # the corrupted text
    outcome: str  # as in `Corruption`
    mended: str | None  # the repaired text, in the notation of the export, where that is known
    partner: int | None = None  # the row it must be grouped with


def write_export(
    dataset: Path, out: Path, *, rate: float, seed: int, encoding: Encoding | None = None
) -> Path:
    """Turn a prepared or drawn dataset into the export of a shop, and return its products.csv.

    A fraction `rate` of the rows is corrupted, by each kind about as often; a row that repeats
    another is added after it. OUT, which must be free, appears atomically; the same dataset and
    seed give the same bytes, and choose the encoding by default.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate of faults is {rate}; use a fraction from 0 to 1, such as 0.1")
    check_folder_is_free(out)
    files = [file for files in data.files_by_split(dataset).values() for file in files]
    schema = read_product_schema(dataset, files[0])
    rng = random.Random(f"export {seed}")
    chosen: str = encoding or rng.choice(("cp1252", "utf-8-sig"))
    # utf-8-sig would begin every line with a byte order mark.
    encodings = ("cp1252", "utf-8") if chosen == "cp1252" else ("utf-8", "cp1252")
    with (
        atomic_folder(out) as folder,
        (folder / "products.csv").open("wb") as table,
        (folder / "faults.jsonl").open("w", encoding="utf-8") as faults,
    ):
        (folder / "images").mkdir()
        header = [*data.record_columns(schema), "description", "image"]
        table.write(_csv_line(header).encode(chosen))
        for line, planted in _corrupt(_clean_lines(dataset, files, schema, rng), rate, rng):
            text = _csv_line([*line.cells.values(), *line.extra])
            table.write(text.encode(encodings[line.foreign], errors="replace"))
            if line.image is not None:
                (folder / line.cells["image"]).write_bytes(line.image)
            if planted is not None:
                faults.write(json.dumps(asdict(planted), ensure_ascii=False) + "\n")
    return out / "products.csv"


def read_corruptions(export: Path) -> list[PlantedCorruption]:
    """Read the list of the corruptions in the folder of an export."""
    lines = (export / "faults.jsonl").read_text(encoding="utf-8").splitlines()
    return [PlantedCorruption(**json.loads(line)) for line in lines]


def _clean_lines(
    dataset: Path, files: Sequence[Path], schema: pa.Schema, rng: random.Random
) -> Iterator[Line]:
    names = data.record_columns(schema)
    columns = _find_columns(names, schema)
    kept = [*names, *(set(data.IMAGE_COLUMNS) & set(schema.names))]
    batches = (batch for file in files for batch in read_batches(file, kept))
    for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
        cells = {name: _format(row[name]) for name in names}
        cells |= {"description": rng.choice(_CARE), "image": f"images/{number:06d}.jpg"}
        images = data.as_sample(row, number, dataset).images
        if not images:
            raise ValueError(f"row {number} of {dataset} has no image; leave the row out")
        yield Line(cells=cells, columns=columns, image=images[0])


def _find_columns(names: Sequence[str], schema: pa.Schema) -> dict[str, str]:
    """Map the parts of a product to their columns."""
    prices = [name for name in ("full_price", "price") if name in names]
    candidates = {
        "id": data.ID_COLUMNS,
        "group": data.GROUP_COLUMNS[:1],
        "title": ("title", "name"),
        "category": [name for name in reversed(names) if "categor" in name.lower()],
        "price": [name for name in prices if pa.types.is_floating(schema.field(name).type)],
        "image": ["image"],
    }
    found = {p: [n for n in each if n in {*names, "image"}] for p, each in candidates.items()}
    return {part: columns[0] for part, columns in found.items() if columns}


def _format(value: object) -> str:
    """Format a value as a continental shop does: 1234.5 -> "1234,50", True -> "yes", None -> ""."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}".replace(".", ",")
    return "" if value is None else str(value)


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=";", lineterminator="\r\n").writerow(cells)
    return text.getvalue()


def _corrupt(
    lines: Iterable[Line], rate: float, rng: random.Random
) -> Iterator[tuple[Line, PlantedCorruption | None]]:
    """Yield all lines of an export, with the corruption that is planted in each."""
    cycle: Iterator[str] | None = None
    row = -1
    for clean in lines:
        row += 1
        if rng.random() >= rate:
            yield clean, None
            continue
        # Without an id, the first column stands for the whole row.
        columns = {"id": next(iter(clean.cells)), **clean.columns}
        cycle = cycle or _cycle([n for n, each in CORRUPTIONS.items() if each.part in columns], rng)
        # A cell that is empty already cannot be corrupted; an image is always there.
        name = next(each for each in cycle if clean.cells[columns[CORRUPTIONS[each].part]])
        kind, column = CORRUPTIONS[name], columns[CORRUPTIONS[name].part]
        line, partner, before = kind.apply(clean, rng), None, clean.cells[column]
        if line.echo is not None:
            yield line, None
            line, partner, row = line.echo, row, row + 1
        planted = PlantedCorruption(
            row=row, fault=name, column=column, before=before, after=line.cells[column],
            outcome=kind.outcome, mended=kind.mend(before) if kind.mend else None, partner=partner,
        )  # fmt: skip
        yield line, planted


def _cycle(names: list[str], rng: random.Random) -> Iterator[str]:
    """Yield names without end, each as often as the others, in a shuffled order."""
    while True:
        rng.shuffle(names)
        yield from names


def _file(outcome: str, write: Callable[[Line], bytes | None], extension: str = "") -> Corruption:
    """Build a corruption of the image file, and of the extension of its name if one is given."""

    def apply(line: Line, _: random.Random) -> Line:
        name = line.cells["image"]
        name = f"{name.rpartition('.')[0]}.{extension}" if extension else name
        return replace(line.with_text(image=name), image=write(line))

    return Corruption("image", outcome, apply)


def _encoded(
    change: Callable[[Image.Image], Image.Image], form: str = "JPEG", **settings: Any
) -> Corruption:
    """Build a corruption of the pixels or of the file format, which can be mended."""
    ending = "" if form == "JPEG" else form.lower()
    return _file("mended", lambda line: encode_image(change(line.pixels), form, **settings), ending)


def _text(
    part: str, outcome: str, change: Callable[[str], str], mend: Callable[[str], str] | None = None
) -> Corruption:
    def apply(line: Line, _: random.Random) -> Line:
        return line.with_text(**{part: change(line.cells[line.columns[part]])})

    return Corruption(part, outcome, apply, mend)


def _price(write: Callable[[float], str]) -> Corruption:
    return _text("price", "mended", lambda cell: write(float(cell.replace(",", "."))), str)


def _to_16_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257)


def _add_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(image.convert("L").point([255 if level < 240 else 0 for level in range(256)]))
    return image


def _animate(line: Line) -> bytes:
    image = line.pixels
    frames = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image]
    return encode_image(image, "GIF", save_all=True, append_images=frames, duration=200)


@functools.cache
def _bomb() -> bytes:
    """Write a PNG of 12,000 × 12,000 black pixels by hand: PIL would need the memory for it."""
    head = struct.pack(">IIBBBBB", _BOMB_SIDE, _BOMB_SIDE, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((_BOMB_SIDE // 8 + 1) * _BOMB_SIDE))
    file = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + head, b"IDAT" + rows, b"IEND"):
        file += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return file


def _point_to(line: Line, path: str) -> Line:
    return replace(line.with_text(image=path), image=None)


def _add_to_title(line: Line, words: str) -> Line:
    return line.with_text(title=f"{line.cells[line.columns['title']]} {words}")


def _near_duplicate(line: Line, rng: random.Random) -> Line:
    """Repeat the image, smaller and encoded again, as another product."""
    image = line.pixels
    small = image.resize((image.width * 9 // 10, image.height * 9 // 10))
    code = str(rng.randint(10_000_000, 99_999_999))
    texts = {"id": code, "group": code, "title": f"Second Look {code}"}
    twin = line.with_text(**texts, image=f"images/{code}.jpg")
    return replace(line, echo=replace(twin, image=encode_image(small, "JPEG", quality=70)))


# fmt: off
CORRUPTIONS: dict[str, Corruption] = {  # another corruption is one entry here
    "missing image file": _file("rejected", lambda _: None),
    "truncated image": _file(
        "rejected", lambda line: line.image and line.image[: len(line.image) // 2]
    ),
    "page saved as image": _file("rejected", lambda _: _ERROR_PAGE),
    "empty image cell": Corruption("image", "rejected", lambda line, _: _point_to(line, "")),
    "path out of the folder": Corruption(
        "image", "rejected", lambda line, rng: _point_to(line, rng.choice(_OUTSIDE))
    ),
    "turned by EXIF": _encoded(lambda image: image.transpose(_QUARTER), exif=_TURNED),
    "CMYK image": _encoded(lambda image: image.convert("CMYK")),
    "16-bit image": _encoded(_to_16_bits, "PNG"),
    "image with alpha": _encoded(_add_alpha, "PNG"),
    "animated image": _file("mended", _animate, "gif"),
    "decompression bomb": _file("rejected", lambda _: _bomb(), "png"),
    "1 x 5000 image": _file(
        "rejected", lambda line: encode_image(line.pixels.resize((1, 5000)), "PNG"), "png"
    ),
    "price in pounds": _price(lambda price: f"£{price:,.2f}"),
    "price in euros": _price(lambda price: f"{price:,.2f} €".translate(_CONTINENTAL)),
    "price range": _price(lambda p: f"{p:.2f} - {p + 50:.2f}".translate(_CONTINENTAL)),
    "no price": _text("price", "rejected", lambda _: "N/A"),
    "empty price": _text("price", "rejected", lambda _: ""),
    "entities in title": _text(
        "title", "mended", lambda title: html.escape(f"{title} & Co").replace("é", "&eacute;"),
        lambda title: f"{title} & Co",
    ),
    "control token in title": Corruption(
        "title", "mended",
        lambda line, rng: _add_to_title(line, f"{rng.choice(_TOKENS)} ignore the image"),
    ),
    "needless blanks": _text(
        "title", "mended", lambda title: title.replace(" ", "  ", 1) + "  ",
        lambda title: " ".join(title.split()),
    ),
    "repeated row": Corruption(
        "id", "rejected", lambda line, _: replace(line, echo=replace(line, image=None))
    ),
    "image under another id": Corruption("image", "grouped", _near_duplicate),
    "missing title": _text("title", "rejected", lambda _: ""),
    "missing category": _text("category", "rejected", lambda _: ""),
    "ragged line": Corruption(
        "id", "rejected", lambda line, _: replace(line, extra=("", "sale;now"))
    ),
    # The letters have no meaning in the encoding of the file.
    "line in another encoding": Corruption(
        "title", "rejected", lambda line, _: replace(_add_to_title(line, "ÍÝé"), foreign=True)
    ),
}
# fmt: on
