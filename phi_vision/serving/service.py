"""Service: what the routes of one server share, and the steps that all questions go through."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from PIL.Image import Image
from starlette.requests import Request

from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.batcher import Engine, PendingRequest
from phi_vision.serving.chat_template import Shown, Wording
from phi_vision.serving.errors import ApiError
from phi_vision.serving.image_inputs import Images
from phi_vision.serving.schemas import Usage
from phi_vision.serving.server_metrics import Figures
from phi_vision.serving.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Service:
    """One loaded model and all that stands around it."""

    name: str
    """How callers call the model."""

    predictor: LocalPredictor
    settings: Settings
    figures: Figures
    engine: Engine
    images: Images
    wording: Wording

    created: int = field(default_factory=lambda: int(time.time()))
    """When it was loaded, in seconds since 1970."""

    def require_model(self, name: str | None) -> None:
        """Refuse to answer in another model's name (404)."""
        if name not in (None, self.name):
            raise ApiError(
                404,
                f"there is no model {name!r:.200} here; this server has {self.name!r}",
                param="model",
                code="model_not_found",
            )

    async def open_images(self, shown: Sequence[Shown], param: str) -> tuple[Image, ...]:
        """Fetch and decode images, in their order.

        Args:
            shown: Where they are.
            param: What to blame for too many.

        Raises:
            ApiError: There are too many, or one cannot be read.
        """
        most = self.settings.max_images
        if len(shown) > most:
            message = f"{len(shown)} images are shown; at most {most} are looked at"
            raise ApiError(400, message, param=param, code="too_many_images")
        return tuple([await self.images.read(one.url, param=one.param) for one in shown])

    def check_length(self, question: GenerationRequest, param: str) -> None:
        """Refuse a question that leaves no room for an answer; takes a while."""
        try:
            length = self.wording.length(question.prompt, question.images)
        except ValueError as error:
            raise ApiError(400, str(error), param=param, code="impossible_shape") from error
        try:
            self.wording.room(length)
        except ValueError as error:
            raise ApiError(400, str(error), param=param, code="context_length_exceeded") from error

    @asynccontextmanager
    async def ask(
        self, question: GenerationRequest, request: Request
    ) -> AsyncIterator[PendingRequest]:
        """Hand a question in; a caller who hangs up inside gives it up.

        Raises:
            ApiError: As `Engine.submit`.
        """
        ticket = await self.engine.submit(question)

        async def notice() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            ticket.cancel()

        noticing = asyncio.create_task(notice())
        try:
            yield ticket
        except BaseException:
            ticket.cancel()
            raise
        finally:
            noticing.cancel()
            with suppress(asyncio.CancelledError):
                await noticing


def usage_of(answered: Generation, request: Request) -> Usage:
    """Count an answer's tokens, and tell the log of them."""
    read, written = answered.prompt_tokens, len(answered.logprobs)
    request.state.tokens = (read, written)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
