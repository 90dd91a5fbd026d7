"""create_app: all routes and the page of a server as one ASGI application."""

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from phi_vision import __version__
from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.middleware import install_middleware
from phi_vision.serving.routes import Service, router
from phi_vision.serving.settings import Settings

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
    """Add this server's limits and key to the OpenAPI description; remove 422, here 400."""
    # A copy: parts of the original belong to the routes, which all apps share.
    app.openapi_schema = openapi = copy.deepcopy(app.openapi())
    components, paths = openapi["components"], openapi["paths"]
    for route in paths.values():
        for operation in route.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    properties = components["schemas"]["ChatRequest"]["properties"]
    for name in ("max_tokens", "max_completion_tokens"):
        properties[name]["anyOf"][0]["maximum"] = settings.max_tokens
    record = paths["/v1/records"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    record["properties"]["images"]["maxItems"] = settings.max_images
    if settings.key is not None:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        openapi["security"] = [{"key": []}]
        paths["/health"]["get"]["security"] = []
