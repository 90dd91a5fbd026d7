"""Fetches an image from a host that was allowed by name, and from nowhere else.

A caller chooses the address, so this machine's own network must stay out of reach: no redirects, no
proxies, and every connection is judged by the address it is about to be opened to, whatever a name
server said before.
"""

import asyncio
import ipaddress
from collections.abc import Sequence

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from phi_vision.io.ssrf import PrivateAddressError, guarded_socket
from phi_vision.serving.errors import ApiError
from phi_vision.serving.settings import Settings

USUAL_PORTS = (80, 443)
"""What may be asked of a host that was allowed without a port."""

_CHUNK = 1 << 16
# Compression gains nothing on images and can hide a bomb, so none is asked for and none undone.
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "phi-vision"}


async def fetch_image(
    address: str,
    settings: Settings,
    *,
    param: str | None = None,
    resolver: AbstractResolver | None = None,
) -> bytes:
    """Fetch what lies at an address of the web.

    Args:
        address: As the caller wrote it.
        settings: Says which hosts are allowed, how many bytes and how many seconds.
        param: Where the caller wrote it, for the error.
        resolver: Looks names up; the system's unless given.

    Raises:
        ApiError: The host is not allowed or not public, or gives no image; says which.
    """
    url = _allowed(address, settings, param)
    try:
        async with (
            asyncio.timeout(settings.fetch_timeout),
            _session(url, resolver) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            return await _read(response, settings, param)
    except TimeoutError as error:
        words = f"{url.host} took longer than {settings.fetch_timeout:g} s"
        raise _failed(words, param) from error
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, PrivateAddressError):
            raise _private(url, param) from error
        raise _failed(f"{url.host} cannot be reached", param) from error
    except (aiohttp.ClientError, ValueError) as error:
        raise _failed(f"{url.host} broke off or answered with something odd", param) from error


def _allowed(address: str, settings: Settings, param: str | None) -> URL:
    """Read an address, and refuse it unless its host was allowed by name."""
    if not settings.allow_hosts:
        raise ApiError(
            400,
            "images are not fetched from the web here: send a data: URI such as "
            "data:image/jpeg;base64,…; whoever runs this server can allow hosts by name "
            "(--allow-hosts)",
            param=param,
            code="host_not_allowed",
        )
    try:
        url = URL(address.strip())
        host, port = url.host, url.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or url.user or url.password:
        message = "this is no address of an image; give https://HOST/PATH without a user name"
        raise ApiError(400, message, param=param, code="invalid_url")
    if not is_allowed(host, port, settings.allow_hosts):
        message = (
            f"images are not fetched from {host[:100]}:{port} here: only from "
            f"{', '.join(settings.allow_hosts)}; send a data: URI, or ask whoever runs this server"
        )
        raise ApiError(400, message, param=param, code="host_not_allowed")
    return url


def is_allowed(host: str, port: int, allowed: Sequence[str]) -> bool:
    """Whether a host is among those allowed, at this port.

    Input:  "shop.example", 443, ["shop.example"]    "shop.example", 22, ["shop.example"]
    Output: True                                     False: without a port only 80 and 443 are meant

    Input:  "10.0.0.5", 8080, ["10.0.0.5:8080"]      "a.shop.example", 443, ["shop.example"]
    Output: True                                     False: each name is allowed by itself
    """
    known = {name.lower().rstrip(".") for name in allowed}
    name = (f"[{host}]" if ":" in host else host).lower().rstrip(".")
    return f"{name}:{port}" in known or (port in USUAL_PORTS and bool(known & {name, host}))


def _session(url: URL, resolver: AbstractResolver | None) -> aiohttp.ClientSession:
    """Open a session for one image, which is guarded unless its host is allowed as an address."""
    connector = aiohttp.TCPConnector(
        resolver=resolver or aiohttp.ThreadedResolver(),
        use_dns_cache=False,
        force_close=True,
        socket_factory=None if _is_literal(url) else guarded_socket,
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers=_HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),  # ours is around all of it
    )


def _is_literal(url: URL) -> bool:
    """Whether the host is an IP address: allowed as such, it is meant, private or not."""
    try:
        ipaddress.ip_address((url.host or "").partition("%")[0])
    except ValueError:
        return False
    return True


async def _read(response: aiohttp.ClientResponse, settings: Settings, param: str | None) -> bytes:
    """Read an answer to its end, unless it is none or becomes too large."""
    host = response.url.host
    if 300 <= response.status < 400:
        raise _failed(f"{host} sends elsewhere, which is not followed", param)
    if response.status != 200:
        raise _failed(f"{host} answered with status {response.status}", param)
    most = settings.max_body_bytes
    collected = bytearray()
    if (response.content_length or 0) <= most:
        async for chunk in response.content.iter_chunked(_CHUNK):
            collected += chunk
            if len(collected) > most:
                break
        else:
            return bytes(collected)
    message = f"the image at {host} is larger than {most:,} bytes; give a smaller one"
    raise ApiError(413, message, param=param, code="image_too_large")


def _failed(words: str, param: str | None) -> ApiError:
    message = f"the image could not be fetched: {words}; send it as a data: URI"
    return ApiError(400, message, param=param, code="image_not_fetched")


def _private(url: URL, param: str | None) -> ApiError:
    message = (
        f"the image could not be fetched: {url.host} leads to an address that is not public; "
        "send it as a data: URI, or ask whoever runs this server to allow the address itself"
    )
    return ApiError(400, message, param=param, code="host_not_public")
