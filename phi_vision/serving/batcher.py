"""Engine: one thread that owns the model, and the questions that wait for it.

ticket = await engine.submit(question)
async for piece in ticket: ...
answered = await ticket.result()

What waits is answered together. Nothing here knows HTTP but the errors, which are the callers'.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal, Protocol

import torch

from phi_vision.generation.generate import GenerativeModel, generate
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.serving.errors import ApiError, name_of, places_of
from phi_vision.serving.server_metrics import Figures

LOG = logging.getLogger(__name__)

NEW_BATCH_COUNTS = 0.3
"""How much the last batch counts in the mean seconds of a batch: three batches make the most of
it."""

FIRST_GUESS = 1.0
"""Seconds of a batch before there was one."""

BREAKING_OFF = 30.0
"""Seconds it is waited for a batch that was broken off: until its next token, which with many long
prompts on a CPU takes a while. Then the process may end without it."""


class Loaded(Protocol):
    """What is asked of a `Predictor`."""

    model: GenerativeModel
    processor: Phi3VProcessor


class PendingRequest:
    """One question under way; belongs to the event loop on which it was handed in.

    Args:
        question: What is asked.
        leave: Told once, and why, if there will be no answer.
    """

    def __init__(
        self, question: GenerationRequest, leave: Callable[["PendingRequest", ApiError], None]
    ) -> None:
        self._question = question
        self.spoken = False
        self.given_up = False
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[Generation] = self._loop.create_future()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None

    def question(self) -> GenerationRequest:
        """Give the question, such that the ticket hears of its answer.

        Not kept: with the ticket it would be a circle, and its images would take room until the
        garbage collector comes by.
        """
        return replace(self._question, on_token=self._hear, on_finish=self._finish)

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the pieces of the answer as they are written; joined they are its text.

        Raises:
            ApiError: As `result`.
        """
        while (piece := await self._pieces.get()) is not None:
            yield piece
        await self.result()

    async def result(self) -> Generation:
        """Wait for the whole answer.

        Raises:
            ApiError: It took too long (504), the question is a bad one (400), the server stops
                (503) or broke (500).
        """
        return await asyncio.shield(self._done)

    @property
    def is_over(self) -> bool:
        """Whether there is an answer, or an error instead of one."""
        return self._done.done()

    def cancel(self) -> None:
        """Give the question up, if it is not over: its row is free for others."""
        self.fail(ApiError(499, "the caller hung up", code="cancelled"))

    def expire_after(self, seconds: float) -> None:
        """Give the question up if it is not over by then."""
        message = f"no answer within {seconds:g} seconds; ask for less, or later"
        error = ApiError(504, message, kind="timeout_error", code="timeout")
        self._timer = self._loop.call_later(seconds, self.fail, error)

    def succeed(self, answered: Generation) -> None:
        """Hand the answer over."""
        if not self._done.done():
            self._done.set_result(answered)
            self._end()

    def fail(self, error: ApiError) -> None:
        """Hand an error over instead of an answer."""
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()  # Looked at, for those who listen to pieces alone.
            self.given_up = True
            self._end()
            self._leave(self, error)

    def from_any_thread(self, call: Callable[..., None], *values: object) -> None:
        """Let something happen on the ticket's event loop."""
        with suppress(RuntimeError):  # The loop is closed: nobody is left to be told.
            self._loop.call_soon_threadsafe(call, *values)

    def _hear(self, piece: str) -> bool:
        self.spoken = True
        if piece:
            self.from_any_thread(self._pieces.put_nowait, piece)
        return not self.given_up

    def _finish(self, answered: Generation) -> None:
        if answered.finish_reason != "cancelled":  # Whoever gave it up says why there is no answer.
            self.from_any_thread(self.succeed, answered)

    def _end(self) -> None:
        self._pieces.put_nowait(None)
        if self._timer is not None:
            self._timer.cancel()


class Engine:
    """Answers questions in batches, on a thread of its own.

    Args:
        predictor: The loaded model.
        queue: Most questions waiting.
        batch_size: Most questions answered together.
        batch_wait: Seconds a question waits for others.
        timeout: Seconds for one answer, waiting included.
        figures: Where it counts.
    """

    def __init__(
        self,
        predictor: Loaded,
        *,
        queue: int,
        batch_size: int,
        batch_wait: float,
        timeout: float,
        figures: Figures,
    ) -> None:
        self._predictor = predictor
        self._queue = queue
        self._batch_size = batch_size
        self._batch_wait = batch_wait
        self._timeout = timeout
        self._figures = figures
        self._waiting: deque[PendingRequest] = deque()
        self._running: Sequence[PendingRequest] = ()
        self._changed = threading.Condition()
        self._closing = False
        self._lost = False
        self._seconds_of_batch = FIRST_GUESS
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    @property
    def closing(self) -> bool:
        """Whether no more questions are taken."""
        return self._closing

    @property
    def status(self) -> Literal["ok", "draining", "failed"]:
        """Whether questions that are handed in will be answered."""
        if self._closing:
            return "draining"
        return "ok" if self._thread.is_alive() and not self._lost else "failed"

    async def submit(self, question: GenerationRequest) -> PendingRequest:
        """Hand a question in.

        Raises:
            ApiError: Too many wait (429), or the server stops or has lost its device (503).
        """
        with self._changed:
            if self._closing:
                raise self._refusal(_stopping())
            if self._lost:
                raise self._refusal(_without_device())
            # While the model rests, the next batch only waits for its last questions.
            next_batch = 0 if self._running else self._batch_size
            if len(self._waiting) >= self._queue + next_batch:
                raise self._refusal(self._full())
            ticket = PendingRequest(question, self._forget)
            ticket.expire_after(self._timeout)
            self._waiting.append(ticket)
            self._figures.waiting.set(len(self._waiting))
            self._changed.notify_all()
        return ticket

    def close(self, drain: float) -> None:
        """Stop: send away what waits, and let what is being answered end within so many seconds.

        After them it is broken off, which takes until the next token. May be called again, and from
        any thread; it waits, so an event loop calls it on another one.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._turn_away(_stopping)
        if self._thread.is_alive():
            self._thread.join(drain)
        for ticket in self._running:
            ticket.given_up = True  # At once: the loop may be busy, or closed.
            ticket.from_any_thread(ticket.fail, _stopping())
        if self._thread.is_alive():
            self._thread.join(BREAKING_OFF)

    def _turn_away(self, why: Callable[[], ApiError]) -> None:
        """Send away what waits; called by whoever holds the lock."""
        for ticket in self._waiting:
            ticket.from_any_thread(ticket.fail, self._refusal(why()))
        self._waiting.clear()
        self._figures.waiting.set(0)

    def _forget(self, ticket: PendingRequest, why: ApiError) -> None:
        """Give a place in the queue back, if the ticket has one."""
        counters = {"cancelled": self._figures.cancelled, "timeout": self._figures.timed_out}
        if why.code in counters:
            counters[why.code].inc()
        with self._changed:
            with suppress(ValueError):
                self._waiting.remove(ticket)
            self._figures.waiting.set(len(self._waiting))

    def _refusal(self, error: ApiError) -> ApiError:
        self._figures.refused.labels(code=error.code).inc()
        return error

    def _full(self) -> ApiError:
        batches = len(self._waiting) / self._batch_size + 1
        return ApiError(
            429,
            f"{len(self._waiting)} questions wait already; ask again later",
            kind="rate_limit_error",
            code="queue_full",
            retry_after=batches * self._seconds_of_batch,
        )

    def _work(self) -> None:
        while not self._lost and (batch := self._take_batch()):
            began = time.monotonic()
            self._figures.running.set(len(batch))
            self._figures.batch_sizes.observe(len(batch))
            self._answer(batch)
            self._running = ()
            self._figures.running.set(0)
            seconds = time.monotonic() - began
            self._figures.batch_seconds.observe(seconds)
            self._seconds_of_batch += NEW_BATCH_COUNTS * (seconds - self._seconds_of_batch)
            del batch  # Or its images would take room until there is another batch.

    def _take_batch(self) -> list[PendingRequest]:
        """Wait for questions, a little longer for more of them, and take them; [] at the end."""
        batch: list[PendingRequest] = []
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return []
                self._changed.wait_for(
                    lambda: len(self._waiting) >= self._batch_size or self._closing,
                    self._batch_wait,
                )
                count = min(self._batch_size, len(self._waiting))
                taken = [self._waiting.popleft() for _ in range(count)]
                batch = [ticket for ticket in taken if not ticket.given_up]
            self._running = batch
            self._figures.waiting.set(len(self._waiting))
        return batch

    def _answer(self, batch: Sequence[PendingRequest]) -> None:
        """Answer a batch, whatever happens: the thread has to outlive it.

        Each ticket hears of its own answer as soon as that is over.
        """
        try:
            answers = generate(
                self._predictor.model,
                self._predictor.processor,
                [ticket.question() for ticket in batch],
                batch_size=self._batch_size,
            )
        except ValueError as error:
            if len(batch) > 1 and not any(ticket.spoken for ticket in batch):
                for ticket in batch:  # One of them is bad; the others are none the worse for it.
                    if not ticket.is_over:
                        self._answer([ticket])
            elif len(batch) > 1:
                self._break(batch, error)
            else:
                (ticket,) = batch
                refused = ApiError(400, f"the question cannot be answered: {error}")
                ticket.from_any_thread(ticket.fail, refused)
        except Exception as error:
            self._break(batch, error)
        else:
            for answered in answers:
                self._count(answered)

    def _break(self, batch: Sequence[PendingRequest], error: Exception) -> None:
        facts = {"error": name_of(error), "at": places_of(error), "questions": len(batch)}
        LOG.error("a batch failed", extra={"facts": facts})
        message = "the model failed on this batch of questions; ask again"
        for ticket in batch:
            broken = ApiError(500, message, kind="server_error", code="internal_error")
            ticket.from_any_thread(ticket.fail, broken)
        # Not what a GPU raises when it is only out of memory: this process cannot use it again.
        if isinstance(error, torch.AcceleratorError):
            LOG.error("the device is lost; start the server again")
            with self._changed:
                self._lost = True
                self._turn_away(_without_device)

    def _count(self, answered: Generation) -> None:
        self._figures.tokens.labels(direction="in").inc(answered.prompt_tokens)
        self._figures.tokens.labels(direction="out").inc(len(answered.logprobs))


def _without_device() -> ApiError:
    message = "the device that the model computes on has failed; the server has to be started again"
    return ApiError(503, message, kind="server_error", code="device_lost", retry_after=60.0)


def _stopping() -> ApiError:
    message = "the server is stopping; ask another, or this one later"
    return ApiError(503, message, kind="server_error", code="draining", retry_after=5.0)
