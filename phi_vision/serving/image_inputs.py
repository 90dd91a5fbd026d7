"""Untrusted images: sent inside a request, or fetched from hosts that were allowed by name.

Headers are validated before anything is decoded. This machine's own network stays out of reach of
clients' URLs: no redirects, no proxies, and each connection's address is checked.
"""

import asyncio
import base64
import binascii
import io
import ipaddress
import itertools
import re
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from phi_vision.io.http import URL, AbstractResolver, HttpError, open_session, read_body
from phi_vision.io.image_decoding import open_image
from phi_vision.io.process import usable_cores
from phi_vision.serving.errors import TEXTS, ApiError, api_error
from phi_vision.serving.settings import MAX_PIXELS, Settings

FORMATS = ("PNG", "JPEG", "WEBP")  # Each further decoder would widen the attack surface.
# Formats whose further frames count; phones append previews and depth maps to JPEGs.
ANIMATED = (PngImageFile, WebPImageFile)
# Images decoded at a time: each of the largest allowed takes hundreds of megabytes.
DECODER_THREADS = min(4, usable_cores())
BYTES_PER_PIXEL = 4  # of a decoded image in Pillow's memory
# Percent-encoding of all that base64 may contain but letters and digits -> the character.
ESCAPES = {
    code: bytes([number])
    for number in b"+/=-_ \t\r\n"
    for code in (b"%%%02X" % number, b"%%%02x" % number)
}


class ImageReader:
    """Decodes images on its own threads, within the limit of memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(DECODER_THREADS, thread_name_prefix="images")
        self._decoding = 0
        # Weak: an image counts until the queue, the model or a cancelled request drops it.
        self._alive: weakref.WeakValueDictionary[int, Image.Image] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()

    async def read_all(self, urls: Mapping[str, str], param: str) -> tuple[Image.Image, ...]:
        """Decode the images of a request, given as path of a field -> URL in it."""
        limit = self._settings.max_images
        if len(urls) > limit:
            raise api_error("too_many_images", param=param, count=len(urls), limit=limit)
        return tuple([await self.read(url, param=path) for path, url in urls.items()])

    async def read(self, source: str | bytes, *, param: str | None = None) -> Image.Image:
        """Decode one image from a URL or its encoded bytes, rotated by its EXIF orientation.

        Raises an ApiError about the field `param`: an unusable image (400, 413), no memory (429).
        """
        run = partial(asyncio.get_running_loop().run_in_executor, self._threads)
        try:
            if isinstance(source, str):
                is_remote = source[:10].strip().lower().startswith(("http:", "https:"))
                fetched = fetch_image(source, self._settings) if is_remote else None
                source = await (fetched or run(read_data_uri, source))
            size = await run(_validate, source, self._settings)
            self._check_memory(size)
            self._decoding += size
            try:
                image = await run(open_image, source)
            except ValueError as error:
                raise _unreadable(source, error) from error
            finally:
                self._decoding -= size
        except ApiError as error:
            error.param = param
            raise
        self._alive[next(self._numbers)] = image
        return image

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check_memory(self, size: int) -> None:
        limit = self._settings.max_held_bytes
        # Copied first, as other threads drop images meanwhile.
        alive = [reference() for reference in self._alive.valuerefs()]
        pixels = sum(image.width * image.height for image in alive if image is not None)
        del alive  # Or the error's traceback would keep the images alive.
        held = self._decoding + BYTES_PER_PIXEL * pixels
        if held and held + size > limit:
            raise api_error("images_waiting", held=held, limit=limit, retry_after=1.0)


def read_data_uri(uri: str) -> bytes:
    """Decode a data: URI (RFC 2397): "data:image/png;charset=utf-8;base64,iVBORw0KGgo"."""
    # Whitespace, percent-encoding, URL-safe letters and lacking padding are accepted.
    scheme, colon, _ = uri[:10].strip().lower().partition(":")
    if scheme != "data" or not colon:
        found = f"{scheme}:" if colon else "a string without a scheme"
        raise api_error("invalid_image_url.scheme", found=found)
    head, comma, text = uri.lstrip().partition(",")
    kind, *parameters = head[len("data:") :].lower().replace(" ", "").split(";")
    if not comma or "base64" not in parameters:
        raise api_error("invalid_image_url.plain")
    if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
        raise api_error("invalid_image_url.type", found=kind)
    encoded = text.encode("utf-8", "replace")
    # Not with `unquote`, which blocks all threads for seconds where everything is escaped.
    for code, character in ESCAPES.items() if b"%" in encoded else ():
        encoded = encoded.replace(code, character)
    compact = encoded.translate(bytes.maketrans(b"-_", b"+/"), b" \t\r\n").rstrip(b"=")
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except binascii.Error as error:
        raise api_error("invalid_image_url.base64") from error


async def fetch_image(
    address: str, settings: Settings, *, resolver: AbstractResolver | None = None
) -> bytes:
    """Fetch an image by its URL; `resolver` replaces the system's name resolution."""
    url = _parse_allowed(address, settings)
    limit, host = settings.max_body_bytes, url.host or ""
    is_address = False  # A host that is allowed as an IP address may be private.
    with suppress(ValueError):
        is_address = bool(ipaddress.ip_address(host.partition("%")[0]))
    try:
        async with open_session(allow_private=is_address, resolver=resolver) as session:
            return await read_body(session, url, timeout=settings.fetch_timeout, max_bytes=limit)
    except HttpError as error:
        if error.kind == "too large":
            raise api_error("image_too_large.fetched", host=host, limit=limit) from error
        if error.kind == "private" and error.location is None:
            raise api_error("host_not_public", host=host) from error
        is_redirect = error.location is not None
        reason = f"redirect from {host} not followed" if is_redirect else f"{host}: {error.reason}"
        raise api_error("image_not_fetched", reason=reason) from error


def _parse_allowed(address: str, settings: Settings) -> URL:
    """Parse a URL, and reject it unless its host was allowed by name."""
    if not settings.allow_hosts:
        raise api_error("host_not_allowed.any")
    try:
        url = URL(address.strip())
        host, port = url.host, url.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or url.user or url.password:
        raise api_error("invalid_url")
    if not is_allowed(host, port, settings.allow_hosts):
        allowed = ", ".join(settings.allow_hosts)
        raise api_error("host_not_allowed", host=host, port=port, allowed=allowed)
    return url


def is_allowed(host: str, port: int, allowed: Sequence[str]) -> bool:
    """Whether a host itself is allowed at this port; without one, it is at 80 and 443."""
    known = {name.lower().rstrip(".") for name in allowed}
    name = (f"[{host}]" if ":" in host else host).lower().rstrip(".")
    return f"{name}:{port}" in known or (port in (80, 443) and bool(known & {name, host}))


def _validate(encoded: bytes, settings: Settings) -> int:
    """Validate an image by its header; return its decoded size in bytes."""
    if not encoded:
        raise api_error("invalid_image.empty")
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            width, height = image.size
            frames = image.n_frames if isinstance(image, ANIMATED) else 1
        found = f"{width:,} × {height:,}"
    except Image.DecompressionBombError:
        width, height, frames = 2 * MAX_PIXELS, 1, 1
        found = f"more than {width:,}"
    except Exception as error:  # Each decoder raises errors of its own.
        raise _unreadable(encoded, error) from error
    if width * height > settings.max_pixels:
        raise api_error("image_too_large", found=found, limit=settings.max_pixels)
    if max(width, height) > settings.max_aspect * min(width, height):
        raise api_error("impossible_shape", found=found, limit=settings.max_aspect)
    if frames != 1:
        raise api_error("invalid_image.frames", frames=frames)
    return width * height * BYTES_PER_PIXEL


def _unreadable(encoded: bytes, error: Exception) -> ApiError:
    head = encoded[:256].lstrip().lower().decode("latin-1")
    kinds = (f", {kind}" for kind, begin in TEXTS["formats"].items() if re.match(begin, head))
    found = ", truncated" if "truncated" in str(error) else next(kinds, "")
    return api_error("invalid_image", size=len(encoded), found=found)
