"""Which links of a catalog are web addresses; where they lead is judged as it is connected to."""

import ipaddress
import re

from yarl import URL

PRIVATE = "private address (--allow-private-addresses permits it)"
"""The reason of every refusal for the sake of the network around us."""

NO_WEB_ADDRESS = "no web address"
_SCHEMES = ("http", "https")

_UNQUOTED = re.compile(r"[!#-;=?-Z\[\]_a-z~]+")  # what RFC 3986 lets stand in an address as it is
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)")


def read_url(text: str, base: URL | None = None) -> URL:
    """Read an address of the web; what it points to is judged when it is connected to.

    Input:  "https://shop.example/a b.jpg"
    Output: URL("https://shop.example/a%20b.jpg"); one that needs no quoting stays as it is,
            because signed addresses of image stores do not survive being rewritten

    Args:
        text: As found in a catalog, or in a redirect.
        base: The address that redirects, to which `text` may be relative.

    Raises:
        ValueError: It is not of the web, carries a user name, or names its host by odd numbers;
            the message is short and the same for all of a kind.
    """
    text = text.strip()
    try:
        url = URL(text, encoded=_UNQUOTED.fullmatch(text) is not None)
        url = url if base is None else base.join(url)
        # The parts are only looked at when asked for: this finds ports and hosts that are none.
        scheme, host, user = url.scheme, url.host, url.raw_user or url.raw_password
        complete = scheme and (scheme not in _SCHEMES or (host and url.port))
    except ValueError as error:
        raise ValueError(NO_WEB_ADDRESS) from error
    if not complete:
        raise ValueError(NO_WEB_ADDRESS)
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme {scheme[:20]}: only {' and '.join(_SCHEMES)}")
    if user is not None:
        raise ValueError("user name in the address")
    if _is_odd_number(host or ""):
        raise ValueError("host is an odd number")
    return url


def _is_odd_number(host: str) -> bool:
    """Whether a host is an IPv4 address in disguise: 2130706433, 0x7f.1, 0177.0.0.1, 127.1.

    A name cannot end in a number, so these are read as addresses by some programs, and differently
    by others; nobody's shop is named this way.
    """
    if ":" in host or not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False
