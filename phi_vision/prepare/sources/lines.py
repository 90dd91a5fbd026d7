"""Text files read a line at a time, packed with gzip or not, however long or damaged they are."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from phi_vision.prepare.sources.mojibake import GOOD_FIT, SPECIAL, fit
from phi_vision.prepare.sources.parts import Fault

LONGEST_LINE = 64 * 2**20
"""Characters: room for a dozen images as data URIs; what is longer is no text."""

MORE_THAN_CHANCE = 3
"""Letters of several bytes in UTF-8 that a line of another encoding does not hold by accident."""

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
    """Tell whether a text holds what no text holds: bytes of another encoding, or NUL bytes.

    Input:  "CafÃ© crÃ¨me", encoding="cp1252"
    Output: Fault(reason="is UTF-8 in a file that is cp1252", raw="Café crème")
    """
    if "\0" in text:
        return Fault(reason="holds NUL bytes", raw=text)
    if text.isascii():
        return None
    lost = "\ufffd" if encoding.startswith(("utf-16", "utf-32")) else "[\udc80-\udcff]"
    meant = None if encoding.startswith("utf") else _meant_as_utf_8(text, encoding)
    if meant is not None:
        return Fault(reason=f"is UTF-8 in a file that is {encoding}", raw=meant)
    if re.search(lost, text):
        return Fault(reason=f"holds bytes that are not {encoding}", raw=text)
    return None


def read_as_utf_8(data: bytes) -> str | None:
    r"""Read bytes as UTF-8; None where they are not, or hold nothing but ASCII.

    Input:  b"Caf\xc3\xa9", b"Caf\xe9", b"Cafe"
    Output: "Café", None, None
    """
    try:
        return None if data.isascii() else data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _meant_as_utf_8(text: str, encoding: str) -> str | None:
    """Read a text as UTF-8 that was read in another encoding of one byte a character.

    `NESTLÉ®` in cp1252 is by chance UTF-8 too, of a letter that cp1252 does not have. So one of the
    letters must be known to the encoding of the file, or there must be several, or what stands
    there makes no sense in that encoding.
    """
    try:
        data = text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        return None  # not what `open_text` read
    meant = read_as_utf_8(data) if len(data) == len(text) else None
    if meant is None:
        return None
    special = "".join(SPECIAL.findall(meant))
    known = bool(special.encode(encoding, "ignore"))
    sure = known or len(special) >= MORE_THAN_CHANCE or fit(text) < GOOD_FIT
    return meant if sure else None


def _skip_line(stream: io.TextIOWrapper) -> None:
    while (rest := stream.readline(LONGEST_LINE)) and not rest.endswith("\n"):
        pass
