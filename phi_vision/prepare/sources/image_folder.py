"""Folders of images: with metadata.csv or .jsonl, or sorted into one folder per category."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from phi_vision.prepare.sources.columnar import read_parquet
from phi_vision.prepare.sources.delimited import detect_format, read_table
from phi_vision.prepare.sources.json_files import read_json_lines
from phi_vision.prepare.sources.rows import (
    SPLIT_NAMES,
    Found,
    Row,
    Source,
    UnreadableRow,
    canonical_split,
    check_split,
    located,
    read_notes,
    split_rank,
    visible_files,
)
from phi_vision.prepare.sources.text_files import detect_encoding

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".ico", ".ppm"),
)
"""Suffixes of files taken for images; their content is checked when they are cleaned."""

METADATA_NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")

_FILE_COLUMN = re.compile(r"(?P<column>.*?)_*file_name(?P<several>s?)")
_BESIDE = re.compile(r"(readme|licen[cs]e|thumbs\.db|desktop\.ini|metadata\.)", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # https:, data:


def open_image_folder(name: str, *, split: str | None = None) -> Source:
    """Open a folder of images.

    With a metadata file, in the folder or in each split's, its rows are the rows, and images that
    it does not name are unreadable rows. Without one, each image is a row, and the name of its
    folder is its category.

    Input:  photos/train/coats/7.jpg
    Output: Row(values={"image": "train/coats/7.jpg", "category": "coats"}, split="train")
    """
    root = Path(name)
    if not root.is_dir():
        raise ValueError(f"no folder of images at {name}: there is no such folder; check the path")
    metadata = metadata_files(root)
    if not metadata and not any(map(_is_image, visible_files(root))):
        raise ValueError(
            f"{name} holds no images: found no file ending in {', '.join(IMAGE_SUFFIXES[:6])}, "
            "…, and no metadata.csv; give another folder"
        )
    for file in metadata:
        rows = (row for _, row in _read_metadata(file) if not isinstance(row, UnreadableRow))
        first = next(rows, None)
        if first is not None and not any(map(_FILE_COLUMN.fullmatch, first)):
            raise ValueError(
                f"{file} does not name its images: found the columns {', '.join(first)}; "
                "give it a column 'file_name' with paths that begin at its folder"
            )
    folders = [each for each in root.iterdir() if each.is_dir() and each.name[0] not in "._"]
    splits = {folder.name: canonical_split(folder.name) for folder in folders}
    if any(folder.lower() not in SPLIT_NAMES for folder in splits):
        splits = {}
    names = sorted(set(splits.values()), key=split_rank)
    check_split(split, names, name)
    files = ", ".join(file.relative_to(root).as_posix() for file in metadata)
    detected = {"metadata": files} if files else {"category": "the name of an image's folder"}
    return Source(
        name=name,
        kind="folder",
        rows=partial(_read, root, metadata, splits, split and canonical_split(split)),
        folder=root,
        detected=detected | ({"splits": ", ".join(names)} if names else {}),
        notes=read_notes(root),
    )


def metadata_files(root: Path) -> list[Path]:
    """List the metadata files of a folder: its own, else those of its subfolders."""
    own, below = (
        [file for name in METADATA_NAMES for file in sorted(root.glob(pattern + name))]
        for pattern in ("", "*/")
    )
    return own or below


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _read(
    root: Path, metadata: Sequence[Path], splits: Mapping[str, str], kept: str | None
) -> Iterator[Row | UnreadableRow]:
    found = _described(root, metadata) if metadata else _sorted_into_folders(root, bool(splits))
    number = 0
    for place, origin, values in found:
        split = splits.get(PurePosixPath(place).parts[0]) if place else None
        if kept is None or split == kept:
            yield located(number, origin, values, split)
            number += 1


Placed = tuple[str, str, Mapping[str, object] | UnreadableRow]
"""Path that determines the split, origin, values."""


def _described(root: Path, metadata: Sequence[Path]) -> Iterator[Placed]:
    """Yield the rows of the metadata files, then the images missing from them."""
    named: set[str] = set()
    for file in metadata:
        below = file.parent.relative_to(root)
        for place, row in _read_metadata(file):
            images: list[str] = []
            if not isinstance(row, UnreadableRow):
                values, images = _with_images(row, below)
                named.update(images, (cell for cell in row.values() if isinstance(cell, str)))
                unnamed = UnreadableRow(reason="names no image", raw=str(dict(row)))
                row = values if images else unnamed
            path = below.as_posix() if below.parts else "".join(images[:1])
            yield path, f"{file.relative_to(root).as_posix()}{place}", row
    folders = {file.parent for file in metadata}
    for file in visible_files(root):
        path = file.relative_to(root).as_posix()
        if _is_image(file) and path not in named and folders & set(file.parents):
            reason = "an image that the metadata does not name"
            yield path, path, UnreadableRow(reason=reason, raw=path)


def _sorted_into_folders(root: Path, in_splits: bool) -> Iterator[Placed]:
    for file in visible_files(root):
        if _BESIDE.match(file.name):
            continue
        relative = file.relative_to(root)
        path = relative.as_posix()
        if not _is_image(file):
            yield path, path, UnreadableRow(reason="not an image by its name", raw=path)
            continue
        folders = relative.parts[in_splits:-1]
        values = {"image": path}
        if folders:
            values["category"] = folders[-1]
        if len(folders) > 1:
            values["folder"] = "/".join(folders)
        yield path, path, values


def _read_metadata(file: Path) -> Iterator[Found]:
    if file.suffix == ".parquet":
        return read_parquet(file)
    if file.suffix == ".jsonl":
        return read_json_lines(file, detect_encoding(file).name)
    return read_table({file: detect_format(file)}, file)


def _with_images(row: Mapping[str, object], below: Path) -> tuple[dict[str, object], list[str]]:
    """Rebase paths from the metadata file's folder to the source's; return the paths too.

    Input:  {"file_name": "7.jpg", "title": "Coat"}, below="train"
    Output: {"image": "train/7.jpg", "title": "Coat"}, ["train/7.jpg"]
    """
    values: dict[str, object] = {}
    images: list[str] = []
    for name, cell in row.items():
        if not (found := _FILE_COLUMN.fullmatch(name)):
            values[name] = cell
        elif found["several"]:
            paths = map(str, cell if isinstance(cell, list) else [])
            listed = [_from_root(path, below) for path in paths]
            values[found["column"] or "images"] = listed
            images += listed
        elif isinstance(cell, str) and cell.strip():
            images.append(_from_root(cell.strip(), below))
            values[found["column"] or "image"] = images[-1]
    return values, images


def _from_root(path: str, below: Path) -> str:
    path = path.replace("\\", "/")
    if _ADDRESS.match(path) or path.startswith("/"):
        return path  # judged where the image is read
    return (PurePosixPath(below) / path).as_posix()
