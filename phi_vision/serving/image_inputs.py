"""Images that strangers send: judged by what their headers say before anything is decoded.

images = Images(settings)
image = await images.read("data:image/png;base64,iVBOR…")

Knows no requests; where an image may be fetched from is `fetching.py`'s.
"""

import asyncio
import base64
import binascii
import io
import itertools
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote_to_bytes

from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from phi_vision.data.samples import open_image
from phi_vision.serving.errors import ApiError
from phi_vision.serving.fetch_images import fetch_image
from phi_vision.serving.settings import MOST_PIXELS, Settings

FORMATS = ("PNG", "JPEG", "WEBP")
"""What is read; every further decoder is a further way in."""

MOVING = (PngImageFile, WebPImageFile)
"""What may hold a film instead of an image."""

DECODERS = min(4, os.cpu_count() or 1)
"""Images decoded at a time: one of the largest allowed takes hundreds of megabytes."""

BYTES_PER_PIXEL = 4
"""As Pillow keeps colours in memory."""

_URLSAFE = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n"


class Images:
    """Reads images on a few threads of its own, and holds no more of them than memory allows.

    Args:
        settings: The limits, and the hosts that images may be fetched from.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(DECODERS, thread_name_prefix="images")
        self._decoding = 0
        # Whoever drops an image makes room, be that the queue, the model or a caller who hung up.
        self._alive: weakref.WeakValueDictionary[int, Image.Image] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()

    async def read(self, source: str | bytes, *, param: str | None = None) -> Image.Image:
        """Read one image, turned the way its EXIF orientation says it was taken.

        Input:  "data:image/png;base64,iVBOR…", "https://shop.example/coat.jpg" or encoded bytes
        Output: a decoded image in its own mode; converting to RGB is the image processor's job

        Args:
            source: What the caller sent.
            param: Where in the request it stood, for the error.

        Raises:
            ApiError: It is no PNG, JPEG or WebP, is broken, or goes beyond a limit (400, 413);
                or too many images are being looked at (429).
        """
        encoded = source if isinstance(source, bytes) else await self._bytes_of(source, param)
        return await self._on_a_thread(encoded, param)

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _bytes_of(self, source: str, param: str | None) -> bytes:
        scheme = source[:10].partition(":")[0].strip().lower()
        if scheme == "data":
            # Long enough for the other callers to notice: it is done where images are decoded.
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, read_data_uri, source, param)
        if scheme in ("http", "https"):
            return await fetch_image(source, self._settings, param=param)
        found = f"{scheme}:" if ":" in source[:10] else "something without a scheme"
        message = f"an image is given as data:image/jpeg;base64,…; found {found}"
        raise ApiError(400, message, param=param, code="invalid_image_url")

    async def _on_a_thread(self, encoded: bytes, param: str | None) -> Image.Image:
        loop = asyncio.get_running_loop()
        size = await loop.run_in_executor(self._threads, self._judge, encoded, param)
        self._refuse_if_full(size)
        self._decoding += size
        try:
            image = await loop.run_in_executor(self._threads, _decode, encoded, param)
        finally:
            self._decoding -= size
        self._alive[next(self._numbers)] = image
        return image

    def _refuse_if_full(self, size: int) -> None:
        most = self._settings.max_held_bytes
        held = self._held()
        if held and held + size > most:
            message = f"images under way take {held:,} of {most:,} bytes; come again soon"
            raise ApiError(
                429, message, kind="rate_limit_error", code="images_waiting", retry_after=1.0
            )

    def _held(self) -> int:
        """Count the bytes of all images under way."""
        # Listed at once, since other threads drop images meanwhile; and here, since an error that
        # was raised here would hold them.
        alive = [reference() for reference in self._alive.valuerefs()]
        pixels = sum(image.width * image.height for image in alive if image is not None)
        return self._decoding + BYTES_PER_PIXEL * pixels

    def _judge(self, encoded: bytes, param: str | None) -> int:
        """Refuse an image for what its header says; else tell how many bytes it will take."""
        settings = self._settings
        if not encoded:
            raise ApiError(400, "the image is empty", param=param, code="invalid_image")
        try:
            width, height, frames = _read_header(encoded)
        except Image.DecompressionBombError as error:
            raise _too_large(f"more than {2 * MOST_PIXELS:,} pixels", settings, param) from error
        # Decoders fail in their own ways; to the caller they are one.
        except Exception as error:
            raise _unreadable(encoded, error, param) from error
        if width * height > settings.max_pixels:
            raise _too_large(f"{width:,} × {height:,} pixels", settings, param)
        if max(width, height) > settings.max_aspect * min(width, height):
            found = f"the image is {width:,} × {height:,} pixels"
            message = f"{found}, a shape beyond {settings.max_aspect:g} : 1; cut it"
            raise ApiError(400, message, param=param, code="impossible_shape")
        if frames != 1:
            message = f"the image moves ({frames} frames); send one of them"
            raise ApiError(400, message, param=param, code="invalid_image")
        return width * height * BYTES_PER_PIXEL


def read_data_uri(uri: str, param: str | None = None) -> bytes:
    """Read the bytes of a data: URI (RFC 2397), in the ways that programs really write them.

    Blanks and line ends, percent-encoding, the alphabet for addresses (RFC 4648, 5) and missing
    padding are taken. What the image is called does not count, as long as it is called an image.

    Input:  "data:image/png;charset=utf-8;base64,iVBORw0KGgo"
    Output: b"\\x89PNG\\r\\n\\x1a\\n"

    Raises:
        ApiError: It is not in base64, or called something other than an image.
    """
    head, comma, text = uri.partition(",")
    kind, *parameters = head[len("data:") :].lower().replace(" ", "").split(";")
    if not comma or "base64" not in parameters:
        message = "the data: URI is not in base64; write data:image/jpeg;base64, and then the bytes"
        raise ApiError(400, message, param=param, code="invalid_image_url")
    if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
        message = f"the data: URI holds {kind[:40]}; send a PNG, JPEG or WebP image"
        raise ApiError(400, message, param=param, code="invalid_image_url")
    encoded = unquote_to_bytes(text) if "%" in text else text.encode("utf-8", "replace")
    plain = encoded.translate(_URLSAFE, _BLANKS).rstrip(b"=")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        message = "the data: URI's base64 cannot be read; was it cut, or quoted twice?"
        raise ApiError(400, message, param=param, code="invalid_image_url") from error


def _read_header(encoded: bytes) -> tuple[int, int, int]:
    """Read width, height and number of frames without decoding."""
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        width, height = image.size
        # Of a JPEG only the first image counts: phones put previews and depths behind it.
        return width, height, image.n_frames if isinstance(image, MOVING) else 1


def _decode(encoded: bytes, param: str | None) -> Image.Image:
    try:
        return open_image(encoded)
    except ValueError as error:
        raise _unreadable(encoded, error, param) from error


def _too_large(found: str, settings: Settings, param: str | None) -> ApiError:
    message = f"the image has {found}; at most {settings.max_pixels:,} are read, send a smaller one"
    return ApiError(413, message, param=param, code="image_too_large")


def _unreadable(encoded: bytes, error: Exception, param: str | None) -> ApiError:
    what = ", cut off" if "truncated" in str(error) else _what_else(encoded)
    message = f"cannot read an image from {len(encoded):,} bytes{what}"
    return ApiError(
        400, f"{message}; send a whole PNG, JPEG or WebP", param=param, code="invalid_image"
    )


def _what_else(encoded: bytes) -> str:
    """Name what was sent instead, where it is easily told.

    Input:  b"<svg xmlns=…"    b"GIF89a…"    b"any bytes"
    Output: ", an SVG"         ", a GIF"     ""
    """
    head = encoded[:256].lstrip()
    found = (name for name, begins in OTHERS.items() if head.lower().startswith(begins))
    return f", {name}" if (name := next(found, None)) else ""


OTHERS: dict[str, tuple[bytes, ...]] = {
    "an SVG": (b"<svg", b"<?xml"),
    "a web page": (b"<!doctype", b"<html"),
    "a GIF": (b"gif8",),
    "a BMP": (b"bm",),
    "a TIFF": (b"ii*\0", b"mm\0*"),
    "a PDF": (b"%pdf",),
}
"""What people send instead of a photo -> how it begins, in lower case."""
