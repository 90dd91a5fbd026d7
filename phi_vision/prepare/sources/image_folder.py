"""Folders of images: with metadata.csv or .jsonl, or sorted into one folder per category."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from phi_vision.prepare.sources import columnar, delimited, files, json_files
from phi_vision.prepare.sources.files import IMAGE_SUFFIXES
from phi_vision.prepare.sources.rows import Piece, Reader, Source, UnreadableRow, Values, numbered

METADATA: dict[str, Callable[[Path], tuple[dict[str, str], Reader]]] = {
    "metadata.csv": delimited.inspect_table,
    "metadata.tsv": delimited.inspect_table,
    "metadata.jsonl": json_files.inspect_json_lines,
    "metadata.parquet": partial(columnar.inspect_columnar, "Parquet"),
}
CAPTIONS = (".txt", ".caption")  # of a text beside an image, of the same name
_FILE_COLUMN = re.compile(r"(?P<column>.*?)_*file_name(?P<several>s?)")
_BESIDE = re.compile(r"(readme|licen[cs]e|thumbs\.db|desktop\.ini|metadata\.)", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # https:, data:
_Placed = tuple[str, str, Values]  # path that determines the split, origin, values


def open_image_folder(name: str, *, split: str | None = None) -> Source:
    """Open a folder of images.

    Its rows are those of metadata files, with unreadable ones for images that these do not name;
    without, photos/coats/7.jpg is a row of the category "coats", captioned by a text beside it.
    """
    root = Path(name)
    if not root.is_dir():
        raise ValueError(f"no folder of images at {name}: there is no such folder; check the path")
    metadata = {file: METADATA[file.name](file)[1] for file in metadata_files(root)}
    if not metadata and not any(map(_is_image, files.visible_files(root))):
        raise files.failure("no_images", name=name, suffixes=", ".join(IMAGE_SUFFIXES[:6]))
    for file, read in metadata.items():
        first = next((row for _, row in read() if isinstance(row, Mapping)), None)
        if first and not any(map(_FILE_COLUMN.fullmatch, first)):
            raise files.failure("no_file_names", file=file, columns=", ".join(first))
    level, splits = _find_splits(root)
    chosen = files.choose_splits(split, list(splits.values()), name)
    listed = ", ".join(file.relative_to(root).as_posix() for file in metadata)
    detected = {"metadata": listed} if listed else {"category": "the name of an image's folder"}
    detected |= {"splits": ", ".join(chosen)} if chosen else {}
    rows = partial(numbered, _read, root, metadata, level, splits, chosen if split else None)
    notes = files.read_notes(root)
    return Source(name=name, kind="folder", rows=rows, folder=root, detected=detected, notes=notes)


def _find_splits(root: Path) -> tuple[int, dict[str, str]]:
    """Return the level of folders that all are splits, and the splits by their names.

    Input:  train/coats/7.jpg, val/coats/8.jpg    coats/Train/7.jpg, coats/Test/8.jpg
    Output: 0, {"train": "train", "val": …}       1, {"Train": "train", "Test": "test"}
    """
    for level, pattern in enumerate(("*/", "*/*/")):
        names = {folder.name for folder in root.glob(pattern) if folder.name[0] not in "._"}
        if names and all(name.lower() in files.SPLIT_NAMES for name in names):
            return level, {name: files.canonical_split(name) for name in sorted(names)}
    return 0, {}


def metadata_files(root: Path) -> list[Path]:
    """List the metadata files of a folder: its own, else those of its subfolders."""
    own = [file for name in METADATA if (file := root / name).exists()]
    return own or [file for name in METADATA for file in sorted(root.glob(f"*/{name}"))]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _read(
    root: Path,
    metadata: Mapping[Path, Reader],
    level: int,
    splits: Mapping[str, str],
    chosen: Sequence[str] | None,
) -> Iterator[Piece]:
    hidden = level if splits else None
    placed = _described(root, metadata) if metadata else _sorted_into_folders(root, hidden)
    for place, origin, values in placed:
        split = splits.get("".join(PurePosixPath(place).parts[level : level + 1]))
        if chosen is None or split in chosen:
            yield origin, split, values


def _described(root: Path, metadata: Mapping[Path, Reader]) -> Iterator[_Placed]:
    """Yield the rows of the metadata files, then the images missing from them."""
    named: set[str] = set()
    for file, read in metadata.items():
        below = file.parent.relative_to(root)
        for place, row in read():
            images: list[str] = []
            if isinstance(row, Mapping):
                values, images = _with_images(row, below)
                named.update(images, (cell for cell in row.values() if isinstance(cell, str)))
                row = values if images else UnreadableRow("names no image", str(row))
            path = below.as_posix() if below.parts else "".join(images[:1])
            yield path, f"{file.relative_to(root).as_posix()}{place}", row
    folders = {file.parent for file in metadata}
    for file in files.visible_files(root):
        path = file.relative_to(root).as_posix()
        if _is_image(file) and path not in named and folders & set(file.parents):
            yield path, path, UnreadableRow("an image that the metadata does not name", path)


def _sorted_into_folders(root: Path, split_level: int | None) -> Iterator[_Placed]:
    for file in files.visible_files(root):
        relative = file.relative_to(root)
        path = relative.as_posix()
        folders = [each for n, each in enumerate(relative.parts[:-1]) if n != split_level]
        if _is_image(file):
            values = {"image": path} | ({"category": folders[-1]} if folders else {})
            values |= {"folder": "/".join(folders)} if folders[1:] else {}
            captions = [each for each in map(file.with_suffix, CAPTIONS) if each.is_file()]
            texts = [each.read_text("utf-8-sig", "replace") for each in captions[:1]]
            yield path, path, values | ({"caption": texts[0]} if texts else {})
        elif file.suffix in CAPTIONS and any(file.with_suffix(s).is_file() for s in IMAGE_SUFFIXES):
            continue  # read with its image
        elif not _BESIDE.match(file.name):
            yield path, path, UnreadableRow("not an image by its name", path)


def _with_images(row: Mapping[str, object], below: Path) -> tuple[dict[str, object], list[str]]:
    """Rename columns of file names, rebase their paths to the source; return these paths too."""
    values: dict[str, object] = {}
    images: list[str] = []
    for name, cell in row.items():
        if not (found := _FILE_COLUMN.fullmatch(name)):
            values[name] = cell
            continue
        listed = cell if isinstance(cell, list) else [cell]
        texts = [each.strip().replace("\\", "/") for each in listed if isinstance(each, str)]
        # Addresses are checked where the image is read; a path from / stays one.
        paths = [t if _ADDRESS.match(t) else (below / t).as_posix() for t in texts if t]
        if found["several"] or len(paths) > 1:
            values[found["column"] or "images"] = paths
        elif paths:
            values[found["column"] or "image"] = paths[0]
        images += paths
    return values, images
