"""One asynchronous HTTP client: guarded connections, time and size limits, retries with backoff.

    async with open_session(allow_private=False) as session:
        await download(session, parse_url(link), file, partial, timeout=30, max_bytes=50_000_000)

Callers repeat requests, as `RetryPolicy` says (`prepare/fetch.py`).
"""

import asyncio
import email.utils
import random
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiohttp
from aiohttp.abc import AbstractResolver as AbstractResolver  # re-exported, as URL is

from phi_vision.io.atomic import publish_file
from phi_vision.io.ssrf import NOT_A_URL, URL, PrivateAddressError, guarded_socket

Session = aiohttp.ClientSession
MAGIC_BYTES = 32

# Compression gains nothing on images and can hide a bomb: neither requested nor undone.
_HEADERS = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "User-Agent": "Mozilla/5.0 (compatible; phi-vision)",
}
_REDIRECTS, _OVERLOADED = {301, 302, 303, 307, 308}, {429, 503}
_RETRIABLE = {408, 425, 429, 500, 502, 503, 504}
_KEEPALIVE = 1.0  # seconds: of a million hosts requested once each, few stay connected
_DNS_CACHE_SECONDS = 300
_READ_BUFFER, _WRITE_BUFFER = 1 << 18, 1 << 16

_IMAGE = re.compile(
    rb"""\xff\xd8\xff                              # JPEG
    | \x89PNG\r\n\x1a\n                            # PNG
    | GIF8[79]a                                    # GIF
    | RIFF....WEBP                                 # WebP
    | ....ftyp(avif|avis|mif1|msf1|heic|heix)      # AVIF, HEIF
    | BM....\0\0\0\0                               # BMP
    | II\*\0 | MM\0\*                              # TIFF
    | \0\0\0\x0cjP\x20\x20\r\n\x87\n               # JPEG 2000
    """,
    re.VERBOSE | re.DOTALL,
)
_OTHER_CONTENT = {
    "compressed": re.compile(rb"\x1f\x8b|\x28\xb5\x2f\xfd"),
    "image/svg+xml": re.compile(rb"\s*(<\?xml[^>]*>\s*)?<svg", re.IGNORECASE),
    "text/html": re.compile(rb"\s*<(!doctype|html|head|body|!--)", re.IGNORECASE),
    "application/pdf": re.compile(rb"%PDF"),
}
_MEDIA_TYPE = re.compile(r"(?!image/)[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40}")


@dataclass(eq=False)
class HttpError(Exception):
    """A request without the wanted response."""

    reason: str  # short, and the same for all of a kind: `HTTP 404`, `no response within 30 s`
    kind: Literal["private", "unreachable", "too large", "other"] = "other"
    retriable: bool = False  # whether a later attempt may succeed
    retry_after: float | None = None
    """Seconds the host asks to wait; 0 if it is overloaded and names no time."""

    location: str | None = None  # target of a redirect


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter."""

    retries: int  # further attempts after a retriable failure, such as no connection or HTTP 429
    first_wait: float = 0.5  # seconds before the second attempt, ±50 %; then doubled each time
    max_wait: float = 120.0  # seconds; a longer Retry-After ends the attempts

    def wait(self, failures: int, error: HttpError) -> float | None:
        """Return the seconds until the next attempt, after so many failures; None ends them."""
        requested = error.retry_after or 0.0
        if not error.retriable or failures > self.retries or requested > self.max_wait:
            return None
        backoff = min(self.first_wait * 2.0 ** (failures - 1), self.max_wait)
        return max(backoff * random.uniform(0.5, 1.5), requested)


def open_session(
    *,
    allow_private: bool,
    connect_timeout: float | None = None,
    resolver: AbstractResolver | None = None,
) -> Session:
    """Open a client session without proxies, passwords of the environment, and cookies.

    It connects to public addresses only, unless `allow_private`.
    """
    connector = aiohttp.TCPConnector(
        limit=0,  # callers limit; waiting here would count as time of the transfer
        resolver=resolver or aiohttp.ThreadedResolver(),
        ttl_dns_cache=_DNS_CACHE_SECONDS,
        dns_cache_max_size=10_000,
        keepalive_timeout=_KEEPALIVE,
        socket_factory=None if allow_private else guarded_socket,
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers=_HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
        read_bufsize=_READ_BUFFER,
    )


async def read_body(session: Session, url: URL, *, timeout: float, max_bytes: int) -> bytes:
    """Return the body of a response 200 to GET; anything else raises `HttpError`."""
    async with _get(session, url, timeout, max_bytes) as response:
        return b"".join([chunk async for chunk in _chunks(response, max_bytes)])


async def download(
    session: Session, url: URL, file: Path, partial: Path, *, timeout: float, max_bytes: int
) -> None:
    """Download an image to `file`, which appears complete or not at all.

    A response that is not 200, not an image by its magic bytes, or too large is an `HttpError`.
    The body is collected in `partial`, on the same disk; `timeout` counts the seconds from the
    request to the last byte.
    """
    async with _get(session, url, timeout, max_bytes) as response:
        chunks = _chunks(response, max_bytes)
        head = b""
        while len(head) < MAGIC_BYTES and (chunk := await anext(chunks, b"")):
            head += chunk
        if not is_image(head):
            raise HttpError(_describe_content(head, response.content_type))
        try:
            with partial.open("wb", buffering=_WRITE_BUFFER) as opened:
                opened.write(head)
                async for chunk in chunks:
                    opened.write(chunk)
            publish_file(partial, file, flush=False)
        finally:
            partial.unlink(missing_ok=True)


def is_image(head: bytes) -> bool:
    """Whether a file has the magic bytes of an image format, whatever its name or media type."""
    return _IMAGE.match(head) is not None


def parse_retry_after(text: str) -> float | None:
    """Parse a Retry-After header to seconds from now (RFC 9110, 10.2.3).

    Input:  "120", "Wed, 21 Oct 2015 07:28:00 GMT", "soon"
    Output: 120.0, 0.0 (in the past),               None
    """
    if re.fullmatch(r"\s*[0-9]+\s*", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


@asynccontextmanager
async def _get(
    session: Session, url: URL, timeout: float, max_bytes: int
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send GET, yield a response 200, and turn the library's errors into `HttpError`."""
    state = "no response within"
    try:
        async with asyncio.timeout(timeout), session.get(url, allow_redirects=False) as response:
            state = "unfinished after"
            if response.status != 200:
                raise _status_error(response)
            _check_size(response.content_length or 0, max_bytes)
            yield response
    except aiohttp.ServerTimeoutError as error:
        raise HttpError("no connection in time", kind="unreachable") from error
    except TimeoutError as error:
        raise HttpError(f"{state} {timeout:g} s") from error
    except aiohttp.ClientError as error:
        raise _client_error(error) from error
    except ValueError as error:  # a host that cannot be resolved, a target that cannot be requested
        raise HttpError(NOT_A_URL) from error


async def _chunks(response: aiohttp.ClientResponse, max_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    while chunk := await response.content.readany():
        size += len(chunk)
        _check_size(size, max_bytes)
        yield chunk


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise HttpError(f"larger than {max_bytes / 1e6:g} MB", kind="too large")


def _status_error(response: aiohttp.ClientResponse) -> HttpError:
    status, headers = response.status, response.headers
    wait = parse_retry_after(headers.get("Retry-After", ""))
    return HttpError(
        f"HTTP {status}",
        retriable=status in _RETRIABLE,
        retry_after=0.0 if wait is None and status in _OVERLOADED else wait,
        location=headers.get("Location") if status in _REDIRECTS else None,
    )


def _describe_content(head: bytes, declared: str) -> str:
    """Describe content that is not an image, by its magic bytes, else by its media type."""
    if not head:
        return "empty response"
    usual = declared if _MEDIA_TYPE.fullmatch(declared) else "unknown content"
    found = (name for name, begin in _OTHER_CONTENT.items() if begin.match(head))
    return f"not an image ({next(found, usual)})"


def _client_error(error: aiohttp.ClientError) -> HttpError:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
    if isinstance(cause, PrivateAddressError):
        return HttpError("private address", kind="private")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        again = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
        return HttpError("no such host", kind="unreachable", retriable=again)
    if isinstance(error, aiohttp.ClientSSLError):
        return HttpError("no secure connection", kind="unreachable")
    if isinstance(error, aiohttp.ClientPayloadError):
        return HttpError("response truncated", retriable=True)
    if isinstance(error, aiohttp.ClientConnectionError):
        return HttpError("no connection", kind="unreachable", retriable=True)
    return HttpError("malformed response")
