"""Batcher: what waits is answered together, and what goes wrong goes wrong for one alone."""

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
from phi_vision.serving.server_metrics import ServerMetrics
from phi_vision.serving.settings import Settings

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
def question(small: LocalPredictor, image: Image.Image) -> GenerationRequest:
    return replace(small.request([image]), max_new_tokens=8)


def metric(metrics: ServerMetrics, name: str) -> float:
    value = metrics.registry.get_sample_value(f"phi_vision_{name}")
    assert value is not None
    return value


async def until(condition: object, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def test_what_arrives_together_is_answered_together_and_as_alone(
    gated: Gated, question: GenerationRequest
) -> None:
    questions = [
        question,
        replace(question, temperature=1.0, seed=7),
        replace(question, stop=("o",), max_new_tokens=20),
        replace(question, grammar='start: "Yes" | "No"'),
    ]
    alone = [generate(gated.model, gated.processor, [each])[0] for each in questions]

    async def ask() -> list[str]:
        async with running(gated) as (batcher, _):
            pending = [await batcher.submit(each) for each in questions]
            return [(await each.result()).text for each in pending]

    gated.model.batches.clear()
    assert asyncio.run(ask()) == [each.text for each in alone]
    assert gated.model.batches == [4]


def test_pieces_are_heard_as_they_are_written_and_joined_are_the_text(
    gated: Gated, question: GenerationRequest
) -> None:
    async def listen() -> tuple[list[str], str]:
        async with running(gated) as (batcher, _):
            each = await batcher.submit(question)
            pieces = [piece async for piece in each]
            return pieces, (await each.result()).text

    pieces, text = asyncio.run(listen())
    assert len(pieces) > 1
    assert "".join(pieces) == text


def test_a_short_answer_does_not_wait_for_a_long_one_of_its_batch(
    gated: Gated, question: GenerationRequest
) -> None:
    endless = replace(question, grammar=ENDLESS, finite_grammar=True)

    async def ask() -> bool:
        async with running(gated) as (batcher, _):
            long, short = [await batcher.submit(each) for each in (endless, question)]
            await short.result()
            return long.is_done

    gated.model.batches.clear()
    assert asyncio.run(ask()) is False
    assert gated.model.batches == [2]


def test_no_more_wait_than_allowed_and_the_next_is_told_when_to_come(
    gated: Gated, question: GenerationRequest
) -> None:
    async def crowd() -> ApiError:
        async with running(gated, queue=2, batch_size=1) as (batcher, metrics):
            gated.model.gate.clear()
            pending = [await batcher.submit(question)]
            await until(lambda: metric(metrics, "requests_running") == 1)
            pending += [await batcher.submit(question) for _ in range(2)]
            assert metric(metrics, "requests_queued") == 2
            with pytest.raises(ApiError) as refusal:
                await batcher.submit(question)
            pending[1].cancel()
            pending[1] = await batcher.submit(question)  # its place in the queue
            gated.model.gate.set()
            assert len({(await each.result()).text for each in pending}) == 1
            assert metrics.registry.get_sample_value(
                "phi_vision_rejected_total", {"code": "queue_full"}
            )
            return refusal.value

    error = asyncio.run(crowd())
    assert (error.status, error.code) == (429, "queue_full")
    assert error.retry_after == pytest.approx(3.0)  # three batches of one, a second each


def test_an_answer_that_takes_too_long_is_broken_off(
    gated: Gated, question: GenerationRequest
) -> None:
    endless = replace(question, grammar=ENDLESS, max_new_tokens=2000)

    async def wait() -> tuple[ApiError, float]:
        async with running(gated, timeout=0.5) as (batcher, metrics):
            each = await batcher.submit(endless)
            with pytest.raises(ApiError) as late:
                await each.result()
            await until(lambda: metric(metrics, "requests_running") == 0)
            return late.value, metric(metrics, "timed_out_total")

    error, counted = asyncio.run(wait())
    assert (error.status, error.code, counted) == (504, "timeout", 1)


def test_who_hangs_up_leaves_the_row_to_others(gated: Gated, question: GenerationRequest) -> None:
    endless = replace(question, grammar=ENDLESS, max_new_tokens=2000)

    async def hang_up() -> tuple[float, str]:
        async with running(gated) as (batcher, metrics):
            each = await batcher.submit(endless)
            await anext(aiter(each))
            each.cancel()
            after = await batcher.submit(question)
            async with asyncio.timeout(5):
                return metric(metrics, "cancelled_total"), (await after.result()).text

    cancelled, text = asyncio.run(hang_up())
    assert cancelled == 1
    assert text


def test_a_bad_question_fails_alone(gated: Gated, question: GenerationRequest) -> None:
    bad = replace(question, grammar="no grammar at all")

    async def ask() -> tuple[str, ApiError, str]:
        async with running(gated) as (batcher, _):
            first, second, third = [await batcher.submit(q) for q in (question, bad, question)]
            with pytest.raises(ApiError) as refusal:
                await second.result()
            return (await first.result()).text, refusal.value, (await third.result()).text

    before, error, after = asyncio.run(ask())
    assert before == after != ""
    assert (error.status, "grammar cannot be read" in error.message) == (400, True)


def test_a_crash_fails_its_batch_and_the_thread_goes_on(
    gated: Gated, question: GenerationRequest, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash() -> list[ApiError]:
        async with running(gated) as (batcher, _):
            gated.model.failure = RuntimeError("out of memory")
            pending = [await batcher.submit(question) for _ in range(2)]
            errors = []
            for each in pending:
                with pytest.raises(ApiError) as broken:
                    await each.result()
                errors.append(broken.value)
            gated.model.failure = None
            assert (await (await batcher.submit(question)).result()).text
            assert batcher.status == "ok"
            return errors

    assert [(error.status, error.code) for error in asyncio.run(crash())] == [
        (500, "internal_error")
    ] * 2
    (line,) = [record for record in caplog.records if record.message == "batch failed"]
    assert vars(line)["fields"]["error"] == "RuntimeError: out of memory"


def test_a_lost_device_is_told_instead_of_answering_with_errors_for_ever(
    gated: Gated, question: GenerationRequest
) -> None:
    async def lose() -> tuple[list[int], str]:
        async with running(gated, batch_size=1) as (batcher, metrics):
            gated.model.gate.clear()
            gated.model.failure = torch.AcceleratorError("an illegal memory access")
            pending = [await batcher.submit(question) for _ in range(2)]
            await until(lambda: metric(metrics, "requests_running") == 1)
            gated.model.gate.set()
            statuses = []
            for asking in (*(each.result() for each in pending), batcher.submit(question)):
                with pytest.raises(ApiError) as refusal:
                    await asking
                statuses.append(refusal.value.status)
            return statuses, batcher.status

    assert asyncio.run(lose()) == ([500, 503, 503], "failed")


@pytest.mark.parametrize("is_given_up", [False, True])
def test_images_are_let_go_with_their_question(
    gated: Gated, question: GenerationRequest, is_given_up: bool
) -> None:
    async def ask() -> bool:
        async with running(gated) as (batcher, metrics):
            shown = question.images[0].copy()
            alive = weakref.ref(shown)
            each = await batcher.submit(replace(question, images=(shown,)))
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


def test_closing_lets_what_is_written_end_and_sends_away_what_waits(
    gated: Gated, question: GenerationRequest
) -> None:
    async def close() -> tuple[str, list[int]]:
        async with running(gated, batch_size=1) as (batcher, metrics):
            gated.model.gate.clear()
            written = await batcher.submit(question)
            await until(lambda: metric(metrics, "requests_running") == 1)
            waiting = await batcher.submit(question)
            closing = asyncio.create_task(asyncio.to_thread(batcher.close, 10.0))
            await until(lambda: batcher.status == "draining")
            refusals = []
            for asking in (waiting.result(), batcher.submit(question)):
                with pytest.raises(ApiError) as refusal:
                    await asking
                refusals.append(refusal.value.status)
            assert batcher.status == "draining"
            gated.model.gate.set()
            await closing
            batcher.close(0.0)  # once more, as the app's end does
            return (await written.result()).text, refusals

    text, refusals = asyncio.run(close())
    assert text
    assert refusals == [503, 503]


def test_closing_breaks_off_what_does_not_end(gated: Gated, question: GenerationRequest) -> None:
    endless = replace(question, grammar=ENDLESS, max_new_tokens=2000)

    async def close() -> ApiError:
        async with running(gated) as (batcher, _):
            each = await batcher.submit(endless)
            await anext(aiter(each))
            await asyncio.to_thread(batcher.close, 0.05)
            with pytest.raises(ApiError) as broken:
                await each.result()
            return broken.value

    assert asyncio.run(close()).status == 503
