"""Folders of images: with metadata.csv or .jsonl, or sorted into one folder per category."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from phi_vision.prepare.sources import columnar, delimited, files, json_files
from phi_vision.prepare.sources.rows import Found, Row, Source, UnreadableRow, located
from phi_vision.prepare.sources.text_files import detect_encoding

# Suffixes of files taken for images; their content is checked when they are cleaned.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".ico", ".ppm"),
)
METADATA_NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")

_FILE_COLUMN = re.compile(r"(?P<column>.*?)_*file_name(?P<several>s?)")
_BESIDE = re.compile(r"(readme|licen[cs]e|thumbs\.db|desktop\.ini|metadata\.)", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # https:, data:
# Path that determines the split, origin, values.
_Placed = tuple[str, str, Mapping[str, object] | UnreadableRow]


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
    if not metadata and not any(map(_is_image, files.visible_files(root))):
        raise ValueError(
            f"{name} holds no images: found no file ending in {', '.join(IMAGE_SUFFIXES[:6])}, "
            "…, and no metadata.csv; give another folder"
        )
    for file in metadata:
        found = (row for _, row in _read_metadata(file) if not isinstance(row, UnreadableRow))
        first = next(found, None)
        if first is not None and not any(map(_FILE_COLUMN.fullmatch, first)):
            raise ValueError(
                f"{file} does not name its images: found the columns {', '.join(first)}; "
                "give it a column 'file_name' with paths that begin at its folder"
            )
    folders = [each for each in root.iterdir() if each.is_dir() and each.name[0] not in "._"]
    named = all(folder.name.lower() in files.SPLIT_NAMES for folder in folders)
    splits = {each.name: files.canonical_split(each.name) for each in folders if named}
    names = sorted(set(splits.values()), key=files.split_rank)
    files.check_split(split, names, name)
    listed = ", ".join(file.relative_to(root).as_posix() for file in metadata)
    detected = {"metadata": listed} if listed else {"category": "the name of an image's folder"}
    detected |= {"splits": ", ".join(names)} if names else {}
    rows = partial(_read, root, metadata, splits, split and files.canonical_split(split))
    notes = files.read_notes(root)
    return Source(name=name, kind="folder", rows=rows, folder=root, detected=detected, notes=notes)


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


def _described(root: Path, metadata: Sequence[Path]) -> Iterator[_Placed]:
    """Yield the rows of the metadata files, then the images missing from them."""
    named: set[str] = set()
    for file in metadata:
        below = file.parent.relative_to(root)
        for place, row in _read_metadata(file):
            images: list[str] = []
            if not isinstance(row, UnreadableRow):
                values, images = _with_images(row, below)
                named.update(images, (cell for cell in row.values() if isinstance(cell, str)))
                row = values if images else UnreadableRow(reason="names no image", raw=str(row))
            path = below.as_posix() if below.parts else "".join(images[:1])
            yield path, f"{file.relative_to(root).as_posix()}{place}", row
    folders = {file.parent for file in metadata}
    for file in files.visible_files(root):
        path = file.relative_to(root).as_posix()
        if _is_image(file) and path not in named and folders & set(file.parents):
            reason = "an image that the metadata does not name"
            yield path, path, UnreadableRow(reason=reason, raw=path)


def _sorted_into_folders(root: Path, in_splits: bool) -> Iterator[_Placed]:
    for file in files.visible_files(root):
        if _BESIDE.match(file.name):
            continue
        relative = file.relative_to(root)
        path = relative.as_posix()
        if not _is_image(file):
            yield path, path, UnreadableRow(reason="not an image by its name", raw=path)
            continue
        folders = relative.parts[in_splits:-1]
        values = {"image": path} | ({"category": folders[-1]} if folders else {})
        yield path, path, values | ({"folder": "/".join(folders)} if len(folders) > 1 else {})


def _read_metadata(file: Path) -> Iterator[Found]:
    if file.suffix == ".parquet":
        return columnar.read_parquet(file)
    if file.suffix == ".jsonl":
        return json_files.read_json_lines(file, detect_encoding(file).name)
    return delimited.read_table({file: delimited.detect_format(file)}, file)


def _with_images(row: Mapping[str, object], below: Path) -> tuple[dict[str, object], list[str]]:
    """Rename columns of file names, rebase their paths to the source; return these paths too."""
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
        return path  # checked where the image is read
    return (PurePosixPath(below) / path).as_posix()
