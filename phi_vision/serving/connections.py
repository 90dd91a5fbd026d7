"""uvicorn's connections, bounded in number and time, and read in small steps."""

import asyncio
import logging
import sys
import time
from collections.abc import Iterable
from functools import cache

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from phi_vision.serving.errors import api_error

LOG = logging.getLogger(__name__)

MAX_CONNECTIONS = 4096
ACCEPTED = 16  # Connections that asyncio accepts before it reads from others.
HEADER_TIMEOUT = 10.0  # Seconds to receive a request's headers.
STEP, BODY_STEP = 2**12, 2**18  # Bytes read at a time: tiny chunks keep the parser busy for long.


class HttpProtocol(H11Protocol):
    """One connection.

    Beyond the limit it replaces the one idle, or without a whole request, for the longest time.
    """

    since = 0.0  # Time of the connection, or of its last response.
    closed = 0  # Connections closed since the last line of the log; of the class.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and close another one beyond the limit."""
        super().connection_made(transport)
        self._wait_for_headers()
        if len(self.connections) > max_connections():
            own = [each for each in self.connections if isinstance(each, HttpProtocol)]
            waiting = [each for each in own if each.is_idle or each.cycle.more_body]
            min(waiting or own, key=lambda each: each.since).abort()

    def data_received(self, data: bytes) -> None:
        """Parse data, in larger steps once they are those of a body of known length."""
        super().data_received(data)
        if any(name == b"content-length" for name, _ in self.headers or ()):
            self.transport.max_size = BODY_STEP  # type: ignore[attr-defined]

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._wait_for_headers()
        super().on_response_complete()

    @property
    def is_idle(self) -> bool:
        """Whether no request has been received, the headers included, since the last response."""
        return self.cycle is None or self.cycle.response_complete

    def abort(self) -> None:
        """Close the connection without sending what remains."""
        HttpProtocol.closed += 1
        self.connections.discard(self)  # Closing takes until the loop's next iteration.
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer malformed HTTP and close the connection."""
        response = api_error("invalid_http").response()
        headers = [*response.raw_headers, (b"connection", b"close")]
        start = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (start, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _wait_for_headers(self) -> None:
        self.since = time.monotonic()
        self.headers = []
        self.transport.max_size = STEP  # type: ignore[attr-defined]


def close_late(connections: Iterable[object]) -> None:
    """Close connections without the headers of a request in time; call it once a second."""
    late = time.monotonic() - HEADER_TIMEOUT
    for each in list(connections):
        if isinstance(each, HttpProtocol) and each.is_idle and each.since < late:
            each.abort()
    if HttpProtocol.closed:
        fields = {"connections": HttpProtocol.closed, "limit": max_connections()}
        LOG.warning("connections without a request closed", extra={"fields": fields})
        HttpProtocol.closed = 0


@cache
def max_connections() -> int:
    """Return a limit that leaves half of the process's file descriptors to everything else."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, max(8, soft // 2)) if soft > 0 else MAX_CONNECTIONS
