"""One transfer over HTTP: an address becomes a file that holds an image, or a reason why not.

Holds no order of things and no second attempts (`download.py`), and no judgement of addresses
(`addresses.py`). Nothing here waits for a disk: images are small, and the system keeps what is
written until it can be stored.
"""

import asyncio
import email.utils
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL

from phi_vision.io.atomic import publish_file
from phi_vision.io.ssrf import PrivateAddressError, guarded_socket
from phi_vision.prepare.urls import (
    NO_WEB_ADDRESS,
    PRIVATE,
)

HEAD = 32
"""Bytes that tell an image from anything else."""

# Compression gains nothing on images and can hide a bomb, so none is asked for and none undone:
# a compressed answer does not begin like an image.
_HEADERS = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "User-Agent": "Mozilla/5.0 (compatible; phi-vision)",
}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_OVERLOADED = frozenset({429, 503})
# A connection that waits for its next use is kept this long, in seconds: a busy host needs it again
# within milliseconds, and of a million hosts asked once each, few may be held open at a time.
_KEPT_OPEN = 1.0
_NAMES_KEPT = 300  # seconds: as long as most name servers let an answer be kept
_READ_AHEAD = 1 << 18
_WRITE_BUFFER = 1 << 16

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
_OTHERS = {
    "compressed": re.compile(rb"\x1f\x8b|\x28\xb5\x2f\xfd"),
    "image/svg+xml": re.compile(rb"\s*(<\?xml[^>]*>\s*)?<svg", re.IGNORECASE),
    "text/html": re.compile(rb"\s*<(!doctype|html|head|body|!--)", re.IGNORECASE),
    "application/pdf": re.compile(rb"%PDF"),
}
_DECLARED = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one transfer; an image lies in its file where nothing is said here."""

    reason: str | None = None
    """Why there is no image: short, and the same for all of a kind."""

    passing: bool = False
    """Whether asking again later may help."""

    wait: float | None = None
    """Seconds for which the host wishes to be left alone, 0 where it does not say how long."""

    target: str | None = None
    """Where the host says the image is instead."""


def open_session(*, allow_private: bool, connect_timeout: float) -> aiohttp.ClientSession:
    """Open what all transfers of a run share: connections, resolved names, headers.

    Proxies and passwords of the environment are not used, cookies not kept.

    Args:
        allow_private: Connect to any address, not only to public ones.
        connect_timeout: Seconds for opening a connection.
    """
    connector = aiohttp.TCPConnector(
        limit=0,  # who may run is decided before, or waiting would count as time of the transfer
        resolver=aiohttp.ThreadedResolver(),
        ttl_dns_cache=_NAMES_KEPT,
        dns_cache_max_size=10_000,
        keepalive_timeout=_KEPT_OPEN,
        socket_factory=None if allow_private else guarded_socket,
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers=_HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
        read_bufsize=_READ_AHEAD,
    )


def is_image(head: bytes) -> bool:
    """Whether a file begins like an image, whatever its name or its sender calls it.

    Input:  b"\\xff\\xd8\\xff\\xe0…", b"<!DOCTYPE html>…"
    Output: True,                 False
    """
    return _IMAGE.match(head) is not None


async def transfer(
    session: aiohttp.ClientSession,
    url: URL,
    file: Path,
    unfinished: Path,
    *,
    seconds: float,
    max_bytes: int,
) -> Outcome:
    """Ask for one image and put it into `file`, which appears complete or not at all.

    Args:
        session: From `open_session`.
        url: From `read_url`.
        file: Where the image goes; its folder exists.
        unfinished: Where it is collected, on the same disk.
        seconds: Time for all of it.
        max_bytes: Size beyond which it is broken off.

    Raises:
        OSError: The file cannot be written.
    """
    answered = False
    try:
        async with (
            asyncio.timeout(seconds),
            session.get(url, allow_redirects=False) as response,
        ):
            answered = True
            if response.status != 200:
                return _refusal(response)
            return await _store(response, file, unfinished, max_bytes)
    except aiohttp.ServerTimeoutError:
        return Outcome(reason="no connection in time")
    except TimeoutError:
        return Outcome(reason=f"{'unfinished after' if answered else 'no answer in'} {seconds:g} s")
    except aiohttp.ClientError as error:
        return _failure(error)
    except ValueError:  # a host name that cannot be looked up, a target that cannot be asked for
        return Outcome(reason=NO_WEB_ADDRESS)


def _refusal(response: aiohttp.ClientResponse) -> Outcome:
    """Tell what an answer other than 200 asks for: going elsewhere, waiting, or giving up."""
    status, headers = response.status, response.headers
    if status in _REDIRECTS and "Location" in headers:
        return Outcome(reason=f"HTTP {status}", target=headers["Location"])
    wait = read_retry_after(headers.get("Retry-After", ""))
    if wait is None and status in _OVERLOADED:
        wait = 0.0
    return Outcome(reason=f"HTTP {status}", passing=status in _PASSING, wait=wait)


def read_retry_after(text: str) -> float | None:
    """Read how long a host wishes to be left alone, in seconds from now (RFC 9110, 10.2.3).

    Input:  "120", "Wed, 21 Oct 2015 07:28:00 GMT", "soon"
    Output: 120.0, 0.0 (it is past),                None
    """
    if re.fullmatch(r"\s*[0-9]+\s*", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


async def _store(
    response: aiohttp.ClientResponse, file: Path, unfinished: Path, max_bytes: int
) -> Outcome:
    """Write a body to disk as it comes in, if it is an image and not too large."""
    too_large = Outcome(reason=f"larger than {max_bytes / 1e6:g} MB")
    if (response.content_length or 0) > max_bytes:
        return too_large
    content = response.content
    chunk = await content.readany()
    while len(chunk) < HEAD and (more := await content.readany()):
        chunk += more
    if not is_image(chunk):
        return Outcome(reason=_what_else(chunk, response.content_type))
    size = 0
    try:
        with unfinished.open("wb", buffering=_WRITE_BUFFER) as part:
            while chunk:
                size += len(chunk)
                if size > max_bytes:
                    return too_large
                part.write(chunk)
                chunk = await content.readany()
        publish_file(unfinished, file, flush=False)
    finally:
        unfinished.unlink(missing_ok=True)
    return Outcome()


def _what_else(head: bytes, declared: str) -> str:
    """Name what came instead of an image, by its content, else by what it calls itself."""
    if not head:
        return "empty answer"
    found = next((name for name, begin in _OTHERS.items() if begin.match(head)), None)
    if found is None:
        known = _DECLARED.fullmatch(declared) and not declared.startswith("image/")
        found = declared if known else "unknown content"
    return f"no image ({found})"


def _failure(error: aiohttp.ClientError) -> Outcome:
    """Put into few words why there was no complete answer, and whether there may be one later."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
    if isinstance(cause, PrivateAddressError):
        return Outcome(reason=PRIVATE)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        again = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
        return Outcome(reason="no such host", passing=again)
    if isinstance(error, aiohttp.ClientSSLError):
        return Outcome(reason="no secure connection")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Outcome(reason="answer broken off", passing=True)
    if isinstance(error, aiohttp.ClientConnectionError):
        return Outcome(reason="no connection", passing=True)
    return Outcome(reason="malformed answer")
