"""The files a source consists of, their splits, and the notes beside them."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml

from phi_vision.prepare.sources.rows import Found, Row, Source, UnreadableRow, located

SPLIT_NAMES = {  # split name in a file or folder -> canonical split name
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLIT_ORDER = ("train", "validation", "test")
INFO_FILE = "dataset_info.json"
DESCRIPTIONS = (  # files of `datasets` and of a prepared folder that hold no rows
    *(INFO_FILE, "dataset_infos.json", "dataset_dict.json", "state.json"),
    *("prepared.json", "rejected.parquet"),
)
MAX_NOTE = 2000
NOTES = ("license", "description", "homepage", "citation")

_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}")  # file names of the `datasets` library
_NOT_SPLITS = ("part", "data", "shard")

Reader = Callable[[Path], Iterator[Found]]


@dataclass(frozen=True, kw_only=True)
class FilePart:
    """One file of a source."""

    file: Path
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)  # Hive: `category=coat/0.parquet`


def find_parts(path: Path, suffixes: Sequence[str], split: str | None) -> list[FilePart]:
    """List the files of a source, gzipped or not, in the order of their splits.

    Input:  a folder with data/train-00000-of-00001.parquet and data/val-00000-of-00001.parquet
    Output: [FilePart(file=…/train-…, split="train"), FilePart(file=…/val-…, split="validation")]
    """
    if path.is_file():
        return choose_parts([FilePart(file=path)], split, str(path))
    if not path.is_dir():
        raise ValueError(f"no data at {path}: there is no such file or folder; check the path")
    parts = []
    for file in visible_files(path):
        if suffix_of(file) in suffixes and file.name not in DESCRIPTIONS:
            folders = file.relative_to(path).parts[:-1]
            columns = dict(name.split("=", 1) for name in folders if "=" in name.strip("="))
            parts.append(FilePart(file=file, split=split_of(file, path), columns=columns))
    if not parts:
        raise ValueError(
            f"no data in {path}: found no file ending in {', '.join(suffixes)}; "
            "give a folder that has them, or one file"
        )
    return choose_parts(parts, split, str(path))


def choose_parts(parts: Sequence[FilePart], split: str | None, name: str) -> list[FilePart]:
    """Sort parts by split and keep one split, if given."""
    ordered = sorted(parts, key=lambda part: split_rank(part.split))
    check_split(split, list(dict.fromkeys(part.split for part in ordered if part.split)), name)
    return [part for part in ordered if split is None or part.split == canonical_split(split)]


def check_split(split: str | None, splits: Sequence[str], name: str) -> None:
    """Raise ValueError, listing the available splits, if a source does not have `split`."""
    if split is not None and canonical_split(split) not in splits:
        found = f"it has {', '.join(splits)}" if splits else "it is not divided into splits"
        raise ValueError(f"no split {split!r} in {name}: {found}; leave the split out or name one")


def canonical_split(split: str) -> str:
    """Return `validation` for `val` and `dev` and the like; unknown names stay."""
    return SPLIT_NAMES.get(split.lower(), split)


def split_rank(split: str | None) -> tuple[int, str]:
    """Sort key: train, validation, test, then the others by name."""
    return SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split or ""


def split_of(file: Path, root: Path) -> str | None:
    """Derive the split of a file from its name, else from its folders below the root.

    Input:  train-00000-of-00002.parquet   val/part-3.tar   photos_sft-00000-of-00001.parquet
    Output: "train"                        "validation"     "photos_sft"
    """
    folders = reversed(file.relative_to(root).parts[:-1])
    for name in (re.split(r"[-_.]", file.name)[0], *folders):
        if name.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[name.lower()]
    shard = _SHARD.match(file.name)
    return shard["split"] if shard and shard["split"].lower() not in _NOT_SPLITS else None


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield all non-hidden files below a folder, sorted by name."""
    for entry in sorted(folder.iterdir()):
        if entry.is_file() and not entry.name.startswith((".", "_")):
            yield entry
        # A linked folder may lead out of the source, or in a circle.
        elif entry.is_dir() and not entry.name.startswith((".", "_")) and not entry.is_symlink():
            yield from visible_files(entry)


def suffix_of(file: Path) -> str:
    """Return a file's suffix without its compression: `.csv` for `Products.CSV.gz`."""
    name = file.name.lower()
    return ".tar" if name.endswith(".tgz") else Path(name.removesuffix(".gz")).suffix


def file_source(
    name: str,
    kind: str,
    parts: Sequence[FilePart],
    read: Reader,
    detected: Sequence[Mapping[str, str]],
    *,
    folder: Path | None = None,
    notes: Mapping[str, str] | None = None,
) -> Source:
    """Build the Source that reads `parts` one after the other.

    Of what is `detected` in the files, equal facts are listed once and different ones with commas.
    """
    path = Path(name)
    root = folder or (path if path.is_dir() else path.parent)
    facts: dict[str, dict[str, None]] = {}
    for each in (*detected, *({"splits": part.split} for part in parts if part.split)):
        for fact, found in each.items():
            facts.setdefault(fact, {})[found] = None
    joined = {fact: ", ".join(found) for fact, found in facts.items()}
    rows = partial(_number_rows, parts, read, root)
    # The README beside a single file in a folder of downloads may describe anything.
    stated = {**(notes or {}), **(read_notes(path) if path.is_dir() else {})}
    return Source(name=name, kind=kind, rows=rows, folder=root, detected=joined, notes=stated)


def _number_rows(
    parts: Sequence[FilePart], read: Reader, root: Path
) -> Iterator[Row | UnreadableRow]:
    number = 0
    for part in parts:
        name = part.file.relative_to(root).as_posix()
        for place, found in read(part.file):
            values = {**part.columns, **found} if isinstance(found, Mapping) else found
            yield located(number, name + place, values, part.split)
            number += 1


def read_notes(folder: Path) -> dict[str, str]:
    """Read licence and description from dataset_info.json and the data card, README.md.

    Input:  README.md beginning with "---", "license: cc-by-4.0", "---", "# Coats", "Photos."
    Output: {"license": "cc-by-4.0", "description": "Photos."}
    """
    readme, info = folder / "README.md", folder / INFO_FILE
    notes: dict[str, str] = {}
    if readme.is_file():
        with readme.open(encoding="utf-8-sig", errors="replace") as stream:
            body, head = stream.read(100_000), None
        if body.startswith("---\n") and "\n---" in body[3:]:
            written, _, body = body[4:].partition("\n---")
            with suppress(yaml.YAMLError):  # a malformed head says nothing about the rows
                head = yaml.safe_load(written)
        paragraphs = [" ".join(paragraph.split()) for paragraph in body.split("\n\n")]
        plain = [each for each in paragraphs if each and each[0] not in "#<[!|-`"]
        notes = {"description": plain[0]} if plain else {}
        notes |= select_notes(head) if isinstance(head, dict) else {}
    return notes | (select_notes(read_json_object(info)) if info.is_file() else {})


def select_notes(metadata: Mapping[str, object]) -> dict[str, str]:
    """Select the non-empty `NOTES`; an unlisted licence goes by its own name.

    Input:  {"license": "other", "license_name": "custom terms", "homepage": ""}
    Output: {"license": "custom terms"}
    """
    found = {name: metadata.get(name) for name in NOTES}
    if found["license"] in (None, "", "other"):
        found["license"] = metadata.get("license_name") or found["license"]
    texts = {n: ", ".join(map(str, v)) if isinstance(v, list) else v for n, v in found.items()}
    return {name: str(text).strip()[:MAX_NOTE] for name, text in texts.items() if text}


def read_json_object(file: Path) -> dict[str, object]:
    """Read a small JSON metadata file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"cannot read {file}: {error}; write the dataset again") from error
    if not isinstance(content, dict):
        raise ValueError(f"cannot read {file}: found no object in it; write the dataset again")
    return content
