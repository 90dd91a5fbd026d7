"""Untrusted JSON bodies: bounded before they are parsed, parsed and validated on a thread.

Parsing or reporting a value takes hundreds of times its bytes in memory, and blocks all threads.
"""

import asyncio
import json
from collections import Counter
from typing import TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from phi_vision.serving.errors import api_error

JSON = "application/json"
MAX_VALUES = 25_000  # in a body: as many as the longest allowed schema of 50,000 characters has
Model = TypeVar("Model", bound=BaseModel)


def media_type(request: Request) -> str:
    """Return a request's content type: "Application/JSON; charset=utf-8" -> "application/json"."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request, model: type[Model], *, allowed: str = JSON) -> Model:
    """Read a request's body as a model; `allowed` says what to send instead of another type."""
    if media_type(request) != JSON:
        found = request.headers.get("content-type") or "missing"
        raise api_error("unsupported_media_type", found=found, allowed=allowed)
    return await asyncio.to_thread(parse, await request.body(), model)


def parse(body: bytes, model: type[Model]) -> Model:
    """Parse and validate a JSON body."""
    if (count := count_values(body)) > MAX_VALUES:
        raise api_error("too_many_values", count=count, limit=MAX_VALUES)
    try:
        parsed = DECODER.decode(body.decode("utf-8-sig"))
    except RecursionError as error:
        raise api_error("invalid_json", reason="it is nested too deeply") from error
    except ValueError as error:
        raise api_error("invalid_json", reason=error) from error
    try:
        return model.model_validate(parsed)
    except ValidationError as error:
        problems = [each | {"loc": ("body", *each["loc"])} for each in error.errors()]
        raise RequestValidationError(problems, body=parsed) from error


def _parse_integer(digits: str) -> float:
    # Long ones, which take quadratic time, become floats and so invalid.
    return int(digits) if len(digits) < 40 else float(digits)


def _as_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):  # Others would take effect or not, as the parser likes.
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {name[:60]!r} occurs twice")
    return fields


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


DECODER = json.JSONDecoder(
    parse_int=_parse_integer, parse_constant=_reject_constant, object_pairs_hook=_as_object
)


def count_values(body: bytes) -> int:
    """Count the values of a JSON body without parsing it, or its strings where these are too many.

    Input:  {"a, b": [1, "\\\\"", {}]}
    Output: 5: a comma, a brace or a bracket for each value but the first of a container
    """
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if (strings := plain.count(b'"') // 2) > 2 * MAX_VALUES:
        return strings
    outside = b"".join(plain.split(b'"')[::2])
    return sum(map(outside.count, (b",", b"[", b"{")))
