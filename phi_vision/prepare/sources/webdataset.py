"""WebDataset shards: tar files whose members are grouped into rows by name."""

import glob
import json
import lzma
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, product
from operator import itemgetter
from pathlib import Path

from phi_vision.prepare.sources import files
from phi_vision.prepare.sources.image_folder import IMAGE_SUFFIXES
from phi_vision.prepare.sources.json_files import parse_object
from phi_vision.prepare.sources.rows import Found, Source, UnreadableRow
from phi_vision.prepare.sources.text_files import COMPRESSION_ERRORS

MAX_MEMBER = 200 * 2**20  # bytes; anything larger is neither an image nor a record
# Suffix of a text member -> column; other suffixes are columns of their own name.
TEXT_COLUMNS = {"txt": "caption", "text": "caption", "caption": "caption", "cls": "category"}
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_DAMAGED = (tarfile.TarError, lzma.LZMAError, OSError, *COMPRESSION_ERRORS)
_PACKED = (b"\x1f\x8b", b"BZ", b"\xfd7")  # gzip, bzip2, xz
_END_MARK = 1024  # bytes of zeros that close a tar


def open_webdataset(name: str, *, split: str | None = None) -> Source:
    """Open tar shards: one file, a folder, a glob `s-*.tar`, or a range `s-{000..011}.tar`.

    Members are grouped by their path up to the first dot of its last part: json members give
    columns, txt the caption, cls the category, images bytes.

    Input:  a tar with the members 0007.jpg, 0007.json {"title": "Coat"}, 0007.txt "a red coat"
    Output: Row(origin="s-000.tar: 0007", values={"key": "0007", "image": b"…", "title": "Coat",
                "caption": "a red coat"})
    """
    parts, folder = _find_shards(name, split)
    detected = [{"shards": str(len(parts))}]
    return files.file_source(name, "webdataset", parts, read_tar, detected, folder=folder)


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern of several shards."""
    return name.endswith((".tar", ".tar.gz", ".tgz")) and any(sign in name for sign in "{*?[")


def read_tar(file: Path) -> Iterator[Found]:
    """Yield the rows of one shard; if it is truncated, the rows before that are kept."""
    key = ""
    try:
        for key, members in groupby(_members(file), key=itemgetter(0)):
            yield f": {key}", _values(key, [(suffix, content) for _, suffix, content in members])
    except _DAMAGED as error:
        # The row in hand lacks members, and half a row must not look like a whole one.
        damaged = UnreadableRow(reason="the tar is cut off or damaged", raw=str(error))
        yield f": {key}" if key else "", damaged
    else:
        reason = "the tar has no end mark, so members may be missing"
        if not _has_end_mark(file):
            yield "", UnreadableRow(reason=reason, raw=file.name)


def _find_shards(name: str, split: str | None) -> tuple[list[files.FilePart], Path]:
    if not is_pattern(name):
        path = Path(name)
        return files.find_parts(path, (".tar",), split), path if path.is_dir() else path.parent
    found = {each: _glob(Path(each)) for each in _expand(name)}
    missing = [each for each, shards in found.items() if not shards]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(found)} shards of {name} are missing: found nothing at "
            f"{', '.join(missing[:3])}; put them there or name fewer"
        )
    shards = [file for each in found.values() for file in each]
    folder = Path(os.path.commonpath([file.parent for file in shards]))
    parts = [files.FilePart(file=file, split=files.split_of(file, folder)) for file in shards]
    return files.choose_parts(parts, split, name), folder


def _expand(name: str) -> list[str]:
    """Expand ranges and choices in braces, as shells do: `s-{08..10}.tar`, `{train,val}.tar`."""
    choices = []
    for inside in _BRACES.findall(name):
        if numbers := _RANGE.fullmatch(inside):
            first, last = numbers.groups()
            choices.append([f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)])
        else:
            choices.append(inside.split(","))
    return [_BRACES.sub("{}", name).format(*chosen) for chosen in product(*choices)]


def _glob(path: Path) -> list[Path]:
    root = Path(path.anchor)
    found = root.glob(str(path.relative_to(root))) if glob.has_magic(str(path)) else [path]
    return sorted(file for file in found if file.is_file())


def _members(file: Path) -> Iterator[tuple[str, str, bytes | UnreadableRow]]:
    """Yield key, suffix and content of a shard's files in one pass, never written to disk."""
    with tarfile.open(file, "r|*") as shard:
        for member in shard:
            # tarfile remembers every header it has read, 1 GB for a million; typeshed does not
            # know the list that it keeps them in.
            shard.members = []  # type: ignore[attr-defined]
            folder, slash, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            if not member.isfile() or not stem or base.startswith("__"):
                continue
            content: bytes | UnreadableRow
            if member.size > MAX_MEMBER:
                content = UnreadableRow(reason="a member larger than 200 MB", raw=member.name)
            else:
                stream = shard.extractfile(member)
                content = stream.read() if stream else b""
            yield f"{folder}{slash}{stem}".removeprefix("./"), suffix.lower(), content


def _values(
    key: str, members: Sequence[tuple[str, bytes | UnreadableRow]]
) -> dict[str, object] | UnreadableRow:
    values: dict[str, object] = {"key": key}
    images: list[bytes] = []
    for suffix, content in members:
        if isinstance(content, bytes) and f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES:
            images.append(content)
            continue
        columns = _read_member(suffix, content) if isinstance(content, bytes) else content
        if isinstance(columns, UnreadableRow):
            return columns
        values |= columns
    if images:
        column = "image" if len(images) == 1 else "images"
        # A record often names its image; the image itself is here.
        named = {f"{column}_in_json": values.pop(column)} if column in values else {}
        values |= named | {column: images[0] if len(images) == 1 else images}
    return values


def _read_member(suffix: str, content: bytes) -> Mapping[str, object] | UnreadableRow:
    """Read one member that is not an image."""
    if suffix.rpartition(".")[2] == "json":
        return parse_object(content.decode(json.detect_encoding(content), "backslashreplace"))
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return {suffix or "file": content}  # an array or a sound: kept, though no field
    return {TEXT_COLUMNS.get(suffix, suffix or "file"): text}


def _has_end_mark(file: Path) -> bool:
    """Whether a tar has its end marker: the only sign if it was cut between two members."""
    with file.open("rb") as stream:
        if stream.read(2).startswith(_PACKED):
            return True  # its packing has a check sum of its own
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _END_MARK))
        return not any(stream.read())
