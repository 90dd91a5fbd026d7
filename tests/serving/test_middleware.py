"""Middleware: what comes through to the app, and what does not."""

import asyncio
import contextlib
import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from phi_vision.serving import connections
from phi_vision.serving.connections import HttpProtocol
from phi_vision.serving.errors import ApiError
from phi_vision.serving.middleware import install_middleware
from phi_vision.serving.server import DrainingServer
from phi_vision.serving.settings import MIB, Settings
from phi_vision.serving.telemetry import JsonFormatter, ServerMetrics

SMALL = Settings(max_body_bytes=MIB, body_timeout=0.3)
LOCKED = replace(SMALL, key="hunter2-hunter2")


class Order(BaseModel):
    size: int


def toy_app(settings: Settings, metrics: ServerMetrics | None = None) -> FastAPI:
    """An app with one path of each kind."""
    app = FastAPI(openapi_url=None)
    install_middleware(app, settings, metrics or ServerMetrics())

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/v1/orders/{shop}")
    async def order(shop: str, order: Order, request: Request) -> int:
        request.state.tokens = (7, order.size)
        return order.size

    @app.post("/v1/bytes")
    async def count(request: Request) -> int:
        return len(await request.body())

    @app.get("/v1/full")
    async def full() -> None:
        raise ApiError(429, "64 wait", code="queue_full", retry_after=2)

    @app.get("/v1/broken")
    async def broken() -> None:
        raise ValueError("a wool coat")

    @app.get("/v1/breaks-off")
    async def breaks_off() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"begun"
            raise ValueError("a wool coat")

        return StreamingResponse(pieces())

    @app.get("/v1/slow")
    async def slow(request: Request) -> str:
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        return "nobody hears this"

    return app


@pytest.fixture
def client() -> TestClient:
    return TestClient(toy_app(SMALL), raise_server_exceptions=False)


@pytest.fixture
def locked() -> TestClient:
    return TestClient(toy_app(LOCKED))


# The key


@pytest.mark.parametrize(
    "header", ["Bearer hunter2-hunter2", "bearer hunter2-hunter2", "BEARER  hunter2-hunter2"]
)
def test_the_key_is_accepted(locked: TestClient, header: str) -> None:
    assert locked.post("/v1/bytes", headers={"authorization": header}).status_code == 200


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("", "none was sent"),
        ("Bearer", "none was sent"),
        ("Bearer ", "none was sent"),
        ("Bearer hunter2", "a wrong one was sent"),
        ("Bearer clé", "a wrong one was sent"),
        ("Basic hunter2-hunter2", "a wrong one was sent"),
        ("hunter2-hunter2", "none was sent"),
    ],
)
def test_other_keys_are_rejected(locked: TestClient, header: str, said: str) -> None:
    answer = locked.post("/v1/bytes", headers={"authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert said in error["message"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


def test_two_authorization_headers_are_rejected(locked: TestClient) -> None:
    twice = [("authorization", "Bearer hunter2-hunter2"), ("authorization", "Bearer x")]
    assert locked.post("/v1/bytes", headers=twice).status_code == 401


@pytest.mark.parametrize("path", ["/v1/full", "/metrics", "/no/such", "/page/../metrics"])
def test_only_health_and_the_page_are_public(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/page/icon.svg"])
def test_the_page_needs_no_key(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == 404  # This app has none.
    assert locked.get("/health").status_code == 200


# The body


def test_a_body_at_the_limit_is_accepted(client: TestClient) -> None:
    assert client.post("/v1/bytes", content=b"x" * MIB).json() == MIB


def test_a_larger_body_is_rejected_by_its_length(client: TestClient) -> None:
    check_rejected_as_too_large(client, b"x" * (MIB + 1))


def test_a_chunked_body_is_rejected_when_it_becomes_too_large(client: TestClient) -> None:
    check_rejected_as_too_large(client, (b"x" * 4096 for _ in range(257)))


def check_rejected_as_too_large(client: TestClient, content: bytes | Iterator[bytes]) -> None:
    answer = client.post("/v1/bytes", content=content)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


# Ids and headers


@pytest.mark.parametrize("given", ["a1", "550e8400-e29b-41d4-a716-446655440000", "x" * 64])
def test_a_safe_id_is_kept(client: TestClient, given: str) -> None:
    assert client.get("/health", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"b', "a\tset-cookie: b", "é", "a\x00"])
def test_another_is_replaced(client: TestClient, given: str) -> None:
    headers = {"x-request-id": given.encode("latin-1")}
    assert client.get("/health", headers=headers).headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize("path", ["/health", "/v1/full", "/v1/broken", "/no/such"])
def test_every_response_has_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "x-request-id" in headers


# Errors in one shape


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("GET", "/no/such", "", 404, "not_found", None),
        ("GET", "/v1/bytes", "", 405, "method_not_allowed", None),
        ("HEAD", "/v1/bytes", "", 405, None, None),
        ("OPTIONS", "/v1/bytes", "", 405, "method_not_allowed", None),
        ("TRACE", "/v1/bytes", "", 405, "method_not_allowed", None),
        ("GET", "/v1/full", "", 429, "queue_full", None),
        ("POST", "/v1/orders/a", "[]", 400, None, None),
        ("POST", "/v1/orders/a", '{"size": "coat"}', 400, None, "size"),
        ("GET", "/v1/broken", "", 500, "internal_error", None),
    ],
)
def test_every_error_has_the_same_shape(
    client: TestClient,
    method: str,
    path: str,
    body: str,
    status: int,
    code: str | None,
    param: str | None,
) -> None:
    headers = {"content-type": "application/json"}
    answer = client.request(method, path, content=body, headers=headers)
    assert answer.status_code == status
    if method != "HEAD":
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["code"], error["param"]) == (code, param)
        assert "coat" not in error["message"]


# The log and the metrics


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, object]]]:
    caplog.set_level(logging.INFO, "phi_vision.serving")
    return lambda: [json.loads(JsonFormatter().format(record)) for record in caplog.records]


def test_a_request_is_one_line(
    client: TestClient, lines: Callable[[], list[dict[str, object]]]
) -> None:
    client.post("/v1/orders/a?secret=1", json={"size": 3}, headers={"x-request-id": "a1"})
    (line,) = (line for line in lines() if line["event"] == "request")
    del line["time"]
    assert line.pop("milliseconds") is not None
    assert line == {
        "level": "info",
        "event": "request",
        "id": "a1",
        "method": "POST",
        "path": "/v1/orders/a",
        "status": 200,
        "bytes_in": 10,
        "bytes_out": 1,
        "tokens_in": 7,
        "tokens_out": 3,
    }


def test_the_log_contains_no_secrets(
    locked: TestClient, lines: Callable[[], list[dict[str, object]]]
) -> None:
    headers = {"authorization": "Bearer hunter2-hunter2"}
    locked.post("/v1/orders/a", json={"size": 3, "words": "a wool coat"}, headers=headers)
    locked.post("/v1/orders/a", json={"size": "a wool coat"}, headers=headers)
    locked.post("/v1/orders/a", headers={"authorization": "Bearer another"})
    written = json.dumps(lines())
    assert written.count('"event": "request"') == 3
    for secret in ("hunter2", "wool", "another"):
        assert secret not in written


def test_metrics_have_routes_but_no_paths() -> None:
    metrics = ServerMetrics()
    client = TestClient(toy_app(SMALL, metrics))
    client.post("/v1/orders/a", json={"size": 3})
    client.post("/v1/orders/b", json={"size": 3})
    client.get("/made/up")
    client.post("/v1/bytes", content=b"x" * (MIB + 1))
    text = metrics.text()
    assert 'phi_vision_requests_total{route="/v1/orders/{shop}",status="200"} 2.0' in text
    assert 'phi_vision_requests_total{route="other",status="404"} 1.0' in text
    assert 'phi_vision_rejected_total{code="request_too_large"} 1.0' in text
    assert "phi_vision_requests_in_progress 0.0" in text
    assert "made" not in text


# Compression and pages of other origins


@pytest.mark.parametrize(
    ("body", "coding", "status", "words"),
    [
        (gzip.compress(b"x" * MIB, mtime=0), "gzip", 200, str(MIB)),
        (b"abc", "identity", 200, "3"),
        (gzip.compress(b"x" * (MIB + 1), mtime=0), "GZIP", 413, "exceeds"),
        (gzip.compress(b"abc", mtime=0)[:-4], "gzip", 400, "not one whole gzip member"),
        (gzip.compress(b"abc", mtime=0) * 2, "gzip", 400, "not one whole gzip member"),
        (b"abc", "gzip", 400, "not one whole gzip member"),
        (b"abc", "br", 415, "the Content-Encoding is br; send gzip, or none"),
    ],
)
def test_gzip_bodies_are_decompressed_within_the_limits(
    body: bytes, coding: str, status: int, words: str
) -> None:
    app = toy_app(SMALL)
    client = TestClient(app)
    response = client.post("/v1/bytes", content=body, headers={"content-encoding": coding})
    assert response.status_code == status
    assert words in response.text
    # All memory is released.
    assert client.post("/v1/bytes", content=b"x" * MIB).status_code == 200


def test_pages_of_allowed_origins_may_send_requests() -> None:
    shop, other = "https://shop.example", "https://other.example"
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-a"}
    client = TestClient(toy_app(replace(LOCKED, allow_origins=(shop,))))
    preflight = client.options("/v1/bytes", headers={"origin": shop} | asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == shop
    # Pages can read errors, too.
    assert client.post("/v1/bytes", headers={"origin": shop}).status_code == 401
    name = "access-control-allow-origin"
    assert client.post("/v1/bytes", headers={"origin": shop}).headers[name] == shop
    assert name not in client.post("/v1/bytes", headers={"origin": other}).headers
    none = TestClient(toy_app(SMALL)).post("/v1/bytes", headers={"origin": shop})
    assert name not in none.headers


# Over a real connection


@contextlib.contextmanager
def listening(settings: Settings, metrics: ServerMetrics | None = None) -> Iterator[int]:
    """Serve the toy app on a thread; yields its port."""
    app = toy_app(settings, metrics)
    config = uvicorn.Config(app, http=HttpProtocol, log_config=None, access_log=False)
    server = DrainingServer(config, drain=lambda: None)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def say(port: int, *pieces: bytes, disconnect: bool = False) -> bytes:
    """Send bytes as they are, and read what comes until the other side closes or falls silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        with contextlib.suppress(TimeoutError):
            while not disconnect and (piece := connection.recv(65536)):
                answer += piece
        return answer


def post(*headers: str) -> bytes:
    lines = ["POST /v1/bytes HTTP/1.1", "host: here", "connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode()


def test_malformed_requests_over_a_real_connection() -> None:
    large = f"content-length: {MIB + 1}"
    metrics = ServerMetrics()
    with listening(SMALL, metrics) as port:
        # Refused before it is sent, so that nobody who asks first sends 20 MB in vain.
        assert b"HTTP/1.1 413" in say(port, post(large, "expect: 100-continue"))
        # Sent all the same, the answer still arrives.
        assert b" 413 " in say(port, post(large), b"x" * (MIB + 1))
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        assert b" 413 " in say(port, post("transfer-encoding: chunked"), chunk * 17, b"0\r\n\r\n")
        # Announces more than comes: waited for, not for ever.
        assert b" 408 " in say(port, post("content-length: 10"), b"x")
        # Announces less than comes: the rest is no request.
        answer = say(port, post("content-length: 1"), b"xyz\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        assert b" 400 " in say(port, post("content-length: 1", "content-length: 2"), b"xx")
        assert b" 400 " in say(port, post("content-length: -1"))
        both = post("content-length: 1", "transfer-encoding: chunked")
        answer = say(port, both.replace(b"connection: close\r\n", b""), b"1\r\nx\r\n0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"connection: close" in answer.lower()
        assert b"ambiguous_length" in answer
        answer = say(port, post("x-request-id: a\r\n b: c\x00"))
        assert answer.startswith(b"HTTP/1.1 400 Bad Request")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"
        say(port, post("content-length: 10"), b"x", disconnect=True)
        say(port, b"GET /v1/slow HTTP/1.1\r\nhost: here\r\n\r\n", disconnect=True)
    text = metrics.text()
    assert 'phi_vision_requests_total{route="/v1/slow",status="499"} 1.0' in text
    assert 'phi_vision_requests_total{route="other",status="499"} 1.0' in text
    assert 'phi_vision_rejected_total{code="slow_request"} 1.0' in text


def test_an_error_in_a_response_closes_the_connection() -> None:
    with listening(SMALL) as port:
        answer = say(port, b"GET /v1/breaks-off HTTP/1.1\r\nhost: here\r\n\r\n")
    assert b"begun" in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_bodies_beyond_the_memory_limit_are_rejected() -> None:
    tight = replace(SMALL, max_held_bytes=MIB, body_timeout=2)
    with listening(tight) as port:
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(post(f"content-length: {MIB}") + b"x" * (MIB - 1000))
            time.sleep(0.2)  # Until all of that has arrived.
            answer = say(port, post("content-length: 2000"), b"x" * 2000)
            assert answer.startswith(b"HTTP/1.1 429")
            assert b"retry-after: 1" in answer
            slow.sendall(b"x" * 1000)
            assert b" 200 " in slow.recv(65536)
        assert b" 200 " in say(port, post("content-length: 2000"), b"x" * 2000)


GET = b"GET /health HTTP/1.1\r\nhost: here\r\n"


def check_health(port: int) -> None:
    start = time.perf_counter()
    assert b" 200 " in say(port, GET + b"connection: close\r\n\r\n")
    assert time.perf_counter() - start < 0.5


def is_closed(connection: socket.socket) -> bool:
    """Read what has come; whether that was all."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_connections_beyond_the_limit_replace_idle_ones(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "max_connections", lambda: 8)
    with listening(SMALL) as port, contextlib.ExitStack() as stack:

        def connect(sent: bytes) -> socket.socket:
            opened = socket.create_connection(("127.0.0.1", port), timeout=0.2)
            opened.sendall(sent)
            return stack.enter_context(opened)

        answered = connect(b"GET /v1/slow HTTP/1.1\r\nhost: here\r\n\r\n")
        time.sleep(0.1)  # Until it has arrived.
        waiting = [connect(sent) for sent in (b"", GET, post("content-length: 9"))]
        waiting += [connect(GET) for _ in range(40)]
        check_health(port)
        assert [is_closed(each) for each in waiting[:3]] == [True] * 3
        assert not is_closed(answered)
        assert not is_closed(waiting[-1])
        time.sleep(1)  # Until the next line of the log.
    lines = [line for line in caplog.records if "without a request" in line.message]
    assert 1 <= len(lines) <= 3


def test_connections_without_headers_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_TIMEOUT", 0.2)
    with listening(SMALL) as port:
        for sent in (b"", GET, GET + b"\r\n" + GET):
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.sendall(sent)
                assert is_closed(connection)


def test_an_answer_before_the_end_of_the_request_closes_the_connection() -> None:
    head = b"POST /v1/bytes HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n"
    with listening(SMALL) as port:
        for length, status in ((10, b" 408 "), (2 * MIB, b" 413 ")):
            with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
                connection.sendall(head % length + b"x")
                answer = connection.recv(65536)
                assert status in answer
                assert b"connection: close" in answer
                assert is_closed(connection)
        # One that was read whole stays open.
        with socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
            connection.sendall(head % 1 + b"x")
            assert b" 200 " in connection.recv(65536)
            assert not is_closed(connection)


def test_tiny_chunks_do_not_keep_the_server_busy() -> None:
    with listening(SMALL) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(post("transfer-encoding: chunked") + b"1\r\nx\r\n" * 50_000)
        check_health(port)
