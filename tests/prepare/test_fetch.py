"""Downloads against a real server on the loopback interface that does what bad servers do."""

import asyncio
import email.utils
import gzip
import ipaddress
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from phi_vision.io import http
from phi_vision.io.http import RetryPolicy, is_image, parse_retry_after
from phi_vision.prepare import fetch as fetch_module
from phi_vision.prepare.fetch import PRIVATE_ADDRESS, Fetched, Limits, fetch

RETRY = RetryPolicy(retries=2, first_wait=0.01)
LIMITS = Limits(allow_private=True, timeout=10, retry=RETRY)
NO_RETRY = RetryPolicy(retries=0)
JPEG = b"\xff\xd8\xff\xe0" + bytes(2000) + b"\xff\xd9"
TLS = b"\x16"  # how a client begins that wants a secure connection
HTML = b"<!DOCTYPE html><html><body>Sign in to see this image</body></html>"

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = JPEG, status: int = 200, **headers: str | int) -> bytes:
    """Word an HTTP answer; `content_length=5` and its like override what is true."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = {"content-length": len(body), "content-type": "image/jpeg"} | named
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body


class Shop:
    """A server at 127.0.0.1 and 127.0.0.2 that gives what it was told to, and counts."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}
        self.requests: list[bytes] = []
        self.delay = 0.0
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self.closing = asyncio.Event()
        started = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(started,))
        self.thread.start()
        started.wait()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def gives(self, path: str, *answers: Answer) -> str:
        """Answer requests for a path with these in turn, then always with the last one."""
        self.answers[path] = list(answers)
        return self.url(path)

    def run(self, started: threading.Event) -> None:
        self.loop.run_until_complete(self.open(started))

    async def open(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        other = await asyncio.start_server(self.serve, "127.0.0.2", self.port)
        started.set()
        await self.closing.wait()
        server.close()
        other.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at = writer.get_extra_info("sockname")[0]
        try:
            while (first := await reader.read(1)) != TLS:
                request = first + await reader.readuntil(b"\r\n\r\n")
                path = request.split()[1].decode()
                self.requests.append(request)
                self.now.update([at, "all"])
                for name in (at, "all"):
                    self.most[name] = max(self.most[name], self.now[name])
                try:
                    await self.give(path, writer)
                finally:
                    self.now.subtract([at, "all"])
            writer.write(answer(b"plain words only", 400))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def give(self, path: str, writer: asyncio.StreamWriter) -> None:
        answers = self.answers.get(path, [answer(JPEG + path.encode())])
        chosen = answers[min(self.asked[path], len(answers) - 1)]
        self.asked[path] += 1
        self.times.setdefault(path, []).append(time.monotonic())
        await asyncio.sleep(self.delay)
        if isinstance(chosen, bytes):
            writer.write(chosen)
            if b"connection: close" in chosen:
                writer.close()
        else:
            await chosen(writer)
            writer.close()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.closing.set)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.close()


def one(url: str, cache: Path, limits: Limits = LIMITS) -> Fetched:
    """Fetch one image, and see that nothing unfinished stays behind."""
    (fetched,) = fetch([url], cache, limits)
    assert not list(cache.glob("unfinished-*"))
    assert fetched.url == url
    assert (fetched.file is None) != (fetched.reason is None)
    return fetched


def content(fetched: Fetched) -> bytes:
    assert fetched.file is not None, fetched.reason
    return fetched.file.read_bytes()


def test_results_come_in_the_order_of_the_urls(shop: Shop, tmp_path: Path) -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(answer(JPEG + b"/0.jpg"))

    shop.gives("/0.jpg", slowly)
    urls = [shop.url(f"/{number}.jpg") for number in range(40)]
    results = list(fetch(urls, tmp_path, LIMITS))
    assert [fetched.url for fetched in results] == urls
    assert [content(fetched) for fetched in results] == [
        JPEG + f"/{number}.jpg".encode() for number in range(40)
    ]


def test_a_repeated_url_is_fetched_once(shop: Shop, tmp_path: Path) -> None:
    gone = shop.gives("/gone.jpg", answer(b"", 404))
    urls = [shop.url("/a.jpg"), gone, shop.url("/a.jpg"), shop.url("/b.jpg"), gone]
    results = list(fetch(urls * 200, tmp_path, LIMITS))
    assert [fetched.url for fetched in results] == urls * 200
    assert shop.asked == {"/a.jpg": 1, "/b.jpg": 1, "/gone.jpg": 1}


def test_progress_is_reported_once_for_each_row(shop: Shop, tmp_path: Path) -> None:
    urls = [shop.url("/a.jpg"), shop.url("/b.jpg"), shop.url("/a.jpg"), "nonsense"]
    told: list[Fetched] = []
    results = list(fetch(urls, tmp_path, LIMITS, told.append))
    assert sorted(f.url for f in told) == sorted(urls)
    assert {f.url: f for f in told} == {f.url: f for f in results}


def test_a_second_run_fetches_only_what_failed(shop: Shop, tmp_path: Path) -> None:
    later = shop.gives("/later.jpg", answer(b"", 404), answer())
    urls = [shop.url("/a.jpg"), later]
    assert [f.reason for f in fetch(urls, tmp_path, LIMITS)] == [None, "HTTP 404"]
    assert [f.reason for f in fetch(urls, tmp_path, LIMITS)] == [None, None]
    assert [f.reason for f in fetch(urls, tmp_path, LIMITS)] == [None, None]
    assert shop.asked == {"/a.jpg": 1, "/later.jpg": 2}


RUN = """
import sys
from pathlib import Path
from phi_vision.prepare.fetch import Limits, fetch
limits = Limits(allow_private=True, per_host=4)
for fetched in fetch(sys.argv[2:], Path(sys.argv[1]), limits):
    pass
"""


def test_a_killed_run_resumes_without_fetching_twice(shop: Shop, tmp_path: Path) -> None:
    killed = asyncio.Event()

    async def first_half(writer: asyncio.StreamWriter) -> None:
        writer.write(answer() if killed.is_set() else answer()[:1000])
        await killed.wait()

    urls = [shop.gives(f"/{number}.jpg", answer()) for number in range(30)]
    urls += [shop.gives(f"/{number}.jpg", first_half) for number in range(30, 60)]
    with subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), *urls]) as run:
        while len(list(tmp_path.glob("unfinished-*/*"))) < 4:
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
    shop.loop.call_soon_threadsafe(killed.set)
    finished = {file.name for file in tmp_path.glob("??/*")}
    assert len(finished) == 30
    assert {file.stat().st_size for file in tmp_path.glob("??/*")} == {len(JPEG)}
    first = shop.asked.copy()
    for fetched in fetch(urls, tmp_path, LIMITS):
        assert content(fetched) == JPEG
        assert fetched.file is not None
        path = fetched.url.removeprefix(shop.url(""))
        assert shop.asked[path] - first[path] == (fetched.file.name not in finished)


def test_partial_files_of_killed_runs_are_removed_a_day_later(tmp_path: Path) -> None:
    for name, age in (("unfinished-old", 25 * 3600), ("unfinished-new", 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_bytes(JPEG[:100])
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert list(fetch([], tmp_path, LIMITS)) == []
    assert [folder.name for folder in tmp_path.iterdir()] == ["unfinished-new"]


def test_an_empty_file_in_the_cache_is_not_taken_for_an_image(shop: Shop, tmp_path: Path) -> None:
    first = one(shop.url("/a.jpg"), tmp_path)
    assert first.file is not None
    first.file.write_bytes(b"")  # what is left after a power cut
    assert content(one(shop.url("/a.jpg"), tmp_path)) == JPEG + b"/a.jpg"
    assert shop.asked["/a.jpg"] == 2


def test_a_missing_image_is_requested_once(shop: Shop, tmp_path: Path) -> None:
    assert one(shop.gives("/a.jpg", answer(HTML, 404)), tmp_path).reason == "HTTP 404"
    assert shop.asked["/a.jpg"] == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_retriable_failure_is_retried(shop: Shop, tmp_path: Path, status: int) -> None:
    url = shop.gives("/a.jpg", answer(b"", status), answer(b"", status), answer())
    assert content(one(url, tmp_path)) == JPEG
    assert shop.asked["/a.jpg"] == 3


def test_retries_are_limited(shop: Shop, tmp_path: Path) -> None:
    assert one(shop.gives("/a.jpg", answer(b"", 503)), tmp_path).reason == "HTTP 503"
    assert shop.asked["/a.jpg"] == 1 + RETRY.retries


def test_a_dropped_connection_is_retried(shop: Shop, tmp_path: Path) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    assert content(one(shop.gives("/a.jpg", hang_up, answer()), tmp_path)) == JPEG
    assert one(shop.gives("/b.jpg", hang_up), tmp_path).reason == "no connection"
    # A connection may be dropped because it stayed open too long, so aiohttp itself asks once more.
    assert shop.asked == {"/a.jpg": 2, "/b.jpg": 2 * (1 + RETRY.retries)}


def test_a_closed_port_is_no_connection(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        assert one(url, tmp_path).reason == "no connection"


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_pauses_the_whole_host(shop: Shop, tmp_path: Path, form: str) -> None:
    date = email.utils.formatdate(time.time() + 2, usegmt=True)  # whole seconds: 1 to 2 from now
    busy = answer(b"", 429, retry_after="1" if form == "seconds" else date)
    urls = [shop.gives("/a.jpg", busy, answer()), shop.url("/b.jpg")]
    limits = replace(LIMITS, per_host=1)
    assert [f.reason for f in fetch(urls, tmp_path, limits)] == [None, None]
    first, second = shop.times["/a.jpg"]
    assert second - first > 0.5
    assert shop.times["/b.jpg"][0] - first > 0.5


def test_a_host_with_a_long_retry_after_is_not_contacted_again(shop: Shop, tmp_path: Path) -> None:
    url = shop.gives("/a.jpg", answer(b"", 429, retry_after="3600"), answer())
    assert one(url, tmp_path).reason == "HTTP 429"
    assert shop.asked["/a.jpg"] == 1


def test_retry_after_is_parsed_in_both_notations() -> None:
    assert parse_retry_after("120") == 120
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert parse_retry_after(in_a_minute) == pytest.approx(60, abs=2)
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert parse_retry_after("9" * 400) == float("inf")
    assert parse_retry_after("soon") is None
    assert parse_retry_after("") is None


async def endlessly(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + JPEG)
    while True:
        writer.write(bytes(10_000))
        await writer.drain()


async def dripping(writer: asyncio.StreamWriter) -> None:
    writer.write(answer()[:200])
    for _ in range(200):
        await asyncio.sleep(0.05)
        writer.write(b"\0")


async def never(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


def test_an_endless_body_is_aborted(shop: Shop, tmp_path: Path) -> None:
    limits = replace(LIMITS, max_bytes=100_000)
    assert one(shop.gives("/a.jpg", endlessly), tmp_path, limits).reason == "larger than 0.1 MB"


def test_an_announced_size_is_believed_before_anything_is_read(shop: Shop, tmp_path: Path) -> None:
    url = shop.gives("/a.jpg", answer(content_length=10**12))
    assert one(url, tmp_path).reason == "larger than 50 MB"


def test_a_silent_host_times_out(shop: Shop, tmp_path: Path) -> None:
    limits = replace(LIMITS, timeout=0.3)
    assert one(shop.gives("/a.jpg", never), tmp_path, limits).reason == "no response within 0.3 s"
    assert one(shop.gives("/b.jpg", dripping), tmp_path, limits).reason == "unfinished after 0.3 s"


def test_a_body_shorter_than_announced_is_no_image(shop: Shop, tmp_path: Path) -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(answer()[:1000])

    assert content(one(shop.gives("/a.jpg", half, answer()), tmp_path)) == JPEG
    assert one(shop.gives("/b.jpg", half), tmp_path).reason == "response truncated"
    assert len(list(tmp_path.glob("??/*"))) == 1


@pytest.mark.parametrize(
    ("body", "declared", "reason"),
    [
        (HTML, "image/jpeg", "not an image (text/html)"),
        (b"\n<svg xmlns='http://www.w3.org/2000/svg'/>", "", "not an image (image/svg+xml)"),
        (b'{"error": "gone"}', "application/json", "not an image (application/json)"),
        (b"just words", "a" * 5000 + "/x", "not an image (unknown content)"),
        (b"", "image/jpeg", "empty response"),
        (b"\xff\xd8", "image/jpeg", "not an image (unknown content)"),
    ],
)
def test_other_content_is_rejected_by_its_magic_bytes(
    shop: Shop, tmp_path: Path, body: bytes, declared: str, reason: str
) -> None:
    url = shop.gives("/a.jpg", answer(body, content_type=declared))
    assert one(url, tmp_path).reason == reason


@pytest.mark.parametrize(
    "head",
    [
        b"\xff\xd8\xff\xdb",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBPVP8 ",
        b"\0\0\0\x20ftypavif",
        b"BM\x36\0\0\0\0\0\0\0",
        b"II*\0",
        b"MM\0*",
    ],
)
def test_images_are_known_by_their_first_bytes(head: bytes) -> None:
    assert is_image(head)
    assert not is_image(b"\0" + head)


def test_an_image_of_another_media_type_is_accepted(shop: Shop, tmp_path: Path) -> None:
    url = shop.gives("/a.php", answer(content_type="text/html", content_encoding="gzip"))
    assert content(one(url, tmp_path)) == JPEG


def test_a_compressed_response_is_neither_requested_nor_unpacked(
    shop: Shop, tmp_path: Path
) -> None:
    bomb = gzip.compress(JPEG + bytes(20_000_000))
    url = shop.gives("/a.jpg", answer(bomb, content_encoding="gzip"))
    assert one(url, tmp_path).reason == "not an image (compressed)"
    assert b"accept-encoding: identity\r\n" in shop.requests[0].lower()


def test_redirects_are_limited(shop: Shop, tmp_path: Path) -> None:
    for number in range(9):
        shop.gives(f"/{number}", answer(b"", 302, location=f"/{number + 1}"))
    shop.gives("/9", answer())
    assert content(one(shop.url("/4"), tmp_path)) == JPEG
    assert one(shop.url("/3"), tmp_path).reason == "more than 5 redirects"


def test_a_redirect_in_a_circle_ends(shop: Shop, tmp_path: Path) -> None:
    url = shop.gives("/a.jpg", answer(b"", 301, location=shop.url("/b.jpg")))
    shop.gives("/b.jpg", answer(b"", 301, location=shop.url("/a.jpg")))
    assert one(url, tmp_path).reason == "more than 5 redirects"
    assert shop.asked == {"/a.jpg": 3, "/b.jpg": 3}


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("file:///etc/passwd", "redirect: scheme file: only http and https"),
        ("http://[broken/", "redirect: not an http(s) URL"),
        ("http://anna:secret@127.0.0.1/", "redirect: user name in the URL"),
        ("http://2130706433/", "redirect: host is a disguised IPv4 address"),
    ],
)
def test_a_redirect_is_checked_like_any_url(
    shop: Shop, tmp_path: Path, target: str, reason: str
) -> None:
    assert one(shop.gives("/a", answer(b"", 302, location=target)), tmp_path).reason == reason


def test_a_redirect_without_a_target_is_a_failure(shop: Shop, tmp_path: Path) -> None:
    assert one(shop.gives("/a", answer(b"", 302)), tmp_path).reason == "HTTP 302"


def test_garbage_instead_of_http_is_a_malformed_response(shop: Shop, tmp_path: Path) -> None:
    assert (
        one(shop.gives("/a", b"SSH-2.0-OpenSSH\r\n\r\n"), tmp_path).reason == "malformed response"
    )


def test_https_without_it_on_the_other_side_is_no_secure_connection(
    shop: Shop, tmp_path: Path
) -> None:
    url = shop.url("/a.jpg").replace("http:", "https:")
    assert one(url, tmp_path).reason == "no secure connection"


def test_a_name_that_cannot_exist_fails_without_harm(tmp_path: Path) -> None:
    for host in ("a..b", "a" * 70, "-"):
        assert one(f"http://{host}/", tmp_path, replace(LIMITS, retry=NO_RETRY)).reason


def test_parallel_transfers_are_limited_by_host_and_in_total(shop: Shop, tmp_path: Path) -> None:
    shop.delay = 0.01
    limits = replace(LIMITS, per_host=3, total=5)
    urls = [
        shop.url(f"/{number}.jpg", host)
        for number in range(20)
        for host in ("127.0.0.1", "127.0.0.2")
    ]
    assert all(fetched.file for fetched in fetch(urls, tmp_path, limits))
    assert shop.most == {"127.0.0.1": 3, "127.0.0.2": 3, "all": 5}


def test_redirects_count_for_the_host_they_lead_to(shop: Shop, tmp_path: Path) -> None:
    shop.delay = 0.005
    for number in range(20):
        there = shop.url(f"/{number}.jpg", "127.0.0.2")
        shop.gives(f"/{number}", answer(b"", 302, location=there))
    urls = [shop.url(f"/{number}") for number in range(20)]
    assert all(f.file for f in fetch(urls, tmp_path, replace(LIMITS, per_host=2)))
    assert shop.most["127.0.0.2"] <= 2


def test_a_slow_host_does_not_delay_the_others(shop: Shop, tmp_path: Path) -> None:
    slow = [shop.gives(f"/slow-{number}.jpg", never) for number in range(20)]
    quick = [shop.url(f"/{number}.jpg", "127.0.0.2") for number in range(20)]
    told: list[Fetched] = []
    limits = replace(LIMITS, per_host=2, total=4, timeout=0.5, retry=NO_RETRY)
    running = fetch(slow[:4] + quick, tmp_path, limits, told.append)
    assert next(running).reason == "no response within 0.5 s"
    assert sum(fetched.file is not None for fetched in told) == len(quick)
    running.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", "0.0.0.0"])
def test_this_machine_is_not_contacted_unless_allowed(
    shop: Shop, tmp_path: Path, host: str
) -> None:
    reason = one(shop.url("/a.jpg", host), tmp_path, Limits()).reason
    assert reason == PRIVATE_ADDRESS
    assert "--allow-private-addresses" in reason
    assert not shop.requests


@pytest.mark.parametrize(
    "host",
    ["[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[fe80::1]", "[64:ff9b::7f00:1]"],
)
def test_this_machine_is_not_reached_by_ipv6(shop: Shop, tmp_path: Path, host: str) -> None:
    assert one(shop.url("/a.jpg", host), tmp_path, Limits()).reason == PRIVATE_ADDRESS
    assert not shop.requests


@pytest.fixture
def only_2_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 127.0.0.1 stand for the internet, and 127.0.0.2 for what must not be reached."""
    closed = [ipaddress.IPv4Network("127.0.0.2/32")]
    monkeypatch.setattr(http, "_PRIVATE", closed)


@pytest.mark.usefixtures("only_2_is_private")
@pytest.mark.parametrize("host", ["127.0.0.2", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]"])
def test_a_redirect_does_not_lead_to_a_private_address(
    shop: Shop, tmp_path: Path, host: str
) -> None:
    url = shop.gives("/a.jpg", answer(b"", 302, location=shop.url("/secret.jpg", host)))
    assert one(url, tmp_path, replace(LIMITS, allow_private=False)).reason == PRIVATE_ADDRESS
    assert shop.asked == {"/a.jpg": 1}


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Let a name server answer every name with these addresses in turn, then with the last."""
    left = list(answers)

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        found = left.pop(0) if len(left) > 1 else left[0]
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, (address, port)) for address in found]

    def look_up_plainly(
        host: str, port: int, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[object, ...]]:
        return look_up(host, port)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_plainly)


@pytest.mark.usefixtures("only_2_is_private")
def test_a_name_that_changes_its_address_does_not_lead_to_a_private_one(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_DNS_CACHE_SECONDS", 0)
    names(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    closing = answer(connection="close")
    shop.gives("/a.jpg", closing)
    shop.gives("/b.jpg", closing)
    urls = [shop.url(path, "rebinding.example") for path in ("/a.jpg", "/b.jpg")]
    limits = replace(LIMITS, allow_private=False, per_host=1)
    assert [f.reason for f in fetch(urls, tmp_path, limits)] == [None, PRIVATE_ADDRESS]
    assert shop.most["127.0.0.2"] == 0


@pytest.mark.usefixtures("only_2_is_private")
def test_of_several_addresses_only_the_public_ones_are_reached(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    limits = replace(LIMITS, allow_private=False)
    assert one(shop.url("/a.jpg", "two.example"), tmp_path, limits).file
    assert shop.most["127.0.0.2"] == 0


def test_proxies_of_the_environment_are_not_used(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert one(shop.url("/a.jpg"), tmp_path).file


def test_a_catalog_is_read_only_so_far_ahead(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "WINDOW", 300)
    read: list[str] = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            read.append(shop.url(f"/{number}"))
            yield read[-1]

    running = fetch(endless(), tmp_path, LIMITS)
    for _ in range(5):
        assert next(running).file
    assert len(read) <= 305
    running.close()


def test_leaving_early_ends_the_thread_and_removes_partial_files(
    shop: Shop, tmp_path: Path
) -> None:
    urls = [shop.url("/a.jpg"), *(shop.gives(f"/{number}", never) for number in range(9))]
    running = fetch(urls, tmp_path, LIMITS)
    assert next(running).file
    started = time.monotonic()
    running.close()
    assert time.monotonic() - started < 5
    assert "downloads" not in [thread.name for thread in threading.enumerate()]
    assert not list(tmp_path.glob("unfinished-*"))


def test_a_cache_that_cannot_be_written_is_an_error(shop: Shop, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("not a folder")
    with pytest.raises(ValueError, match=r"cannot store images in .*taken: .*choose another"):
        list(fetch([shop.url("/a.jpg")], taken, LIMITS))
    first = one(shop.url("/a.jpg"), tmp_path)
    assert first.file is not None
    first.file.unlink()
    first.file.parent.rmdir()
    first.file.parent.write_text("in the way")
    with pytest.raises(ValueError, match="cannot store images in"):
        list(fetch([shop.url("/a.jpg")], tmp_path, LIMITS))


def test_limits_under_which_nothing_can_be_fetched_are_rejected() -> None:
    with pytest.raises(ValueError, match="per_host is 0; it must be above 0"):
        Limits(per_host=0)
    with pytest.raises(ValueError, match="timeout is -1; it must be above 0"):
        Limits(timeout=-1)
