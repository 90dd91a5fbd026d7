"""What is said to a caller where something went wrong: always JSON in the shape OpenAI gives it.

{"error": {"message": "…", "type": "invalid_request_error", "param": "messages", "code": null}}
"""

import logging
import math
import traceback
from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

LOG = logging.getLogger(__name__)

SPEAKING = (OSError, RuntimeError, MemoryError)
"""Failures whose words come from the system or from torch. Others may quote what was asked."""


class ApiError(Exception):
    """A request cannot be answered; the caller is told why.

    Args:
        status: HTTP status.
        message: What is wrong, what was found, what to do.
        kind: Type of error in OpenAI's terms.
        param: Which part of the request it is about, such as `messages[0].content`.
        code: Word by which programs tell errors apart.
        retry_after: Seconds after which asking again may help.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after


def as_response(error: ApiError) -> JSONResponse:
    """Write an error as an answer.

    Input:  ApiError(429, "64 questions wait", kind="rate_limit_error", retry_after=1.2)
    Output: status 429, Retry-After: 2, and the body
            {"error": {"message": "64 questions wait", "type": "rate_limit_error", "param": null,
                       "code": null}}
    """
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(as_body(error), status_code=error.status, headers=headers)


def as_body(error: ApiError) -> dict[str, dict[str, str | None]]:
    """Write an error as the JSON of an answer, or of an event where the answer has begun."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
        }
    }


def let_go(error: ApiError) -> None:
    """Forget where an error was raised, once it is told.

    Whoever failed may hold it, and its trace leads back there and to the images that were asked
    about: only the garbage collector would open that circle.
    """
    error.__traceback__ = None


def install_handlers(app: FastAPI) -> None:
    """Let an app tell its callers of errors in this shape, those of the framework included.

    What nobody expected is not among them: it has to be told by whoever stands outside the app,
    `Guards`, through `unexpected`.
    """

    async def tell(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        let_go(error)
        return as_response(error)

    async def tell_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return as_response(_invalid(error.errors()))

    async def tell_framework(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = as_response(_of_framework(request, error))
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(ApiError, tell)
    app.add_exception_handler(RequestValidationError, tell_invalid)
    app.add_exception_handler(HTTPException, tell_framework)


def unexpected(error: Exception, request_id: str) -> ApiError:
    """Log what nobody expected, and make of it what the caller may know: nothing but its id."""
    LOG.error(
        "unexpected error",
        extra={"facts": {"id": request_id, "error": name_of(error), "at": places_of(error)}},
    )
    message = f"something went wrong here; tell whoever runs this server its id, {request_id}"
    return ApiError(500, message, kind="server_error", code="internal_error")


def name_of(error: BaseException) -> str:
    """Name an error for the log: with its words only where they cannot quote what was asked.

    Input:  RuntimeError("CUDA out of memory"),       ValueError("no wool coat")
    Output: "RuntimeError: CUDA out of memory",       "ValueError"
    """
    kind = type(error).__name__
    return f"{kind}: {str(error)[:500]}" if isinstance(error, SPEAKING) else kind


def places_of(error: BaseException) -> list[str]:
    """List where an error came through, the last place being where it was raised.

    Output: ["engine.py:120 run", "answering.py:88 answer"]
    """
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]


def _invalid(problems: Sequence[dict[str, object]]) -> ApiError:
    """Tell of the first thing that does not fit, in words of ours; the value is not repeated."""
    first = problems[0] if problems else {}
    where = first.get("loc")
    # The first step says where in the request, such as `body`; a caller knows what follows.
    steps = [str(step) for step in where[1:]] if isinstance(where, tuple | list) else []
    param = ".".join(steps) or None
    message = str(first.get("msg", "it does not have the form asked for"))
    if first.get("type") == "json_invalid":
        return ApiError(400, "the body is no JSON; send one JSON object", code="invalid_json")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ApiError(400, f"{param or 'the request'}: {message}{more}", param=param)


def _of_framework(request: Request, error: HTTPException) -> ApiError:
    path = request.url.path[:200]
    if error.status_code == 404:
        message = f"there is nothing at {path}; see /openapi.json for what there is"
        return ApiError(404, message, code="not_found")
    if error.status_code == 405:
        message = f"{request.method[:20]} is not for {path}; the header Allow tells what is"
        return ApiError(405, message, code="method_not_allowed")
    return ApiError(error.status_code, str(error.detail))
