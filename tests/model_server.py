"""A server that speaks as OpenAI's does, over HTTP on a thread of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiohttp import web

Body = dict[str, Any]
Handler = Callable[[Body], Awaitable[web.Response | Body]]


def message(content: str | None, tokens: Sequence[object] | None = None) -> Body:
    logprobs = None if tokens is None else {"content": tokens}
    return {"choices": [{"message": {"content": content}, "logprobs": logprobs}]}


class Server:
    """A server that answers as the handler says, and remembers what it was asked."""

    def __init__(self, handler: Handler, models: object) -> None:
        self.handler = handler
        self.models = models
        self.asked: list[Body] = []
        self.keys: list[str | None] = []
        self.now = self.most = 0
        self.address = ""

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization"))
        body = await request.json()
        self.asked.append(body)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            answer = await self.handler(body)
        except ConnectionResetError:
            assert request.transport is not None
            request.transport.abort()
            raise
        finally:
            self.now -= 1
        return answer if isinstance(answer, web.Response) else web.json_response(answer)

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.models)

    async def start(self) -> web.AppRunner:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_get("/v1/models", self.list_models)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner


@contextmanager
def serving(handler: Handler, models: object = None) -> Iterator[Server]:
    server = Server(handler, models or {"data": [{"id": "coats"}]})
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(server.start(), loop).result()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
