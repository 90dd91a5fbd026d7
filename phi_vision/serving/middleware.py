"""Guards: stand between the network and the app. They see every request first, every answer last.

Requests get an id, need the key, arrive whole, in time and within the limit before the app hears of
them; answers get headers of safety, a line in the log, and their figures. Knows nothing of what is
asked.
"""

import asyncio
import contextlib
import hmac
import logging
import re
import time
import uuid
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phi_vision.serving.errors import ApiError, as_response, unexpected
from phi_vision.serving.server_metrics import Figures
from phi_vision.serving.settings import Settings

LOG = logging.getLogger(__name__)

OPEN = re.compile(r"/health|/|/page/[a-z0-9_-]+\.[a-z0-9]+|/favicon\.ico")
"""Paths for which no key is asked: whoever watches the server, and the page that asks for the key.
"""

SAFETY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Headers of every answer that does not say otherwise."""

HUNG_UP = 499
"""Stands for a status, in log and figures, where a caller did not wait for one (as in nginx)."""

LINGER = 1.0
"""Seconds for the rest of a request that is refused to arrive."""

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_UNKNOWN = (
    "other"  # A route that is none: addresses that strangers make up must not become figures.
)


@dataclass
class Passage:
    """What is noted of one request on its way through."""

    id: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    sent: int = 0
    received: int = 0
    arrived: bool = False
    ended: bool = False
    hung_up: bool = False


class Guards:
    """ASGI middleware: `app.add_middleware(Guards, settings=settings, figures=figures)`.

    It leaves `request_id` in `request.state`, and reads there `tokens`, a pair of those read and
    those written, where the app tells them.

    Args:
        app: What is guarded.
        settings: The key and the limits.
        figures: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, figures: Figures) -> None:
        self._app = app
        self._settings = settings
        self._figures = figures
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http":  # the app's start and end; there are no web sockets
            await self._app(scope, receive, send)
            return
        passage = Passage(id=_request_id(Headers(scope=scope)))
        scope.setdefault("state", {})["request_id"] = passage.id
        with self._figures.requests_running.track_inprogress():
            try:
                await self._guard(scope, receive, _noting(passage, send), passage)
            finally:
                self._note(scope, passage)

    async def _guard(self, scope: Scope, receive: Receive, send: Send, passage: Passage) -> None:
        """Answer whatever happens, as long as the answer has not begun."""
        try:
            self._demand_key(scope)
            body = await self._whole_body(scope, receive, passage)
            try:
                await self._app(scope, _replaying(body, receive, passage), send)
            finally:
                self._held -= len(body)
        except Exception as error:
            if isinstance(error, ApiError):
                refusal = error
                self._figures.refused.labels(code=error.code or str(error.status)).inc()
            else:
                refusal = unexpected(error, passage.id)
            if passage.status:
                raise  # The answer has begun: all that is left is to break it off.
            if refusal.status != 408:  # That one has had its time.
                await _let_arrive(scope, receive, passage)
            await as_response(refusal)(scope, receive, send)

    def _demand_key(self, scope: Scope) -> None:
        key = self._settings.key
        if key is None or (OPEN.fullmatch(scope["path"]) and scope["method"] in ("GET", "HEAD")):
            return
        given = Headers(scope=scope).getlist("authorization")
        scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        # As bytes, because letters beyond ASCII cannot be compared in constant time.
        fits = hmac.compare_digest(token.strip().encode(), key.encode())
        if scheme.lower() != "bearer" or not fits:
            found = "another one was sent" if token else "none was sent"
            raise ApiError(
                401,
                f"this server asks for a key; {found}. Send the header Authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
            )

    async def _whole_body(self, scope: Scope, receive: Receive, passage: Passage) -> bytes:
        """Receive a body to its end, unless it is too large, too slow, or there is no room."""
        self._refuse_length(Headers(scope=scope).get("content-length"))
        seconds = self._settings.body_timeout
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                while await self._append(body, receive, passage):
                    pass
        except TimeoutError as error:
            self._held -= len(body)
            words = f"the request did not arrive within {seconds:g} s"
            raise ApiError(408, words, code="slow_request") from error
        except BaseException:
            self._held -= len(body)
            raise
        return bytes(body)

    async def _append(self, body: bytearray, receive: Receive, passage: Passage) -> bool:
        """Receive one more piece, and tell whether there are others."""
        message = await receive()
        if message["type"] == "http.disconnect":
            passage.hung_up = True
            raise ApiError(400, "the caller hung up before all was sent", code="hung_up")
        passage.arrived = not message.get("more_body", False)
        piece = message.get("body", b"")
        body += piece
        self._held += len(piece)
        passage.received += len(piece)
        self._refuse_length(str(len(body)))
        if self._held > max(self._settings.max_held_bytes, len(body)):
            words = "too much is being sent at once; come again soon"
            raise ApiError(
                429, words, kind="rate_limit_error", code="bodies_waiting", retry_after=1.0
            )
        return not passage.arrived

    def _refuse_length(self, length: str | None) -> None:
        """Refuse a body by its length, as announced or as counted."""
        most = self._settings.max_body_bytes
        if length is not None and length.isdecimal() and int(length[:20]) > most:
            message = f"the request is larger than {most:,} bytes; send a smaller image"
            raise ApiError(413, message, code="request_too_large")

    def _note(self, scope: Scope, passage: Passage) -> None:
        """Count a request, and write its line in the log."""
        seconds = time.perf_counter() - passage.started
        route = getattr(scope.get("route"), "path", _UNKNOWN)
        status = HUNG_UP if passage.hung_up else passage.status
        self._figures.requests.labels(route=route, status=str(status)).inc()
        self._figures.seconds.labels(route=route).observe(seconds)
        facts: dict[str, object] = {
            "id": passage.id,
            "method": scope["method"][:20],
            "path": scope["path"][:200],
            "status": status,
            "milliseconds": round(seconds * 1000, 1),
            "bytes_in": passage.received,
            "bytes_out": passage.sent,
        }
        if tokens := scope["state"].get("tokens"):
            facts["tokens_in"], facts["tokens_out"] = tokens
        LOG.info("request", extra={"facts": facts})


def _request_id(headers: Headers) -> str:
    """Take the id that a proxy or caller gave, if it is safe to repeat, else make one."""
    given = headers.get("x-request-id", "")
    return given if _SAFE_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"


async def _let_arrive(scope: Scope, receive: Receive, passage: Passage) -> None:
    """Let what is still being sent arrive, and drop it.

    Whoever is in the middle of sending when the connection is closed does not read the answer. One
    who asks before sending waits for it and need not be waited for.
    """
    if "expect" in Headers(scope=scope):
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while not (passage.arrived or passage.hung_up):
                message = await receive()
                passage.hung_up = message["type"] == "http.disconnect"
                passage.arrived = not message.get("more_body", False)


def _noting(passage: Passage, send: Send) -> Send:
    """Send as before, adding headers and noting what is sent."""

    async def note(message: Message) -> None:
        if message["type"] == "http.response.start":
            passage.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = passage.id
            for name, value in SAFETY.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body":
            passage.sent += len(message.get("body", b""))
            passage.ended = not message.get("more_body", False)
        await send(message)

    return note


def _replaying(body: bytes, receive: Receive, passage: Passage) -> Receive:
    """Receive a body that is here already, and after it whatever the network tells."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        if pending:
            return pending.pop()
        message = await receive()
        if message["type"] == "http.disconnect" and not passage.ended:
            passage.hung_up = True
        return message

    return replay
