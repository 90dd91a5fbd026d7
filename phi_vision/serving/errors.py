"""Errors as the API returns them: always JSON in OpenAI's shape.

{"error": {"message": "…", "type": "invalid_request_error", "param": "messages", "code": null}}
"""

import logging
import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from phi_vision.serving.field_errors import describe_errors
from phi_vision.serving.schemas import ErrorResponse
from phi_vision.serving.telemetry import error_fields

LOG = logging.getLogger(__name__)

# Status -> OpenAPI description.
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
# Status -> OpenAI's error type; others are `invalid_request_error` or `server_error`.
TYPES = {401: "authentication_error", 429: "rate_limit_error", 504: "timeout_error"}
MAX_MESSAGE = 1000  # characters


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
        kind = TYPES.get(self.status, other)
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


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe a route's errors for OpenAPI."""
    return {
        each: {"model": ErrorResponse, "description": ERRORS[each]} for each in sorted(statuses)
    }


def install_handlers(app: FastAPI) -> None:
    """Return an app's errors, the framework's included, in OpenAI's shape."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        # Without the traceback, whose frames would keep the request's images alive until the next
        # garbage collection.
        error.__traceback__ = None
        if isinstance(error, HTTPException):
            response = _framework_error(request, error).response()
            response.headers.update(error.headers or {})
            return response
        return (
            error if isinstance(error, ApiError) else _validation_error(request, error)
        ).response()

    for kind in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)


def internal_error(error: Exception, request_id: str) -> ApiError:
    """Log an unexpected exception, and return an error that reveals only the request's id."""
    LOG.error("unexpected error", extra={"fields": {"id": request_id, **error_fields(error)}})
    message = f"internal server error; report its id to the server's operator: {request_id}"
    return ApiError(500, message, code="internal_error")


def wrong_media_type(request: Request, *allowed: str) -> ApiError:
    """Return the error of a body of another content type than the allowed ones."""
    found = request.headers.get("content-type", "")[:80] or "missing"
    message = f"the Content-Type is {found}; send {', '.join(allowed)}"
    return ApiError(415, message, code="unsupported_media_type")


def _validation_error(request: Request, error: Exception) -> ApiError:
    assert isinstance(error, RequestValidationError)
    sent = dict(request.query_params) if error.body is None else error.body
    param, message = describe_errors(error.errors(), sent)
    return ApiError(400, message, param=param)


def _framework_error(request: Request, error: HTTPException) -> ApiError:
    status, path = error.status_code, request.url.path[:200]
    if status == 404:
        return ApiError(404, f"no route {path}; see /openapi.json", code="not_found")
    if status == 405:
        message = f"{request.method[:20]} is not allowed for {path}; see the header Allow"
        return ApiError(405, message, code="method_not_allowed")
    return ApiError(status, str(error.detail))
