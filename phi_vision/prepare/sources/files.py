"""The files of a source, their splits, and the notes beside them."""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

import yaml

from phi_vision.data.dataset import SPLIT_ORDER
from phi_vision.io.formatting import error_texts, read_fields, read_yaml

failure = error_texts(__file__, "errors.yaml")  # of this package
VOCABULARY = read_yaml(__file__, "vocabulary.yaml")
SPLIT_NAMES: dict[str, str] = VOCABULARY["splits"]  # name in the wild -> canonical name
IMAGE_SUFFIXES: list[str] = VOCABULARY["images"]
INFO_FILE = "dataset_info.json"
REWRITE = "write the dataset again"  # the advice on a damaged one
DESCRIPTIONS: list[str] = VOCABULARY["descriptions"]
MAX_NOTE = 2000
MAX_COLUMNS = 2000  # more are no fields of a product
NOTES = ("license", "description", "homepage", "citation")

_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}")  # file names of the `datasets` library
_NOT_SPLITS = ("part", "data", "shard")
_CARD = re.compile(r"(?s)\A(?:---\n(.*?)\n---)?(.*)")  # YAML and text of a data card

FilePart = tuple[Path, str | None]  # a file of a source and its split


def find_parts(name: str, suffixes: Sequence[str]) -> tuple[list[FilePart], Path]:
    """Find the files of a source, gzipped or not, and the folder that its paths begin at.

    Input:  a folder with data/train-00000-of-00001.parquet and data/val-00000-of-00001.parquet
    Output: [(…/train-00000-of-00001.parquet, "train"), (…/val-…, "validation")], the folder
    """
    path, files = Path(name), expand(name)
    if path.is_file():
        return [(path, None)], path.parent
    if not files and not path.is_dir():
        raise failure("no_source", name=name, meant="check the path.", found="FILE")
    root = Path(os.path.commonpath([file.parent for file in files])) if files else path
    visible = (file for file in visible_files(path) if file.name not in DESCRIPTIONS)
    files = files or [file for file in visible if suffix_of(file) in suffixes]
    if not files:
        raise failure("no_files", name=name, suffixes=", ".join(suffixes))
    return [(file, split_of(file, root)) for file in files], root


def expand(name: str) -> list[Path]:
    """List the files of a pattern, as in shells: `s-{08..10}.tar`, `{a,b}-*.csv`; else none."""
    if not any(sign in name for sign in "{*?[") or Path(name).exists():
        return []
    choices = []
    for inside in re.findall(r"\{([^{}]*)\}", name):
        first, _, last = inside.partition("..")
        numbers = range(int(first), int(last) + 1) if first.isdigit() and last.isdigit() else ()
        choices.append([f"{n:0{len(first)}d}" for n in numbers] or inside.split(","))
    names = [re.sub(r"\{[^{}]*\}", "{}", name).format(*chosen) for chosen in product(*choices)]
    anchor = Path(name).anchor
    matches = {each: Path(anchor).glob(each.removeprefix(anchor)) for each in names}
    found = {each: sorted(filter(Path.is_file, files)) for each, files in matches.items()}
    missing = [each for each, files in found.items() if not files]
    if missing and len(found) == 1:
        raise failure("no_match", name=name)
    if missing:
        share = f"{len(missing)} of the {len(found)}"
        raise failure("no_shards", share=share, name=name, places=", ".join(missing[:3]))
    return [file for files in found.values() for file in files]


def check_width(name: object, columns: Collection[str]) -> None:
    """Raise ValueError for more columns than the products of any shop have."""
    if len(columns) > MAX_COLUMNS:
        raise failure("too_wide", file=name, count=len(columns), limit=MAX_COLUMNS)


def choose_splits(split: str | None, splits: Sequence[str], name: str) -> list[str]:
    """Sort the splits of a source and keep one, if given; ValueError if it is none of them."""
    ordered = sorted(set(splits), key=split_rank)
    chosen = [each for each in ordered if split in (None, each) or each == canonical_split(split)]
    if split is not None and not chosen:
        found = f"it has {', '.join(ordered)}" if ordered else "it is not divided into splits"
        raise ValueError(f"no split {split!r} in {name}: {found}; leave the split out or name one")
    return chosen


def canonical_split(split: str | None) -> str:
    """Return `validation` for `dev`, `Val_set`, `val2017` and the like; unknown names stay."""
    plain = re.sub(r"[\W\d_]|(data|set|split|images)[\W\d_]*$", "", (split or "").lower())
    return SPLIT_NAMES.get(plain) or VOCABULARY["split_codes"].get(plain) or split or ""


def flagged_split(column: str, value: str) -> str:
    """Return the split that a flag stands for, such as test for `is_test` 1; else the value."""
    flags = VOCABULARY["split_flags"].get(re.sub(r"[\W_]", "", column.lower()), {})
    return str(flags.get(value.lower().removesuffix(".0"), value))


def split_rank(split: str | None) -> tuple[int, str]:
    """Sort key: train, validation, test, then the others by name."""
    return SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split or ""


def split_of(file: Path, root: Path) -> str | None:
    """Derive the split of a file, `train-00000-of-00002.parquet` or `train/part-3.tar`."""
    folders = reversed(file.relative_to(root).parts[:-1])
    for name in (re.split(r"[-_.]", file.name)[0], *folders):
        if name.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[name.lower()]
    shard = _SHARD.match(file.name)
    return shard["split"] if shard and shard["split"].lower() not in _NOT_SPLITS else None


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield all non-hidden files below a folder, sorted by name."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_file():
            yield entry
        # A linked folder may lead out of the source, or in a circle.
        elif entry.is_dir() and not entry.is_symlink():
            yield from visible_files(entry)


def suffix_of(file: Path) -> str:
    """Return a file's suffix without its compression: `.csv` for `Products.CSV.gz`."""
    name = file.name.lower()
    return ".tar" if name.endswith(".tgz") else Path(name.removesuffix(".gz")).suffix


def read_notes(folder: Path) -> dict[str, str]:
    """Read licence and description from dataset_info.json and the data card, README.md."""
    readme, info = folder / "README.md", folder / INFO_FILE
    head, body = None, ""
    if readme.is_file():
        text = readme.read_text("utf-8-sig", "replace")
        written, body = _CARD.findall(text)[0]
        with suppress(yaml.YAMLError):  # a malformed head says nothing about the rows
            head = yaml.safe_load(written)
    paragraphs = [" ".join(paragraph.split()) for paragraph in body.split("\n\n")]
    plain = [each for each in paragraphs if each and each[0] not in "#<[!|-`"]
    return {
        **({"description": plain[0][:MAX_NOTE]} if plain else {}),
        **(select_notes(head) if isinstance(head, dict) else {}),
        **(select_notes(read_fields(info, REWRITE)) if info.is_file() else {}),
    }


def select_notes(metadata: Mapping[str, object]) -> dict[str, str]:
    """Select the non-empty `NOTES`; the licence "other" goes by its `license_name`."""
    is_named = metadata.get("license") in (None, "", "other") and metadata.get("license_name")
    found = {**metadata, "license": metadata["license_name"]} if is_named else metadata
    notes = {name: note for name in NOTES if (note := found.get(name))}
    texts = {n: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for n, v in notes.items()}
    return {name: text.strip()[:MAX_NOTE] for name, text in texts.items()}
