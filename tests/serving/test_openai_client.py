"""The official client against a server on a real port; and `phi-vision evaluate` against it."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from served_apps import running, wait_until
from toy_products import draw_product

from phi_vision.data.samples import Sample
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.serving.app import create_app
from phi_vision.serving.settings import Settings

KEY = "hunter2-hunter2"
ENDLESS = {
    "type": "json_schema",
    "json_schema": {"name": "long", "schema": {"type": "string", "minLength": 9000}},
}


class Sold(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sold: bool


@pytest.fixture(scope="module")
def app(small: LocalPredictor) -> FastAPI:
    settings = Settings(key=KEY, queue=2, batch_size=4, max_tokens=3000, timeout=15.0)
    return create_app(small, settings)


@pytest.fixture(scope="module")
def server(app: FastAPI) -> Iterator[str]:
    with running(app) as address:
        yield address


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def asked(address: str) -> dict[str, Any]:
    shown = {"type": "image_url", "image_url": {"url": address}}
    parts = [shown, {"type": "text", "text": "Describe it."}]
    return {
        "model": "phi-vision-small",
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": 12,
    }


def metric(server: str, name: str) -> float:
    text = httpx.get(f"{server}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    lines = [line for line in text.splitlines() if line.startswith(f"phi_vision_{name} ")]
    return float(lines[0].split()[1])


def test_whole_answers_and_streams_agree(client: openai.OpenAI, asked: dict[str, Any]) -> None:
    whole = client.chat.completions.create(**asked, logprobs=True)
    with client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    (choice,) = whole.choices
    assert "".join(pieces) == choice.message.content != ""
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == choice.finish_reason
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content


def test_the_clients_own_stream_gathers_the_answer(
    client: openai.OpenAI, asked: dict[str, Any]
) -> None:
    whole = client.chat.completions.create(**asked, logprobs=True)
    with client.chat.completions.stream(**asked, logprobs=True) as stream:
        gathered = stream.get_final_completion()
    assert gathered.choices[0].message.content == whole.choices[0].message.content
    assert gathered.choices[0].logprobs == whole.choices[0].logprobs


def test_answers_are_read_into_the_callers_own_classes(
    client: openai.OpenAI, asked: dict[str, Any]
) -> None:
    answer = client.chat.completions.parse(**asked, response_format=Sold)
    assert isinstance(answer.choices[0].message.parsed, Sold)


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["phi-vision-small"]
    assert client.models.retrieve("phi-vision-small").owned_by == "phi-vision"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4o' here"):
        client.models.retrieve("gpt-4o")


def test_errors_are_the_clients_own(
    client: openai.OpenAI, server: str, asked: dict[str, Any]
) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**{**asked, "model": "gpt-4o"})
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**asked, n=2)
    assert bad.value.param == "n"
    stranger = openai.OpenAI(base_url=f"{server}/v1", api_key="guessed", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_asked_together_or_alone_the_answers_are_the_same(
    client: openai.OpenAI, server: str, asked: dict[str, Any]
) -> None:
    questions = [
        asked,
        {**asked, "temperature": 1.2, "seed": 5},
        {**asked, "messages": [{"role": "user", "content": "What do you sell?"}]},
    ]

    def ask(question: dict[str, Any]) -> tuple[str | None, Any]:
        answer = client.chat.completions.create(**question)
        return answer.choices[0].message.content, answer.usage

    alone = [ask(question) for question in questions]
    batches = metric(server, "batch_size_count")
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(ask, questions)) == alone
    assert metric(server, "batch_size_count") - batches < 3


def test_who_hangs_up_frees_the_row(
    client: openai.OpenAI, server: str, asked: dict[str, Any]
) -> None:
    cancelled = metric(server, "cancelled_total")
    endless = {**asked, "max_tokens": 3000, "response_format": ENDLESS}
    with client.chat.completions.create(**endless, stream=True) as stream:
        next(stream), next(stream)
        assert metric(server, "requests_running") == 1
    wait_until(lambda: metric(server, "requests_running") == 0, 5)
    with pytest.raises(openai.APITimeoutError):  # before anything was said, too
        client.with_options(timeout=0.3).chat.completions.create(**endless)
    wait_until(lambda: metric(server, "requests_running") == 0, 5)
    assert metric(server, "cancelled_total") == cancelled + 2
    assert client.chat.completions.create(**asked).choices[0].message.content


def test_too_many_are_told_when_to_come_again(server: str, asked: dict[str, Any]) -> None:
    endless = {**asked, "max_tokens": 3000, "response_format": ENDLESS}

    async def crowd() -> list[str | None]:
        async with openai.AsyncOpenAI(
            base_url=f"{server}/v1", api_key=KEY, max_retries=0
        ) as client:
            calls = [
                asyncio.create_task(client.chat.completions.create(**endless)) for _ in range(12)
            ]
            _, left = await asyncio.wait(calls, timeout=1.5)
            for call in left:
                call.cancel()
            errors = await asyncio.gather(*calls, return_exceptions=True)
        return [
            error.response.headers["retry-after"]
            for error in errors
            if isinstance(error, openai.RateLimitError)
        ]

    waits = asyncio.run(crowd())
    assert len(waits) >= 4  # at most two batches of four are not refused
    assert all(wait is not None and int(wait) >= 1 for wait in waits)
    wait_until(lambda: metric(server, "requests_running") == 0, 5)


def test_what_breaks_in_a_stream_is_an_error_of_the_client(
    small: LocalPredictor, asked: dict[str, Any]
) -> None:
    with running(create_app(small, Settings(timeout=0.5, max_tokens=3000))) as server:
        client = openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
        endless = {**asked, "max_tokens": 3000, "response_format": ENDLESS}
        with pytest.raises(openai.APIStatusError) as late:
            client.chat.completions.create(**endless)
        assert late.value.status_code == 504
        with pytest.raises(openai.APIError, match=r"no response within 0\.5 seconds"):
            list(client.chat.completions.create(**endless, stream=True))


def test_an_evaluation_finds_the_predictors_own_answers(
    small: LocalPredictor, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    shades = ("red", "navy", "black")
    samples = [
        Sample(
            id=shade,
            group=shade,
            images=(draw_product(shade, "HATS", (90, 120)),),
            record={},
        )
        for shade in shades
    ]
    own = dict(small.predict_samples(samples))
    served = dict(OpenAIPredictor(f"{server}/v1", at_a_time=2).predict_samples(samples))
    for place, reply in own.items():
        assert served[place].text == reply.text
        assert served[place].confidence == pytest.approx(reply.confidence, rel=1e-3)


def test_the_description_is_json(server: str) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    described = json.loads(httpx.get(f"{server}/openapi.json", headers=headers).text)
    assert set(described["paths"]) == {
        *("/v1/chat/completions", "/v1/records", "/v1/models", "/v1/models/{name}"),
        *("/health", "/metrics"),
    }
