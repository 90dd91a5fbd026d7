"""Service: the loaded model with everything the routes share."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from starlette.requests import Request

from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.batcher import Batcher, PendingRequest
from phi_vision.serving.chat_template import ChatTemplate
from phi_vision.serving.errors import ApiError
from phi_vision.serving.image_inputs import ImageReader
from phi_vision.serving.schemas import Usage
from phi_vision.serving.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Service:
    """One loaded model under its name in the API."""

    name: str
    predictor: LocalPredictor
    settings: Settings
    batcher: Batcher
    images: ImageReader
    chat_template: ChatTemplate
    created: int = field(default_factory=lambda: int(time.time()))

    def check_model(self, name: str | None) -> None:
        """Reject requests for another model (404)."""
        if name not in (None, self.name):
            message = f"there is no model {name!r:.200} here; this server has {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    @asynccontextmanager
    async def submit(
        self, generation_request: GenerationRequest, request: Request
    ) -> AsyncIterator[PendingRequest]:
        """Queue a request; cancel it if its client disconnects or the block raises."""
        pending = await self.batcher.submit(generation_request)

        async def cancel_on_disconnect() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            pending.cancel()

        watcher = asyncio.create_task(cancel_on_disconnect())
        try:
            yield pending
        except BaseException:
            pending.cancel()
            raise
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher


def usage_of(generation: Generation, request: Request) -> Usage:
    """Count a generation's tokens, also for the request's log line."""
    prompt, completion = generation.prompt_tokens, len(generation.logprobs)
    request.state.tokens = (prompt, completion)
    total = prompt + completion
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)
