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
from phi_vision.serving.server import create_app
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
def request_body(address: str) -> dict[str, Any]:
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


def test_whole_completions_and_streams_agree(
    client: openai.OpenAI, request_body: dict[str, Any]
) -> None:
    whole = client.chat.completions.create(**request_body, logprobs=True)
    with client.chat.completions.create(
        **request_body, stream=True, stream_options={"include_usage": True}
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


def test_the_clients_stream_helper_accumulates_the_completion(
    client: openai.OpenAI, request_body: dict[str, Any]
) -> None:
    whole = client.chat.completions.create(**request_body, logprobs=True)
    with client.chat.completions.stream(**request_body, logprobs=True) as stream:
        gathered = stream.get_final_completion()
    assert gathered.choices[0].message.content == whole.choices[0].message.content
    assert gathered.choices[0].logprobs == whole.choices[0].logprobs


def test_completions_parse_into_pydantic_models(
    client: openai.OpenAI, request_body: dict[str, Any]
) -> None:
    answer = client.chat.completions.parse(**request_body, response_format=Sold)
    assert isinstance(answer.choices[0].message.parsed, Sold)


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["phi-vision-small"]
    assert client.models.retrieve("phi-vision-small").owned_by == "phi-vision"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4o' here"):
        client.models.retrieve("gpt-4o")


def test_errors_raise_the_clients_exceptions(
    client: openai.OpenAI, server: str, request_body: dict[str, Any]
) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**{**request_body, "model": "gpt-4o"})
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**request_body, n=2)
    assert bad.value.param == "n"
    stranger = openai.OpenAI(base_url=f"{server}/v1", api_key="guessed", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_completions_are_the_same_alone_and_in_a_batch(
    client: openai.OpenAI, server: str, request_body: dict[str, Any]
) -> None:
    requests = [
        request_body,
        {**request_body, "temperature": 1.2, "seed": 5},
        {**request_body, "messages": [{"role": "user", "content": "What do you sell?"}]},
    ]

    def ask(each_request: dict[str, Any]) -> tuple[str | None, Any]:
        answer = client.chat.completions.create(**each_request)
        return answer.choices[0].message.content, answer.usage

    alone = [ask(each_request) for each_request in requests]
    batches = metric(server, "batch_size_count")
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(ask, requests)) == alone
    assert metric(server, "batch_size_count") - batches < 3


def test_a_disconnected_client_frees_its_row(
    client: openai.OpenAI, server: str, request_body: dict[str, Any]
) -> None:
    cancelled = metric(server, "cancelled_total")
    endless = {**request_body, "max_tokens": 3000, "response_format": ENDLESS}
    with client.chat.completions.create(**endless, stream=True) as stream:
        next(stream), next(stream)
        assert metric(server, "requests_running") == 1
    wait_until(lambda: metric(server, "requests_running") == 0, 5)
    with pytest.raises(openai.APITimeoutError):  # before anything was said, too
        client.with_options(timeout=0.3).chat.completions.create(**endless)
    wait_until(lambda: metric(server, "requests_running") == 0, 5)
    assert metric(server, "cancelled_total") == cancelled + 2
    assert client.chat.completions.create(**request_body).choices[0].message.content


def test_an_overloaded_server_sends_retry_after(server: str, request_body: dict[str, Any]) -> None:
    endless = {**request_body, "max_tokens": 3000, "response_format": ENDLESS}

    async def overload() -> list[str | None]:
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

    waits = asyncio.run(overload())
    assert len(waits) >= 4  # at most two batches of four are not refused
    assert all(wait is not None and int(wait) >= 1 for wait in waits)
    wait_until(lambda: metric(server, "requests_running") == 0, 5)


def test_an_error_within_a_stream_raises_in_the_client(
    small: LocalPredictor, request_body: dict[str, Any]
) -> None:
    with running(create_app(small, Settings(timeout=0.5, max_tokens=3000))) as server:
        client = openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
        endless = {**request_body, "max_tokens": 3000, "response_format": ENDLESS}
        with pytest.raises(openai.APIStatusError) as late:
            client.chat.completions.create(**endless)
        assert late.value.status_code == 504
        with pytest.raises(openai.APIError, match=r"no response within 0\.5 seconds"):
            list(client.chat.completions.create(**endless, stream=True))


def test_served_predictions_equal_local_ones(
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
    served = dict(OpenAIPredictor(f"{server}/v1", batch_size=2).predict_samples(samples))
    for place, prediction in own.items():
        assert served[place].text == prediction.text
        assert served[place].confidence == pytest.approx(prediction.confidence, rel=1e-3)


def test_the_openapi_description_lists_all_routes(server: str) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    described = json.loads(httpx.get(f"{server}/openapi.json", headers=headers).text)
    assert set(described["paths"]) == {
        *("/v1/chat/completions", "/v1/records", "/v1/models", "/v1/models/{name}"),
        *("/health", "/metrics"),
    }
