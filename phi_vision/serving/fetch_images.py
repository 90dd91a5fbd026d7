"""Fetch an image from a host that was allowed by name, and from nowhere else.

Clients choose the URL, so this machine's own network must stay out of reach: no redirects, no
proxies, and every connection is checked by the address it is about to be opened to.
"""

import ipaddress
from collections.abc import Sequence

from phi_vision.io.http import AbstractResolver, HttpError, open_session, read_body
from phi_vision.io.ssrf import URL
from phi_vision.serving.errors import ApiError
from phi_vision.serving.settings import Settings

DEFAULT_PORTS = (80, 443)
"""Ports of a host that was allowed without a port."""


async def fetch_image(
    address: str, settings: Settings, *, resolver: AbstractResolver | None = None
) -> bytes:
    """Fetch an image by its URL; `resolver` replaces the system's name resolution.

    Raises:
        ApiError: The host is not allowed, not public, or does not return an image.
    """
    url = _parse_allowed(address, settings)
    limit = settings.max_body_bytes
    try:
        async with open_session(allow_private=_is_ip_address(url), resolver=resolver) as session:
            return await read_body(session, url, timeout=settings.fetch_timeout, max_bytes=limit)
    except HttpError as error:
        if error.kind == "too large":
            message = f"the image at {url.host} is larger than {limit:,} bytes; send a smaller one"
            raise ApiError(413, message, code="image_too_large") from error
        code, advice = "image_not_fetched", "send it as a data: URI"
        reason = f"{url.host}: {error.reason}"
        if error.location is not None:
            reason = f"redirect from {url.host} not followed"
        elif error.kind == "private":
            code, reason = (
                "host_not_public",
                f"{url.host} resolves to a private address",
            )
            advice += ", or ask the operator to allow the address itself"
        message = f"the image could not be fetched: {reason}; {advice}"
        raise ApiError(400, message, code=code) from error


def _parse_allowed(address: str, settings: Settings) -> URL:
    """Parse a URL, and reject it unless its host was allowed by name."""
    if not settings.allow_hosts:
        message = (
            "this server fetches no images: send a data: URI such as data:image/jpeg;base64,…; "
            "the operator can allow hosts by name (--allow-hosts)"
        )
        raise ApiError(400, message, code="host_not_allowed")
    try:
        url = URL(address.strip())
        host, port = url.host, url.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or url.user or url.password:
        message = "not the URL of an image; write https://HOST/PATH without a user name"
        raise ApiError(400, message, code="invalid_url")
    if not is_allowed(host, port, settings.allow_hosts):
        message = (
            f"this server fetches no images from {host[:100]}:{port}, only from "
            f"{', '.join(settings.allow_hosts)}; send a data: URI, or ask the operator"
        )
        raise ApiError(400, message, code="host_not_allowed")
    return url


def is_allowed(host: str, port: int, allowed: Sequence[str]) -> bool:
    """Whether a host is allowed at this port.

    Input:  "shop.example", 443, ["shop.example"]    "shop.example", 22, ["shop.example"]
    Output: True                                     False: without a port only 80 and 443

    Input:  "10.0.0.5", 8080, ["10.0.0.5:8080"]      "a.shop.example", 443, ["shop.example"]
    Output: True                                     False: each name is allowed by itself
    """
    known = {name.lower().rstrip(".") for name in allowed}
    name = (f"[{host}]" if ":" in host else host).lower().rstrip(".")
    return f"{name}:{port}" in known or (port in DEFAULT_PORTS and bool(known & {name, host}))


def _is_ip_address(url: URL) -> bool:
    """Whether the host is an IP address: allowed as such, it may be private."""
    try:
        ipaddress.ip_address((url.host or "").partition("%")[0])
    except ValueError:
        return False
    return True
