"""SSRF guard: parse URLs, classify IP addresses, open sockets to public addresses only.

URLs come from strangers (a catalog's links, a caller's image) and may point at this machine, its
neighbours or a cloud's metadata service. Every connection is therefore checked by the address it is
about to be opened to, whatever a name server returned before.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Any

from yarl import URL as URL  # re-exported: other modules import no HTTP library

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


class PrivateAddressError(OSError):
    """A connection to an address that is not public was prevented."""


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

    The connection is opened to this very address, so DNS rebinding has no second lookup to abuse.
    """
    family, kind, protocol, _, address = target
    if not is_public(address[0]):
        raise PrivateAddressError
    return socket.socket(family, kind, protocol)
