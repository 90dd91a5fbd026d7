"""Which column of a source is what: said by the user, else guessed from names and first rows.

The fields that matter are those of the template; every other plain column stays in the record
under its own name. What was guessed is shown by the command and written in the data card.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from phi_vision.data.template import Template
from phi_vision.prepare.image_references import is_url
from phi_vision.prepare.sources.rows import Row, storable

IMAGE_ENDING = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif)([?#].*)?$", re.IGNORECASE)
LONGEST_PATH = 4096
"""Characters; what is longer is text (the limit of Linux, `PATH_MAX`)."""

STRANGER = 0.6
"""What images count for in a column that has no image's name, such as a size chart's: more
than links to a mere page, less than a `photo` that is missing here and there."""

PARTS = ("image", "id", "group", "split", "messages")
"""What a column can be besides a field of the record."""

RESERVED = ("id", "group_id", "image", "images", "messages", "rejected")
"""Columns of datasets that are no fields of the record, whatever they hold."""

# Names as they are found in exports, without case, blanks, dots, dashes and underscores; the
# likeliest first.
KNOWN_NAMES: dict[str, tuple[str, ...]] = {
    "image": (
        *("image", "images", "image", "photo", "img", "localimagepath", "imagepath", "filename"),
        *("file", "imageurl", "imagelink", "imageurls", "imagesrc", "mainimage", "imgurl", "url"),
        *("imageurl", "photourl", "thumbnail", "link", "path"),
    ),
    "id": (
        *("id", "productcode", "sku", "productid", "itemid", "variantsku", "articleid", "code"),
        *("asin", "ean", "gtin", "uniqid", "handle", "key"),
    ),
    "group": (
        *("groupid", "group", "itemgroupid", "styleid", "stylecode", "style", "parentsku"),
        *("parentid", "parentasin", "modelid", "productgroup"),
    ),
    "split": ("split", "partition", "subset"),
    "messages": ("messages", "conversations", "conversation"),
    "title": (
        *("title", "productname", "name", "producttitle", "productdisplayname", "itemname"),
        *("label", "caption", "text", "description", "proddname", "prodname"),
    ),
    "category3_code": (
        *("category3code", "category", "productcategory", "producttype", "articletype", "type"),
        *("categoryname", "class", "categories", "department", "subcategory", "producttypename"),
    ),
    "full_price": (
        *("fullprice", "price", "regularprice", "listprice", "originalprice", "msrp", "rrp"),
        *("variantprice", "retailprice", "amount", "cost", "saleprice"),
    ),
}
KINDRED = {"category": "category3_code", "price": "full_price", "name": "title"}
"""Fields of other templates that go by the names of a field above."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a source are."""

    image: tuple[str, ...]
    """Those that hold images, in the order in which the prompt counts them."""

    id: str | None
    """The one that names a row."""

    group: str | None
    """The one whose equal values belong together: a style in all its colours."""

    split: str | None
    """The one that says which part a row belongs to."""

    messages: str | None
    """The one that holds a conversation."""

    fields: Mapping[str, str]
    """Field of the record -> column, in the order of the source."""

    guessed: frozenset[str] = frozenset()
    """Which of the parts and fields above were guessed."""

    def fields_of(self, row: Row) -> dict[str, str]:
        """Name the fields of one row, with columns that the first rows did not have.

        Output: field -> column
        """
        aside = {*self.image, self.messages, self.split, *self.fields.values()}
        fields = dict(self.fields)
        for column in row.values:
            if column not in aside:
                fields[_free_name(column, {*RESERVED, *fields})] = column
        return fields

    def described(self) -> dict[str, str]:
        """Say what is what, for people.

        Output: {"image": "photo (guessed)", "id": "sku", "title": "Product Name (guessed)"}
        """
        parts = {
            "image": ", ".join(self.image),
            "id": self.id,
            "group": self.group,
            "split": self.split,
            "messages": self.messages,
        }
        renamed = {field: column for field, column in self.fields.items() if field in self.guessed}
        renamed |= {field: column for field, column in self.fields.items() if field != column}
        named = {part: column for part, column in (parts | renamed).items() if column}
        return {
            part: storable(f"{column} (guessed)" if part in self.guessed else column)
            for part, column in named.items()
        }


def choose_columns(
    rows: Sequence[Row], template: Template | None, given: Mapping[str, str], folder: Path | None
) -> Columns:
    """Find out what each column of a source is.

    Input:  columns "Photo", "SKU", "Product Name", "Type", "Price (GBP)";
            given {"full_price": "Price (GBP)"}
    Output: Columns(image=("Photo",), id="SKU", …, fields={"SKU": "SKU", "title": "Product Name",
                    "category3_code": "Type", "full_price": "Price (GBP)"})

    Args:
        rows: The first rows of the source.
        template: Whose fields the record must have; None to take what there is.
        given: Part or field -> column, from the user; `image` may name several, with commas.
        folder: Where the source's own images lie.

    Raises:
        ValueError: A given column does not exist, or no column holds images or a conversation.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    asked = _check_given(given, names)
    wanted = template.fields if template else ("title", "category3_code", "full_price")
    found = dict(asked)
    for part in (*PARTS, *wanted):
        if part not in found:
            column = _guess(part, names, rows, folder, taken=set(_columns_of(found)))
            found |= {part: column} if column else {}
    image = tuple(found["image"].split(",")) if "image" in found else ()
    if not image and "messages" not in found:
        raise ValueError(
            f"no column holds images; found {', '.join(names) or 'no columns'}; "
            "name it with --map image=COLUMN"
        )
    return Columns(
        image=image,
        **{part: found.get(part) for part in PARTS[1:]},
        fields=_fields(names, found),
        guessed=frozenset(p for p, column in found.items() if p not in asked and p != column),
    )


def cells_of(row: Row, columns: Columns) -> list[object]:
    """List what names a row's images, in their order.

    Input:  a row whose image column holds ["a.jpg", "b.jpg"], or one "a.jpg", or nothing
    Output: ["a.jpg", "b.jpg"], ["a.jpg"], []
    """
    cells: list[object] = []
    for column in columns.image:
        cell = row.values.get(column)
        cells += cell if isinstance(cell, list) else [] if cell in (None, "") else [cell]
    return cells


def field_name(column: str) -> str:
    """Make a name that a template can use in braces; a good name stays as it is.

    Input:  "category3_code"   "Price (GBP)"   "2nd line"
    Output: "category3_code"   "price_gbp"     "field_2nd_line"
    """
    if column.isidentifier():
        return column
    name = re.sub(r"\W+", "_", column).strip("_").lower()
    return name if name.isidentifier() else f"field_{name}".rstrip("_")


def _check_given(given: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    for part, column in given.items():
        if part in RESERVED and part not in PARTS:
            raise ValueError(
                f"--map {part}={column}: no field can be called {part!r}, as every dataset has a "
                f"column of that name; the parts of a row are {', '.join(PARTS)}"
            )
        for each in column.split(",") if part == "image" else [column]:
            if each not in names:
                raise ValueError(
                    f"--map {part}={column}: there is no column {each!r}; "
                    f"found {', '.join(names) or 'none'}"
                )
    return dict(given)


def _columns_of(found: Mapping[str, str]) -> Iterable[str]:
    for part, column in found.items():
        yield from column.split(",") if part == "image" else [column]


def _guess(
    part: str, names: Sequence[str], rows: Sequence[Row], folder: Path | None, taken: set[str]
) -> str | None:
    """Take the column with the likeliest name whose first values are of the right kind."""
    if part not in PARTS and part in names:
        return part
    known = KNOWN_NAMES.get(part) or KNOWN_NAMES.get(KINDRED.get(part, ""), ())
    named = sorted(
        (known.index(_plain(name)), name)
        for name in names
        if _plain(name) in known and name not in taken
    )
    candidates = [name for _, name in named]
    if part == "image":
        others = [name for name in names if name not in candidates and name not in taken]
        ranked = [(name, True) for name in candidates] + [(name, False) for name in others]
        return _most_like_images(ranked, rows, folder)
    if part == "id":
        candidates = [name for name in candidates if _mostly_distinct(name, rows)]
    return candidates[0] if candidates else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _most_like_images(
    ranked: Sequence[tuple[str, bool]], rows: Sequence[Row], folder: Path | None
) -> str | None:
    """Take the column that most surely holds images; of equal ones the first."""
    shares = {
        name: _share_of_images(name, rows, folder, link=0.5)
        if has_known_name
        else STRANGER * _share_of_images(name, rows, folder, link=0.0)
        for name, has_known_name in ranked
    }
    best = max(shares, key=lambda name: shares[name], default=None)
    return best if best is not None and shares[best] > 0 else None


def _share_of_images(name: str, rows: Sequence[Row], folder: Path | None, link: float) -> float:
    cells = [cell for row in rows if (cell := row.values.get(name)) not in (None, "", [])]
    if not cells:
        return 0.0
    return sum(_likeness(cell, folder, link) for cell in cells) / len(cells)


def _likeness(cell: object, folder: Path | None, link: float) -> float:
    """How surely a cell is an image: one at hand is preferred to a link, a link to a mere name.

    Args:
        cell: The value.
        folder: Where a path begins.
        link: What a URL is worth that does not end like an image.
    """
    if isinstance(cell, list):
        return max((_likeness(each, folder, link) for each in cell), default=0.0)
    if isinstance(cell, dict):
        return 1.0 if cell.get("bytes") else _likeness(cell.get("path"), folder, link)
    if isinstance(cell, bytes):
        return 1.0
    if not isinstance(cell, str):
        return 0.0
    if cell.startswith("data:image/"):
        return 1.0
    is_named_so = bool(IMAGE_ENDING.search(cell))
    if is_url(cell):
        return 0.8 if is_named_so else link
    if not is_named_so or len(cell) > LONGEST_PATH:
        return 0.0
    return 0.9 if folder is not None and (folder / cell).is_file() else 0.1


def _mostly_distinct(name: str, rows: Sequence[Row]) -> bool:
    cells = [str(row.values.get(name)) for row in rows if row.values.get(name) not in (None, "")]
    return len(set(cells)) >= 0.8 * len(cells) > 0


def _fields(names: Sequence[str], found: Mapping[str, str]) -> dict[str, str]:
    """Name the record's fields; columns are renamed where the template asks, or must."""
    asked = {column: part for part, column in found.items() if part not in PARTS}
    aside = {*found["image"].split(",")} if "image" in found else set()
    aside |= {found[part] for part in ("messages", "split") if part in found}
    fields: dict[str, str] = {}
    for column in names:
        if column in asked:
            fields[asked[column]] = column
        elif column not in aside and f"{column}_given" not in names:  # Else it is prepared already.
            # The column `id` may stay what it is where it also names the samples.
            others = {name for name in RESERVED if name != "id" or column != found.get("id")}
            fields[_free_name(column, {*others, *fields, *asked.values()})] = column
    return fields


def _free_name(column: str, taken: Collection[str]) -> str:
    """Name a field after its column, but not like another or like a column of every dataset."""
    name = field_name(column)
    while name in taken:
        name = f"{name}_given"
    return name
