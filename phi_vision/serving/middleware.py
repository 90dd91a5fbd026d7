"""ASGI middleware, one class per concern; `install_middleware` adds them in order.

RequestLog > SecurityHeaders > ErrorResponses > Authentication > BodyLimit > the app's routes
"""

import asyncio
import contextlib
import hmac
import logging
import re
import time
import uuid
from dataclasses import dataclass, field

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phi_vision.serving.errors import ApiError, install_handlers, internal_error
from phi_vision.serving.server_metrics import ServerMetrics
from phi_vision.serving.settings import Settings

LOG = logging.getLogger(__name__)

PUBLIC_PATHS = re.compile(r"/health|/|/page/[a-z0-9_-]+\.[a-z0-9]+|/favicon\.ico")
"""Paths that need no key: health checks, and the page that asks its user for the key."""

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Headers of every response that does not set them itself."""

CLIENT_CLOSED_REQUEST = 499
"""Status in log and metrics of a request whose client disconnected (nginx's convention)."""

LINGER = 1.0
"""Seconds to receive the rest of a rejected request's body."""

SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def install_middleware(app: FastAPI, settings: Settings, metrics: ServerMetrics) -> None:
    """Add all middleware and error handlers to an app."""
    install_handlers(app)
    app.add_middleware(BodyLimit, settings=settings)  # The one added last sees requests first.
    app.add_middleware(Authentication, key=settings.key)
    app.add_middleware(ErrorResponses, metrics=metrics)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestLog, metrics=metrics)


@dataclass
class Exchange:
    """State of a request and its response, under "exchange" in the ASGI scope's state."""

    id: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    received: bool = False
    sent: bool = False
    disconnected: bool = False


@dataclass
class RequestLog:
    """Gives each request an id, logs it as one line, and updates the HTTP metrics.

    A route adds token counts to the line through `request.state.tokens`, a pair (in, out).
    """

    app: ASGIApp
    metrics: ServerMetrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        exchange = Exchange(given if SAFE_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}")
        scope.setdefault("state", {})["exchange"] = exchange

        async def observe_receive() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                exchange.disconnected |= not exchange.sent
            else:
                exchange.bytes_in += len(message.get("body", b""))
                exchange.received = not message.get("more_body", False)
            return message

        async def observe_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = exchange.id
            elif message["type"] == "http.response.body":
                exchange.bytes_out += len(message.get("body", b""))
                exchange.sent = not message.get("more_body", False)
            await send(message)

        with self.metrics.requests_in_progress.track_inprogress():
            try:
                await self.app(scope, observe_receive, observe_send)
            finally:
                self._record(scope, exchange)

    def _record(self, scope: Scope, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
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


@dataclass
class SecurityHeaders:
    """Adds `SECURITY_HEADERS` to every response."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


@dataclass
class ErrorResponses:
    """Turns errors of the middleware below it, and unexpected ones, into JSON responses."""

    app: ASGIApp
    metrics: ServerMetrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request."""
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            exchange: Exchange = scope["state"]["exchange"]
            if isinstance(error, ApiError):
                returned = error
                self.metrics.rejected.labels(code=error.code).inc()
            else:
                returned = internal_error(error, exchange.id)
            if exchange.status:  # The response has begun: the connection is closed.
                raise
            # A client that is still sending reads no response before it has sent everything; one
            # that sent `Expect: 100-continue` has not begun.
            if returned.status != 408 and "expect" not in Headers(scope=scope):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LINGER):
                        while not (exchange.received or exchange.disconnected):
                            await receive()
            await returned.response()(scope, receive, send)


@dataclass
class Authentication:
    """Requires the key as a bearer token on all but `PUBLIC_PATHS`."""

    app: ASGIApp
    key: str | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request."""
        if self.key is not None and scope["type"] == "http":
            public = PUBLIC_PATHS.fullmatch(scope["path"]) and scope["method"] in ("GET", "HEAD")
            if not public:
                self._authenticate(Headers(scope=scope).getlist("authorization"), self.key)
        await self.app(scope, receive, send)

    def _authenticate(self, headers: list[str], key: str) -> None:
        scheme, _, token = (headers[0] if len(headers) == 1 else "").partition(" ")
        # As bytes: `compare_digest` takes no non-ASCII text.
        equal = hmac.compare_digest(token.strip().encode(), key.encode())
        if scheme.lower() != "bearer" or not equal:
            raise ApiError(
                401,
                f"this server requires an API key; {'a wrong one' if token else 'none'} was sent. "
                "Send the header Authorization: Bearer KEY",
                code="invalid_api_key",
            )


@dataclass
class BodyLimit:
    """Receives bodies whole before the app runs, within the limits of size, time and memory."""

    app: ASGIApp
    settings: Settings
    held: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self._check_length(Headers(scope=scope).get("content-length", ""))
        body = bytearray()
        timeout = self.settings.body_timeout
        try:
            try:
                async with asyncio.timeout(timeout):
                    await self._receive_into(body, receive)
            except TimeoutError as error:
                message = f"the request body was not received within {timeout:g} s"
                raise ApiError(408, message, code="slow_request") from error
            pending: list[Message] = [{"type": "http.request", "body": body}]

            async def replay() -> Message:
                return pending.pop() if pending else await receive()

            await self.app(scope, replay, send)
        finally:
            self.held -= len(body)

    async def _receive_into(self, body: bytearray, receive: Receive) -> None:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ApiError(400, "the client disconnected during its request", code="hung_up")
            more = message.get("more_body", False)
            chunk = message.get("body", b"")
            body += chunk
            self.held += len(chunk)
            self._check_length(str(len(body)))
            if self.held > max(self.settings.max_held_bytes, len(body)):
                full = "too many request bodies are in flight; retry soon"
                raise ApiError(429, full, code="bodies_waiting", retry_after=1.0)

    def _check_length(self, length: str) -> None:
        """Check a body's length, declared or counted."""
        limit = self.settings.max_body_bytes
        if length.isdecimal() and int(length[:20]) > limit:
            message = f"the request body exceeds {limit:,} bytes; send a smaller image"
            raise ApiError(413, message, code="request_too_large")
