"""Which addresses a download may reach: public ones on the web, nothing of the network it runs in.

A catalogue is written by strangers. An address in it, a redirect or a name server may point at this
machine, its neighbours or a cloud's metadata service, so every connection is judged by the address
it is about to be opened to (`guarded_socket`), however that address was come by.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Any

from yarl import URL

PRIVATE = "private address (--allow-private-addresses permits it)"
"""The reason of every refusal for the sake of the network around us."""

NO_WEB_ADDRESS = "no web address"
_SCHEMES = ("http", "https")

# The registries of special-purpose addresses (RFC 6890, as kept by IANA), written out because
# `ipaddress.is_global` differs between Python versions and counts multicast as global.
_CLOSED_V4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' own; a cloud's metadata service at 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's metadata service, on an otherwise public address
        "169.254.0.0/16",  # link-local; most clouds' metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # the way into 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
# All public IPv6 addresses given out so far lie in one block, less these parts of it.
_OPEN_V6 = ipaddress.IPv6Network("2000::/3")
_CLOSED_V6 = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4, which may lead to any IPv4 address
        "3fff::/20",
    )
]
# Behind these stands an IPv4 address, in the last 32 bits: mapped, and translated (RFC 6052).
_V4_INSIDE_V6 = [
    ipaddress.IPv6Network("::ffff:0:0/96"),
    ipaddress.IPv6Network("64:ff9b::/96"),
]

_UNQUOTED = re.compile(r"[!#-;=?-Z\[\]_a-z~]+")  # what RFC 3986 lets stand in an address as it is
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)")


class PrivateAddressError(OSError):
    """A connection was about to be opened to an address that is not public."""

    def __init__(self) -> None:
        super().__init__(PRIVATE)


def read_url(text: str, base: URL | None = None) -> URL:
    """Read an address of the web; what it points to is judged when it is connected to.

    Input:  "https://shop.example/a b.jpg"
    Output: URL("https://shop.example/a%20b.jpg"); one that needs no quoting stays as it is,
            because signed addresses of picture stores do not survive being rewritten

    Args:
        text: As found in a catalogue, or in a redirect.
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


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet.

    Input:  "93.184.215.14", "127.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0"
    Output: True,            False,       False,             False
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and any(ip in network for network in _V4_INSIDE_V6):
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _CLOSED_V4)
    return ip in _OPEN_V6 and not any(ip in network for network in _CLOSED_V6)


def guarded_socket(target: Sequence[Any]) -> socket.socket:
    """Make the socket for a connection, unless its target is not public.

    The connection is opened to this very address, so a name server that answers differently the
    second time has no second time.

    Args:
        target: As of `socket.getaddrinfo`: family, type, protocol, name, (address, port, …).

    Raises:
        PrivateAddressError: The target is not public.
    """
    family, kind, protocol, _, address = target
    if not is_public(address[0]):
        raise PrivateAddressError
    return socket.socket(family, kind, protocol)
