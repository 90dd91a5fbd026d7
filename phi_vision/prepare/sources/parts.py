"""The files of a source, the split each belongs to, and their rows counted through.

Holds no reading: a reader gets one file and yields what it found there.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phi_vision.prepare.sources.row import Broken, Row

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""How files and folders call their split -> how this house calls it."""

SPLIT_ORDER = ("train", "validation", "test")
DESCRIPTIONS = (
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"),
    *("prepared.json", "rejected.parquet"),
)
"""Files that lie beside data and hold none: those of `datasets`, and those of a prepared folder."""

RAW_LIMIT = 100_000
"""Characters of a broken piece that are kept; what is longer is a binary file, not a row."""

_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}")  # the `datasets` library names files so
_NO_SPLITS = ("part", "data", "shard")  # what stands before the number when it is no split


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a source."""

    file: Path
    """Where it is."""

    split: str | None = None
    """The split its name or folder puts it in."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns that its folders hold: `category=coat/part-0.parquet`, as Hive and Spark write."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What a reader found instead of a row; with its place it becomes a `Broken`."""

    reason: str
    """Short, and the same for all of its kind."""

    raw: str
    """What stands there."""


Found = tuple[str, Mapping[str, object] | Fault]
"""Place in the file, with the mark that joins it to the file's name (` line 14`, `: 000012`), and
what is there."""

Reader = Callable[[Path], Iterator[Found]]


def find_parts(path: Path, endings: Sequence[str], split: str | None) -> list[Part]:
    """List the files of a source, those of one split or all, in the order of the splits.

    Input:  a folder with data/train-00000-of-00001.parquet and data/val-00000-of-00001.parquet
    Output: [Part(file=…/train-…, split="train"), Part(file=…/val-…, split="validation")]

    Args:
        path: A file, which has no split, or a folder, which is looked through to its depth.
        endings: Which files count, such as (".csv", ".tsv"); also packed ones, `.csv.gz`.
        split: Such as "train"; None for everything.

    Raises:
        ValueError: There is no such path, file or split.
    """
    if path.is_file():
        return choose_parts([Part(file=path)], split, str(path))
    if not path.is_dir():
        raise ValueError(f"no data at {path}: there is no such file or folder; check the path")
    files = [file for file in visible_files(path) if ending_of(file) in endings]
    files = [file for file in files if file.name not in DESCRIPTIONS]
    if not files:
        raise ValueError(
            f"no data in {path}: found no file ending in {', '.join(endings)}; "
            "give a folder that has them, or one file"
        )
    parts = [
        Part(file=file, split=split_of(file, path), columns=_folder_columns(file, path))
        for file in files
    ]
    return choose_parts(parts, split, str(path))


def choose_parts(parts: Sequence[Part], split: str | None, name: str) -> list[Part]:
    """Order the parts by their splits, and keep those of one split where one is wished.

    Raises:
        ValueError: There is no such split.
    """
    ordered = sorted(parts, key=lambda part: split_rank(part.split))
    splits = list(dict.fromkeys(part.split for part in ordered if part.split))
    check_split(split, splits, name)
    return [part for part in ordered if split is None or part.split == house_split(split)]


def check_split(split: str | None, splits: Sequence[str], name: str) -> None:
    """Refuse a split that a source does not have.

    Raises:
        ValueError: Says which ones there are.
    """
    if split is not None and house_split(split) not in splits:
        found = f"it has {', '.join(splits)}" if splits else "it is not divided into splits"
        raise ValueError(f"no split {split!r} in {name}: {found}; leave the split out or name one")


def house_split(split: str) -> str:
    """Name a split as this house does: `val`, `dev` -> `validation`; unknown names stay."""
    return SPLIT_NAMES.get(split.lower(), split)


def split_rank(split: str | None) -> tuple[int, str]:
    """What to sort splits by: train, validation, test, then the others by name."""
    known = SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER)
    return known, split or ""


def split_of(file: Path, root: Path) -> str | None:
    """Tell the split of a file from its name, else from its folders below the root.

    Input:  train-00000-of-00002.parquet   val/part-3.tar   photos_sft-00000-of-00001.parquet
    Output: "train"                        "validation"     "photos_sft"
    """
    folders = reversed(file.relative_to(root).parts[:-1])
    for name in (re.split(r"[-_.]", file.name)[0], *folders):
        if name.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[name.lower()]
    shard = _SHARD.match(file.name)
    named = shard and shard["split"].lower() not in _NO_SPLITS
    return shard["split"] if shard and named else None


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in the order of their names, without hidden ones."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "_")):
            continue
        # A folder that is a link may lead out of the source, or in a circle.
        if entry.is_dir():
            if not entry.is_symlink():
                yield from visible_files(entry)
        elif entry.is_file():
            yield entry


def ending_of(file: Path) -> str:
    """The ending of a file's name without its packing: `.csv` for `Products.CSV.gz`."""
    name = file.name.lower()
    return ".tar" if name.endswith(".tgz") else Path(name.removesuffix(".gz")).suffix


def number_rows(parts: Sequence[Part], read: Reader, root: Path) -> Iterator[Row | Broken]:
    """Read the parts one after the other and count their rows through.

    Input:  products.csv, of which a reader found (" line 2", {"sku": "A"}), (" line 3", Fault(…))
    Output: Row(number=0, origin="products.csv line 2", values={"sku": "A"}),
            Broken(number=1, origin="products.csv line 3", reason=…, raw=…)
    """
    number = 0
    for part in parts:
        name = part.file.relative_to(root).as_posix()
        for place, found in read(part.file):
            if isinstance(found, Fault):
                yield broken(number, name + place, found)
            else:
                values = {**part.columns, **found} if part.columns else found
                yield Row(number=number, origin=name + place, values=values, split=part.split)
            number += 1


def broken(number: int, origin: str, fault: Fault) -> Broken:
    """Give a fault its place, and a text of it that can be stored."""
    return Broken(number=number, origin=origin, reason=fault.reason, raw=storable(fault.raw))


def storable(raw: str) -> str:
    r"""Make text that any file can hold: bytes that were no text become visible, length is capped.

    Input:  "caf\udce9"
    Output: "caf\\xe9"
    """
    kept = raw[:RAW_LIMIT]
    # Undecodable bytes travel as lone surrogates (PEP 383), which no UTF-8 file may hold; other
    # lone surrogates come out of JSON escapes.
    text = "".join(
        f"\\x{ord(sign) - 0xDC00:02x}" if "\udc80" <= sign <= "\udcff" else sign for sign in kept
    )
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(raw) == len(kept) else f"{text}… ({len(raw) - len(kept):,} characters more)"


def _folder_columns(file: Path, root: Path) -> dict[str, str]:
    folders = file.relative_to(root).parts[:-1]
    return dict(name.split("=", 1) for name in folders if "=" in name.strip("="))
