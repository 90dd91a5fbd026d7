"""POST /v1/records: a picture in, its record with confidences out."""

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

from phi_vision.data.grammar import grammar_of
from phi_vision.data.reply import field_confidence
from phi_vision.data.sample import Value
from phi_vision.evaluate.recalibration import Line
from phi_vision.model.question import Answered, Question
from phi_vision.serve.errors import ApiError
from phi_vision.serve.prompting import Shown
from phi_vision.serve.schemas import RecordAnswer, RecordRequest
from phi_vision.serve.service import Service, usage_of
from phi_vision.serve.trust import recalibrate

PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp")
"""What a request may be instead of JSON. Which of them does not count: pictures tell it."""


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
        """Read the record off a picture, or off several of one product."""
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
    picture = {"type": "string", "format": "binary"}
    content = {"application/json": {"schema": asked}}
    content |= {kind: {"schema": picture} for kind in PICTURE_TYPES}
    return {"required": True, "content": content}


async def _read_request(request: Request, service: Service) -> tuple[tuple[Image, ...], bool]:
    """Read the pictures, and whether nothing but the template's form may be written.

    Raises:
        ApiError: It is neither JSON nor a picture (415), or a picture cannot be read.
        RequestValidationError: The JSON has another form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in PICTURE_TYPES:
        return (await service.pictures.read(await request.body()),), False
    if kind != "application/json":
        found = kind[:80] or "none"
        message = f"the Content-Type is {found}; send application/json, {', '.join(PICTURE_TYPES)}"
        raise ApiError(415, message, code="unsupported_media_type")
    try:
        asked = RecordRequest.model_validate_json(await request.body())
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        ) from error
    service.require_model(asked.model)
    return await service.open_pictures(_shown(asked), "images"), asked.constrained


def _shown(asked: RecordRequest) -> list[Shown]:
    if asked.images:
        return [Shown(url=url, param=f"images.{place}") for place, url in enumerate(asked.images)]
    return [Shown(url=asked.image, param="image")]


def _word(images: tuple[Image, ...], constrained: bool, service: Service) -> Question:
    grammar = grammar_of(service.predictor.template) if constrained else None
    question = service.predictor.question(images, grammar=grammar)
    service.check_length(question, "images")
    return question


def _record_of(
    answered: Answered,
    request: Request,
    service: Service,
    lines: Mapping[str, Line],
    began: float,
) -> RecordAnswer:
    template = service.predictor.template
    record = template.parse(answered.text)
    confidence = field_confidence(template, answered.text, answered.ends, answered.logprobs)
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
