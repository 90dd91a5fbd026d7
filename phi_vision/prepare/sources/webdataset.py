"""WebDataset shards: tar files whose members are grouped into rows by name."""

import json
import lzma
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from phi_vision.prepare.sources.files import IMAGE_SUFFIXES, VOCABULARY
from phi_vision.prepare.sources.json_files import parse_object
from phi_vision.prepare.sources.rows import Format, Found, UnreadableRow, Values
from phi_vision.prepare.sources.text_files import COMPRESSION_ERRORS, check_unpacked

MAX_MEMBER = 200 * 2**20  # bytes; anything larger is neither an image nor a record
TEXT_COLUMNS: dict[str, str] = VOCABULARY["tar_columns"]  # by the suffix of a text member
_DAMAGED = (tarfile.TarError, lzma.LZMAError, OSError, *COMPRESSION_ERRORS)
_PACKED = (b"\x1f\x8b", b"BZ", b"\xfd7")  # gzip, bzip2, xz
_END_MARK = 1024  # bytes of zeros that close a tar


def inspect_tar(file: Path) -> Format:
    """Return the reader of one shard; if it is truncated, the rows before that are kept."""
    return {}, partial(_read_tar, file)


def _read_tar(file: Path) -> Iterator[Found]:
    """Group members by their path up to the first dot: 0007.jpg and 0007.json are one row."""
    key = ""
    try:
        for key, members in groupby(_members(file), key=itemgetter(0)):
            yield f": {key}", _merge(key, members)
    except _DAMAGED as error:
        # The row in hand lacks members, and half a row must not look like a whole one.
        damaged = UnreadableRow("the tar is cut off or damaged", str(error))
        yield f": {key}" if key else "", damaged
        return
    with file.open("rb") as stream:  # the end mark is missing if it was cut between two members
        packed = stream.read(2).startswith(_PACKED)  # its packing has a check sum of its own
        stream.seek(max(0, file.stat().st_size - _END_MARK))
        if not packed and any(stream.read()):
            reason = "the tar has no end mark, so members may be missing"
            yield "", UnreadableRow(reason, file.name)


def _members(file: Path) -> Iterator[tuple[str, str, bytes | UnreadableRow]]:
    """Yield key, suffix and content of a shard's files in one pass, never written to disk."""
    with tarfile.open(file, "r|*") as shard:
        for member in shard:
            # It remembers every header, 1 GB for a million, in a list unknown to typeshed.
            shard.members = []  # type: ignore[attr-defined]
            check_unpacked(file, member.offset_data + member.size)
            folder, slash, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            if not member.isfile() or not stem or base.startswith("__"):
                continue
            content: bytes | UnreadableRow = b""
            if member.size > MAX_MEMBER:
                content = UnreadableRow("a member larger than 200 MB", member.name)
            elif stream := shard.extractfile(member):
                content = stream.read()
            yield f"{folder}{slash}{stem}".removeprefix("./"), suffix.lower(), content


def _merge(key: str, members: Iterable[tuple[str, str, bytes | UnreadableRow]]) -> Values:
    values: dict[str, object] = {"key": key}
    images: list[bytes] = []
    for _, suffix, content in list(members):  # all are read, also after one that is broken
        columns = _read_member(suffix, content) if isinstance(content, bytes) else content
        if isinstance(columns, UnreadableRow):
            return columns
        if isinstance(columns, bytes):
            images.append(columns)
        else:
            values |= columns
    if images:
        column = "image" if len(images) == 1 else "images"
        # A record often names its image; the image itself is here.
        values |= {f"{column}_in_json": values.pop(column)} if column in values else {}
        values[column] = images[0] if len(images) == 1 else images
    return values


def _read_member(suffix: str, content: bytes) -> Values | bytes:
    kind = suffix.rpartition(".")[2]
    if f".{kind}" in IMAGE_SUFFIXES:
        return content
    if kind == "json":
        return parse_object(content.decode(json.detect_encoding(content), "backslashreplace"))
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return {suffix or "file": content}  # an array or a sound: kept, though no field
    return {TEXT_COLUMNS.get(suffix, suffix or "file"): text}
