"""What tests of the page at `/` share: a server that plays its part, and hands on the page."""

import asyncio
import base64
import io
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from browser import Opened
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Page, expect
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

Body = dict[str, Any]
Scene = Callable[[Request], Awaitable[Response]]

ANSWER: Body = {
    "id": "rec-1",
    "object": "record",
    "created": 1,
    "model": "phi-vision-small",
    "text": "Product: Canvas Tote, Category: BAGS, Full Price: 1490.0",
    "record": {"title": "Canvas Tote", "category3_code": "BAGS", "full_price": 1490.0},
    "kinds": {"title": "text", "category3_code": "category", "full_price": "number"},
    "confidence": {"title": 0.812, "category3_code": 0.997, "full_price": 0.31},
    "calibrated": True,
    "seconds": 0.4213,
    "usage": {"prompt_tokens": 800, "completion_tokens": 21, "total_tokens": 821},
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the page asked."""

    body: bytes
    type: str
    token: str | None
    query: str


@dataclass(kw_only=True)
class Stage:
    """A server that plays its scenes in order, the last one again and again."""

    address: str = ""
    scenes: list[Scene] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    """Set when somebody who was waiting went away."""

    def plays(self, *scenes: Scene) -> None:
        self.scenes, self.asked = list(scenes), []
        self.left.clear()

    async def play(self, request: Request) -> Response:
        self.asked.append(
            Asked(
                body=await request.body(),
                type=request.headers["content-type"],
                token=request.headers.get("authorization"),
                query=request.url.query,
            )
        )
        scene = self.scenes.pop(0) if len(self.scenes) > 1 else self.scenes[0]
        return await scene(request)

    def slowly(self, request: Request) -> Awaitable[Response]:
        """Never answer; note when the reader is gone."""

        async def wait() -> Response:
            while not await request.is_disconnected():
                await asyncio.sleep(0.02)
            self.left.set()
            return Response()

        return wait()


def says(**changes: object) -> Scene:
    async def scene(request: Request) -> Response:
        return JSONResponse(ANSWER | changes)

    return scene


def refuses(status: int, message: str, **headers: str) -> Scene:
    async def scene(request: Request) -> Response:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return JSONResponse({"error": error}, status_code=status, headers=named)

    return scene


def babbles(text: str, status: int = 200) -> Scene:
    async def scene(request: Request) -> Response:
        return Response(text, status_code=status, media_type="text/html")

    return scene


async def hangs_up(request: Request) -> Response:
    async def half() -> AsyncIterator[bytes]:
        yield b'{"id": '
        raise ConnectionResetError

    return StreamingResponse(half(), media_type="application/json")


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve an application on a thread of its own; gives the address of its page."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


def photo(colour: str = "teal", form: str = "PNG", size: tuple[int, int] = (60, 40)) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, colour).save(encoded, form)
    return encoded.getvalue()


def choose(page: Page, content: bytes, name: str = "tote.png", kind: str = "image/png") -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": kind, "buffer": content})


def carried(page: Page, content: bytes, name: str = "tote.png", kind: str = "image/png") -> Any:
    """A DataTransfer with a file, as a drop or a paste brings it."""
    return page.evaluate_handle(
        """([base64, name, type]) => {
          const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
          const carried = new DataTransfer();
          carried.items.add(new File([bytes], name, {type}));
          return carried;
        }""",
        [base64.b64encode(content).decode(), name, kind],
    )


def done(page: Page) -> None:
    expect(page.locator("#record")).to_have_attribute("data-state", "predicted")


def said(page: Page) -> Any:
    return page.locator("#prediction")


# What the browser itself notes of an answer that is no success; no page can keep it from that.
NOTED = re.compile(r"console: Failed to load resource|failed: http")


def faults(seen: Opened) -> list[str]:
    return [fault for fault in seen.faults() if not NOTED.match(fault)]
