"""Which URLs are accepted, and which addresses count as public, in whatever notation."""

import re
import socket

import pytest

from phi_vision.io.http import PrivateAddressError, guarded_socket, is_public, parse_url

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
def test_addresses_of_the_public_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_private_addresses_are_not_public_in_any_notation(address: str) -> None:
    assert not is_public(address)


def test_no_socket_is_created_for_an_address_that_is_not_public() -> None:
    target = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 80))
    with pytest.raises(PrivateAddressError):
        guarded_socket(target)


def test_a_socket_is_created_for_a_public_address() -> None:
    target = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("8.8.8.8", 80))
    with guarded_socket(target) as made:
        assert made.family == socket.AF_INET


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("https://shop.example/1.jpg", "https://shop.example/1.jpg"),
        ("  https://shop.example/1.jpg\n", "https://shop.example/1.jpg"),
        ("https://shop.example/a b.jpg", "https://shop.example/a%20b.jpg"),
        ("https://shop.example/mäntel.jpg", "https://shop.example/m%C3%A4ntel.jpg"),
        ("https://münchen.example/1.jpg", "https://xn--mnchen-3ya.example/1.jpg"),
        ("https://1.2.3.4/1.jpg", "https://1.2.3.4/1.jpg"),
        # A signed URL is requested verbatim, however oddly it is quoted.
        ("https://s.example/%41%2f?X=a%2Fb+c&e=", "https://s.example/%41%2f?X=a%2Fb+c&e="),
    ],
)
def test_a_url_is_quoted_only_where_it_must_be(text: str, parsed: str) -> None:
    assert str(parse_url(text)) == parsed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file:///etc/passwd", "scheme file: only http and https"),
        ("ftp://shop.example/1.jpg", "scheme ftp: only http and https"),
        ("javascript:alert(1)", "scheme javascript: only http and https"),
        ("gopher://127.0.0.1:6379/_SET", "scheme gopher: only http and https"),
        ("images/1.jpg", "not an http(s) URL"),
        ("//shop.example/1.jpg", "not an http(s) URL"),
        ("", "not an http(s) URL"),
        ("http://", "not an http(s) URL"),
        ("http:///1.jpg", "not an http(s) URL"),
        ("http://[::1/1.jpg", "not an http(s) URL"),
        ("http://shop.example:99999/", "not an http(s) URL"),
        ("http://shop.example:abc/", "not an http(s) URL"),
        ("http://anna:secret@shop.example/", "user name in the URL"),
        ("http://shop.example@127.0.0.1/", "user name in the URL"),
        ("http://2130706433/", "host is a disguised IPv4 address"),
        ("http://0x7f000001/", "host is a disguised IPv4 address"),
        ("http://017700000001/", "host is a disguised IPv4 address"),
        ("http://0177.0.0.1/", "host is a disguised IPv4 address"),
        ("http://0x7f.0.0.1/", "host is a disguised IPv4 address"),
        ("http://127.1/", "host is a disguised IPv4 address"),
        ("http://127.0.0.1./", "host is a disguised IPv4 address"),
        ("http://shop.example.1/", "host is a disguised IPv4 address"),
    ],
)
def test_other_urls_are_rejected(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        parse_url(text)


def test_a_redirect_may_be_relative() -> None:
    base = parse_url("https://shop.example/a/1.jpg")
    assert str(parse_url("../b/2.jpg?x=1", base)) == "https://shop.example/b/2.jpg?x=1"
    assert str(parse_url("//cdn.example/2.jpg", base)) == "https://cdn.example/2.jpg"
