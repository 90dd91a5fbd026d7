"""Dynamic batching: one thread that owns the model, and the queue of requests in front of it.

pending = await batcher.submit(request)
async for chunk in pending: ...
generation = await pending.result()

Knows nothing of HTTP but the errors that clients receive.
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
from phi_vision.serving.errors import ApiError
from phi_vision.serving.request_log import error_fields
from phi_vision.serving.server_metrics import ServerMetrics
from phi_vision.serving.settings import Settings

LOG = logging.getLogger(__name__)

SMOOTHING = 0.3
"""Weight of the last batch in the moving average of batch durations."""

INITIAL_BATCH_SECONDS = 1.0

ABORT_TIMEOUT = 30.0
"""Seconds to wait at shutdown for an aborted batch, which ends with its next token."""


class LoadedModel(Protocol):
    """The parts of a `Predictor` that the batcher uses."""

    model: GenerativeModel
    processor: Phi3VProcessor


class PendingRequest:
    """A submitted request; belongs to the event loop that submitted it.

    Args:
        request: What to generate.
        timeout: Seconds after which it fails with 504.
        on_failure: Called once if there will be no generation.
    """

    def __init__(
        self,
        request: GenerationRequest,
        timeout: float,
        on_failure: Callable[["PendingRequest", ApiError], None],
    ) -> None:
        self._request = request
        self._on_failure = on_failure
        self.started = False
        self.aborted = False
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[Generation] = self._loop.create_future()
        self._chunks: asyncio.Queue[str | None] = asyncio.Queue()
        message = f"no response within {timeout:g} seconds; request fewer tokens, or retry later"
        error = ApiError(504, message, code="timeout")
        self._timer = self._loop.call_later(timeout, self.fail, error)

    def generation_request(self) -> GenerationRequest:
        """Return the request with callbacks that report to this object.

        Built anew: a stored one would make a reference cycle, which keeps its images in memory
        until the garbage collector runs.
        """
        return replace(self._request, on_token=self._on_token, on_finish=self._on_finished)

    async def __aiter__(self) -> AsyncIterator[str]:
        """Stream the text in chunks; raises as `result`."""
        while (chunk := await self._chunks.get()) is not None:
            yield chunk
        await self.result()

    async def result(self) -> Generation:
        """Wait for the whole generation.

        Raises:
            ApiError: The request timed out (504) or is invalid (400), or the server is shutting
                down (503) or failed (500).
        """
        return await asyncio.shield(self._done)

    @property
    def is_done(self) -> bool:
        """Whether there is a generation or an error."""
        return self._done.done()

    def cancel(self) -> None:
        """Abort the request unless it is done; its row of the batch becomes free."""
        self.fail(ApiError(499, "the client disconnected", code="cancelled"))

    def succeed(self, generation: Generation) -> None:
        """Set the generation."""
        if not self.is_done:
            self._done.set_result(generation)
            self._end()

    def fail(self, error: ApiError) -> None:
        """Set an error instead of a generation."""
        if not self.is_done:
            self._done.set_exception(error)
            self._done.exception()  # Marks it as retrieved, for callers that only read chunks.
            self.aborted = True
            self._end()
            self._on_failure(self, error)

    def call_soon(self, function: Callable[..., None], *values: object) -> None:
        """Call a function on the request's event loop, from any thread."""
        with suppress(RuntimeError):  # The loop is closed.
            self._loop.call_soon_threadsafe(function, *values)

    def _on_token(self, piece: str) -> bool:
        self.started = True
        if piece:
            self.call_soon(self._chunks.put_nowait, piece)
        return not self.aborted

    def _on_finished(self, generation: Generation) -> None:
        if generation.finish_reason != "cancelled":
            self.call_soon(self.succeed, generation)

    def _end(self) -> None:
        self._chunks.put_nowait(None)
        self._timer.cancel()


class Batcher:
    """GenerativeModel queued requests in batches, on a thread of its own.

    Args:
        predictor: The loaded model.
        settings: `queue`, `batch_size`, `batch_wait` and `timeout`.
        metrics: To update.
    """

    def __init__(self, predictor: LoadedModel, settings: Settings, metrics: ServerMetrics) -> None:
        self._predictor = predictor
        self._settings = settings
        self._metrics = metrics
        self._queue: deque[PendingRequest] = deque()
        self._running: Sequence[PendingRequest] = ()
        self._changed = threading.Condition()
        self.is_closing = False
        self._device_lost = False
        self._batch_seconds = INITIAL_BATCH_SECONDS
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def status(self) -> Literal["ok", "draining", "failed"]:
        """The server's health."""
        if self.is_closing:
            return "draining"
        return "ok" if self._thread.is_alive() and not self._device_lost else "failed"

    async def submit(self, request: GenerationRequest) -> PendingRequest:
        """Queue a request.

        Raises:
            ApiError: The queue is full (429), or the server is shutting down or has lost its device
                (503).
        """
        with self._changed:
            # An idle model's next batch does not count towards the limit of the queue.
            free = 0 if self._running else self._settings.batch_size
            if self.is_closing:
                raise self._rejected(_draining())
            if self._device_lost:
                raise self._rejected(_device_lost())
            if len(self._queue) >= self._settings.queue + free:
                raise self._rejected(self._queue_full())
            pending = PendingRequest(request, self._settings.timeout, self._remove)
            self._queue.append(pending)
            self._metrics.requests_queued.set(len(self._queue))
            self._changed.notify_all()
        return pending

    def close(self, drain: float) -> None:
        """Reject queued requests, and wait for the running batch to finish within `drain` seconds.

        Afterwards it is aborted, which takes until its next token. Blocks; may be called repeatedly
        and from any thread.
        """
        with self._changed:
            self.is_closing = True
            self._changed.notify_all()
            self._reject_queue(_draining)
        if self._thread.is_alive():
            self._thread.join(drain)
        for pending in self._running:
            pending.aborted = True  # Immediately: the loop may be busy or closed.
            pending.call_soon(pending.fail, _draining())
        if self._thread.is_alive():
            self._thread.join(ABORT_TIMEOUT)

    def _reject_queue(self, error: Callable[[], ApiError]) -> None:
        """Reject all queued requests, each with an error of its own; the caller holds the lock."""
        for pending in self._queue:
            pending.call_soon(pending.fail, self._rejected(error()))
        self._queue.clear()
        self._metrics.requests_queued.set(0)

    def _remove(self, pending: PendingRequest, error: ApiError) -> None:
        counters = {"cancelled": self._metrics.cancelled, "timeout": self._metrics.timed_out}
        if error.code in counters:
            counters[error.code].inc()
        with self._changed:
            with suppress(ValueError):
                self._queue.remove(pending)
            self._metrics.requests_queued.set(len(self._queue))

    def _rejected(self, error: ApiError) -> ApiError:
        self._metrics.rejected.labels(code=error.code).inc()
        return error

    def _queue_full(self) -> ApiError:
        message = f"{len(self._queue)} requests are queued already; retry later"
        batches = len(self._queue) / self._settings.batch_size + 1
        seconds = batches * self._batch_seconds
        return ApiError(429, message, code="queue_full", retry_after=seconds)

    def _run(self) -> None:
        while not self._device_lost and (batch := self._next_batch()):
            start = time.monotonic()
            self._metrics.requests_running.set(len(batch))
            self._metrics.batch_size.observe(len(batch))
            self._generate(batch)
            self._running = ()
            self._metrics.requests_running.set(0)
            seconds = time.monotonic() - start
            self._metrics.batch_seconds.observe(seconds)
            self._batch_seconds += SMOOTHING * (seconds - self._batch_seconds)
            del batch  # Or its images stay in memory until the next batch.

    def _next_batch(self) -> list[PendingRequest]:
        """Wait for requests, then `batch_wait` seconds for others; [] when closing."""
        batch: list[PendingRequest] = []
        size = self._settings.batch_size
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._queue or self.is_closing)
                if self.is_closing:
                    return []
                self._changed.wait_for(
                    lambda: len(self._queue) >= size or self.is_closing, self._settings.batch_wait
                )
                taken = [self._queue.popleft() for _ in range(min(size, len(self._queue)))]
                batch = [pending for pending in taken if not pending.aborted]
            self._running = batch
            self._metrics.requests_queued.set(len(self._queue))
        return batch

    def _generate(self, batch: Sequence[PendingRequest]) -> None:
        """Generate a batch; requests finish one by one, and no error ends the thread."""
        requests = [pending.generation_request() for pending in batch]
        size = self._settings.batch_size
        try:
            generations = generate(
                self._predictor.model, self._predictor.processor, requests, batch_size=size
            )
        except ValueError as error:
            if len(batch) == 1:
                invalid = ApiError(400, f"the request is invalid: {error}")
                batch[0].call_soon(batch[0].fail, invalid)
            elif any(pending.started for pending in batch):
                self._fail_batch(batch, error)
            else:
                for pending in batch:  # One request is invalid; the others are retried alone.
                    if not pending.is_done:
                        self._generate([pending])
        except Exception as error:
            self._fail_batch(batch, error)
        else:
            for generation in generations:
                self._metrics.tokens.labels(direction="in").inc(generation.prompt_tokens)
                self._metrics.tokens.labels(direction="out").inc(len(generation.logprobs))

    def _fail_batch(self, batch: Sequence[PendingRequest], error: Exception) -> None:
        LOG.error("batch failed", extra={"fields": error_fields(error) | {"requests": len(batch)}})
        for pending in batch:
            failure = ApiError(500, "the model failed on this batch; retry", code="internal_error")
            pending.call_soon(pending.fail, failure)
        # Unlike out-of-memory errors, this one makes the GPU unusable for the whole process.
        if isinstance(error, torch.AcceleratorError):
            LOG.error("the device is lost; restart the server")
            with self._changed:
                self._device_lost = True
                self._reject_queue(_device_lost)


def _device_lost() -> ApiError:
    message = "the server's compute device failed and the server must be restarted"
    return ApiError(503, message, code="device_lost", retry_after=60.0)


def _draining() -> ApiError:
    message = "the server is shutting down; send the request to another server, or retry later"
    return ApiError(503, message, code="draining", retry_after=5.0)
