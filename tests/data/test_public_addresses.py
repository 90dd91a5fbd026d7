"""Which addresses may be reached, in whatever notation."""

import socket

import pytest

from phi_vision.io.ssrf import PrivateAddressError, guarded_socket, is_public

# fmt: off
PUBLIC = [
    "8.8.8.8", "1.1.1.1", "93.184.215.14", "172.15.0.1", "172.32.0.1", "192.169.0.1",
    "2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
]
NOT_PUBLIC = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "0.0.0.0", "0.1.2.3", "100.64.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "203.0.113.5",
    "169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192",
    "224.0.0.1", "239.255.255.250",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1",
    "ff02::1", "ff0e::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1",
    "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::",
    "2001:db8::1", "100::1", "5f00::1",
]
# fmt: on


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_open_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_around_us_are_not_public_in_any_notation(address: str) -> None:
    assert not is_public(address)


def test_no_socket_is_made_for_an_address_that_is_not_public() -> None:
    target = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 80))
    with pytest.raises(PrivateAddressError):
        guarded_socket(target)


def test_a_socket_is_made_for_a_public_address() -> None:
    target = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("8.8.8.8", 80))
    with guarded_socket(target) as made:
        assert made.family == socket.AF_INET
