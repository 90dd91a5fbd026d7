"""Map the columns of a source: as the user says, else guessed from names and first values.

Columns that are no field of the template stay in the record under their own names.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from phi_vision.data.template import Template
from phi_vision.io.formatting import error_texts, nearest, read_yaml, suggestion
from phi_vision.prepare.image_references import IMAGE_SUFFIX, find_by_name, list_references, url_of
from phi_vision.prepare.prices import CURRENCY_WORDS, parse_price
from phi_vision.prepare.sources.files import SPLIT_NAMES
from phi_vision.prepare.sources.rows import Row, storable
from phi_vision.prepare.text import is_placeholder

failure = error_texts(__file__)
NAMES: dict[str, list[str]] = read_yaml(__file__, "column_names.yaml")
# What a column can be besides a field of the record, and what no field can be: a dataset's columns.
PARTS = ("image", "id", "group", "split", "messages")
RESERVED = ("id", "group_id", "image", "images", "messages", "rejected")
PRODUCT_FIELDS = ("category3_code", "title", "full_price")  # a name can be the category's own
# Distinct share that a part's values need: few groups are styles or brands.
DISTINCT_SHARES = {"id": 0.8, "group": 0.1}
MIN_ROWS = 10  # below, shares of the values say little
MAX_REPEATED = 0.2  # distinct share of names, up to which they rather are classes
MAX_CLASSES = 0.5  # distinct share of a `label` or `text`, up to which it is a category
MIN_FREE_TEXT = 0.9  # distinct share of a category that is none
MIN_FILLED = 0.7  # share of the rows in which a field should have a value
MIN_PRICES = 0.5  # share of the values of a price column that must be prices
MAX_PATH = 4096  # characters; anything longer is text (the limit of Linux, `PATH_MAX`)
# Weight of images in a column of another name: above links, below a `photo` with gaps.
UNNAMED = 0.6
ANYTHING, NUMBERS = "a name that may mean anything", "its values are numbers"
_PLACE = re.compile(r"\{([^{}]+)\}")  # of a column in a path, as in images/{id}.jpg
_Cells = Mapping[str, Sequence[object]]  # column -> its values in the first rows, no empty ones


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The role of each column of a source."""

    image: tuple[str, ...]  # in the order in which the prompt counts the images
    id: str | None
    group: str | None  # rows with equal values stay in one split: a style in all its colours
    split: str | None
    messages: str | None  # conversations
    fields: Mapping[str, str]  # field of the record -> column, in the order of the source
    otherwise: Mapping[str, str] = field(default_factory=dict)  # field -> column where that's empty
    guessed: frozenset[str] = frozenset()  # parts and fields
    doubts: Mapping[str, str] = field(default_factory=dict)  # field -> why its guess is weak
    missing: Mapping[str, str] = field(default_factory=dict)  # wanted field -> columns like it

    def fields_of(self, row: Row) -> dict[str, str]:
        """Map the fields of one row to columns, with those that the first rows did not have."""
        fields, used = dict(self.fields), {*self.image, self.messages, self.split}
        used |= {*fields.values()}
        for name, other in self.otherwise.items():
            if is_empty(row.values.get(fields[name])):
                fields[name] = other
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
        named |= {name: f"{named[name]}, else {column}" for name, column in self.otherwise.items()}
        named = {p: f"{c} (guessed)" if c and p in self.guessed else c for p, c in named.items()}
        for name, doubt in self.doubts.items():
            named[name] = f"{named[name]}, doubtful: {doubt}; --map {name}=COLUMN changes it"
        for name, similar in self.missing.items():
            found = "its column is empty" if name in self.fields else "not found, left out"
            named[name] = f"{found}; --map {name}=COLUMN adds it{similar}"
        return {part: storable(column) for part, column in named.items() if column}


def choose_columns(
    rows: Sequence[Row], template: Template | None, given: Mapping[str, str], folder: Path | None
) -> Columns:
    """Find the role of each column of a source, whose images are below `folder`, from first rows.

    The template's fields are looked for, else those of products. `given` is part or field ->
    column, from the user; `image` may name several, with commas.

    Input:  columns "Photo", "SKU", "Product Name", "Type", "Price (GBP)";
            given {"full_price": "Price (GBP)"}
    Output: Columns(image=("Photo",), id="SKU", …, fields={"SKU": "SKU", "title": "Product Name",
                    "category3_code": "Type", "full_price": "Price (GBP)"})
    """
    names = dict.fromkeys(name for row in rows for name in row.values)
    cells = {n: [c for row in rows if not is_empty(c := row.values.get(n))] for n in names}
    _check_given(given, [*names])
    wanted = template.fields if template else PRODUCT_FIELDS
    found, doubts, otherwise = dict(given), dict[str, str](), dict[str, str]()
    for part in (*PARTS, *sorted(wanted, key=lambda each: each not in PRODUCT_FIELDS[:1])):
        if part in found:
            continue
        own = {*wanted} - {part}  # a column of a field's own name is no other's
        taken = {*found.values(), *found.get("image", "").split(","), *own}
        free = {name: each for name, each in cells.items() if name not in taken}
        guess = _guess_image(free, folder) if part == "image" else _guess(part, free, len(rows))
        column, doubt, other = guess
        found |= {part: column} if column else {}
        doubts |= {part: doubt} if doubt else {}
        otherwise |= {part: other} if other else {}
    if not {"messages", "image"} & {*found}:
        found |= _image_by_id(rows, folder)
    for part in () if "messages" in found else {*given} - {*PARTS, *wanted}:
        if meant := nearest(part, [each for each in ("image", *wanted) if each not in found]):
            raise failure("misspelt", part=part, column=given[part], meant=meant)
    image = tuple(found["image"].split(",")) if "image" in found else ()
    if not image and "messages" not in found:
        listed = ", ".join(names) or "no columns"
        if len(names) == 1:
            listed += " alone (if that is a whole line, save the table with commas between cells)"
        raise failure("no_images", found=f"{listed}{_shown(cells)}")
    return Columns(
        image=image,
        **{part: found.get(part) for part in PARTS[1:]},
        fields=_map_fields(names, found, image),
        otherwise=otherwise,
        guessed=frozenset(p for p, column in found.items() if p not in given and p != column),
        doubts=doubts,
        missing={
            field: _similar(field, names, found)
            for field in wanted
            if field not in found and "messages" not in found
        },
    )


def image_cells(row: Row, columns: Columns) -> list[object]:
    """List what holds or names a row's images; a "column" may be a path: images/{id}.jpg."""
    cells: list[object] = []
    for column in columns.image:
        if column not in row.values and _PLACE.search(column):
            cells.append(_PLACE.sub(lambda place: str(row.values.get(place[1], "")), column))
        else:
            cells += list_references(row.values.get(column))
    return cells


def cell_of(row: Row, column: str) -> object:
    """Return a cell; of several columns, the levels of a category, all but the last empty ones."""
    if column in row.values or "," not in column:
        return row.values.get(column)
    cells = [row.values.get(name) for name in column.split(",")]
    while cells and is_empty(cells[-1]):
        cells.pop()
    return ["" if is_empty(cell) else str(cell) for cell in cells]


def field_name(column: str, taken: Collection[str] = ()) -> str:
    """Convert to a name for braces that is not taken: "Price (GBP)" -> "price_gbp"."""
    name = column if column.isidentifier() else re.sub(r"\W+", "_", column).strip("_").lower()
    name = name if name.isidentifier() else f"field_{name}".rstrip("_")
    while name in taken:
        name = f"{name}_given"
    return name


def _check_given(given: Mapping[str, str], names: Sequence[str]) -> None:
    for part, column in given.items():
        if part in RESERVED and part not in PARTS:
            raise failure("reserved", part=part, column=column, parts=", ".join(PARTS))
        is_several = part == "image" or (part not in PARTS and column not in names)
        texts = column.split(",") if is_several else [column]
        for name in [name for text in texts for name in _PLACE.findall(text) or [text]]:
            if name not in names:
                found, meant = ", ".join(names) or "none", suggestion(name, names)
                path = ", or --images 'FOLDER/{COLUMN}.jpg'" * (part == "image")
                values = {"name": name, "found": found, "meant": meant, "path": path}
                raise failure("no_column", part=part, column=column, **values)


def _guess(part: str, cells: _Cells, rows: int) -> tuple[str | None, str, str | None]:
    """Return the likeliest column, why its guess is weak, and a price to take where it is empty."""
    if part not in PARTS and cells.get(part):
        return part, "", None
    known = NAMES.get(part, [])
    plain = {name: _plain(name, known) for name in cells}
    named = [name for name in plain if plain[name] in known]
    named.sort(key=lambda name: known.index(plain[name]))
    if part in PARTS:
        texts = {name: [str(cell).strip() for cell in each] for name, each in cells.items()}
        if part == "split":  # also by its values alone
            known_names = (n for n, t in texts.items() if {*map(str.lower, t)} <= {*SPLIT_NAMES})
            named += [name for name in known_names if len({*texts[name]}) > 1]
        least = DISTINCT_SHARES.get(part, 0)
        fit = (n for n in named if len({*texts[n]}) >= least * max(1, len(texts[n])))
        return next(fit, None), "", None
    if known is NAMES["category3_code"]:  # after all others, what repeats like categories
        named += [name for name in plain if plain[name] in NAMES["weak_title"]]
    doubts = {name: _rate(known, plain[name], cells[name], rows) for name in named}
    named = sorted((n for n in named if doubts[n] is not None), key=lambda name: doubts[name] != "")
    if not named:
        return None, "", None
    first, *others = named
    same = [f"{name} has the same name" for name in others if plain[name] == plain[first]]
    is_full = known is not NAMES["full_price"] or len(cells[first]) == rows
    prices = [n for n in others if plain[n] != plain[first] and doubts[n] != ANYTHING]
    return first, [*same, str(doubts[first])][0], None if is_full else next(iter(prices), None)


def _plain(name: str, known: Sequence[str]) -> str:
    """Reduce a name to letters; currencies are dropped where the rest is known: "Price (USD)"."""
    words = re.findall(r"[^\W_]+", name.lower())
    rest = "".join(word for word in words if word not in CURRENCY_WORDS)
    return rest if rest in known else "".join(words)


def is_empty(cell: object) -> bool:
    """Whether a cell holds nothing: blank, N/A, an empty list, not a number."""
    if isinstance(cell, str):
        return is_placeholder(cell)
    return cell in (None, []) or cell != cell  # not a number


def _rate(known: Sequence[str], name: str, cells: Sequence[object], rows: int) -> str | None:
    """Return why values may not be those of a field, "" if they fit, None if they do not."""
    rate = next((rate for kind, rate in RATINGS.items() if known is NAMES[kind]), None)
    doubt = rate(name, cells) if cells and rate else None
    if doubt == "" and len(cells) < MIN_FILLED * rows:
        return f"empty in {rows - len(cells)} of the first {rows} rows"
    return doubt


def _rate_title(name: str, cells: Sequence[object]) -> str | None:
    is_weak = name in NAMES["weak_title"]
    distinct, share = _distinct(cells)
    if is_weak and share <= MAX_CLASSES:
        return None
    if share <= MAX_REPEATED:
        return f"only {distinct} different values in {len(cells)} rows"
    if len(cells) >= MIN_ROWS and all(map(_is_number, cells)):
        return None if is_weak else NUMBERS
    return ANYTHING if is_weak else ""


def _rate_category(name: str, cells: Sequence[object]) -> str | None:
    distinct, share = _distinct(cells)
    kinds = [[part.strip() for part in str(cell).lower().split(",")] for cell in cells]
    if all({*parts} <= {*NAMES["no_category"]} for parts in kinds):
        return None
    if name in NAMES["weak_title"]:
        is_class = distinct > 1 and share <= MAX_CLASSES
        return f"its {distinct} different values repeat like categories" if is_class else None
    if distinct == 1 and len(cells) >= MIN_ROWS:
        return "the same value in all rows"
    if len(cells) >= 2 * MIN_ROWS and share > MIN_FREE_TEXT:
        return f"{distinct} of {len(cells)} values differ"
    return NUMBERS if len(cells) >= MIN_ROWS and all(map(_is_number, cells)) else ""


def _rate_price(name: str, cells: Sequence[object]) -> str | None:
    amounts, has_currency, is_weak = list[float](), False, name in NAMES["weak_price"]
    for cell in cells:
        with suppress(ValueError):
            amount, currency, _ = parse_price(cell)
            amounts += [] if amount is None else [amount]
            has_currency |= currency is not None
    if len(amounts) < MIN_PRICES * len(cells) or not any(amounts):
        return None
    # Whole numbers without a currency are quantities.
    if is_weak and not has_currency and all(map(float.is_integer, amounts)):
        return None
    return ANYTHING if is_weak else ""


def _distinct(cells: Sequence[object]) -> tuple[int, float]:
    """Count distinct values, and their share; few rows are all distinct as far as one can tell."""
    count = len({str(cell).strip().casefold() for cell in cells})
    return count, count / len(cells) if len(cells) >= MIN_ROWS else 1.0


def _is_number(cell: object) -> bool:
    plain = str(cell).strip().replace(".", "", 1).lstrip("-")
    return isinstance(cell, int | float) or plain.isdigit()


def _similar(field: str, names: Collection[str], found: Mapping[str, str]) -> str:
    if NAMES.get(field) is not NAMES["full_price"]:
        return ""
    free = (name for name in names if name not in found.values())
    similar = [name for name in free if re.search("price|cost|amount|mrp", name.lower())]
    return f", such as {', '.join(similar)}" if similar else ""


def _guess_image(cells: _Cells, folder: Path | None) -> tuple[str | None, str, None]:
    """Return the column that most surely holds images, and which of its family hold some, too."""
    known = NAMES["image"]
    plain = {name: _plain(name, known) for name in cells}
    order = [name for name in cells if plain[name] in known]
    order.sort(key=lambda name: known.index(plain[name]))
    scores = {name: _image_score(cells[name], folder, link=0.5) for name in order}
    for name in [name for name in cells if name not in scores]:
        scores[name] = UNNAMED * _image_score(cells[name], folder, link=0.0)
    best = max(scores, key=lambda name: scores[name], default=None)
    if best is None or not scores[best]:
        return None, "", None
    family = re.compile(re.escape(re.sub(r"\d+$", "", plain[best])) + r"\d+")
    more = [n for n in scores if family.fullmatch(plain[n]) and scores[n] and n != best]
    listed = f"images also in {', '.join(more)}"
    return best, f"{listed} (image={best},{more[0]} takes both)" if more else "", None


def _shown(cells: _Cells) -> str:
    known = NAMES["image"]
    held = (name for name in cells if _plain(name, known) in known and cells[name])
    return next((f" (in {name!r}: {str(cells[name][0])[:80]!r})" for name in held), "")


def _image_by_id(rows: Sequence[Row], folder: Path | None) -> dict[str, str]:
    """Find a column of codes after which the images below the folder are named."""
    for name in dict.fromkeys(name for row in rows for name in row.values) if folder else ():
        codes = [str(row.values.get(name)) for row in rows[:20]]
        if re.search(r"(id|sku|code|asin|ean|name|image)$", name.lower()) and all(
            folder and find_by_name(code, folder) for code in codes
        ):
            return {"image": f"{{{name}}}"}
    return {}


def _image_score(cells: Sequence[object], folder: Path | None, link: float) -> float:
    """Rate how likely cells are images: available ones over links (`link`) over mere names."""

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
    names: Collection[str], found: Mapping[str, str], image: Sequence[str]
) -> dict[str, str]:
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
    return fields | {part: column for column, part in asked.items() if part not in fields}


RATINGS: dict[str, Callable[[str, Sequence[object]], str | None]] = {
    "title": _rate_title,
    "category3_code": _rate_category,
    "full_price": _rate_price,
}
