"""create_app: everything a server answers, as one ASGI application.

app = create_app(LocalPredictor("runs/coats"), Settings())
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.responses import JSONResponse, Response

from phi_vision import __version__
from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.batcher import Engine
from phi_vision.serving.calibrated_confidence import read_lines
from phi_vision.serving.chat import chat_routes
from phi_vision.serving.chat_template import Wording
from phi_vision.serving.errors import install_handlers
from phi_vision.serving.image_inputs import Images
from phi_vision.serving.middleware import Guards
from phi_vision.serving.records import record_routes
from phi_vision.serving.schemas import ErrorAnswer, Health, Model, ModelList
from phi_vision.serving.server_metrics import Figures
from phi_vision.serving.service import Service
from phi_vision.serving.settings import Settings
from phi_vision.serving.static_page import add_page

FIGURES_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What Prometheus calls its form."""

REFUSALS = {
    400: "the request is not what this server answers; `param` says which part of it",
    401: "no key was sent, or another one",
    404: "there is no such model",
    408: "the request did not arrive in time",
    413: "the request or an image is too large",
    415: "the body is neither JSON nor an image",
    429: "too many questions wait; ask again after the seconds that Retry-After says",
    500: "something went wrong here",
    503: "the server is stopping",
    504: "there was no answer in time",
}
"""Status -> when it is answered."""

OF_EVERYTHING = (401, 408, 413, 500)
OF_QUESTIONS = (400, *OF_EVERYTHING, 404, 415, 429, 503, 504)


def create_app(predictor: LocalPredictor, settings: Settings) -> FastAPI:
    """Build the application around a loaded model; its lifespan starts and ends the model's thread.

    Raises:
        ValueError: The report of the run that is served is damaged.
    """
    service = _service_of(predictor, settings)
    lines = read_lines(Path(predictor.source), predictor.template)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        if not service.engine.closing:  # `running.py` closes it before it stops to listen
            await asyncio.to_thread(service.engine.close, settings.drain)
        service.images.close()

    app = FastAPI(
        title="phi-vision",
        version=__version__,
        summary="Reads a product photo and writes its record.",
        docs_url=None,  # They would load from elsewhere.
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.engine = service.engine
    install_handlers(app)
    questions = _described(OF_QUESTIONS)
    app.include_router(chat_routes(service, questions))
    app.include_router(record_routes(service, lines, questions))
    app.include_router(_other_routes(service))
    add_page(app)
    _describe(app, settings)
    app.add_middleware(Guards, settings=settings, figures=service.figures)
    return app


def _service_of(predictor: LocalPredictor, settings: Settings) -> Service:
    figures = Figures()
    context = predictor.model.config.max_position_embeddings
    return Service(
        name=settings.name or Path(predictor.source).resolve().name,
        predictor=predictor,
        settings=settings,
        figures=figures,
        engine=Engine(
            predictor,
            queue=settings.queue,
            batch_size=settings.batch_size,
            batch_wait=settings.batch_wait,
            timeout=settings.timeout,
            figures=figures,
        ),
        images=Images(settings),
        wording=Wording(predictor.processor, predictor.template, context),
    )


def _other_routes(service: Service) -> APIRouter:
    routes = APIRouter()
    everything = _described(OF_EVERYTHING)
    model = Model(id=service.name, created=service.created)

    @routes.get("/v1/models", responses=everything, operation_id="list_models")
    async def list_models() -> ModelList:
        """List the models that can be asked."""
        return ModelList(data=[model])

    @routes.get(
        "/v1/models/{name:path}", responses=_described((*OF_EVERYTHING, 404)), operation_id="model"
    )
    async def find_model(name: str) -> Model:
        """Describe a model."""
        service.require_model(name)
        return model

    @routes.get(
        "/health",
        response_model=Health,
        responses={503: {"model": Health, "description": "it takes no more questions"}},
        operation_id="health",
    )
    async def health() -> Response:
        """Say whether questions are answered."""
        status = service.engine.status
        return JSONResponse({"status": status}, status_code=200 if status == "ok" else 503)

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **everything},
        operation_id="metrics",
    )
    async def metrics() -> Response:
        """Tell figures in Prometheus' form."""
        return Response(service.figures.text(), media_type=FIGURES_TYPE)

    return routes


def _described(statuses: tuple[int, ...]) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": ErrorAnswer, "description": REFUSALS[status]}
        for status in sorted(statuses)
    }


def _describe(app: FastAPI, settings: Settings) -> None:
    """Let the description tell this server's limits and its key; and no 422, a 400 here."""
    described = app.openapi()
    components = described["components"]
    for route in described["paths"].values():
        for operation in route.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    asked = components["schemas"]["ChatRequest"]["properties"]
    for name in ("max_tokens", "max_completion_tokens"):
        asked[name]["anyOf"][0]["maximum"] = settings.max_tokens
    if settings.key is not None:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
        described["paths"]["/health"]["get"]["security"] = []
