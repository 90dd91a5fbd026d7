"""Middleware around the routes: request ids, log, metrics, headers, errors, key, body limits."""

import asyncio
import contextlib
import hmac
import logging
import re
import time
import uuid
import zlib
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phi_vision.io.formatting import read_yaml
from phi_vision.serving.errors import ApiError, api_error, install_handlers, internal_error
from phi_vision.serving.settings import Settings
from phi_vision.serving.telemetry import ServerMetrics

LOG = logging.getLogger(__name__)

# Paths that need no key: health checks, and the page that asks its user for the key.
PUBLIC_PATHS = re.compile(r"/health|/|/page/[a-z0-9_-]+\.[a-z0-9]+|/favicon\.ico")
HEADERS = read_yaml(__file__, "headers.yaml")
CLIENT_CLOSED_REQUEST = 499  # In log and metrics, when the client disconnected (as of nginx).
LINGER = 1.0  # Seconds to receive the rest of a rejected request's body.
SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def install_middleware(app: FastAPI, settings: Settings, metrics: ServerMetrics) -> None:
    """Add the middleware and the error handlers to an app."""
    install_handlers(app)
    app.add_middleware(RequestGuard, settings=settings, metrics=metrics)
    if settings.allow_origins:  # Outermost: preflight requests have no key.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )


@dataclass
class RequestGuard:
    """Passes on requests that have the key and a body within the limits of size, time and memory.

    Each is one log line, to which a route adds `request.state.tokens`, a pair (in, out).
    """

    app: ASGIApp
    settings: Settings
    metrics: ServerMetrics
    held: int = 0  # bytes of all bodies in flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        with self.metrics.requests_in_progress.track_inprogress():
            try:
                self._authenticate(exchange)
                await self._receive_and_run(exchange)
            except Exception as error:
                if exchange.status:  # The response has begun: the connection is closed.
                    raise
                if isinstance(error, ApiError):
                    self.metrics.rejected.labels(code=error.code).inc()
                    await exchange.reject(error)
                else:
                    await exchange.reject(internal_error(error, exchange.id))
            finally:
                self._record(exchange)

    def _authenticate(self, exchange: "_Exchange") -> None:
        key, scope = self.settings.key, exchange.scope
        is_public = PUBLIC_PATHS.fullmatch(scope["path"]) and scope["method"] in ("GET", "HEAD")
        if key is None or is_public:
            return
        given = exchange.headers.getlist("authorization")
        scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        # As bytes: `compare_digest` takes no non-ASCII text.
        equal = hmac.compare_digest(token.strip().encode(), key.encode())
        if scheme.lower() != "bearer" or not equal:
            raise api_error("invalid_api_key", found="a wrong one" if token else "none")

    async def _receive_and_run(self, exchange: "_Exchange") -> None:
        if exchange.is_ambiguous:
            raise api_error("ambiguous_length")
        length, timeout = exchange.headers.get("content-length", ""), self.settings.body_timeout
        self._check_length(int(length[:20]) if length.isdecimal() else 0)
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(timeout):
                    while not exchange.received:
                        message = await exchange.receive()
                        if exchange.disconnected:
                            raise api_error("hung_up")
                        self._extend(body, message.get("body", b""))
            except TimeoutError as error:
                raise api_error("slow_request", seconds=timeout) from error
            await self._decompress(body, exchange.headers.get("content-encoding", ""))
            pending: list[Message] = [{"type": "http.request", "body": body}]

            async def replay() -> Message:
                return pending.pop() if pending else await exchange.receive()

            await self.app(exchange.scope, replay, exchange.send)
        finally:
            self.held -= len(body)

    def _check_length(self, length: int) -> None:
        if length > self.settings.max_body_bytes:
            raise api_error("request_too_large", limit=self.settings.max_body_bytes)

    def _extend(self, body: bytearray, chunk: bytes) -> None:
        body += chunk
        self.held += len(chunk)
        self._check_length(len(body))
        if self.held > max(self.settings.max_held_bytes, len(body)):
            raise api_error("bodies_waiting", retry_after=1.0)

    async def _decompress(self, body: bytearray, coding: str) -> None:
        coding = coding.strip().lower()
        if coding in ("", "identity"):
            return
        if coding not in ("gzip", "x-gzip"):
            raise api_error("unsupported_encoding", found=coding)
        compressed, unpack = bytes(body), zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            limit = self.settings.max_body_bytes + 1
            plain = await asyncio.to_thread(unpack.decompress, compressed, limit)
        except zlib.error:
            plain = b""
        self.held -= len(body)
        body.clear()
        self._extend(body, plain)
        if not unpack.eof or unpack.unused_data:
            raise api_error("invalid_gzip")

    def _record(self, exchange: "_Exchange") -> None:
        scope, seconds = exchange.scope, time.perf_counter() - exchange.started
        # Not the path: paths that clients make up must not become metrics.
        route = getattr(scope.get("route"), "path", "other")
        status = CLIENT_CLOSED_REQUEST if exchange.disconnected else exchange.status
        self.metrics.requests.labels(route=route, status=str(status)).inc()
        self.metrics.request_seconds.labels(route=route).observe(seconds)
        fields: dict[str, object] = {
            "id": exchange.id,
            "method": scope["method"][:20],
            "path": scope["path"][:200],
            "status": status,
            "milliseconds": round(seconds * 1000, 1),
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
        }
        if tokens := scope["state"].get("tokens"):
            fields["tokens_in"], fields["tokens_out"] = tokens
        LOG.info("request", extra={"fields": fields})


class _Exchange:
    """One request and its response, as their messages pass through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.headers = Headers(scope=scope)
        scope.setdefault("state", {})
        given = self.headers.get("x-request-id", "")
        self.id = given if SAFE_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        self.started = time.perf_counter()
        self.status = self.bytes_in = self.bytes_out = 0
        self.received = self.sent = self.disconnected = False
        # A proxy may take the rest of such a request for another one (RFC 9112, 6.1).
        self.is_ambiguous = {"content-length", "transfer-encoding"} <= set(self.headers)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.disconnected |= not self.sent
        else:
            self.bytes_in += len(message.get("body", b""))
            self.received = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            # The rest of the request must not keep the connection open.
            if self.is_ambiguous or not self.received:
                headers["connection"] = "close"
            for name, value in HEADERS["api"].items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
            self.sent = not message.get("more_body", False)
        await self._send(message)

    async def reject(self, error: ApiError) -> None:
        """Send an error once the request's body has been received, or `LINGER` is over."""
        # A client that is still sending reads no response before it has sent everything; one that
        # sent `Expect: 100-continue` has not begun.
        if error.status != 408 and "expect" not in self.headers:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    while not (self.received or self.disconnected):
                        await self.receive()
        if not self.disconnected:
            await error.response()(self.scope, self.receive, self.send)
