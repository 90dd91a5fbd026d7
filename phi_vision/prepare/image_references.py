"""Read the images that a cell holds or names: bytes, base64, a data URI, or a local file.

URLs are recognised, not followed: `fetch.py` downloads them.
"""

import base64
import binascii
import html
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from phi_vision.io.formatting import error_texts
from phi_vision.prepare.sources.files import IMAGE_SUFFIXES, VOCABULARY, visible_files
from phi_vision.prepare.text import parse_literal

failure = error_texts(__file__)
MAX_FILE_BYTES = 200_000_000  # above the largest camera file, far below a worker's memory
# How JPEG, PNG, GIF and WebP begin in base64.
_BASE64_PREFIXES = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")
_SUFFIX = f"(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})"
IMAGE_SUFFIX = re.compile(rf"{_SUFFIX}([?#].*)?$", re.IGNORECASE)
_IMAGE_TAG = re.compile(r"""<img\b[^>]*?\bsrc\s*=\s*["']?([^"'>\s]+)""", re.IGNORECASE)
_FORMULA = re.compile(r'=(?:IMAGE|HYPERLINK)\("([^"]+)".*\)', re.IGNORECASE)  # of Excel
_BETWEEN_URLS = re.compile(r"\s*[,;|]+\s*(?=(?:https?:)?//)|\s+(?=https?://)", re.IGNORECASE)
_NAMES = re.compile(rf"""[^\s'"\[\]{{}}()<>,;|!*^~#+:]+?{_SUFFIX}(?![\w/.])""", re.IGNORECASE)
_URLS = re.compile(rf"https?://\S+?{_SUFFIX}(?=\W{{1,3}}https?://|$)", re.IGNORECASE)
_APART = re.compile(r"""(['"])\s+\1""")  # numpy's list, which Python would join to one text
_BETWEEN_FILES = re.compile(r"\s*[,;|\n]\s*")


def list_references(cell: object) -> list[object]:
    """List the images in a cell, whether it is a list, an object, or a text of several.

    Input:  "a.jpg, b.jpg", "https://x/a.jpg|https://x/b.jpg", "['a.jpg']", '<img src="a.jpg"/>',
            [{"thumb": "s.jpg", "hi_res": "l.jpg"}]
    Output: ["a.jpg", "b.jpg"], ["https://x/a.jpg", "https://x/b.jpg"], ["a.jpg"], ["a.jpg"],
            ["l.jpg"]
    """
    if isinstance(cell, list | tuple):
        return [found for each in cell for found in list_references(each)]
    if isinstance(cell, Mapping) and not {"bytes", "path"} & {*cell}:
        values = [cell[key] for key in VOCABULARY["image_keys"] if cell.get(key)]
        values = values or [v for v in cell.values() if IMAGE_SUFFIX.search(str(v))]
        whole = [each for each in values if not isinstance(each, list) or None not in each]
        return list_references((whole or values)[0]) if values else [cell] if cell else []
    if not isinstance(cell, str):
        return [] if cell is None else [cell]
    text = cell.strip()
    if not _APART.search(text) and (value := parse_literal(text)) is not None:
        return list_references(value)
    if found := _IMAGE_TAG.findall(text) or _FORMULA.findall(text):
        return [html.unescape(each) for each in found]
    urls = _BETWEEN_URLS.split(text)
    if len(urls) > 1 and all(map(url_of, urls)):
        return [*urls]
    names = [name for name in _BETWEEN_FILES.split(text) if name]
    if len(names) > 1 and not url_of(text) and all(map(IMAGE_SUFFIX.search, names)):
        return [*names]
    # numpy's ['a.jpg' 'b.jpg'], PostgreSQL's {a.jpg,b.jpg}, srcset, Markdown, `a.jpg / b.jpg`, …
    marked = (_URLS if url_of(text) else _NAMES).findall(text)
    is_marked = len(marked) > 1 or (marked and text[0] in "{(<!\"'")
    return [*marked] if is_marked and len(marked) >= text.count("://") else [cell] if text else []


def url_of(value: object) -> str | None:
    """Return the URL in a cell, or None where it holds something else.

    Input:  " https://shop.example/a.jpg", "//cdn.example/a.jpg", {"bytes": None, "path": "http://…"}
    Output: https://shop.example/a.jpg, https://cdn.example/a.jpg, http://…
    """
    if isinstance(value, Mapping):
        value = None if value.get("bytes") else value.get("path")
    text = value.strip() if isinstance(value, str) else ""
    if re.match(r"https?://", text, re.IGNORECASE):
        return text
    # Shop exports leave the scheme to the page; a path of a file never begins with a host.
    return f"https:{text}" if re.match(r"//[\w-]+(\.[\w-]+)+/", text) else None


def read_reference(value: object, folder: Path | None) -> bytes:
    """Read the image that a cell holds or names.

    A path is looked up inside the folder and may not leave it, neither by `..`, nor as an absolute
    path, nor through a symbolic link. Windows separators and `%20` are understood where no file has
    the literal name; then the image with this name, or this name and a suffix, is found wherever it
    is below the folder.

    Input:  b"\\xff\\xd8…", "images/a.jpg", "data:image/png;base64,iVBOR…", {"bytes": …, "path": …}
    Output: the bytes of the image, unchecked

    Raises ValueError if the cell is empty or its file may not be read; the message begins with a
    short reason that is the same for all of its kind, and a colon.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray | memoryview) and len(value):
        return bytes(value)
    if isinstance(value, os.PathLike):
        value = os.fsdecode(value)
    if not isinstance(value, str) or not value.strip():
        held = f"holds a {type(value).__name__}" if value and not isinstance(value, str) else ""
        raise failure("no_image", held=held or "is empty")
    if value.lstrip()[:5].lower() == "data:":
        head, comma, body = value.strip().partition(",")
        if not comma:
            raise failure("no_comma", head=head[:40])
        data = unquote_to_bytes(body)  # the media type is not trusted, so it is ignored
        is_base64 = "base64" in [part.strip().lower() for part in head.split(";")[1:]]
        return _read_base64(data) if is_base64 else data
    if value.startswith(_BASE64_PREFIXES) and len(value) > 100 and "." not in value:
        return _read_base64(value.encode(errors="replace"))
    if folder is None:
        raise failure("no_folder", path=value[:80])
    file = _find_file(value, folder)
    # A pipe or a device would hang or never end; a folder has no bytes.
    if not file.is_file():
        raise failure("not_a_file", name=value)
    if (size := file.stat().st_size) > MAX_FILE_BYTES:
        raise failure("too_large", name=value, size=size, limit=MAX_FILE_BYTES)
    try:
        return file.read_bytes()
    except OSError as error:
        raise failure("unreadable", name=value, error=error) from error


def _read_base64(text: bytes) -> bytes:
    # Line breaks, a missing = at the end and the URL alphabet are common; nothing else is accepted.
    plain = b"".join(text.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise failure("no_base64", letters=len(text), error=error) from error


def _find_file(name: str, folder: Path) -> Path:
    """Find a file inside the folder, however its name is written."""
    name = re.sub(r"^\s*file://", "", name)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name.strip()):
        raise failure("not_local", url=name.strip()[:80])
    roots = (folder.resolve(), folder.absolute())
    is_outside = False
    for spelling in _spellings(name):
        try:
            file = (roots[0] / spelling).resolve(strict=True)
        # Also: loops of links, names with a zero byte, names longer than any file's.
        except (OSError, RuntimeError, ValueError):
            # Whether a file outside exists is not revealed.
            meant = Path(os.path.normpath(folder.absolute() / spelling))
            is_outside |= not any(map(meant.is_relative_to, roots))
            continue
        if file.is_relative_to(roots[0]):
            return file
        is_outside = True
    if found := find_by_name(name, folder):
        return found
    if is_outside:
        raise failure("outside", name=name[:200])
    raise failure("no_file", name=name[:200], folder=folder)


def found_by_name(cell: object, folder: Path | None) -> str:
    """Describe where an image was found that is not where its cell says; else return nothing."""
    with suppress(ValueError, OSError, RuntimeError):
        if isinstance(cell, str) and folder and not url_of(cell):
            file = _find_file(cell, folder)
            if all(file != (folder / each).resolve() for each in _spellings(cell)):
                return f"{cell} is {file.relative_to(folder.resolve()).as_posix()}"
    return ""


def find_by_name(name: str, folder: Path) -> Path | None:
    """Find an image below a folder by its path's end, in any case, with or without its suffix.

    Input:  "7.JPG", "7", "Coats/7", "/home/shop/images/coats/7.jpg"
    Output: images/coats/7.jpg each time; None if there is none, or several fit
    """
    parts = [part for part in re.split(r"[\\/]", unquote(name.strip()).casefold()) if part]
    found = set()
    for file in named_images(folder).get(parts[-1] if parts else "", ()):
        own = [part.casefold() for part in file.relative_to(folder.resolve()).parts]
        common = min(len(own), len(parts))
        found |= {file} if own[-common:-1] == parts[-common:-1] else set()
    return found.pop() if len(found) == 1 else None


@lru_cache(maxsize=8)
def named_images(folder: Path) -> dict[str, list[Path]]:
    """Map names of images, in lower case, with and without suffix, to the images below a folder."""
    root, index = folder.resolve(), dict[str, list[Path]]()
    for file in visible_files(root):
        if file.suffix.lower() in IMAGE_SUFFIXES and file.resolve().is_relative_to(root):
            for name in (file.name, file.stem):
                index.setdefault(name.casefold(), []).append(file)
    return index


def _spellings(name: str) -> list[str]:
    r"""List the paths a name can mean, the literal one first.

    Input:  images\red%20coat.jpg
    Output: images\red%20coat.jpg, images/red%20coat.jpg, images\red coat.jpg, images/red coat.jpg
    """
    found = [
        each
        for plain in ((name, name.strip()), (unquote(name), unquote(name.strip())))
        for each in (*plain, *(re.sub(r"^[A-Za-z]:", "/", p.replace("\\", "/")) for p in plain))
    ]
    return list(dict.fromkeys(found))
