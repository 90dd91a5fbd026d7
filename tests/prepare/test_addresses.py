"""How links of a catalog are read, and which of them are none."""

import pytest

from phi_vision.prepare.urls import read_url


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("https://shop.example/1.jpg", "https://shop.example/1.jpg"),
        ("  https://shop.example/1.jpg\n", "https://shop.example/1.jpg"),
        ("https://shop.example/a b.jpg", "https://shop.example/a%20b.jpg"),
        ("https://shop.example/mäntel.jpg", "https://shop.example/m%C3%A4ntel.jpg"),
        ("https://münchen.example/1.jpg", "https://xn--mnchen-3ya.example/1.jpg"),
        ("https://1.2.3.4/1.jpg", "https://1.2.3.4/1.jpg"),
        # What was signed is asked for as it was signed, however oddly it is quoted.
        ("https://s.example/%41%2f?X=a%2Fb+c&e=", "https://s.example/%41%2f?X=a%2Fb+c&e="),
    ],
)
def test_an_address_is_quoted_only_where_it_must_be(text: str, read: str) -> None:
    assert str(read_url(text)) == read


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file:///etc/passwd", "scheme file: only http and https"),
        ("ftp://shop.example/1.jpg", "scheme ftp: only http and https"),
        ("javascript:alert(1)", "scheme javascript: only http and https"),
        ("gopher://127.0.0.1:6379/_SET", "scheme gopher: only http and https"),
        ("images/1.jpg", "no web address"),
        ("//shop.example/1.jpg", "no web address"),
        ("", "no web address"),
        ("http://", "no web address"),
        ("http:///1.jpg", "no web address"),
        ("http://[::1/1.jpg", "no web address"),
        ("http://shop.example:99999/", "no web address"),
        ("http://shop.example:abc/", "no web address"),
        ("http://anna:secret@shop.example/", "user name in the address"),
        ("http://shop.example@127.0.0.1/", "user name in the address"),
        ("http://2130706433/", "host is an odd number"),
        ("http://0x7f000001/", "host is an odd number"),
        ("http://017700000001/", "host is an odd number"),
        ("http://0177.0.0.1/", "host is an odd number"),
        ("http://0x7f.0.0.1/", "host is an odd number"),
        ("http://127.1/", "host is an odd number"),
        ("http://127.0.0.1./", "host is an odd number"),
        ("http://shop.example.1/", "host is an odd number"),
    ],
)
def test_what_is_no_plain_address_of_the_web_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        read_url(text)


def test_a_redirect_may_be_relative() -> None:
    base = read_url("https://shop.example/a/1.jpg")
    assert str(read_url("../b/2.jpg?x=1", base)) == "https://shop.example/b/2.jpg?x=1"
    assert str(read_url("//cdn.example/2.jpg", base)) == "https://cdn.example/2.jpg"
