"""POST /v1/records: an image in, its record with confidences out."""

import asyncio
import math
import time
import uuid
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.exceptions import RequestValidationError
from PIL.Image import Image
from pydantic import BeforeValidator, ValidationError
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from phi_vision.data.prediction import field_confidence
from phi_vision.data.samples import Value
from phi_vision.data.template_grammar import grammar_of
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.metrics.recalibration import Line
from phi_vision.serving.calibrated_confidence import recalibrate
from phi_vision.serving.chat_template import Shown
from phi_vision.serving.errors import ApiError
from phi_vision.serving.schemas import RecordAnswer, RecordRequest
from phi_vision.serving.service import Service, usage_of

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
"""What a request may be instead of JSON. Which of them does not count: images tell it."""


def _true_or_false(value: object) -> object:
    """Read a word of an address; the others that pydantic takes are in no description."""
    words: dict[object, bool] = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if value not in words:
        raise PydanticCustomError("true_or_false", "it is neither true nor false")
    return words[value]


Constrained = Annotated[bool, BeforeValidator(_true_or_false), Query()]


def record_routes(
    service: Service, lines: Mapping[str, Line], refusals: dict[int | str, dict[str, Any]]
) -> APIRouter:
    """Make the route.

    Args:
        service: Who answers.
        lines: Field -> how confidence in it is recalibrated; {} tells it as it is.
        refusals: Descriptions of all errors that a question can meet.
    """
    routes = APIRouter()

    @routes.post(
        "/v1/records",
        responses=refusals,
        openapi_extra={"requestBody": _body(service.settings.max_images)},
        operation_id="read_record",
    )
    async def read_record(request: Request, constrained: Constrained = False) -> RecordAnswer:
        """Read the record off an image, or off several of one product."""
        began = time.monotonic()
        images, only_form = await _read_request(request, service)
        question = await asyncio.to_thread(_word, images, only_form or constrained, service)
        async with service.ask(question, request) as ticket:
            answered = await ticket.result()
        return _record_of(answered, request, service, lines, began)

    return routes


def _body(most: int) -> dict[str, Any]:
    """Describe what a request may be."""
    asked = RecordRequest.model_json_schema()
    asked["properties"]["images"]["maxItems"] = most
    image = {"type": "string", "format": "binary"}
    content = {"application/json": {"schema": asked}}
    content |= {kind: {"schema": image} for kind in IMAGE_TYPES}
    return {"required": True, "content": content}


async def _read_request(request: Request, service: Service) -> tuple[tuple[Image, ...], bool]:
    """Read the images, and whether nothing but the template's form may be written.

    Raises:
        ApiError: It is neither JSON nor an image (415), or an image cannot be read.
        RequestValidationError: The JSON has another form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in IMAGE_TYPES:
        return (await service.images.read(await request.body()),), False
    if kind != "application/json":
        found = kind[:80] or "none"
        message = f"the Content-Type is {found}; send application/json, {', '.join(IMAGE_TYPES)}"
        raise ApiError(415, message, code="unsupported_media_type")
    try:
        asked = RecordRequest.model_validate_json(await request.body())
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        ) from error
    service.require_model(asked.model)
    return await service.open_images(_shown(asked), "images"), asked.constrained


def _shown(asked: RecordRequest) -> list[Shown]:
    if asked.images:
        return [Shown(url=url, param=f"images.{place}") for place, url in enumerate(asked.images)]
    return [Shown(url=asked.image, param="image")]


def _word(images: tuple[Image, ...], constrained: bool, service: Service) -> GenerationRequest:
    grammar = grammar_of(service.predictor.template) if constrained else None
    question = service.predictor.request(images, grammar=grammar)
    service.check_length(question, "images")
    return question


def _record_of(
    answered: Generation,
    request: Request,
    service: Service,
    lines: Mapping[str, Line],
    began: float,
) -> RecordAnswer:
    template = service.predictor.template
    record = template.parse(answered.text)
    confidence = field_confidence(template, answered.text, answered.token_ends, answered.logprobs)
    return RecordAnswer(
        id=f"rec-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=service.name,
        text=answered.text,
        record=None if record is None else {name: _written(each) for name, each in record.items()},
        kinds=template.kinds,
        confidence=recalibrate(confidence, lines),
        calibrated=bool(lines),
        seconds=time.monotonic() - began,
        usage=usage_of(answered, request),
    )


def _written(value: Value) -> Value:
    """Take a value as JSON has it: a number that is none, or endless, is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
