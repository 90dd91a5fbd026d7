"""What `check` looks at and what it says: a folder, opened without its weights, and findings.

Only JSON files and the headers of safetensors are read, so that gigabytes take no longer than one.
"""

import functools
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_HEADER = 100_000_000
"""Bytes; the most that safetensors itself accepts."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that an engine needs of a folder."""

    need: str
    """What it needs, in words."""

    found: str
    """What is there."""

    ok: bool
    """Whether that is enough."""

    advice: str = ""
    """What to do where it is not."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor as the header of a file describes it."""

    dtype: str
    """Kind of number in safetensors' words: BF16, F32."""

    shape: tuple[int, ...]
    """Its sizes."""


@dataclass(frozen=True)
class Folder:
    """A folder that somebody wants to use with an engine."""

    path: Path

    def has(self, name: str) -> bool:
        """Tell whether a file is there."""
        return (self.path / name).is_file()

    def fields(self, name: str) -> dict[str, Any]:
        """Give the fields of a JSON file; none where it is missing or `broken` names it."""
        fields = self._parsed.get(name)
        return fields if isinstance(fields, dict) else {}

    def names(self, ending: str = "") -> list[str]:
        """Name the files in the folder that end in something."""
        return sorted(f.name for f in self.path.glob(f"*{ending}") if f.is_file())

    def text(self, name: str) -> str:
        """Give the words of a text file; none where it is missing."""
        file = self.path / name
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    @property
    def broken(self) -> dict[str, str]:
        """Name the JSON files that cannot be read, and why."""
        return {name: found for name, found in self._parsed.items() if isinstance(found, str)}

    @functools.cached_property
    def _parsed(self) -> Mapping[str, dict[str, Any] | str]:
        return {name: _parse(self.path / name) for name in self.names(".json")}


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Read what a safetensors file says it holds, and hold that against its length.

    Raises:
        ValueError: It is missing, cut, or something else.
    """
    if not file.is_file():
        raise ValueError(f"{file.name} is missing")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, LONGEST_HEADER):
            raise ValueError(f"{file.name} is no whole safetensors file ({size} bytes)")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            tensors = {
                name: StoredTensor(dtype=entry["dtype"], shape=tuple(entry["shape"]))
                for name, entry in header.items()
            }
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"{file.name} is no safetensors file: {problem}") from problem
    if size != 8 + length + end:
        raise ValueError(f"{file.name} has {size} bytes instead of {8 + length + end}")
    return tensors


def some(names: Iterable[str], shown: int = 3) -> str:
    """Name a few of many: `["a", "b", "c", "d"]` -> "a, b, c and 1 more"; nothing -> "nothing"."""
    names = sorted(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more or "nothing"


def lacking(findings: Sequence[Finding]) -> list[Finding]:
    """Give the findings that are not enough."""
    return [finding for finding in findings if not finding.ok]


def _parse(file: Path) -> dict[str, Any] | str:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        return str(problem)
    return fields if isinstance(fields, dict) else f"a {type(fields).__name__}, not fields"
