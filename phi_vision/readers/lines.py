"""Text files read a line at a time, packed with gzip or not, however long or damaged they are."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from phi_vision.readers.parts import Fault

LONGEST_LINE = 64 * 2**20
"""Characters: room for a dozen pictures as data URIs; what is longer is no text."""

PACKING_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a packed file raises where it is cut off or damaged."""

Line = tuple[int, str | Fault]
"""Number of a line, from 1, and the line with its end."""


def open_bytes(file: Path) -> io.BufferedReader:
    """Open a file for reading, unpacked; its first bytes count and not its ending."""
    with file.open("rb") as start:
        packed = start.read(2) == b"\x1f\x8b"
    # GzipFile is a BufferedIOBase with read1, the only part of BufferedReader that is used.
    return cast(io.BufferedReader, gzip.open(file)) if packed else file.open("rb")


def open_text(file: Path, encoding: str) -> io.TextIOWrapper:
    """Open a text file; bytes that are not of its encoding are kept, to be found by `damage`."""
    # PEP 383 keeps single bytes, of which UTF-16 and UTF-32 have none.
    errors = "replace" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
    return io.TextIOWrapper(open_bytes(file), encoding=encoding, errors=errors)


def read_lines(file: Path, encoding: str) -> Iterator[Line]:
    """Yield the lines of a file; one that is too long, or the end of a cut file, is a fault."""
    number = 0
    try:
        with open_text(file, encoding) as stream:
            while line := stream.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE and not line.endswith("\n"):
                    _skip_line(stream)
                    yield number, Fault(reason="a line longer than 64 MB", raw=line)
                else:
                    yield number, line
    except PACKING_ERRORS as error:
        yield number + 1, Fault(reason="the packed file is cut off", raw=str(error))


def damage(text: str, encoding: str) -> Fault | None:
    """Tell whether a text holds what no text holds: bytes of another encoding, or NUL bytes."""
    if "\0" in text:
        return Fault(reason="holds NUL bytes", raw=text)
    lost = "\ufffd" if encoding.startswith(("utf-16", "utf-32")) else "[\udc80-\udcff]"
    if not text.isascii() and re.search(lost, text):
        return Fault(reason=f"holds bytes that are not {encoding}", raw=text)
    return None


def _skip_line(stream: io.TextIOWrapper) -> None:
    while (rest := stream.readline(LONGEST_LINE)) and not rest.endswith("\n"):
        pass
