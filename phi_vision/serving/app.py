"""create_app: all routes and the page of a server as one ASGI application.

app = create_app(LocalPredictor("runs/coats"), Settings())
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from phi_vision import __version__
from phi_vision.generation.generate import generate
from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.batcher import Batcher
from phi_vision.serving.chat import chat_routes
from phi_vision.serving.chat_template import ChatTemplate
from phi_vision.serving.image_inputs import ImageReader
from phi_vision.serving.middleware import install_middleware
from phi_vision.serving.records import load_calibration, record_routes
from phi_vision.serving.schemas import ErrorResponse, Health, Model, ModelList
from phi_vision.serving.server_metrics import ServerMetrics
from phi_vision.serving.service import Service
from phi_vision.serving.settings import Settings

ERRORS = {
    400: "the request is invalid; `param` is the path of the field",
    401: "the API key is missing or wrong",
    404: "there is no such model",
    408: "the request body was not received in time",
    413: "the request body or an image is too large",
    415: "the body is neither JSON nor an image",
    429: "the queue is full; retry after the seconds in Retry-After",
    500: "internal server error",
    503: "the server is shutting down",
    504: "the request timed out",
}
"""Status -> OpenAPI description."""

MIDDLEWARE_ERRORS = (401, 408, 413, 500)
GENERATION_ERRORS = (400, *MIDDLEWARE_ERRORS, 404, 415, 429, 503, 504)

STATIC_FOLDER = Path(__file__).with_name("static")

PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Revalidated each time, so that a new version of the package shows its new page immediately.
    "cache-control": "no-cache",
}
"""Headers of the page's files: only they run, and nothing is loaded from elsewhere."""


class PageFiles(StaticFiles):
    """Serves the page's files with `PAGE_HEADERS`."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or 304 if the client's copy is current."""
        response = await super().get_response(path, scope)
        response.headers.update(PAGE_HEADERS)
        return response


def create_app(predictor: LocalPredictor, settings: Settings) -> FastAPI:
    """Create the application for a loaded model; its lifespan runs the model's thread."""
    metrics = ServerMetrics()
    run = partial(generate, predictor.model, predictor.processor, batch_size=settings.batch_size)
    service = Service(
        name=settings.name or Path(predictor.source).resolve().name,
        predictor=predictor,
        settings=settings,
        batcher=Batcher(run, settings, metrics),
        images=ImageReader(settings),
        chat_template=ChatTemplate(predictor),
    )
    calibration = load_calibration(Path(predictor.source), predictor.template)

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
        lifespan=lifespan,
    )
    app.state.batcher = service.batcher
    install_middleware(app, settings, metrics)
    errors = _error_responses(GENERATION_ERRORS)
    app.include_router(chat_routes(service, errors))
    app.include_router(record_routes(service, calibration, errors))
    app.include_router(_other_routes(service, metrics))
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


def _other_routes(service: Service, metrics: ServerMetrics) -> APIRouter:
    routes = APIRouter()
    errors = _error_responses(MIDDLEWARE_ERRORS)
    model = Model(id=service.name, created=service.created)

    @routes.get("/v1/models", responses=errors, operation_id="list_models")
    async def list_models() -> ModelList:
        """List the served models."""
        return ModelList(data=[model])

    not_found = _error_responses((404,))

    @routes.get("/v1/models/{name:path}", responses=errors | not_found, operation_id="model")
    async def find_model(name: str) -> Model:
        """Describe a model."""
        service.check_model(name)
        return model

    @routes.get(
        "/health",
        response_model=Health,
        responses={503: {"model": Health, "description": "the server accepts no requests"}},
        operation_id="health",
    )
    async def health() -> Response:
        """Return whether the server accepts requests."""
        status = service.batcher.status
        return JSONResponse({"status": status}, status_code=200 if status == "ok" else 503)

    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}

    described = {200: text, **errors}

    @routes.get("/metrics", response_class=Response, responses=described, operation_id="metrics")
    async def read_metrics() -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return routes


def _error_responses(statuses: tuple[int, ...]) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": ErrorResponse, "description": ERRORS[status]}
        for status in sorted(statuses)
    }


def _adapt_openapi(app: FastAPI, settings: Settings) -> None:
    """Add this server's limits and key to the OpenAPI description; remove 422, here 400."""
    openapi = app.openapi()
    components = openapi["components"]
    for route in openapi["paths"].values():
        for operation in route.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    properties = components["schemas"]["ChatRequest"]["properties"]
    for name in ("max_tokens", "max_completion_tokens"):
        properties[name]["anyOf"][0]["maximum"] = settings.max_tokens
    if settings.key is not None:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        openapi["security"] = [{"key": []}]
        openapi["paths"]["/health"]["get"]["security"] = []
