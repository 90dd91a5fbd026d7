"""POST /v1/records: images in, their record with a confidence for each field out."""

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from fastapi.exceptions import RequestValidationError
from PIL.Image import Image
from pydantic import BeforeValidator, ValidationError
from starlette.requests import Request

from phi_vision.data.template import Template
from phi_vision.data.template_grammar import grammar_of
from phi_vision.generation.request import GenerationRequest
from phi_vision.metrics.platt_scaling import PlattScaler
from phi_vision.runs import RunDir
from phi_vision.serving.errors import ApiError
from phi_vision.serving.schemas import RecordRequest, RecordResponse
from phi_vision.serving.service import Service, usage_of

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
"""Content types of a single image; its actual format is detected from its bytes."""

# Pydantic would also take "yes", "1" and others, which the OpenAPI description does not allow.
Constrained = Annotated[bool, BeforeValidator({"true": True, "false": False}.get), Query()]


def record_routes(
    service: Service,
    calibration: Mapping[str, PlattScaler],
    errors: dict[int | str, dict[str, Any]],
) -> APIRouter:
    """Create the route; `errors` describes its error responses for OpenAPI."""
    routes = APIRouter()

    @routes.post(
        "/v1/records",
        responses=errors,
        openapi_extra={"requestBody": _describe_body(service.settings.max_images)},
        operation_id="read_record",
    )
    async def read_record(request: Request, constrained: Constrained = False) -> RecordResponse:
        """Predict the record of one product from its images."""
        start = time.monotonic()
        images, always = await _read_body(request, service)
        generation_request = await asyncio.to_thread(_build, images, constrained or always, service)
        async with service.submit(generation_request, request) as pending:
            generation = await pending.result()
        prediction = service.predictor.to_prediction(generation)
        return RecordResponse(
            id=f"rec-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=service.name,
            text=prediction.text,
            record=prediction.record,
            kinds=service.predictor.template.kinds,
            confidence=calibrate(prediction.confidence, calibration),
            calibrated=bool(calibration),
            seconds=time.monotonic() - start,
            usage=usage_of(generation, request),
        )

    return routes


def load_calibration(run: Path, template: Template) -> dict[str, PlattScaler]:
    """Load the calibration of each field's confidence from a run's evaluation.

    Output: {"title": PlattScaler(slope=0.7, intercept=-0.42), ...}, or {} if
    the run was not evaluated with this template, or one of its fields could not be calibrated.

    Raises:
        ValueError: The scores are damaged.
    """
    report = RunDir(run).report
    if not report.scores_file.is_file():
        return {}
    try:
        scores = report.scores()
        used, fitted = scores["template"], scores["calibrations"]
        if (used["question"], used["answer"]) != (template.question, template.answer):
            return {}
        lines = {
            field: PlattScaler(float(each["slope"]), float(each["intercept"]))
            for field in template.fields
            if (each := fitted.get(field)) and None not in (each["slope"], each["intercept"])
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"cannot read {report.scores_file}: {error!r}; run the evaluation again"
        ) from error
    return lines if len(lines) == len(template.fields) else {}


def calibrate(
    confidence: Mapping[str, float], calibration: Mapping[str, PlattScaler]
) -> dict[str, float]:
    """Calibrate each field's confidence; without calibrations it stays unchanged."""
    if not calibration:
        return dict(confidence)
    return {
        field: float(calibration[field].apply(np.array([raw]))[0])
        for field, raw in confidence.items()
    }


def _describe_body(max_images: int) -> dict[str, Any]:
    schema = RecordRequest.model_json_schema()
    schema["properties"]["images"]["maxItems"] = max_images
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {"application/json": {"schema": schema}, **dict.fromkeys(IMAGE_TYPES, binary)}
    return {"required": True, "content": content}


async def _read_body(request: Request, service: Service) -> tuple[tuple[Image, ...], bool]:
    """Read the images, and whether decoding is constrained."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if content_type in IMAGE_TYPES:
        return (await service.images.read(body),), False
    if content_type != "application/json":
        found = content_type[:80] or "none"
        message = f"the Content-Type is {found}; send application/json, {', '.join(IMAGE_TYPES)}"
        raise ApiError(415, message, code="unsupported_media_type")
    try:
        parsed = RecordRequest.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        ) from error
    service.check_model(parsed.model)
    urls = {f"images.{number}": url for number, url in enumerate(parsed.images)}
    images = await service.images.read_all(urls or {"image": parsed.image}, "images")
    return images, parsed.constrained


def _build(images: Sequence[Image], constrained: bool, service: Service) -> GenerationRequest:
    grammar = grammar_of(service.predictor.template) if constrained else None
    generation_request = service.predictor.request(images, grammar=grammar)
    service.chat_template.check_length(generation_request.prompt, images, "images")
    return generation_request
