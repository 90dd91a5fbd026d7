"""Images that are fetched: from hosts allowed by name, and never from the network around us."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from phi_vision.io.http import PrivateAddressError, guarded_socket
from phi_vision.serving.errors import ApiError
from phi_vision.serving.image_inputs import fetch_image, is_allowed
from phi_vision.serving.settings import Settings


@asynccontextmanager
async def shop() -> AsyncIterator[int]:
    """A host on loopback with images good and bad; yields its port."""

    async def image(request: web.Request) -> web.Response:
        return web.Response(body=b"an image", content_type="text/html")

    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPFound("/image")

    async def missing(request: web.Request) -> web.Response:
        raise web.HTTPNotFound

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 500)
            await asyncio.sleep(0)

    async def announced(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "99999999"})
        await response.prepare(request)
        await asyncio.sleep(0.4)
        return response

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.4)
        return web.Response()

    app = web.Application()
    for handler in (image, elsewhere, missing, endless, announced, slow):
        app.router.add_get(f"/{handler.__name__}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class FixedNames(AbstractResolver):
    """Answers with one address after the other, as a name server that changes its mind."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        address = self.addresses.pop(0)
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        pass


def fetch(url: str, *allowed: str, names: FixedNames | None = None) -> bytes:
    """Fetch an image; `PORT` in the addresses is the shop's."""

    async def fetch_one() -> bytes:
        async with shop() as port:
            hosts = tuple(host.replace("PORT", str(port)) for host in allowed)
            settings = Settings(allow_hosts=hosts, max_body_bytes=2000, fetch_timeout=0.2)
            address = url.replace("PORT", str(port))
            return await fetch_image(address, settings, resolver=names)

    return asyncio.run(fetch_one())


def rejection_of(url: str, *allowed: str, names: FixedNames | None = None) -> ApiError:
    with pytest.raises(ApiError) as rejection:
        fetch(url, *allowed, names=names)
    return rejection.value


def test_a_host_that_is_allowed_as_an_address_is_meant() -> None:
    assert fetch("http://127.0.0.1:PORT/image", "127.0.0.1:PORT") == b"an image"


@pytest.mark.parametrize(
    ("page", "status", "said"),
    [
        ("elsewhere", 400, "redirect from 127.0.0.1 not followed"),
        ("missing", 400, "127.0.0.1: HTTP 404"),
        ("endless", 413, "the image at 127.0.0.1 is larger than 2,000 bytes"),
        ("announced", 413, "the image at 127.0.0.1 is larger than 2,000 bytes"),
        ("slow", 400, "127.0.0.1: no response within 0.2 s"),
    ],
)
def test_responses_that_are_rejected(page: str, status: int, said: str) -> None:
    rejection = rejection_of(f"http://127.0.0.1:PORT/{page}", "127.0.0.1:PORT")
    assert rejection.status == status
    assert said in rejection.message


def test_a_host_that_is_not_there() -> None:
    assert "no connection" in rejection_of("http://127.0.0.1:1/a", "127.0.0.1:1").message


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://other.example/a", "host_not_allowed"),
        ("http://a.shop.example/a", "host_not_allowed"),
        ("http://shop.example.evil.example/a", "host_not_allowed"),
        ("http://shop.example:22/a", "host_not_allowed"),
        ("http://2130706433/a", "host_not_allowed"),
        ("http://[::1]/a", "host_not_allowed"),
        ("http://shop.example@evil.example/a", "invalid_url"),
        ("http://shop.example:99999/a", "invalid_url"),
        ("http:///a", "invalid_url"),
        ("http://", "invalid_url"),
    ],
)
def test_other_hosts_are_rejected(url: str, code: str) -> None:
    assert rejection_of(url, "shop.example").code == code


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0"])
def test_a_name_that_resolves_to_a_private_address_is_rejected(address: str) -> None:
    url = "http://shop.example:PORT/image"
    rejection = rejection_of(url, "shop.example:PORT", names=FixedNames([address]))
    assert rejection.code == "host_not_public"


def test_the_address_of_the_connection_is_the_checked_one() -> None:
    """So a name server that says something public first and something else later gains nothing."""
    names = FixedNames(["127.0.0.1", "93.184.215.14"])
    rejection_of("http://shop.example:PORT/image", "shop.example:PORT", names=names)
    assert names.asked == 1
    stream = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    guarded_socket((*stream, ("93.184.215.14", 80))).close()
    with pytest.raises(PrivateAddressError):
        guarded_socket((*stream, ("127.0.0.1", 80)))


@pytest.mark.parametrize(
    ("host", "port", "allowed", "expected"),
    [
        ("shop.example", 443, ["shop.example"], True),
        ("shop.example", 80, ["SHOP.example."], True),
        ("shop.example", 8080, ["shop.example"], False),
        ("shop.example", 8080, ["shop.example:8080"], True),
        ("shop.example", 443, ["shop.example:8080"], False),
        ("::1", 8080, ["[::1]:8080"], True),
        ("::1", 80, ["::1"], True),
    ],
)
def test_a_host_is_allowed_with_its_port(
    host: str, port: int, allowed: list[str], expected: bool
) -> None:
    assert is_allowed(host, port, allowed) is expected
