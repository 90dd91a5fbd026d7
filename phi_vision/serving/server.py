"""Runs a server in this process until it is told to stop, and then lets its answers end.

listener = bind(settings)
serve(predictor, settings, listener=listener, announce=print)

The first SIGTERM or SIGINT: /health says that it drains, new questions and waiting ones are refused
with 503, answers under way end. The second one ends the process at once.
"""

import asyncio
import gc
import ipaddress
import logging.config
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.app import create_app
from phi_vision.serving.request_log import LOGGING
from phi_vision.serving.settings import Settings

LOG = logging.getLogger(__name__)

FLUSH = 5
"""Seconds for the last bytes of answers that have ended to reach slow callers."""

BACKLOG = 2048
"""Connections that the system keeps until they are taken up."""


def bind(settings: Settings) -> socket.socket:
    """Take the port: before the model is loaded, because that takes longer than being refused.

    Raises:
        OSError: The port is in use, or the host is none of this machine's.
    """
    host, port = settings.host, settings.port
    try:
        target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(*target[:2])
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    try:
        # Or the port stays closed for a minute after a server that had it has ended.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target[4])
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """Say where a server answers.

    Output: http://127.0.0.1:8000, http://[::1]:8000
    """
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only programs on this machine can reach a server."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def serve(
    predictor: LocalPredictor,
    settings: Settings,
    *,
    listener: socket.socket,
    announce: Callable[[str], None],
) -> None:
    """Answer requests until told to stop.

    Takes the process over: its signals, its logging, and its garbage collector, which no longer
    looks at what is loaded by now.

    Args:
        predictor: Who answers.
        settings: Limits and the key.
        listener: From `bind`.
        announce: Told where the server answers, as soon as it can be reached.

    Raises:
        OSError: Another program listens at the port by now.
    """
    app = create_app(predictor, settings)

    def drain() -> None:
        app.state.engine.close(settings.drain)

    run_app(app, drain, listener, announce)


def run_app(
    app: ASGIApp,
    drain: Callable[[], None],
    listener: socket.socket,
    announce: Callable[[str], None],
) -> None:
    """Run an app as `serve` does.

    Args:
        app: Answers requests; also while `drain` is running.
        drain: Returns when nothing is under way any more; called on a thread.
        listener: From `bind`.
        announce: Told where the server answers.
    """
    config = uvicorn.Config(
        app,
        http="h11",  # the one whose ways with broken requests the tests know
        ws="none",
        lifespan="on",
        log_config=LOGGING,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=FLUSH,
    )
    logging.captureWarnings(True)  # they become lines like everything else
    with listener:
        try:
            listener.listen(BACKLOG)
        except OSError as error:
            host, port = listener.getsockname()[:2]
            raise _cannot_listen(host, port, error) from error
        # What is loaded by now stays: to look through it again and again for what nobody needs any
        # more takes time, at the end of the process most of all.
        gc.freeze()
        announce(address_of(listener))
        _DrainingServer(config, drain).run(sockets=[listener])


class _DrainingServer(uvicorn.Server):
    """uvicorn's server; told to stop it goes on listening until all answers have ended.

    uvicorn itself would close its door first, and whoever asks for /health would learn nothing; and
    it would end by the signal instead of with exit code 0.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain
        self._told_to_stop = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the first signal, and die of the second as if nobody had handled it."""
        if self._told_to_stop:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._told_to_stop = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to close; uvicorn asks ten times a second, and can wait for the answer."""
        if not self._told_to_stop:
            return await super().on_tick(counter)
        LOG.info("draining")
        await asyncio.to_thread(self._drain)
        LOG.info("drained")
        return True


def _cannot_listen(host: str, port: int, error: OSError) -> OSError:
    why = error.strerror or str(error)
    return OSError(
        f"cannot listen at port {port} of {host}: {why}; end what listens there, or choose another "
        "--port or --host"
    )
