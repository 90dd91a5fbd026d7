"""Sources that are WebDataset shards: tar files whose members belong together by their names."""

import json
import lzma
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from phi_vision.prepare.sources.dataset_notes import read_notes
from phi_vision.prepare.sources.folders import IMAGE_ENDINGS
from phi_vision.prepare.sources.json_files import checked
from phi_vision.prepare.sources.lines import PACKING_ERRORS
from phi_vision.prepare.sources.parts import (
    Fault,
    Found,
    Part,
    choose_parts,
    find_parts,
    number_rows,
    split_of,
)
from phi_vision.prepare.sources.row import Source

LARGEST_MEMBER = 200 * 2**20
"""Bytes; what is larger is no image and no record."""

TEXT_COLUMNS = {"txt": "caption", "text": "caption", "caption": "caption", "cls": "category"}
"""Ending of a text member -> column; other endings are columns of their own name."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_DAMAGED = (tarfile.TarError, lzma.LZMAError, OSError, *PACKING_ERRORS)
_PACKED = (b"\x1f\x8b", b"BZ", b"\xfd7")  # gzip, bzip2, xz
_END_MARK = 1024  # bytes of zeros that close a tar


def open_webdataset(name: str, *, split: str | None = None) -> Source:
    """Open tar shards: one file, a folder, a glob `s-*.tar`, or a range `s-{000..011}.tar`.

    Members are grouped by their path up to the first dot of its last part: json members give
    columns, txt the caption, cls the category, images bytes.

    Input:  a tar with the members 0007.jpg, 0007.json {"title": "Coat"}, 0007.txt "a red coat"
    Output: Row(origin="s-000.tar: 0007", values={"key": "0007", "image": b"…", "title": "Coat",
                "caption": "a red coat"})

    Raises:
        ValueError: There is no such shard or split, or some of a range are missing.
    """
    parts, folder = _find_shards(name, split)
    splits = list(dict.fromkeys(part.split for part in parts if part.split))
    return Source(
        name=name,
        kind="webdataset",
        rows=partial(number_rows, parts, read_tar, folder),
        folder=folder,
        detected={
            "shards": str(len(parts)),
            **({"splits": ", ".join(splits)} if splits else {}),
        },
        notes=read_notes(folder) if Path(name).is_dir() else {},
    )


def is_pattern(name: str) -> bool:
    """Whether a name stands for several shards."""
    return name.endswith((".tar", ".tar.gz", ".tgz")) and any(sign in name for sign in "{*?[")


def read_tar(file: Path) -> Iterator[Found]:
    """Yield the rows of one shard; where it is cut off, what came before is kept."""
    key, members = None, list[tuple[str, bytes | Fault]]()
    try:
        for member_key, ending, content in _members(file):
            if member_key != key:
                if key is not None:
                    yield f": {key}", _values(key, members)
                key, members = member_key, []
            members.append((ending, content))
    except _DAMAGED as error:
        # The row in hand may lack members, and half a row must not look like a whole one.
        where = "" if key is None else f": {key}"
        yield where, Fault(reason="the tar is cut off or damaged", raw=str(error))
        return
    if key is not None:
        yield f": {key}", _values(key, members)
    if not _has_end_mark(file):
        yield "", Fault(reason="the tar has no end mark, so members may be missing", raw=file.name)


def _find_shards(name: str, split: str | None) -> tuple[list[Part], Path]:
    if not is_pattern(name):
        path = Path(name)
        return find_parts(path, (".tar",), split), path if path.is_dir() else path.parent
    named = _expand(name)
    files = [file for each in named for file in _glob(Path(each))]
    missing = [each for each in named if not list(_glob(Path(each)))]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(named)} shards of {name} are missing: found nothing at "
            f"{', '.join(missing[:3])}; put them there or name fewer"
        )
    folder = _common_folder(files)
    parts = [Part(file=file, split=split_of(file, folder)) for file in files]
    return choose_parts(parts, split, name), folder


def _expand(name: str) -> list[str]:
    """Write out ranges and choices in braces, as shells do.

    Input:  "s-{08..10}.tar"                       "{train,val}.tar"
    Output: "s-08.tar", "s-09.tar", "s-10.tar"     "train.tar", "val.tar"
    """
    choices = []
    for inside in _BRACES.findall(name):
        numbers = _RANGE.fullmatch(inside)
        if numbers:
            first, last = numbers[1], numbers[2]
            choices.append([f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)])
        else:
            choices.append(inside.split(","))
    pattern = _BRACES.sub("{}", name)
    return [pattern.format(*chosen) for chosen in product(*choices)]


def _glob(path: Path) -> list[Path]:
    if not any(sign in str(path) for sign in "*?["):
        return [path] if path.is_file() else []
    root = Path(path.anchor)
    return sorted(file for file in root.glob(str(path.relative_to(root))) if file.is_file())


def _common_folder(files: Sequence[Path]) -> Path:
    folders = [file.parent for file in files]
    shared = folders[0]
    while any(shared != folder and shared not in folder.parents for folder in folders):
        shared = shared.parent
    return shared


def _members(file: Path) -> Iterator[tuple[str, str, bytes | Fault]]:
    """Yield key, ending and content of a shard's files, in one pass and never written to disk."""
    with tarfile.open(file, "r|*") as shard:
        for member in shard:
            # tarfile remembers every header it has read, 1 GB for a million; typeshed does not
            # know the list that it keeps them in.
            shard.members = []  # type: ignore[attr-defined]
            folder, _, base = member.name.rpartition("/")
            stem, _, ending = base.partition(".")
            if not member.isfile() or not stem or base.startswith("__"):
                continue
            key = f"{folder}/{stem}" if folder else stem
            if member.size > LARGEST_MEMBER:
                content: bytes | Fault = Fault(
                    reason="a member larger than 200 MB", raw=member.name
                )
            else:
                stream = shard.extractfile(member)
                content = stream.read() if stream else b""
            yield key.removeprefix("./"), ending.lower(), content


def _values(key: str, members: Sequence[tuple[str, bytes | Fault]]) -> dict[str, object] | Fault:
    values: dict[str, object] = {"key": key}
    images: list[bytes] = []
    for ending, content in members:
        if isinstance(content, Fault):
            return content
        if "." + ending.rpartition(".")[2] in IMAGE_ENDINGS:
            images.append(content)
            continue
        said = _columns(ending, content)
        if isinstance(said, Fault):
            return said
        values |= said
    if images:
        column = "image" if len(images) == 1 else "images"
        # A record often names its image; the image itself is here.
        named = {f"{column}_in_json": values.pop(column)} if column in values else {}
        values |= named | {column: images[0] if len(images) == 1 else images}
    return values


def _columns(ending: str, content: bytes) -> Mapping[str, object] | Fault:
    """Read one member that is no image."""
    if ending.rpartition(".")[2] == "json":
        try:
            said = json.loads(content)
        except (ValueError, RecursionError):
            return Fault(reason="broken JSON", raw=content.decode("utf-8", "backslashreplace"))
        said = checked(said, content.decode("utf-8", "backslashreplace"))
        if isinstance(said, Fault):
            return said
        if not isinstance(said, dict):
            return Fault(reason="JSON that is not an object", raw=str(said))
        return said
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return {ending or "file": content}  # an array or a sound: kept, though no field
    return {TEXT_COLUMNS.get(ending, ending or "file"): text}


def _has_end_mark(file: Path) -> bool:
    """Whether a tar ends as it should; cut between two members, nothing else tells."""
    with file.open("rb") as stream:
        if stream.read(2).startswith(_PACKED):
            return True  # its packing has a check sum of its own
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _END_MARK))
        return not any(stream.read())
