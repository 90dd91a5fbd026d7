"""The page at `/`: a few files that lie beside this one, and the headers that keep them harmless.

Nothing is fetched from elsewhere and nothing runs that is not one of these files, so the page also
works where there is no network but the server. All it knows is `POST /v1/records`.
"""

from collections.abc import Awaitable, Callable
from importlib import resources

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from phi_vision.io.hashing import sha256

FILES: dict[str, str] = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "asking.js": "text/javascript; charset=utf-8",
    "showing.js": "text/javascript; charset=utf-8",
    "wording.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "sample.jpg": "image/jpeg",
}
"""File -> what it is."""

PATHS: dict[str, str] = {"/" if name == "index.html" else f"/page/{name}": name for name in FILES}
"""Path -> file. These are open to everybody: they hold no secret, and ask for the token."""

HEADERS: dict[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Asked again each time, so that a new version of the package shows its new page at once.
    "cache-control": "no-cache",
}
"""What goes with every file of the page."""

Answer = Callable[[Request], Awaitable[Response]]


def add_page(app: FastAPI) -> None:
    """Let an application answer GET and HEAD for each of `PATHS`.

    Input:  GET /page/page.css with If-None-Match: "0f3a…"
    Output: 304 without a body where that is still what the file holds, else 200 with it
    """
    for path, name in PATHS.items():
        app.router.add_route(path, _answer_with(name), methods=["GET"], include_in_schema=False)


def _answer_with(name: str) -> Answer:
    content = resources.files("phi_vision.serving").joinpath("static", name).read_bytes()
    tag = f'"{sha256(content)[:16]}"'
    headers = HEADERS | {"etag": tag}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=FILES[name], headers=headers)

    return answer
