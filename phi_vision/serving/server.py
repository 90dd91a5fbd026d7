"""create_app: routes, page and middleware as one ASGI application; serve: run it until a signal.

The first signal drains: running generations finish, others get 503. A second one ends the process.
"""

import asyncio
import gc
import ipaddress
import logging.config
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from phi_vision import __version__
from phi_vision.inference.local import LocalPredictor
from phi_vision.io.formatting import read_yaml
from phi_vision.serving.connections import ACCEPTED, HttpProtocol, close_late
from phi_vision.serving.json_body import JSON
from phi_vision.serving.middleware import HEADERS, install_middleware
from phi_vision.serving.routes import Service, router
from phi_vision.serving.schemas import ChatRequest, RecordRequest
from phi_vision.serving.settings import Settings

LOG = logging.getLogger(__name__)

BACKLOG = 2048  # Connections that the system queues until they are accepted.
STATIC_FOLDER = Path(__file__).with_name("static")


class PageFiles(StaticFiles):
    """Serves the page's files with their headers of headers.yaml."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or 304 if the client's copy is current."""
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS["page"])
        return response


def create_app(predictor: LocalPredictor, settings: Settings) -> FastAPI:
    """Create the application for a loaded model; its lifespan runs the model's thread."""
    service = Service(predictor, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        if service.batcher.status != "draining":  # As `server` does before it stops listening.
            await asyncio.to_thread(service.batcher.close, settings.drain)
        service.images.close()

    app = FastAPI(
        title="phi-vision",
        version=__version__,
        summary="Predicts the record of a product from its photos.",
        docs_url=None,  # Both pages load scripts from elsewhere.
        redoc_url=None,
        redirect_slashes=False,  # Redirects would lead to the Host that the client claims.
        lifespan=lifespan,
    )
    app.state.service = service
    install_middleware(app, settings, service.metrics)
    app.include_router(router)
    add_page(app)
    _adapt_openapi(app, settings)
    return app


def add_page(app: FastAPI) -> None:
    """Serve the page at `/` and its files below `/page`."""
    files = PageFiles(directory=STATIC_FOLDER)

    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    app.router.add_route("/", index, methods=["GET"], include_in_schema=False)
    app.mount("/page", files)


def _adapt_openapi(app: FastAPI, settings: Settings) -> None:
    """Complete the OpenAPI description: openapi.yaml, this server's limits and key; no 422."""
    described, openapi = read_yaml(__file__, "openapi.yaml"), app.openapi()
    components, paths = openapi["components"], openapi["paths"]
    for operation in (each for path in paths.values() for each in path.values()):
        operation |= described["operations"][operation["operationId"]]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    chat = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= chat.pop("$defs") | described["schemas"] | {"ChatRequest": chat}
    properties = chat["properties"]
    for name in ("max_tokens", "max_completion_tokens"):
        properties[name]["anyOf"][0]["maximum"] = settings.max_tokens
    record = RecordRequest.model_json_schema()
    record["properties"]["images"]["maxItems"] = settings.max_images
    paths["/v1/records"]["post"]["requestBody"]["content"][JSON]["schema"] = record
    if settings.key is not None:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        openapi["security"] = [{"key": []}]
        paths["/health"]["get"]["security"] = []


def bind(settings: Settings) -> socket.socket:
    """Reserve the port before the model is loaded; raise an OSError at once if it is busy."""
    host, port = settings.host, settings.port
    with _listen_errors(host, port):
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        # Without it the port stays busy for a minute after the previous server has ended.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return a server's URL: http://127.0.0.1:8000, http://[::1]:8000."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only programs on this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def serve(
    predictor: LocalPredictor,
    settings: Settings,
    *,
    listener: socket.socket,
    announce: Callable[[str], None],
) -> None:
    """Serve until a signal, owning the process; call `announce` with the URL once it listens."""
    app = create_app(predictor, settings)
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=str(Path(__file__).with_name("logging.yaml")),
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=ACCEPTED,
        timeout_graceful_shutdown=5,  # To send the last bytes to slow clients.
    )
    logging.captureWarnings(True)
    with listener:
        with _listen_errors(*listener.getsockname()[:2]):
            listener.listen(BACKLOG)
        # Scanning the loaded model's objects again and again would only cost time.
        gc.freeze()
        announce(url_of(listener))
        server = DrainingServer(config, lambda: app.state.service.batcher.close(settings.drain))
        server.run(sockets=[listener])


class DrainingServer(uvicorn.Server):
    """Accepts connections until all generations have finished, and exits with code 0.

    uvicorn itself would close the socket first, so that /health could not report draining.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain
        self._is_draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, which sets the system's queue to `ACCEPTED`."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the first signal; let the second one end the process."""
        if self._is_draining:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether to shut down; uvicorn awaits this ten times a second."""
        if counter % 10 == 0:
            close_late(self.server_state.connections)
        if not self._is_draining:
            return await super().on_tick(counter)
        LOG.info("draining")
        await asyncio.to_thread(self._drain)
        LOG.info("drained")
        return True


@contextmanager
def _listen_errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = f"cannot listen on port {port} of {host}: {error.strerror or error}"
        advice = "end the program that listens there, or choose another --port or --host"
        raise OSError(f"{found}; {advice}") from error
