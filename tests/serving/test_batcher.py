"""Batcher: queued requests share batches, and an error affects its own request only."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image
from served_apps import Gated

from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.batcher import Batcher
from phi_vision.serving.errors import ApiError
from phi_vision.serving.settings import Settings
from phi_vision.serving.telemetry import ServerMetrics

ENDLESS = "start: /[ab]{3000}/"
"""As good as endless: seconds even for a small model."""


@asynccontextmanager
async def running(gated: Gated, **changes: float) -> AsyncIterator[tuple[Batcher, ServerMetrics]]:
    metrics = ServerMetrics()
    limits: dict[str, Any] = {"queue": 8, "batch_size": 4, "batch_wait": 0.02, "timeout": 20.0}
    settings = Settings(**limits | changes)
    run = partial(generate, gated.model, gated.processor, batch_size=settings.batch_size)
    batcher = Batcher(run, settings, metrics)
    batcher.start()
    try:
        yield batcher, metrics
    finally:
        gated.model.gate.set()
        await asyncio.to_thread(batcher.close, 0.0)


@pytest.fixture
def gated(small: LocalPredictor) -> Gated:
    return Gated(small)


@pytest.fixture
def generation_request(small: LocalPredictor, image: Image.Image) -> GenerationRequest:
    return replace(small.request([image]), max_new_tokens=8)


def metric(metrics: ServerMetrics, name: str) -> float:
    value = metrics.registry.get_sample_value(f"phi_vision_{name}")
    assert value is not None
    return value


async def until(condition: object, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def test_concurrent_requests_share_a_batch_and_get_the_text_they_get_alone(
    gated: Gated, generation_request: GenerationRequest
) -> None:
    requests = [
        generation_request,
        replace(generation_request, temperature=1.0, seed=7),
        replace(generation_request, stop=("o",), max_new_tokens=20),
        replace(generation_request, grammar='start: "Yes" | "No"'),
    ]
    alone = [generate(gated.model, gated.processor, [each])[0] for each in requests]

    async def ask() -> list[str]:
        async with running(gated) as (batcher, _):
            pending = [await batcher.submit(each) for each in requests]
            return [(await each.result()).text for each in pending]

    gated.model.batches.clear()
    assert asyncio.run(ask()) == [each.text for each in alone]
    assert gated.model.batches == [4]


def test_streamed_chunks_joined_are_the_text(
    gated: Gated, generation_request: GenerationRequest
) -> None:
    async def listen() -> tuple[list[str], str]:
        async with running(gated) as (batcher, _):
            each = await batcher.submit(generation_request)
            pieces = [piece async for piece in each]
            return pieces, (await each.result()).text

    pieces, text = asyncio.run(listen())
    assert len(pieces) > 1
    assert "".join(pieces) == text


def test_a_short_generation_does_not_wait_for_a_long_one_of_its_batch(
    gated: Gated, generation_request: GenerationRequest
) -> None:
    endless = replace(generation_request, grammar=ENDLESS, finite_grammar=True)

    async def ask() -> bool:
        async with running(gated) as (batcher, _):
            long, short = [await batcher.submit(each) for each in (endless, generation_request)]
            await short.result()
            return long.is_done()

    gated.model.batches.clear()
    assert asyncio.run(ask()) is False
    assert gated.model.batches == [2]


def test_a_full_queue_rejects_with_a_retry_after(
    gated: Gated, generation_request: GenerationRequest
) -> None:
    async def overload() -> ApiError:
        async with running(gated, queue=2, batch_size=1) as (batcher, metrics):
            gated.model.gate.clear()
            pending = [await batcher.submit(generation_request)]
            await until(lambda: metric(metrics, "requests_running") == 1)
            pending += [await batcher.submit(generation_request) for _ in range(2)]
            assert metric(metrics, "requests_queued") == 2
            with pytest.raises(ApiError) as rejection:
                await batcher.submit(generation_request)
            pending[1].cancel()
            pending[1] = await batcher.submit(generation_request)  # its place in the queue
            gated.model.gate.set()
            assert len({(await each.result()).text for each in pending}) == 1
            assert metrics.registry.get_sample_value(
                "phi_vision_rejected_total", {"code": "queue_full"}
            )
            return rejection.value

    error = asyncio.run(overload())
    assert (error.status, error.code) == (429, "queue_full")
    assert error.retry_after == pytest.approx(3.0)  # three batches of one, a second each


def test_a_request_that_times_out_is_aborted(
    gated: Gated, generation_request: GenerationRequest
) -> None:
    endless = replace(generation_request, grammar=ENDLESS, max_new_tokens=2000)

    async def wait() -> tuple[ApiError, float]:
        async with running(gated, timeout=0.5) as (batcher, metrics):
            each = await batcher.submit(endless)
            with pytest.raises(ApiError) as late:
                await each.result()
            await until(lambda: metric(metrics, "requests_running") == 0)
            return late.value, metric(metrics, "timed_out_total")

    error, counted = asyncio.run(wait())
    assert (error.status, error.code, counted) == (504, "timeout", 1)


def test_a_disconnected_client_frees_its_row_of_the_batch(
    gated: Gated, generation_request: GenerationRequest
) -> None:
    endless = replace(generation_request, grammar=ENDLESS, max_new_tokens=2000)

    async def disconnect() -> tuple[float, str]:
        async with running(gated) as (batcher, metrics):
            each = await batcher.submit(endless)
            await anext(aiter(each))
            each.cancel()
            after = await batcher.submit(generation_request)
            async with asyncio.timeout(5):
                return metric(metrics, "cancelled_total"), (await after.result()).text

    cancelled, text = asyncio.run(disconnect())
    assert cancelled == 1
    assert text


def test_an_invalid_request_fails_alone(
    gated: Gated, generation_request: GenerationRequest
) -> None:
    bad = replace(generation_request, grammar="no grammar at all")

    async def ask() -> tuple[str, ApiError, str]:
        async with running(gated) as (batcher, _):
            first, second, third = [
                await batcher.submit(q) for q in (generation_request, bad, generation_request)
            ]
            with pytest.raises(ApiError) as rejection:
                await second.result()
            return (await first.result()).text, rejection.value, (await third.result()).text

    before, error, after = asyncio.run(ask())
    assert before == after != ""
    assert (error.status, "the grammar is invalid" in error.message) == (400, True)


def test_a_crash_fails_its_batch_and_the_thread_continues(
    gated: Gated, generation_request: GenerationRequest, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash() -> list[ApiError]:
        async with running(gated) as (batcher, _):
            gated.model.failure = RuntimeError("out of memory")
            pending = [await batcher.submit(generation_request) for _ in range(2)]
            errors = []
            for each in pending:
                with pytest.raises(ApiError) as broken:
                    await each.result()
                errors.append(broken.value)
            gated.model.failure = None
            assert (await (await batcher.submit(generation_request)).result()).text
            assert batcher.status == "ok"
            return errors

    assert [(error.status, error.code) for error in asyncio.run(crash())] == [
        (500, "internal_error")
    ] * 2
    (line,) = [record for record in caplog.records if record.message == "batch failed"]
    assert vars(line)["fields"]["error"] == "RuntimeError: out of memory"


def test_after_losing_its_device_the_server_reports_failed(
    gated: Gated, generation_request: GenerationRequest
) -> None:
    async def lose() -> tuple[list[int], str]:
        async with running(gated, batch_size=1) as (batcher, metrics):
            gated.model.gate.clear()
            gated.model.failure = torch.AcceleratorError("an illegal memory access")
            pending = [await batcher.submit(generation_request) for _ in range(2)]
            await until(lambda: metric(metrics, "requests_running") == 1)
            gated.model.gate.set()
            statuses = []
            for asking in (
                *(each.result() for each in pending),
                batcher.submit(generation_request),
            ):
                with pytest.raises(ApiError) as rejection:
                    await asking
                statuses.append(rejection.value.status)
            return statuses, batcher.status

    assert asyncio.run(lose()) == ([500, 503, 503], "failed")


@pytest.mark.parametrize("is_given_up", [False, True])
def test_images_are_released_with_their_request(
    gated: Gated, generation_request: GenerationRequest, is_given_up: bool
) -> None:
    async def ask() -> bool:
        async with running(gated) as (batcher, metrics):
            shown = generation_request.images[0].copy()
            alive = weakref.ref(shown)
            each = await batcher.submit(replace(generation_request, images=(shown,)))
            del shown
            if is_given_up:
                await anext(aiter(each))
                each.cancel()
            else:
                await each.result()
            del each
            await until(lambda: metric(metrics, "requests_running") == 0)
            await until(lambda: alive() is None, seconds=1.0)
            return True

    gc.collect()
    gc.disable()  # It comes by too seldom: new images would be refused for the room of old ones.
    try:
        assert asyncio.run(ask())
    finally:
        gc.enable()


def test_closing_finishes_the_running_batch_and_rejects_the_queue(
    gated: Gated, generation_request: GenerationRequest
) -> None:
    async def close() -> tuple[str, list[int]]:
        async with running(gated, batch_size=1) as (batcher, metrics):
            gated.model.gate.clear()
            written = await batcher.submit(generation_request)
            await until(lambda: metric(metrics, "requests_running") == 1)
            waiting = await batcher.submit(generation_request)
            closing = asyncio.create_task(asyncio.to_thread(batcher.close, 10.0))
            await until(lambda: batcher.status == "draining")
            rejections = []
            for asking in (waiting.result(), batcher.submit(generation_request)):
                with pytest.raises(ApiError) as rejection:
                    await asking
                rejections.append(rejection.value.status)
            assert batcher.status == "draining"
            gated.model.gate.set()
            await closing
            batcher.close(0.0)  # once more, as the app's end does
            return (await written.result()).text, rejections

    text, rejections = asyncio.run(close())
    assert text
    assert rejections == [503, 503]


def test_closing_aborts_a_batch_that_exceeds_the_drain_time(
    gated: Gated, generation_request: GenerationRequest
) -> None:
    endless = replace(generation_request, grammar=ENDLESS, max_new_tokens=2000)

    async def close() -> ApiError:
        async with running(gated) as (batcher, _):
            each = await batcher.submit(endless)
            await anext(aiter(each))
            await asyncio.to_thread(batcher.close, 0.05)
            with pytest.raises(ApiError) as broken:
                await each.result()
            return broken.value

    assert asyncio.run(close()).status == 503
