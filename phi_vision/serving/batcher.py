"""Dynamic batching: one thread that owns the model, and the queue of requests in front of it."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import torch

from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.serving.errors import ApiError, api_error
from phi_vision.serving.settings import Settings
from phi_vision.serving.telemetry import ServerMetrics, error_fields

LOG = logging.getLogger(__name__)

SMOOTHING = 0.3  # Weight of the last batch in the moving average of batch durations.
ABORT_TIMEOUT = 30.0  # Seconds to wait for an aborted batch, which ends with its next token.
# Error of an unavailable server -> its Retry-After, in seconds.
UNAVAILABLE = {"draining": 5.0, "device_lost": 60.0}


class PendingRequest:
    """A submitted request; belongs to the event loop that submitted it."""

    def __init__(
        self,
        request: GenerationRequest,
        timeout: float,
        on_failure: Callable[["PendingRequest", ApiError], None],
    ) -> None:
        self._request, self._on_failure = request, on_failure
        self.has_text = self.aborted = False
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[Generation] = self._loop.create_future()
        self.is_done = self._done.done
        self._chunks: asyncio.Queue[str | None] = asyncio.Queue()
        error = api_error("timeout", seconds=timeout)
        self._timer = self._loop.call_later(timeout, self._finish, error)

    def generation_request(self) -> GenerationRequest:
        """Return the request with callbacks that report to this object."""
        # Not stored: the reference cycle would keep its images in memory.
        return replace(
            self._request,
            on_token=self._on_token,
            on_finish=self._on_finish,
            is_cancelled=lambda: self.aborted,
        )

    async def __aiter__(self) -> AsyncIterator[str]:
        """Stream the text in chunks; raises as `result`."""
        while (chunk := await self._chunks.get()) is not None:
            yield chunk
        await self.result()

    async def result(self) -> Generation:
        """Wait for the whole generation; raise the ApiError with which the request ended."""
        return await asyncio.shield(self._done)

    def cancel(self) -> None:
        """Abort the request unless it is done; its row of the batch becomes free."""
        self._finish(api_error("cancelled"))

    def fail(self, error: ApiError) -> None:
        """Set an error instead of a generation; may be called from any thread."""
        self._call_soon(self._finish, error)

    def _on_token(self, piece: str) -> bool:
        self.has_text = True
        if piece:
            self._call_soon(self._chunks.put_nowait, piece)
        return not self.aborted

    def _on_finish(self, generation: Generation) -> None:
        if generation.finish_reason != "cancelled":
            self._call_soon(self._finish, generation)

    def _finish(self, outcome: Generation | ApiError) -> None:
        if self.is_done():
            return
        self._chunks.put_nowait(None)
        self._timer.cancel()
        if isinstance(outcome, Generation):
            self._done.set_result(outcome)
            return
        self._done.set_exception(outcome)
        self._done.exception()  # Marks it as retrieved, for callers that only read chunks.
        self.aborted = True
        self._on_failure(self, outcome)

    def _call_soon(self, function: Callable[..., None], value: object) -> None:
        with suppress(RuntimeError):  # The loop is closed.
            self._loop.call_soon_threadsafe(function, value)


class Batcher:
    """Generates queued requests in batches with `generate`, on a thread of its own."""

    def __init__(
        self,
        generate: Callable[[Sequence[GenerationRequest]], Sequence[Generation]],
        settings: Settings,
        metrics: ServerMetrics,
    ) -> None:
        self._generate, self._settings, self._metrics = generate, settings, metrics
        self._queue: deque[PendingRequest] = deque()
        self._running: Sequence[PendingRequest] = ()
        self._changed = threading.Condition()
        self._unavailable: Literal["draining", "device_lost"] | None = None
        self._batch_seconds = 1.0
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self.start = self._thread.start

    @property
    def status(self) -> Literal["ok", "draining", "failed"]:
        """The server's health."""
        if self._unavailable == "draining":
            return "draining"
        return "ok" if self._thread.is_alive() and self._unavailable is None else "failed"

    async def submit(self, request: GenerationRequest) -> PendingRequest:
        """Queue a request; raise an ApiError if the queue is full or the server unavailable."""
        settings = self._settings
        with self._changed:
            if self._unavailable:
                raise self._unavailable_error(self._unavailable)
            # An idle model's next batch does not count towards the limit of the queue.
            queued, free = len(self._queue), 0 if self._running else settings.batch_size
            if queued >= settings.queue + free:
                self._metrics.rejected.labels(code="queue_full").inc()
                seconds = (queued / settings.batch_size + 1) * self._batch_seconds
                raise api_error("queue_full", queued=queued, retry_after=seconds)
            pending = PendingRequest(request, settings.timeout, self._remove)
            self._queue.append(pending)
            self._metrics.requests_queued.set(len(self._queue))
            self._changed.notify_all()
        return pending

    def close(self, drain: float) -> None:
        """Reject queued requests; block until the running batch ends, aborted after `drain` s."""
        self._reject_all("draining")
        if self._thread.is_alive():
            self._thread.join(drain)
        for pending in self._running:
            pending.aborted = True  # Immediately: the loop may be busy or closed.
            pending.fail(self._unavailable_error("draining"))
        if self._thread.is_alive():
            self._thread.join(ABORT_TIMEOUT)

    def _reject_all(self, code: Literal["draining", "device_lost"]) -> None:
        with self._changed:
            self._unavailable = code
            self._changed.notify_all()
            for pending in self._queue:
                pending.fail(self._unavailable_error(code))
            self._queue.clear()
            self._metrics.requests_queued.set(0)

    def _unavailable_error(self, code: str) -> ApiError:
        self._metrics.rejected.labels(code=code).inc()
        return api_error(code, retry_after=UNAVAILABLE[code])

    def _remove(self, pending: PendingRequest, error: ApiError) -> None:
        counters = {"cancelled": self._metrics.cancelled, "timeout": self._metrics.timed_out}
        if error.code in counters:
            counters[error.code].inc()
        with self._changed:
            with suppress(ValueError):
                self._queue.remove(pending)
            self._metrics.requests_queued.set(len(self._queue))

    def _run(self) -> None:
        while batch := self._next_batch():
            start = time.monotonic()
            self._metrics.requests_running.set(len(batch))
            self._metrics.batch_size.observe(len(batch))
            self._run_batch(batch)
            self._running = ()
            self._metrics.requests_running.set(0)
            seconds = time.monotonic() - start
            self._metrics.batch_seconds.observe(seconds)
            self._batch_seconds += SMOOTHING * (seconds - self._batch_seconds)
            del batch  # Or its images stay in memory until the next batch.

    def _next_batch(self) -> list[PendingRequest]:
        """Wait for requests, then `batch_wait` seconds for others; [] when unavailable."""
        batch: list[PendingRequest] = []
        size, wait = self._settings.batch_size, self._settings.batch_wait
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._queue or self._unavailable)
                if self._unavailable:
                    return []
                self._changed.wait_for(lambda: len(self._queue) >= size or self._unavailable, wait)
                taken = [self._queue.popleft() for _ in range(min(size, len(self._queue)))]
                batch = [pending for pending in taken if not pending.aborted]
            self._running = batch
            self._metrics.requests_queued.set(len(self._queue))
        return batch

    def _run_batch(self, batch: Sequence[PendingRequest]) -> None:
        """Generate a batch; requests finish one by one, and no error ends the thread."""
        try:
            generations = self._generate([pending.generation_request() for pending in batch])
        except ValueError as error:
            if len(batch) == 1:
                batch[0].fail(ApiError(400, f"the request is invalid: {error}"))
            elif any(pending.has_text for pending in batch):
                self._fail_batch(batch, error)
            else:  # One request is invalid; the others are retried alone.
                for pending in batch:
                    if not pending.is_done():
                        self._run_batch([pending])
        except Exception as error:
            self._fail_batch(batch, error)
        else:
            for generation in generations:
                self._metrics.tokens.labels(direction="in").inc(generation.prompt_tokens)
                self._metrics.tokens.labels(direction="out").inc(len(generation.logprobs))

    def _fail_batch(self, batch: Sequence[PendingRequest], error: Exception) -> None:
        LOG.error("batch failed", extra={"fields": error_fields(error) | {"requests": len(batch)}})
        for pending in batch:
            pending.fail(api_error("internal_error.batch"))
        # Unlike running out of memory, this makes the GPU unusable for the whole process.
        if isinstance(error, torch.AcceleratorError):
            LOG.error("the device is lost; restart the server")
            self._reject_all("device_lost")
