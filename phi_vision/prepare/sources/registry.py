"""SOURCES: every kind of catalog, and how the kind is detected."""

import difflib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from phi_vision.prepare.sources import (
    columnar,
    delimited,
    files,
    image_folder,
    json_files,
    text_files,
    webdataset,
)
from phi_vision.prepare.sources.conversations import turn_column, with_conversations
from phi_vision.prepare.sources.rows import Source

# Kind -> function that opens a source of it.
SOURCES: dict[str, Callable[..., Source]] = {
    "csv": delimited.open_csv,
    "json": json_files.open_json,
    "jsonl": json_files.open_json_lines,
    "parquet": columnar.open_parquet,
    "arrow": columnar.open_arrow,
    "hub": columnar.open_hub,
    "folder": image_folder.open_image_folder,
    "llava": json_files.open_llava,
    "webdataset": webdataset.open_webdataset,
}
_SUFFIXES = {
    **dict.fromkeys(delimited.CSV_SUFFIXES, "csv"),
    **dict.fromkeys(json_files.JSON_SUFFIXES, "json"),
    **dict.fromkeys(json_files.JSON_LINES_SUFFIXES, "jsonl"),
    **dict.fromkeys(columnar.PARQUET_SUFFIXES, "parquet"),
    **dict.fromkeys(columnar.ARROW_SUFFIXES, "arrow"),
    ".tar": "webdataset",
}
_SHARDS = ("parquet", "arrow", "webdataset")  # a folder with any such file is of that kind
# Magic bytes.
_MARKS = {b"PAR1": "parquet", b"ARROW1": "arrow"}
_FOREIGN = {
    b"PK\x03\x04": "an Excel workbook or a zip archive; save the sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV in UTF-8",
    b"%PDF": "a PDF; export the table as CSV",
    b"<!doctype html": "a web page, as a failed download leaves; fetch the file itself",
    b"<html": "a web page, as a failed download leaves; fetch the file itself",
    b"<?xml": "XML; export it as CSV or JSON",
    b"\xff\xd8\xff": "a JPEG image; give its folder",
    b"\x89PNG": "a PNG image; give its folder",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with `git lfs pull`",
}


def open_source(
    name: str,
    *,
    kind: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
) -> Source:
    """Open a catalog of any kind (detected by default), reading only its format and first row.

    Input:  "export/products.csv"                 "owner/photos"
    Output: Source(kind="csv", rows=…, …)         Source(kind="hub", rows=…, …)

    `revision` (branch, tag or commit) and `streaming` (nothing is stored) are for Hub ids alone.
    Raises ValueError if there is no such source, kind or split, it is unreadable, or has no rows.
    """
    if kind is not None and kind not in SOURCES:
        close = difflib.get_close_matches(kind, SOURCES, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"no kind of source {kind!r}: {meant}There are {', '.join(SOURCES)}")
    kind = kind or detect_kind(name)
    if kind == "hub":
        source = columnar.open_hub(name, split=split, revision=revision, streaming=streaming)
    elif revision is not None or streaming:
        setting = "a revision" if revision is not None else "streaming"
        raise ValueError(
            f"{setting} has no effect on {name}: it is read as {kind} from this machine, always "
            "row by row; leave it out, or name the kind 'hub'"
        )
    else:
        source = SOURCES[kind](name, split=split)
    if next(source.rows(), None) is None:
        facts = "; ".join(f"{fact}: {found}" for fact, found in source.detected.items())
        raise ValueError(f"{name} holds no rows: found only its format ({facts}); give other data")
    return with_conversations(source)


def detect_kind(name: str) -> str:
    """Detect which of the `SOURCES` reads a source."""
    if "://" in name:
        raise ValueError(f"cannot read {name} over the network: download it and give the file")
    if webdataset.is_pattern(name):
        return "webdataset"
    path = Path(name)
    if path.is_dir():
        return _kind_of_folder(path)
    if path.is_file():
        return _kind_of_file(path)
    # `data/produts.csv` looks like a hub id and is a path with a slip.
    is_path = path.parent != Path() and path.parent.is_dir()
    if columnar.HUB_ID.fullmatch(name) and not is_path and files.suffix_of(path) not in _SUFFIXES:
        return "hub"
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    meant = f"did you mean {path.parent / close[0]}?" if close else "check the path"
    raise ValueError(
        f"no data at {name}: there is no such file or folder; {meant} "
        "(a hub dataset is named owner/name)"
    )


def _kind_of_file(file: Path) -> str:
    try:
        with text_files.open_bytes(file) as stream:
            head = stream.read1(4096)
    except text_files.COMPRESSION_ERRORS:
        head = b""
    if not head:
        raise ValueError(f"{file} is empty: found 0 bytes; give a file with rows")
    for mark, kind in _MARKS.items():
        if head.startswith(mark):
            return kind
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for mark, meaning in _FOREIGN.items():
        if start[: len(mark)].lower() == mark.lower():
            raise ValueError(f"cannot read {file}: it is {meaning}")
    if head[257:262] == b"ustar":
        return "webdataset"
    suffix = files.suffix_of(file)
    if suffix not in _SUFFIXES:
        raise ValueError(
            f"cannot read {file}: found a {suffix or 'nameless kind of'} file; give one ending in "
            f"{', '.join(_SUFFIXES)}, or name its kind: {', '.join(SOURCES)}"
        )
    kind = _SUFFIXES[suffix]
    return _kind_of_json(file, kind) if kind.startswith("json") else kind


def _kind_of_json(file: Path, kind: str) -> str:
    """Distinguish lists from lines, regardless of the suffix, and conversations from records."""
    encoding = text_files.detect_encoding(file).name
    rows: Iterator[object]
    if kind == "jsonl" or json_files.holds_lines(file, encoding):
        kind, rows = "jsonl", (row for _, row in json_files.read_json_lines(file, encoding))
    else:
        rows = json_files.json_rows(file, encoding)[0]
    first = next((row for row in islice(rows, 20) if isinstance(row, dict)), {})
    return "llava" if turn_column(first) else kind


def _kind_of_folder(folder: Path) -> str:
    if (folder / columnar.DATASET_DICT).is_file() or (folder / columnar.STATE).is_file():
        return "arrow"
    if image_folder.metadata_files(folder):
        return "folder"
    suffixes = {file: files.suffix_of(file) for file in files.visible_files(folder)}
    for kind in _SHARDS:
        if any(_SUFFIXES.get(suffix) == kind for suffix in suffixes.values()):
            return kind
    tables: dict[str, Path] = {}
    for file, suffix in suffixes.items():
        at_top = file.parent == folder and file.name not in files.DESCRIPTIONS
        if at_top and suffix in _SUFFIXES and suffix != ".txt":
            tables.setdefault(_SUFFIXES[suffix], file)
    if len(tables) > 1:
        raise ValueError(
            f"cannot tell what to read in {folder}: found "
            f"{', '.join(file.name for file in tables.values())}; give one of the files, or name "
            f"the kind: {', '.join(tables)}"
        )
    for kind, file in tables.items():
        return kind if kind == "csv" else _kind_of_json(file, kind)
    found = sorted(set(suffixes.values()))
    if any(suffix in image_folder.IMAGE_SUFFIXES for suffix in found):
        return "folder"
    raise ValueError(
        f"no data in {folder}: found {', '.join(found[:8]) or 'nothing'}; give a folder "
        "with tables, images or tar shards"
    )
