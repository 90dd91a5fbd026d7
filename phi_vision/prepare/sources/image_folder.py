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
FILE_COLUMN = "file_name"
UNNAMED = "an image that the metadata does not name"
FILES_COLUMN = "file_names"

_BESIDE = re.compile(r"(readme|licen[cs]e|thumbs\.db|desktop\.ini|metadata\.)", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # https:, data:


def open_image_folder(name: str, *, split: str | None = None) -> Source:
    """Open a folder of images.

    With a metadata file, in the folder or in each split's, its rows are the rows, and images that
    it does not name are unreadable rows. Without one, each image is a row, and the name of its
    folder is its category.

    Input:  photos/train/coats/7.jpg
    Output: Row(values={"image": "train/coats/7.jpg", "category": "coats"}, split="train")

    Raises:
        ValueError: There is no such folder or split, or it holds no images.
    """
    root = Path(name)
    if not root.is_dir():
        raise ValueError(f"no folder of images at {name}: there is no such folder; check the path")
    metadata = metadata_files(root)
    if not metadata and not any(is_image(file) for file in visible_files(root)):
        raise ValueError(
            f"{name} holds no images: found no file ending in {', '.join(IMAGE_SUFFIXES[:6])}, "
            "…, and no metadata.csv; give another folder"
        )
    for file in metadata:
        _check_names_files(file)
    splits = _split_folders(root)
    check_split(split, list(dict.fromkeys(splits.values())), name)
    names = ", ".join(file.relative_to(root).as_posix() for file in metadata)
    detected = {"metadata": names} if names else {"category": "the name of an image's folder"}
    if splits:
        detected["splits"] = ", ".join(dict.fromkeys(splits.values()))
    return Source(
        name=name,
        kind="folder",
        rows=partial(_read, root, metadata, splits, split and canonical_split(split)),
        folder=root,
        detected=detected,
        notes=read_notes(root),
    )


def is_image(file: Path) -> bool:
    """Whether a file is an image by its name."""
    return file.suffix.lower() in IMAGE_SUFFIXES


def metadata_files(root: Path) -> list[Path]:
    """List the metadata files of a folder: its own, else those of its subfolders."""
    for pattern in ("", "*/"):
        found = [file for name in METADATA_NAMES for file in sorted(root.glob(pattern + name))]
        if found:
            return found
    return []


def _split_folders(root: Path) -> dict[str, str]:
    """Map folder -> split, if every folder is named for a split."""
    folders = [
        entry.name
        for entry in sorted(root.iterdir())
        if entry.is_dir() and not entry.name.startswith((".", "_"))
    ]
    if not folders or any(name.lower() not in SPLIT_NAMES for name in folders):
        return {}
    splits = {name: canonical_split(name) for name in folders}
    return dict(sorted(splits.items(), key=lambda pair: split_rank(pair[1])))


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
        below = file.parent.relative_to(root).as_posix()
        for place, values in _read_metadata(file):
            row = values if isinstance(values, UnreadableRow) else _with_images(values, below)
            images = [] if isinstance(row, UnreadableRow) else _images(row)
            named.update(images)
            place_in_source = below if below != "." else "".join(images[:1])
            yield place_in_source, f"{file.relative_to(root).as_posix()}{place}", row
    folders = {file.parent for file in metadata}
    for file in visible_files(root):
        path = file.relative_to(root).as_posix()
        if is_image(file) and path not in named and folders & set(file.parents):
            yield path, path, UnreadableRow(reason=UNNAMED, raw=path)


def _sorted_into_folders(root: Path, in_splits: bool) -> Iterator[Placed]:
    for file in visible_files(root):
        if _BESIDE.match(file.name):
            continue
        relative = file.relative_to(root)
        path = relative.as_posix()
        if not is_image(file):
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


def _check_names_files(file: Path) -> None:
    """Raise ValueError for a metadata file without a column of file names."""
    first = next(
        (row for _, row in _read_metadata(file) if not isinstance(row, UnreadableRow)), None
    )
    if first is not None and not any(map(_is_file_column, first)):
        raise ValueError(
            f"{file} does not name its images: found the columns {', '.join(first)}; "
            f"give it a column {FILE_COLUMN!r} with paths that begin at its folder"
        )


def _is_file_column(name: str) -> bool:
    return name.endswith((FILE_COLUMN, FILES_COLUMN))


def _with_images(row: Mapping[str, object], below: str) -> dict[str, object] | UnreadableRow:
    """Rebase paths from the metadata file's folder to the source's.

    Input:  {"file_name": "7.jpg", "title": "Coat"}, below="train"
    Output: {"image": "train/7.jpg", "title": "Coat"}
    """
    values: dict[str, object] = {}
    for name, cell in row.items():
        if not _is_file_column(name):
            values[name] = cell
        elif name.endswith(FILES_COLUMN):
            column = name.removesuffix(FILES_COLUMN).rstrip("_") or "images"
            listed = cell if isinstance(cell, list) else []
            values[column] = [_from_root(str(path), below) for path in listed]
        elif isinstance(cell, str) and cell.strip():
            column = name.removesuffix(FILE_COLUMN).rstrip("_") or "image"
            values[column] = _from_root(cell.strip(), below)
    if not _images({name: values[name] for name in values if name not in row}):
        return UnreadableRow(reason="names no image", raw=str(dict(row)))
    return values


def _from_root(path: str, below: str) -> str:
    path = path.replace("\\", "/")
    if _ADDRESS.match(path) or path.startswith("/"):
        return path  # judged where the image is read
    return str(PurePosixPath(below) / path)


def _images(values: Mapping[str, object]) -> list[str]:
    cells = [cell if isinstance(cell, list) else [cell] for cell in values.values()]
    return [each for cell in cells for each in cell if isinstance(each, str)]
