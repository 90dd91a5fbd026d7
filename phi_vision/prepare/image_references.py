"""What a cell says of its image -> the image's bytes: at hand, encoded in text, or in a file.

Links are recognised and not followed: `download.py` fetches them.
"""

import base64
import binascii
import os
import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

LARGEST_FILE = 200_000_000
"""Bytes of a local image: above the largest camera file, far below a worker's memory."""


def url_of(value: object) -> str | None:
    """Read the URL out of a cell, or None where it holds something else.

    Input:  " https://shop.example/a.jpg", "//cdn.example/a.jpg", {"bytes": None, "path": "http://…"}
    Output: https://shop.example/a.jpg, https://cdn.example/a.jpg, http://…
    """
    if isinstance(value, Mapping):
        value = None if value.get("bytes") else value.get("path")
    if not isinstance(value, str):
        return None
    text = value.strip()
    if re.match(r"https?://", text, re.IGNORECASE):
        return text
    # Shop exports leave the protocol to the page; a path of a file never begins with a host.
    return f"https:{text}" if re.match(r"//[\w-]+(\.[\w-]+)+/", text) else None


def is_url(value: object) -> bool:
    """Whether a cell names its image by a URL, which `read_reference` does not follow."""
    return url_of(value) is not None


def read_reference(value: object, folder: Path | None) -> bytes:
    """Read the image that a cell holds or names.

    That is bytes, text in base64, a data URI, a path, or the struct of bytes and path. A path is
    looked up inside the folder and may not leave it, neither by `..`, nor as an absolute path, nor
    through a symbolic link. Windows separators and `%20` are understood where no file has the name
    as it stands.

    Input:  b"\\xff\\xd8…", "images/a.jpg", "data:image/png;base64,iVBOR…", {"bytes": …, "path": …}
    Output: the bytes of the image, not yet looked at

    Raises:
        ValueError: Nothing is there, or it may not be read. The message begins with a short reason
            that is the same for all of its kind, then a colon.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray | memoryview) and len(value):
        return bytes(value)
    if isinstance(value, os.PathLike):
        value = os.fsdecode(value)
    if not value or (isinstance(value, str) and not value.strip()):
        raise ValueError("no image: the cell is empty; give bytes, a path or a URL")
    if not isinstance(value, str):
        raise ValueError(
            f"no image: the cell holds a {type(value).__name__}; give bytes, a path or a URL"
        )
    if value.lstrip()[:5].lower() == "data:":
        return _read_data_uri(value.strip())
    if value.startswith(_BASE64_MARKS) and len(value) > 100 and "." not in value:
        return _read_base64(value.encode(errors="replace"))
    return _read_file(value, folder)


def _read_data_uri(uri: str) -> bytes:
    """Read `data:image/png;base64,…`; the label is not trusted, so it is not read either."""
    head, comma, body = uri.partition(",")
    if not comma:
        raise ValueError(
            f"broken data URI: found no comma after {head[:40]!r}; write data:image/png;base64,…"
        )
    data = urllib.parse.unquote_to_bytes(body)
    if "base64" not in [part.strip().lower() for part in head.split(";")[1:]]:
        return data
    return _read_base64(data)


def _read_base64(text: bytes) -> bytes:
    # Line breaks and a missing = at the end are usual; the URL alphabet is known; nothing else is.
    plain = b"".join(text.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(
            f"broken base64: {len(text)} letters cannot be read ({error}); encode the image again"
        ) from error


def _read_file(name: str, folder: Path | None) -> bytes:
    if folder is None:
        raise ValueError(
            f"no folder: {name[:80]!r} is a path, and the source has no folder it could lie in; "
            "give bytes or a URL"
        )
    file = _find(name, folder)
    # A pipe or a device would hang or never end; a folder has no bytes.
    if not file.is_file():
        raise ValueError(f"not a file: found a folder, pipe or device at {name!r}; give a file")
    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(
            f"file too large: {name!r} has {size} bytes, at most {LARGEST_FILE} are read; give a "
            "smaller image"
        )
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"unreadable file: {name!r}: {error}; check its permissions") from error


def _find(name: str, folder: Path) -> Path:
    """Find a named file in the folder, however its name is written, and nowhere else."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name.strip()):
        raise ValueError(
            f"not a local path: found the address {name.strip()[:80]!r}; give a path inside "
            "the source's folder, or an http(s) URL to be fetched"
        )
    inside = folder.resolve()
    left = False
    for spelling in _spellings(name):
        try:
            file = (inside / spelling).resolve(strict=True)
        # Also: loops of links, names with a zero byte, names longer than any file's.
        except (OSError, RuntimeError, ValueError):
            # What lies outside is not said, not even whether it exists.
            meant = Path(os.path.normpath(folder.absolute() / spelling))
            left = left or not (
                meant.is_relative_to(inside) or meant.is_relative_to(folder.absolute())
            )
            continue
        if file.is_relative_to(inside):
            return file
        left = True
    if left:
        raise ValueError(
            f"outside the folder: {name[:200]!r} leaves the source's folder; put it inside, or "
            "prepare the folder that holds both"
        )
    raise ValueError(
        f"no such file: {name[:200]!r} in the source's folder; put it there or correct the name"
    )


def _spellings(name: str) -> list[str]:
    r"""List how a name could be meant, as it stands first.

    Input:  images\red%20coat.jpg
    Output: images\red%20coat.jpg, images/red%20coat.jpg, images\red coat.jpg, images/red coat.jpg
    """
    spellings = [name, name.strip()]
    spellings += [urllib.parse.unquote(spelling) for spelling in spellings]
    slashed = [re.sub(r"^[A-Za-z]:", "/", each.replace("\\", "/")) for each in spellings]
    return list(dict.fromkeys(spellings[:2] + slashed[:2] + spellings[2:] + slashed[2:]))


# How JPEG, PNG, GIF and WebP begin in base64.
_BASE64_MARKS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")
