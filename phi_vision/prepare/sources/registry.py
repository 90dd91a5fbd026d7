"""SOURCES: every kind of catalog, and how the kind is detected."""

import codecs
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from phi_vision.io.formatting import nearest_file, suggestion
from phi_vision.prepare.sources import (
    columnar,
    conversations,
    delimited,
    files,
    image_folder,
    json_files,
    rows,
    text_files,
    webdataset,
)
from phi_vision.prepare.sources.rows import Row, Source, UnreadableRow

# Kind of files -> their suffixes, gzipped or not, and what inspects one of them.
FORMATS: dict[str, tuple[Sequence[str], Callable[[Path], rows.Format]]] = {
    "csv": ((".csv", ".tsv", ".tab"), delimited.inspect_table),
    "json": ((".json",), json_files.inspect_json),
    "jsonl": (json_files.LINES_SUFFIXES, json_files.inspect_json_lines),
    "parquet": ((".parquet", ".pq"), partial(columnar.inspect_columnar, "Parquet")),
    "arrow": ((".arrow", ".feather"), partial(columnar.inspect_columnar, "Arrow")),
    "webdataset": ((".tar",), webdataset.inspect_tar),
    "llava": ((".json", *json_files.LINES_SUFFIXES), json_files.inspect_conversations),
}
_KINDS = {suffix: kind for kind in [*FORMATS][:-1] for suffix in FORMATS[kind][0]}
_KINDS[".txt"] = "csv"  # alone: in a folder it is a licence or a list rather than a table
_HUB_LINK = re.compile(r"(?:https?://huggingface\.co|hf:/)/datasets/([\w-][\w.-]*/[\w-][\w.-]*)")
_BINARY = ("parquet", "arrow", "webdataset")
_WHOLE = ("json", "llava", "parquet", "arrow")  # nothing can be read: one unreadable row


def open_source(
    name: str,
    *,
    kind: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    encoding: str | None = None,
    mapped: Collection[str] = (),
) -> Source:
    """Open a catalog of any kind (detected by default), reading only its format and first row.

    `revision` and `streaming` are for Hub ids alone, `encoding` (detected by default) for text
    files. Columns that are `mapped` to fields make no conversations.

    Input:  "export/products.csv"                 "owner/photos"
    Output: Source(kind="csv", rows=…, …)         Source(kind="hub", rows=…, …)

    Raises ValueError if there is no such source, kind or split, it is unreadable, or has no rows.
    """
    if kind is not None and kind not in SOURCES:
        meant, kinds = suggestion(kind, SOURCES), ", ".join(SOURCES)
        raise files.failure("unknown_kind", kind=kind, meant=meant, kinds=kinds)
    try:
        "".encode(encoding or "utf-8")  # refuses base64 and the like, too
    except LookupError as error:
        raise files.failure("unknown_encoding", name=encoding) from error
    token = text_files.given_encoding.set(encoding and codecs.lookup(encoding).name)
    try:
        kind = kind or detect_kind(name)
        options = {"a revision": revision, "streaming": streaming or None}
        if unused := [] if kind == "hub" else [o for o, given in options.items() if given]:
            raise files.failure("not_hub", setting=unused[0], name=name, kind=kind)
        hub = {"revision": revision, "streaming": streaming} if kind == "hub" else {}
        source = SOURCES[kind](name, split=split, **hub)
    finally:
        text_files.given_encoding.reset(token)
    if encoding and source.kind in ("hub", *_BINARY):
        raise files.failure("no_text", name=name, kind=source.kind)
    first = list(islice(source.rows(), 20))
    if not first:
        facts = "; ".join(f"{fact}: {found}" for fact, found in source.detected.items())
        found = f"only its format ({facts})" if facts else "neither header nor row"
        raise ValueError(f"{name} is empty: found {found}; it holds no rows, check the export")
    files.check_width(name, {n for row in first if isinstance(row, Row) for n in row.values})
    if len(first) == 1 and isinstance(only := first[0], UnreadableRow) and source.kind in _WHOLE:
        found = f"{only.reason}: {only.raw[:200]!r}"
        raise files.failure("unreadable", name=name, kind=source.kind, found=found)
    return conversations.with_conversations(source, mapped)


def open_files(kind: str, name: str, *, split: str | None = None) -> Source:
    """Open a file, a folder or a pattern of files in one of the `FORMATS`."""
    (suffixes, inspect), path = FORMATS[kind], Path(name)
    saved = columnar.saved_parts(path) if kind == "arrow" else []
    parts, root = (saved, path) if saved else files.find_parts(name, suffixes)
    chosen = files.choose_splits(split, [each for _, each in parts if each], name)
    parts = [part for part in parts if split is None or part[1] in chosen]
    parts.sort(key=lambda part: files.split_rank(part[1]))
    readers, found = [], [{"files": str(len(parts))}] if len(parts) > 1 else []
    for file, own_split in parts:
        facts, read = inspect(file)
        found.append(facts)
        readers.append((file, own_split, read))
    found += [{"splits": each} for each in chosen]
    # The README beside a single file in a folder of downloads may describe anything.
    folder = parts[0][0].parent
    notes = files.read_notes(folder) if (folder / files.INFO_FILE).is_file() else {}
    notes |= files.read_notes(path) if path.is_dir() else {}
    detected = {  # equal facts once, different ones with commas
        fact: ", ".join(dict.fromkeys(facts[fact] for facts in found if fact in facts))
        for fact in dict.fromkeys(fact for facts in found for fact in facts)
    }
    all_rows = partial(rows.numbered, _read_files, readers, root)
    return Source(name=name, kind=kind, rows=all_rows, folder=root, detected=detected, notes=notes)


def _read_files(
    readers: Sequence[tuple[Path, str | None, rows.Reader]], root: Path
) -> Iterator[rows.Piece]:
    for file, split, read in readers:
        relative = file.relative_to(root)
        folders = relative.parts[:-1]
        columns = dict(each.split("=", 1) for each in folders if "=" in each.strip("="))  # Hive
        for place, values in read():
            if columns and isinstance(values, Mapping):
                values = {**columns, **values}
            yield relative.as_posix() + place, split, values


def detect_kind(name: str) -> str:
    """Detect which of the `SOURCES` reads a source."""
    if "://" in name:
        if hub := _HUB_LINK.match(name):
            raise files.failure("hub_link", name=name, id=hub[1])
        how = f" with `curl -LO {name}`" if name.startswith(("http:", "https:")) else ""
        raise files.failure("link", name=name, how=how)
    path = next(iter(files.expand(name)), Path(name))
    if path.is_dir():
        return _kind_of_folder(path)
    if path.is_file():
        return _kind_of_file(path)
    # `data/produts.csv` looks like a hub id and is a path with a slip.
    is_path = path.parent != Path() and path.parent.is_dir()
    if columnar.HUB_ID.fullmatch(name) and not is_path and files.suffix_of(path) not in _KINDS:
        return "hub"
    close = nearest_file(path)
    meant = f"did you mean {close}?" if close else "check the path."
    raise files.failure("no_source", name=name, meant=meant, found=close or "FILE")


def _kind_of_file(file: Path) -> str:
    try:
        with text_files.open_bytes(file) as stream:
            head = stream.read1(4096)
    except text_files.COMPRESSION_ERRORS:
        head = b""
    if not head:
        raise files.failure("empty_file", file=file)
    for kind, mark in files.VOCABULARY["magic"].items():
        if head.startswith(mark.encode()):
            return str(kind)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, meaning in files.VOCABULARY["foreign"].items():
        if start.startswith(mark.encode("latin-1")):
            is_archive = mark[:2] == "pk" and _is_archive(file)
            text = files.VOCABULARY["archive"] if is_archive else meaning
            found = text.format(file=file, stem=file.stem, folder=file.parent)
            raise files.failure("foreign", file=file, meaning=found)
    if head[257:262] == b"ustar":
        return "webdataset"
    suffix = files.suffix_of(file)
    if suffix not in _KINDS:
        found, suffixes, kinds = suffix or "nameless kind of", ", ".join(_KINDS), ", ".join(SOURCES)
        raise files.failure("no_kind", file=file, found=found, suffixes=suffixes, kinds=kinds)
    return _kind_of_json(file) if _KINDS[suffix].startswith("json") else _KINDS[suffix]


def _is_archive(file: Path) -> bool:
    """Whether a zip file holds no workbook, neither Excel's (xl/) nor another (content.xml)."""
    names = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else ["xl/"]
    return not any(name.startswith(("xl/", "content.xml")) for name in names)


def _kind_of_json(file: Path) -> str:
    """Distinguish lists from lines, regardless of the suffix, and conversations from records."""
    facts, read = json_files.inspect_conversations(file)
    first = next((row for _, row in islice(read(), 20) if isinstance(row, dict)), {})
    lines = "json" if "rows" in facts else "jsonl"
    return "llava" if conversations.turn_column(first) else lines


def _kind_of_folder(folder: Path) -> str:
    if any((folder / name).is_file() for name in (columnar.DATASET_DICT, columnar.STATE)):
        return "arrow"
    if image_folder.metadata_files(folder):
        return "folder"
    suffixes = {file: files.suffix_of(file) for file in files.visible_files(folder)}
    found = {*suffixes.values()}
    for kind in ("parquet", "arrow", "webdataset"):  # a folder with any such file is of that kind
        if not found.isdisjoint(FORMATS[kind][0]):
            return kind
    tables: dict[str, Path] = {}
    for file, suffix in suffixes.items():
        at_top = file.parent == folder and file.name not in files.DESCRIPTIONS
        if at_top and suffix in _KINDS and suffix != ".txt":
            tables.setdefault(_KINDS[suffix], file)
    if len(tables) > 1:
        names = ", ".join(file.name for file in tables.values())
        raise files.failure("several_kinds", folder=folder, names=names, kinds=", ".join(tables))
    for kind, file in tables.items():
        # A folder of .json files is of that kind also where they hold lines.
        is_chat = kind.startswith("json") and _kind_of_json(file) == "llava"
        return "llava" if is_chat else kind
    if not found.isdisjoint(files.IMAGE_SUFFIXES):
        return "folder"
    listed = ", ".join(sorted(found)[:8]) or "nothing"
    raise files.failure("no_tables", folder=folder, found=listed)


# Kind -> function that opens a source of it.
SOURCES: dict[str, Callable[..., Source]] = {
    **{kind: partial(open_files, kind) for kind in FORMATS},
    "folder": image_folder.open_image_folder,
    "hub": columnar.open_hub,
}
