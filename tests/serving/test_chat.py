"""POST /v1/chat/completions over ASGI: request formats, limits, errors."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from jsonschema_rs import validate
from starlette.testclient import TestClient

from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.server import create_app
from phi_vision.serving.settings import Settings

Body = dict[str, Any]
URL = "/v1/chat/completions"
SETTINGS = Settings(max_tokens=32, max_images=2, max_prompt_characters=500, batch_wait=0.0)
SOLD = {
    "type": "object",
    "properties": {"sold": {"type": "boolean"}},
    "required": ["sold"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(small: LocalPredictor) -> Iterator[TestClient]:
    with TestClient(create_app(small, SETTINGS)) as client:
        yield client


@pytest.fixture
def request_body(address: str) -> Body:
    parts = [
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "text", "text": "Describe it."},
    ]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 12}


def events(text: str) -> list[Body]:
    lines = text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def rejection(client: TestClient, body: Body) -> tuple[int, str | None, str | None, str]:
    response = client.post(URL, json=body)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["param"], error["code"], error["message"]


def words(*turns: str) -> Body:
    return {"messages": [{"role": "user", "content": turn} for turn in turns], "max_tokens": 4}


def test_a_completion_has_its_usage(client: TestClient, request_body: Body) -> None:
    answer = client.post(URL, json=request_body).json()
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    assert choice["logprobs"] is None
    assert answer["model"] == "phi-vision-small"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] > 50  # the image's


def test_a_stream_has_the_same_content_in_chunks(client: TestClient, request_body: Body) -> None:
    whole = client.post(URL, json=request_body | {"logprobs": True}).json()
    options = {"stream": True, "logprobs": True, "stream_options": {"include_usage": True}}
    response = client.post(URL, json=request_body | options)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(response.text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]
    end = chunks[-1]["choices"][0]
    assert end["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert end["logprobs"] == whole["choices"][0]["logprobs"]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)


def test_streams_have_no_usage_unless_requested(client: TestClient, request_body: Body) -> None:
    assert all("usage" not in event for event in events(_stream(client, request_body)))


def _stream(client: TestClient, request_body: Body) -> str:
    return client.post(URL, json=request_body | {"stream": True}).text


def test_the_bytes_of_the_tokens_are_the_text(client: TestClient, request_body: Body) -> None:
    (choice,) = client.post(URL, json=request_body | {"logprobs": True}).json()["choices"]
    tokens = choice["logprobs"]["content"]
    assert (
        b"".join(bytes(token["bytes"]) for token in tokens).decode()
        == (choice["message"]["content"])
    )
    assert all(token["logprob"] <= 0 and token["top_logprobs"] == [] for token in tokens)


def test_completions_end_at_their_limit_or_a_stop_sequence(
    client: TestClient, request_body: Body
) -> None:
    (whole,) = client.post(URL, json=request_body).json()["choices"]
    (cut,) = client.post(URL, json=request_body | {"max_tokens": 2}).json()["choices"]
    assert cut["finish_reason"] == "length"
    assert whole["message"]["content"].startswith(cut["message"]["content"])
    first, second = whole["message"]["content"].split()[:2]
    (stopped,) = client.post(URL, json=request_body | {"stop": [second, "zzz"]}).json()["choices"]
    assert stopped["finish_reason"] == "stop"
    assert stopped["message"]["content"] == first
    assert "".join(
        event["choices"][0]["delta"].get("content", "")
        for event in events(_stream(client, request_body | {"stop": second}))
    ) == (first)


def test_json_matches_the_schema(client: TestClient, request_body: Body) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "sold", "schema": SOLD}}
    (choice,) = client.post(URL, json=request_body | {"response_format": wanted}).json()["choices"]
    validate(SOLD, json.loads(choice["message"]["content"]))
    wanted = {"type": "json_object", "schema": SOLD}
    (choice,) = client.post(URL, json=request_body | {"response_format": wanted}).json()["choices"]
    validate(SOLD, json.loads(choice["message"]["content"]))
    anything = request_body | {"response_format": {"type": "json_object"}, "max_tokens": 32}
    (choice,) = client.post(URL, json=anything).json()["choices"]
    assert choice["message"]["content"].startswith("{")


def test_seeds_determine_the_sampling(client: TestClient, request_body: Body) -> None:
    drawn = request_body | {"temperature": 1.5, "max_tokens": 8}

    def text(seed: int) -> str:
        answer = client.post(URL, json=drawn | {"seed": seed}).json()
        return str(answer["choices"][0]["message"]["content"])

    assert text(1) == text(1) != text(2)


def test_two_images_and_earlier_turns_are_in_the_prompt(
    client: TestClient, small: LocalPredictor, request_body: Body
) -> None:
    (turn,) = request_body["messages"]
    said = [
        {"role": "system", "content": "Answer in one word."},
        turn,
        {"role": "assistant", "content": "A hat."},
        turn,
    ]
    once = client.post(URL, json=request_body).json()["usage"]["prompt_tokens"]
    twice = client.post(URL, json={**request_body, "messages": said}).json()["usage"][
        "prompt_tokens"
    ]
    assert twice > 2 * once


def test_fields_without_effect_are_accepted(client: TestClient, request_body: Body) -> None:
    more = {"user": "me", "metadata": {"a": 1}, "n": 1, "tools": [], "logit_bias": None, "top_p": 1}
    more |= {"top_k": -1, "repetition_penalty": 1.0, "min_p": 0, "guided_json": None}
    assert client.post(URL, json=request_body | more).status_code == 200


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("guided_json", SOLD, 'send "response_format"'),
        ("guided_choice", ["a"], '"schema": {"enum": ["…", "…"]}'),
        ("guided_regex", "a+", '"schema": {"type": "string", "pattern": "…"}'),
        ("structured_outputs", {"json": SOLD}, 'send "response_format"'),
        ("max_token", 3, "did you mean max_tokens?"),
        ("typical_p", 0.5, "would have no effect; leave it out"),
    ],
)
def test_unknown_fields_are_rejected_by_name(
    client: TestClient, name: str, value: object, advice: str
) -> None:
    status, param, _, message = rejection(client, words("hello") | {name: value})
    assert (status, param) == (400, name)
    assert advice in message


def test_unsupported_fields_are_rejected_by_name(client: TestClient, request_body: Body) -> None:
    for name, value in {
        "tools": [{"type": "function"}],
        "n": 2,
        "audio": {"voice": "alloy"},
        "top_logprobs": 3,
        "frequency_penalty": 0.5,
        "modalities": ["text", "audio"],
        "top_k": 5,
        "repetition_penalty": 1.1,
    }.items():
        status, param, _, message = rejection(client, request_body | {name: value})
        assert (status, param) == (400, name)
        assert "not supported here; leave it out" in message


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"model": "gpt-4o"}, "model", "model_not_found"),
        ({"max_tokens": 33}, "max_tokens", "integer_above_max_value"),
        ({"max_tokens": 0}, "max_tokens", None),
        ({"max_completion_tokens": 1000}, "max_completion_tokens", "integer_above_max_value"),
        ({"temperature": 2.5}, "temperature", None),
        ({"temperature": "1"}, "temperature", None),
        ({"seed": 2**53}, "seed", None),
        ({"stop": ["a"] * 5}, "stop", None),
        ({"stop": ""}, "stop", None),
        ({"messages": []}, "messages", None),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", None),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", None),
        (words("a" * 300, "b" * 300), "messages", "string_above_max_length"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}},
            "response_format.json_schema.schema",
            "invalid_json_schema",
        ),
    ],
)
def test_invalid_requests_are_rejected_with_the_path_of_the_field(
    client: TestClient, changes: Body, param: str, code: str | None
) -> None:
    status, found, told, message = rejection(client, words("hello") | changes)
    assert status == (404 if code == "model_not_found" else 400)
    assert told == code
    assert message
    assert found == param


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, " must be a string or a list; found null"),
        ([], " must be a string or a list that is not empty; found a list of 0"),
        ([{"type": "input_image"}], '[0].type must be "text" or "image_url"; found "input_image"'),
        ([{"type": "text", "text": 3}], "[0].text must be a string; found 3"),
        ([{"type": "text", "text": "a", "x": 1}], "[0].x is not known here and would have no e"),
        ([{"text": "a"}], "[0].type is missing"),
        (
            [{"type": "image_url", "image_url": "data:,"}],
            '[0].image_url must be an object such as {"url": "data:image/jpeg;base64,…"}; found',
        ),
        (
            [{"type": "image_url", "image_url": {"url": "data:,", "detail": "original"}}],
            '[0].image_url.detail must be "auto", "low" or "high"; found "original"',
        ),
        ([{"type": "image_url", "image_url": {"image_url": 1}}], "[0].image_url.url is missing"),
    ],
)
def test_errors_speak_in_the_words_of_the_request(
    client: TestClient, content: object, sentence: str
) -> None:
    said = {"messages": [{"role": "user", "content": content}]}
    status, param, _, message = rejection(client, said)
    assert status == 400
    assert message.startswith(f"messages[0].content{sentence}")
    assert param is not None
    assert message.startswith(f"{param} ")


@pytest.mark.parametrize("role", ["system", "assistant"])
@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"type": "image_url", "image_url": {"url": "data:,"}}, '.type must be "text"; found "ima'),
        ({"type": "text", "text": 3}, ".text must be a string; found 3"),
        ({"type": "text", "text": "a", "": 1}, '."" is not known here'),
    ],
)
def test_errors_of_parts_that_are_always_text(
    client: TestClient, role: str, part: Body, sentence: str
) -> None:
    said = {"messages": [{"role": role, "content": [part]}, *words("hello")["messages"]]}
    assert rejection(client, said)[3].startswith(f"messages[0].content[0]{sentence}")


def test_a_trailing_slash_is_no_redirect_to_the_host_of_the_client(client: TestClient) -> None:
    for path in (f"{URL}/", "/health/", "/page"):
        response = client.get(path, headers={"host": "evil.example"}, follow_redirects=False)
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not_found"


def test_images_are_described_as_text_that_is_not_empty(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    body = described["paths"]["/v1/records"]["post"]["requestBody"]["content"]["application/json"]
    image = body["schema"]["properties"]["image"]
    assert (image["minLength"], image["format"], "default" in image) == (1, "uri", False)
    seed = described["components"]["schemas"]["ChatRequest"]["properties"]["seed"]["anyOf"][0]
    assert seed == {"type": "integer", "minimum": 1 - 2**53, "maximum": 2**53 - 1}


def test_other_content_types_are_rejected(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        content = json.dumps(words("hello"))
        response = client.post(URL, content=content, headers={"content-type": kind})
        assert response.status_code == 415, kind
        assert (
            f"the Content-Type is {kind or 'missing'}; send" in response.json()["error"]["message"]
        )


def test_invalid_images_are_rejected_with_the_path_of_the_field(
    client: TestClient, request_body: Body, address: str
) -> None:
    (turn,) = request_body["messages"]
    shown = turn["content"][0]
    many = [{"role": "user", "content": [shown, shown, shown]}]
    assert rejection(client, {"messages": many})[:3] == (400, "messages", "too_many_images")
    torn = {"type": "image_url", "image_url": {"url": address[:-200]}}
    said = [{"role": "user", "content": [shown, torn]}]
    status, param, code, _ = rejection(client, {"messages": said})
    assert (status, param) == (400, "messages[0].content[1].image_url.url")
    assert code in ("invalid_image", "invalid_image_url")
    system = [{"role": "system", "content": [shown]}, turn]
    assert rejection(client, {"messages": system})[0] == 400


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'{"messages": NaN}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "x"}], "model": "\\udfff"}',
        b'{"messages": [{"role": "\\udfff", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "\\udfff": 1}',
        b'{"messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}",
        b'{"messages": ' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_malformed_bodies_are_rejected(client: TestClient, content: bytes) -> None:
    response = client.post(URL, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_a_prompt_beyond_the_context_is_rejected_with_both_lengths(
    small: LocalPredictor, request_body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small.model.config, "max_position_embeddings", 60)
    with TestClient(create_app(small, SETTINGS)) as client:
        status, param, code, message = rejection(client, request_body)
        assert (status, param, code) == (400, "messages", "context_length_exceeded")
        assert "context is 60 tokens; the prompt has " in message
        assert client.post(URL, json=words("hello")).status_code == 200


def test_a_timeout_is_an_error_before_or_within_the_stream(
    small: LocalPredictor,
) -> None:
    endless = words("hello") | {
        "max_tokens": 3000,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"schema": {"type": "string", "minLength": 9000}},
        },
    }
    settings = replace(SETTINGS, timeout=0.4, max_tokens=3000)
    with TestClient(create_app(small, settings)) as client:
        assert rejection(client, endless)[:3] == (504, None, "timeout")
        response = client.post(URL, json=endless | {"stream": True})
        assert response.status_code == 200
        *_, last = response.text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"


def test_the_key_is_described_and_required(small: LocalPredictor) -> None:
    app = create_app(small, replace(SETTINGS, key="hunter2-hunter2"))
    with TestClient(app) as client:
        assert rejection(client, words("hello"))[:1] == (401,)
        client.headers["authorization"] = "Bearer hunter2-hunter2"
        assert client.post(URL, json=words("hello")).status_code == 200
        described = client.get("/openapi.json").json()
    assert described["security"] == [{"key": []}]
    limits = described["components"]["schemas"]["ChatRequest"]["properties"]["max_tokens"]
    assert limits["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 32}
    assert "422" not in str(described["paths"])


def test_parts_and_tokens_count_as_characters(client: TestClient) -> None:
    parts = [{"type": "text", "text": ""}] * 200
    message = {"role": "user", "content": parts}
    status, param, code, sentence = rejection(client, words("") | {"messages": [message] * 3})
    assert (status, param, code) == (400, "messages", "string_above_max_length")
    assert sentence == "the messages have 599 characters; the limit is 500"
    status, param, code, sentence = rejection(client, words("\N{GRINNING FACE}" * 499))
    assert (status, param, code) == (400, "messages", "context_length_exceeded")
    assert "tokens; the limit is 500; shorten them" in sentence
