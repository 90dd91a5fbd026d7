"""Which network addresses are public, and sockets to no others.

Where strangers name addresses (a catalog's links, a caller's image) they may point at this
machine, its neighbours or a cloud's metadata service. So every connection is judged by the address
it is about to be opened to (`guarded_socket`), however that address was come by.
"""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

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


class PrivateAddressError(OSError):
    """A connection was about to be opened to an address that is not public."""


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
