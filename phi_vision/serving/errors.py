"""Errors as the API returns them: always JSON in OpenAI's shape. Their texts are in errors.yaml.

{"error": {"message": "…", "type": "invalid_request_error", "param": "messages", "code": null}}

Errors of validation name fields of the request, never validators or classes.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from phi_vision.io.formatting import join_words, read_yaml, suggestion
from phi_vision.serving.telemetry import error_fields

LOG = logging.getLogger(__name__)

TEXTS = read_yaml(__file__)
MAX_MESSAGE = 1000  # characters
QUOTES = '""'  # the name of a field without letters
MAX_SHOWN = 60  # characters of a name or value that an error repeats
Error = Mapping[str, Any]  # one of pydantic's errors


@dataclass(eq=False)
class ApiError(Exception):
    """An error that is returned to the client."""

    status: int
    message: str
    _: KW_ONLY
    param: str | None = None  # Path of the field that is wrong, such as `messages[0].content`.
    code: str | None = None
    retry_after: float | None = None

    def __post_init__(self) -> None:
        # Both may quote the request.
        self.message = self.message[:MAX_MESSAGE]
        self.param = self.param and self.param[:MAX_MESSAGE]
        super().__init__(self.message)

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return the JSON body of a response, or of a server-sent event within a stream."""
        other = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = TEXTS["types"].get(self.status, other)
        # Many clients show the message alone.
        is_named = self.param is None or self.param in self.message
        message = self.message if is_named else f"{self.param}: {self.message}"
        fields = {"message": message, "type": kind, "param": self.param, "code": self.code}
        return {"error": fields}

    def response(self) -> JSONResponse:
        """Build the response, with the headers of its status."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def api_error(
    case: str, *, param: str | None = None, retry_after: float | None = None, **found: object
) -> ApiError:
    """Build an error of errors.yaml; `found` fills the {names} of its message."""
    status, text = TEXTS["errors"][case]
    code = case.partition(".")[0]
    return ApiError(status, text.format(**found), param=param, code=code, retry_after=retry_after)


def internal_error(error: Exception, request_id: str) -> ApiError:
    """Log an unexpected exception, and return an error that reveals only the request's id."""
    LOG.error("unexpected error", extra={"fields": {"id": request_id, **error_fields(error)}})
    return api_error("internal_error", id=request_id)


def install_handlers(app: FastAPI) -> None:
    """Return an app's errors, the framework's included, in OpenAI's shape."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        error.__traceback__ = None  # Its frames would keep the request's images in memory.
        response = _as_api_error(request, error).response()
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})
        return response

    for kind in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)


def _as_api_error(request: Request, error: Exception) -> ApiError:
    if isinstance(error, RequestValidationError):
        sent = dict(request.query_params) if error.body is None else error.body
        param, message = describe_errors(error.errors(), sent)
        return ApiError(400, message, param=param)
    if isinstance(error, HTTPException):
        if case := {404: "not_found", 405: "method_not_allowed"}.get(error.status_code):
            return api_error(case, method=request.method, path=request.url.path)
        return ApiError(error.status_code, str(error.detail))
    assert isinstance(error, ApiError)
    return error


def describe_errors(errors: Sequence[Error], body: object) -> tuple[str | None, str]:
    """Return the path of the first invalid field, None for the whole body, and what is wrong.

    Input:  errors of {"messages": [{"role": "user", "content": 3}]}
    Output: "messages[0].content", "messages[0].content must be a string or a list; found 3"
    """
    paths = [_path(error, body) for error in errors]
    # A value that may be of several types has errors of each type: the deepest are of its own type.
    inside = [path for path in paths if path[: len(paths[0])] == paths[0]]
    deepest = max(inside, key=len)
    chosen = [error for error, path in zip(errors, paths, strict=True) if path == deepest]
    steps = (f"[{s}]" if isinstance(s, int) else f".{_shorten(s) or QUOTES}" for s in deepest)
    param = "".join(steps).removeprefix(".") or None
    return param, f"{param or 'the body'} {_sentence(chosen, deepest)}"


def _path(error: Error, body: Any) -> list[str | int]:
    """Return the steps of an error's location that are fields or indices of the body."""
    kind, context = error["type"], error.get("ctx", {})
    steps: list[str | int] = []
    value, previous = body, None
    # The first step is the part of the request, such as `body`.
    for number, step in enumerate(error["loc"][1:], start=2):
        # The value's own `role` or `type` comes before its fields where it may be of several types.
        is_tag = (
            (isinstance(previous, int) or previous == "response_format")
            and isinstance(value, dict)
            and step == value.get("role", value.get("type"))
            and (number < len(error["loc"]) or kind == "unknown_field")
        )
        previous = step
        # Others are pydantic's names of the types that a value may have.
        is_index = isinstance(value, list) and isinstance(step, int)
        if not is_tag and (is_index or (isinstance(value, dict) and step in value)):
            steps.append(step)
            value = value[step]
    if kind == "missing":
        steps.append(error["loc"][-1])
    elif "discriminator" in context:
        steps.append(context["discriminator"].strip("'"))
    elif kind == "unknown_field":
        steps.append(context["name"])
    return steps


def _sentence(errors: Sequence[Error], path: Sequence[str | int]) -> str:
    kind, context, value = errors[0]["type"], errors[0].get("ctx", {}), errors[0]["input"]
    if kind == "unknown_field":
        return f"{TEXTS['sentences'][kind]}{_advice(context['name'], context['known'])}"
    if kind in TEXTS["sentences"]:
        return str(TEXTS["sentences"][kind])
    if "discriminator" in context:
        value = value[path[-1]]
    field = next((step for step in reversed(path) if isinstance(step, str)), "")
    allowed = [text for error in errors if (text := _allowed(error, field))]
    if not allowed:
        return str(TEXTS["sentences"]["other"])
    return f"must be {join_words(list(dict.fromkeys(allowed)), 'or')}; found {_found(value)}"


def _allowed(error: Error, field: str) -> str:
    text = TEXTS["allowed"].get(error["type"], "")
    words = str(text.format(**error.get("ctx", {}))).replace("'", '"')
    if words == "an object" and field in TEXTS["objects"]:
        return f"{words} such as {TEXTS['objects'][field]}"
    return join_words(words.split(", "), "or") if error["type"] == "union_tag_invalid" else words


def _advice(name: str, known: Sequence[str]) -> str:
    for beginning, advice in TEXTS["instead"].items():
        if name.startswith(beginning):
            return f", or send {advice}"
    return suggestion(name[:MAX_SHOWN], known)


def _found(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str):
        value = value[: MAX_SHOWN + 1]
    return _shorten(json.dumps(value, ensure_ascii=False))


def _shorten(text: str) -> str:
    """Return the beginning of a text, without the lone surrogates that UTF-8 cannot encode."""
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    return shown.encode("utf-8", "replace").decode()
