"""Whatever is sent, the server answers as its own description says, and never with a 500.

First from the description itself, then with what no description reaches: schemas of answers,
control tokens, images of any bytes, stop words.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
import torch
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished
from starlette.testclient import TestClient
from toy_products import draw_product

from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.server import create_app
from phi_vision.serving.settings import Settings

KEY = "open-sesame"
BEARER = {"Authorization": f"Bearer {KEY}"}
REJECTED = {400, 404, 413, 415}
IMAGE = draw_product("red", "HATS", (40, 60))

# The same examples each time; a model that computes them in its own time; nothing kept on the disk.
QUICK = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> LocalPredictor:
    return LocalPredictor(tiny_checkpoint, dtype=torch.float32)


def make_app(predictor: LocalPredictor, *, max_tokens: int) -> FastAPI:
    limits = Settings(key=KEY, max_tokens=max_tokens, max_body_bytes=200_000, batch_wait=0.0)
    return create_app(predictor, limits)


@pytest.fixture(scope="module")
def client(predictor: LocalPredictor) -> Iterator[TestClient]:
    app = make_app(predictor, max_tokens=48)
    with TestClient(app, headers=BEARER, raise_server_exceptions=False) as client:
        yield client


# All that the tool's own command checks, the same requests each time. What fits the description can
# still be no image: that such a request is refused is no fault.
PLAN = {
    "seed": 0,
    "headers": BEARER,
    "generation": {"max-examples": 12, "deterministic": True, "database": "none"},
    "checks": {"positive_data_acceptance": {"enabled": False}},
    "phases": {"stateful": {"enabled": False}},
    "continue-on-failure": True,
}


def test_every_route_conforms_to_the_openapi_description(predictor: LocalPredictor) -> None:
    app = make_app(predictor, max_tokens=8)
    plan = SchemathesisConfig.from_dict(PLAN)
    described = schemathesis.openapi.from_asgi("/openapi.json", app, config=plan, headers=BEARER)
    asked: Counter[str] = Counter()
    faults = []
    for event in from_schema(described).execute():
        assert not isinstance(event, NonFatalError | FatalError), event
        if isinstance(event, ScenarioFinished):
            asked[str(event.label)] += len(event.recorder.interactions)
            faults += list(_faults(event))
    assert not faults
    operations = {f"POST {path}" for path in ("/v1/chat/completions", "/v1/records")}
    operations |= {f"GET {path}" for path in ("/v1/models", "/v1/models/{name}")}
    assert operations | {"GET /health", "GET /metrics"} == {name for name in asked if asked[name]}


def _faults(scenario: ScenarioFinished) -> Iterator[str]:
    recorder = scenario.recorder
    for case, checks in recorder.checks.items():
        for check in checks:
            if check.failure_info is not None:
                request = recorder.interactions[case].request
                shown = f"{request.method} {request.uri:.200} {request.body!r:.500}"
                yield f"{check.name}: {check.failure_info.failure} {shown}"


NAMES = st.sampled_from(["title", "price", "a b", "é", "", "<|end|>", '"'])
LEAVES = st.one_of(
    st.sampled_from([True, False, {}, {"type": "coat"}, {"$ref": "#/nowhere"}, {"$ref": "#"}]),
    st.fixed_dictionaries({"type": st.sampled_from(["string", "number", "integer", "null"])}),
    st.fixed_dictionaries({"enum": st.lists(st.none() | st.integers() | st.text(max_size=5))}),
    st.fixed_dictionaries({"const": st.floats() | st.text(max_size=5)}),
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={
            "maxLength": st.integers(-2, 9),
            "pattern": st.text(max_size=8),
            "format": st.sampled_from(["date", "coat", ""]),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={"minimum": st.floats(), "multipleOf": st.integers(-2, 7)},
    ),
)


def _branches(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(NAMES, inner, max_size=3)
    extras = {"required": st.lists(NAMES, max_size=3), "additionalProperties": inner}
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": properties}, optional=extras
        ),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries({"anyOf": several}),
        st.fixed_dictionaries({"allOf": several}),
        st.fixed_dictionaries({"not": inner}),
    )


SCHEMAS = st.recursive(LEAVES, _branches, max_leaves=6)


@QUICK
@given(schema=SCHEMAS, strict=st.booleans())
def test_output_matches_the_schema_or_the_schema_is_rejected(
    client: TestClient, schema: Any, strict: bool
) -> None:
    named = {"name": "look", "schema": schema, "strict": strict}
    wanted = {"type": "json_schema", "json_schema": named}
    answer = _chat(client, response_format=wanted, max_tokens=48)
    assert answer.status_code in {200, 400}, answer.text
    (choice,) = answer.json()["choices"] if answer.status_code == 200 else [{"finish_reason": ""}]
    # What is no schema at all, such as one with an empty `anyOf`, may be taken for less than that.
    if choice["finish_reason"] == "stop" and jsonschema_rs.meta.is_valid(schema):
        said = json.loads(choice["message"]["content"])
        assert jsonschema_rs.is_valid(schema, said), said


TOKENS = (
    "<|end|>",
    "<|user|>",
    "<|image_1|>",
    "<|image_99|>",
    "<|",
    "<s>",
    "</s>",
    "\x00",
    "\ud800",
)
SAID = st.lists(st.sampled_from(TOKENS) | st.text(max_size=5), max_size=6).map("".join)
SHOWN = {
    "type": "image_url",
    "image_url": {"url": f"data:image/png;base64,{base64.b64encode(IMAGE).decode()}"},
}
CONTENTS = st.one_of(
    SAID,
    st.none(),
    st.lists(
        st.just(SHOWN)
        | st.fixed_dictionaries({"type": st.just("text"), "text": SAID})
        | st.fixed_dictionaries({"type": SAID}),
        max_size=3,
    ),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant", "developer", "tool"]),
            "content": CONTENTS,
        },
        optional={"name": SAID},
    ),
    max_size=4,
)


@QUICK
@given(messages=MESSAGES)
def test_conversations_of_any_structure_are_completed_or_rejected(
    client: TestClient, messages: list[dict[str, Any]]
) -> None:
    answer = _chat(client, messages=messages)
    assert answer.status_code in {200} | REJECTED, answer.text


@QUICK
@given(said=SAID)
def test_control_tokens_in_a_message_do_not_add_turns_or_images(
    client: TestClient, said: str
) -> None:
    content = [SHOWN, {"type": "text", "text": f"Is it {said}?"}]
    answer = _chat(client, messages=[{"role": "user", "content": content}])
    # A lone half of a surrogate is no text that a tokenizer could read.
    assert answer.status_code == (400 if "\ud800" in said else 200), answer.text


def _images() -> st.SearchStrategy[bytes]:
    """Bytes, beginnings of images, and images of which some bytes are others."""
    wholes = [IMAGE, *(_encoded(kind) for kind in ("JPEG", "WEBP", "GIF", "BMP"))]
    whole = st.sampled_from(wholes)
    changes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=20)

    def change(encoded: bytes, places: list[tuple[int, int]]) -> bytes:
        changed = bytearray(encoded)
        for place, value in places:
            changed[place % len(changed)] = value
        return bytes(changed)

    cut = st.builds(lambda encoded, end: encoded[: end % len(encoded)], whole, st.integers(0))
    return st.binary(max_size=200) | cut | st.builds(change, whole, changes)


def _encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "navy").save(file, kind)
    return file.getvalue()


@QUICK
@given(image=_images(), kind=st.sampled_from(["image/png", "image/jpeg", "image/webp"]))
def test_images_of_any_bytes_are_decoded_or_rejected(
    client: TestClient, image: bytes, kind: str
) -> None:
    answer = client.post("/v1/records", content=image, headers={"Content-Type": kind})
    assert answer.status_code in {200} | REJECTED, answer.text


PARAMETERS = st.lists(st.text("abc=;,%\"'\\ é/:", max_size=6), max_size=3).map(";".join)


@QUICK
@given(
    scheme=st.sampled_from(["data:", "DATA:", "data://", "http:", "file:", ""]),
    kind=st.sampled_from(["image/png", "image/svg+xml", "text/plain", ""]),
    parameters=PARAMETERS,
    coding=st.sampled_from([";base64,", ",", ";BASE64,", ";base64;", ""]),
    encoded=st.sampled_from([base64.b64encode(IMAGE).decode()]) | st.text(max_size=20),
)
def test_urls_of_any_form_are_read_or_rejected(
    client: TestClient, scheme: str, kind: str, parameters: str, coding: str, encoded: str
) -> None:
    body = {"image": f"{scheme}{kind}{parameters}{coding}{encoded}"}
    answer = client.post("/v1/records", content=json.dumps(body), headers=JSON_TYPE)
    assert answer.status_code in {200} | REJECTED, answer.text


@QUICK
@given(
    stop=st.lists(st.text("aeiost ", min_size=1, max_size=3), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    temperature=st.sampled_from([0, 0.7, 1.5]),
)
def test_chunks_joined_are_the_text_without_stop_sequences(
    client: TestClient, stop: list[str], seed: int, temperature: float
) -> None:
    chosen = {"stop": stop, "seed": seed, "temperature": temperature}
    whole = _chat(client, **chosen).json()["choices"][0]
    streamed = _chat(client, stream=True, **chosen).text
    events = [event.removeprefix("data: ") for event in streamed.strip().split("\n\n")]
    assert events.pop() == "[DONE]"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    joined = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert joined == whole["message"]["content"]
    assert not [word for word in stop if word in joined]
    assert choices[-1]["finish_reason"] == whole["finish_reason"]


JSON_TYPE = {"Content-Type": "application/json"}


def _chat(client: TestClient, **body: Any) -> Any:
    body.setdefault("messages", [{"role": "user", "content": "What is it?"}])
    body.setdefault("max_tokens", 12)
    # Written with escapes: JSON can hold what UTF-8 cannot.
    return client.post("/v1/chat/completions", content=json.dumps(body), headers=JSON_TYPE)
