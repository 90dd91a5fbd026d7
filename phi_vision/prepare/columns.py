"""Map the columns of a source: as the user says, else guessed from names and first rows.

The fields that matter are those of the template; every other plain column stays in the record
under its own name. Guesses are shown by the command and written to the data card.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phi_vision.data.template import Template
from phi_vision.prepare.column_fit import NAMES, rate_values
from phi_vision.prepare.image_references import (
    IMAGE_SUFFIX,
    find_by_name,
    list_references,
    url_of,
)
from phi_vision.prepare.prices import CURRENCY_WORDS
from phi_vision.prepare.sources.rows import Row, storable
from phi_vision.prepare.text import is_placeholder

_PLACE = re.compile(r"\{([^{}]+)\}")  # of a column in a path, as in images/{id}.jpg
MAX_PATH = 4096  # characters; anything longer is text (the limit of Linux, `PATH_MAX`)
MIN_DISTINCT = 0.8  # fraction of distinct values in a column of ids
MIN_GROUPS = 0.1  # fraction of distinct values in a column of groups; fewer are styles or brands
# Weight of images in a column that has no image's name, such as a size chart's: more than that of
# links to a web page, less than that of a `photo` that is missing here and there.
UNNAMED = 0.6
# What a column can be besides a field of the record, and what no field can be: a dataset's columns.
PARTS = ("image", "id", "group", "split", "messages")
RESERVED = ("id", "group_id", "image", "images", "messages", "rejected")
PRODUCT_FIELDS = ("category3_code", "title", "full_price")  # a name can be the category's own


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The role of each column of a source."""

    image: tuple[str, ...]  # in the order in which the prompt counts the images
    id: str | None
    group: str | None  # rows with equal values stay in one split: a style in all its colours
    split: str | None
    messages: str | None  # conversations
    fields: Mapping[str, str]  # field of the record -> column, in the order of the source
    guessed: frozenset[str] = frozenset()  # parts and fields
    doubts: Mapping[str, str] = field(default_factory=dict)  # field -> why its guess is weak
    missing: Mapping[str, str] = field(default_factory=dict)  # wanted field -> columns like it

    def fields_of(self, row: Row) -> dict[str, str]:
        """Map the fields of one row to columns, with those that the first rows did not have."""
        used = {*self.image, self.messages, self.split, *self.fields.values()}
        fields = dict(self.fields)
        for column in row.values:
            if column not in used:
                fields[field_name(column, {*RESERVED, *fields})] = column
        return fields

    def describe(self) -> dict[str, str]:
        """Describe the columns for display.

        Output: {"image": "photo (guessed)", "id": "sku", "title": "Product Name (guessed)"}
        """
        named = {part: getattr(self, part) for part in PARTS} | {"image": ", ".join(self.image)}
        named |= {f: c for f, c in self.fields.items() if f in self.guessed or f != c}
        named = {p: f"{c} (guessed)" if c and p in self.guessed else c for p, c in named.items()}
        for name, doubt in self.doubts.items():
            named[name] = f"{named[name]}, doubtful: {doubt}; --map {name}=COLUMN changes it"
        for name, similar in self.missing.items():
            named[name] = f"not found, left out; --map {name}=COLUMN adds it{similar}"
        return {part: storable(column) for part, column in named.items() if column}


def choose_columns(
    rows: Sequence[Row], template: Template | None, given: Mapping[str, str], folder: Path | None
) -> Columns:
    """Find the role of each column of a source from its first rows.

    Input:  columns "Photo", "SKU", "Product Name", "Type", "Price (GBP)";
            given {"full_price": "Price (GBP)"}
    Output: Columns(image=("Photo",), id="SKU", …, fields={"SKU": "SKU", "title": "Product Name",
                    "category3_code": "Type", "full_price": "Price (GBP)"})

    Args:
        template: Its fields are looked for; None for those of products.
        given: Part or field -> column, from the user; `image` may name several, with commas.
        folder: Root of the source's own images.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    _check_given(given, names)
    wanted = template.fields if template else PRODUCT_FIELDS
    found, doubts = dict(given), dict[str, str]()
    for part in (*PARTS, *sorted(wanted, key=lambda each: each not in PRODUCT_FIELDS[:1])):
        if part not in found:
            own = {*wanted} - {part}  # a column of a field's own name is no other's
            taken = {*found.values(), *found.get("image", "").split(","), *own}
            column, doubt = _guess(part, names, rows, folder, taken)
            found |= {part: column} if column else {}
            doubts |= {part: doubt} if column and doubt else {}
    if "messages" not in found and "image" not in found:
        found |= _image_by_id(names, rows, folder)
    image = tuple(found["image"].split(",")) if "image" in found else ()
    if not image and "messages" not in found:
        raise ValueError(
            f"no column holds images; found {', '.join(names) or 'no columns'}; "
            "map it with --map image=COLUMN"
        )
    return Columns(
        image=image,
        **{part: found.get(part) for part in PARTS[1:]},
        fields=_map_fields(names, found, image),
        guessed=frozenset(p for p, column in found.items() if p not in given and p != column),
        doubts=doubts,
        missing={
            field: _similar(field, names, found)
            for field in wanted
            if field not in found and "messages" not in found
        },
    )


def image_cells(row: Row, columns: Columns) -> list[object]:
    """List what holds or names a row's images; a "column" may be a path, such as images/{id}.jpg.

    Input:  a row whose image column holds ["a.jpg", "b.jpg"], or "a.jpg, b.jpg", or nothing
    Output: ["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], []
    """
    cells: list[object] = []
    for column in columns.image:
        if column not in row.values and _PLACE.search(column):
            cells.append(_PLACE.sub(lambda place: str(row.values.get(place[1], "")), column))
        else:
            cells += list_references(row.values.get(column))
    return cells


def field_name(column: str, taken: Collection[str] = ()) -> str:
    """Convert to a name that a template can use in braces and that is not taken.

    Input:  "category3_code"   "Price (GBP)"   "2nd line"         "id", which is taken
    Output: "category3_code"   "price_gbp"     "field_2nd_line"   "id_given"
    """
    name = column if column.isidentifier() else re.sub(r"\W+", "_", column).strip("_").lower()
    name = name if name.isidentifier() else f"field_{name}".rstrip("_")
    while name in taken:
        name = f"{name}_given"
    return name


def _check_given(given: Mapping[str, str], names: Sequence[str]) -> None:
    for part, column in given.items():
        if part in RESERVED and part not in PARTS:
            raise ValueError(
                f"--map {part}={column}: no field can be called {part!r}, as every dataset has a "
                f"column of that name; the parts of a row are {', '.join(PARTS)}"
            )
        parts = column.split(",") if part == "image" else [column]
        for each in [name for text in parts for name in _PLACE.findall(text) or [text]]:
            if each not in names:
                raise ValueError(
                    f"--map {part}={column}: there is no column {each!r}; "
                    f"found {', '.join(names) or 'none'}"
                )


def _guess(
    part: str, names: Sequence[str], rows: Sequence[Row], folder: Path | None, taken: set[str]
) -> tuple[str | None, str]:
    """Return the likeliest column by name and first values, and why the guess is weak, if it is."""

    def cells(name: str) -> list[object]:
        return [cell for row in rows if not _is_empty(cell := row.values.get(name))]

    if part not in PARTS and part in names and cells(part):
        return part, ""
    known = NAMES.get(part, [])
    plain = {name: _plain(name, known) for name in names if name not in taken}
    named = [name for name in plain if plain[name] in known]
    named.sort(key=lambda name: known.index(plain[name]))
    if part == "image":
        scores = {name: _image_score(cells(name), folder, link=0.5) for name in named}
        for name in plain.keys() - {*named}:
            scores[name] = UNNAMED * _image_score(cells(name), folder, link=0.0)
        order = [name for name in (*named, *plain) if scores[name] > 0]
        named = sorted(order, key=lambda name: -scores[name])
    if least := {"id": MIN_DISTINCT, "group": MIN_GROUPS}.get(part):
        texts = {name: [str(cell) for cell in cells(name)] for name in named}
        named = [n for n in named if len({*texts[n]}) >= least * len(texts[n]) > 0]
    if part in PARTS:
        return (named[0] if named else None), ""
    if known is NAMES["category3_code"]:  # after all others, what repeats like categories
        named += [name for name in plain if plain[name] in NAMES["weak_title"]]
    doubts = {name: rate_values(part, plain[name], cells(name), len(rows)) for name in named}
    named = sorted((n for n in named if doubts[n] is not None), key=lambda name: doubts[name] != "")
    same = [f"{name} has the same name" for name in named[1:] if plain[name] == plain[named[0]]]
    return (named[0], [*same, str(doubts[named[0]])][0]) if named else (None, "")


def _plain(name: str, known: Sequence[str]) -> str:
    """Reduce a column's name to letters: "Product Name" to "productname", "Price (USD)" to "price".

    Currencies are dropped where the rest is a known name.
    """
    words = re.findall(r"[^\W_]+", name.lower())
    rest = "".join(word for word in words if word not in CURRENCY_WORDS)
    return rest if rest in known else "".join(words)


def _is_empty(cell: object) -> bool:
    if isinstance(cell, str):
        return is_placeholder(cell)
    return cell in (None, []) or cell != cell  # not a number


def _similar(field: str, names: Sequence[str], found: Mapping[str, str]) -> str:
    """Describe the columns that may hold a price that was not found."""
    if NAMES.get(field) is not NAMES["full_price"]:
        return ""
    free = [name for name in names if name not in found.values()]
    similar = [name for name in free if re.search("price|cost|amount|mrp", name.lower())]
    return f", such as {', '.join(similar)}" if similar else ""


def _image_by_id(names: Sequence[str], rows: Sequence[Row], folder: Path | None) -> dict[str, str]:
    """Find a column of codes after which the images below the folder are named."""
    for name in names if folder else ():
        codes = [str(row.values.get(name)) for row in rows[:20]]
        if re.search(r"(id|sku|code|asin|ean|name|image)$", name.lower()) and all(
            folder and find_by_name(code, folder) for code in codes
        ):
            return {"image": f"{{{name}}}"}
    return {}


def _image_score(cells: Sequence[object], folder: Path | None, link: float) -> float:
    """Rate how likely cells are images: available ones over links, links over mere names.

    `link` is the score of a URL without an image's suffix.
    """

    def score(cell: object) -> float:
        references = list_references(cell)
        if len(references) != 1 or references != [cell]:
            return max(map(score, references), default=0.0)
        if isinstance(cell, dict):
            return 1.0 if cell.get("bytes") else score(cell.get("path"))
        if not isinstance(cell, str):
            return float(isinstance(cell, bytes))
        if cell.startswith("data:image/"):
            return 1.0
        has_suffix = bool(IMAGE_SUFFIX.search(cell))
        if url_of(cell):
            return 0.8 if has_suffix else link
        if len(cell) > MAX_PATH or not (has_suffix or link):
            return 0.0
        if folder is not None and (folder / cell).is_file():
            return 0.9
        return 0.8 if folder and find_by_name(cell, folder) else 0.1 * has_suffix

    return sum(map(score, cells)) / max(len(cells), 1)


def _map_fields(
    names: Sequence[str], found: Mapping[str, str], image: Sequence[str]
) -> dict[str, str]:
    """Map fields to columns, which are renamed where the template asks, or must."""
    asked = {column: part for part, column in found.items() if part not in PARTS}
    used = {*image, found.get("messages"), found.get("split")}
    # The column `id` keeps its name where it is also the id of the samples.
    reserved = {*RESERVED} - ({"id"} if found.get("id") == "id" else set())
    fields: dict[str, str] = {}
    for column in names:
        if column in asked:
            fields[asked[column]] = column
        elif column not in used and f"{column}_given" not in names:  # Else it is prepared already.
            fields[field_name(column, {*reserved, *fields, *asked.values()})] = column
    return fields
