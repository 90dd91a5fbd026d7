"""One asynchronous HTTP client: guarded connections, time and size limits, retries with backoff.

    async with open_session(allow_private=False) as session:
        await download(session, parse_url(link), file, partial, timeout=30, max_bytes=50_000_000)

URLs come from strangers (a catalog's links, a caller's image) and may point at this machine, its
neighbours or a cloud's metadata service. Every connection is therefore checked by the address it is
about to be opened to, whatever a name server returned before (SSRF guard).
"""

import asyncio
import email.utils
import ipaddress
import random
import re
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
from aiohttp.abc import AbstractResolver as AbstractResolver  # re-exported, as URL is: other
from yarl import URL as URL  # modules import no HTTP library

from phi_vision.io.atomic import publish_file

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

NOT_A_URL = "not an http(s) URL"
_SCHEMES = ("http", "https")
_VERBATIM = re.compile(r"[!#-;=?-Z\[\]_a-z~]+")  # characters that RFC 3986 allows unquoted
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)")

# The registries of special-purpose addresses (RFC 6890, as kept by IANA), written out because
# `ipaddress.is_global` differs between Python versions and counts multicast as global.
# fmt: off
_PRIVATE = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "100.64.0.0/10",  # carrier-grade NAT; a cloud's metadata service at 100.100.100.200
        "168.63.129.16/32",  # a cloud's metadata service, on an otherwise public address
        "169.254.0.0/16",  # link-local; most clouds' metadata services
        "192.88.99.0/24",  # 6to4 relay
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",
        "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        # Teredo and other protocols, documentation, 6to4 (any IPv4 address), documentation.
        "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
    )
]
# fmt: on
# All public IPv6 addresses assigned so far lie in one block.
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
# Their last 32 bits are an IPv4 address: mapped, and translated (RFC 6052).
_V4_INSIDE_V6 = [ipaddress.ip_network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96")]


@dataclass(eq=False)
class HttpError(Exception):
    """A request without the wanted response."""

    reason: str  # short, and the same for all of a kind: `HTTP 404`, `no response within 30 s`
    kind: Literal["private", "unreachable", "too large", "other"] = "other"
    retriable: bool = False  # whether a later attempt may succeed
    retry_after: float | None = None  # seconds the host asks for; 0 if it is just overloaded
    location: str | None = None  # target of a redirect


class PrivateAddressError(OSError):
    """A connection to an address that is not public was prevented."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter, by which callers repeat requests."""

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


def parse_url(text: str, base: URL | None = None) -> URL:
    """Parse an http(s) URL; the address behind its host is checked on connecting.

    Input:  "https://shop.example/a b.jpg"; it may be relative to `base`, which redirects
    Output: URL("https://shop.example/a%20b.jpg"); a URL that needs no quoting stays verbatim,
            because signed URLs of image stores do not survive rewriting
    """
    text = text.strip()
    try:
        url = URL(text, encoded=_VERBATIM.fullmatch(text) is not None)
        url = url if base is None else base.join(url)
        # yarl checks hosts and ports on access only.
        scheme, host, user = url.scheme, url.host or "", url.raw_user or url.raw_password
        if not scheme or (scheme in _SCHEMES and not (host and url.port)):
            raise ValueError
    except ValueError as error:
        raise ValueError(NOT_A_URL) from error
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme {scheme[:20]}: only {' and '.join(_SCHEMES)}")
    if user is not None:
        raise ValueError("user name in the URL")
    # 2130706433, 0x7f.1, 0177.0.0.1 and 127.1, which programs read differently: unlike these, a
    # domain name cannot end in a number.
    if ":" not in host and _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError("host is a disguised IPv4 address") from None
    return url


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    Input:  "93.184.215.14", "127.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0"
    Output: True,            False,       False,             False
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if any(ip in network for network in _V4_INSIDE_V6):
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    is_assigned = ip.version == 4 or ip in _PUBLIC_V6
    return is_assigned and not any(ip in network for network in _PRIVATE)


def guarded_socket(target: Sequence[Any]) -> socket.socket:
    """Create the socket for a connection to a target of `socket.getaddrinfo` that is public.

    It connects to this very address, so DNS rebinding has no second lookup to abuse.
    """
    family, kind, protocol, _, address = target
    if not is_public(address[0]):
        raise PrivateAddressError
    return socket.socket(family, kind, protocol)


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
    The body is collected in `partial`, on the same disk, for at most `timeout` seconds in all.
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
