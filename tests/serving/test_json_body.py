"""Untrusted JSON bodies: what is read, and what is rejected before it costs anything."""

import json
import time

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from phi_vision.serving.errors import ApiError
from phi_vision.serving.json_body import MAX_VALUES, count_values, parse
from phi_vision.serving.json_grammar import MAX_CHARACTERS
from phi_vision.serving.schemas import ChatRequest, RecordRequest


class Order(BaseModel):
    size: int = 0
    note: str = ""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (rb'{"a, b": [1, "\"[[\\", {}]}', 5),
        (rb'"a, b"', 0),
        (rb'"\\\\\"," ', 0),
        (rb'["\\", "\\\"", 1]', 3),
    ],
)
def test_values_are_counted_outside_of_strings(body: bytes, expected: int) -> None:
    assert count_values(body) == expected


def chat(content: str) -> str:
    return f'{{"messages": [{{"role": "user", "content": [{content}]}}]}}'


MANY = 1_000_000
FLOODS = {
    "parts that are numbers": chat("1," * MANY),
    "messages that are numbers": '{"messages": [' + "1," * MANY,
    "empty text parts": chat('{"type": "text", "text": ""},' * MANY),
    "objects": chat("{}," * MANY),
    "strings": '["' + '","' * MANY,
    "deep lists": "[" * MANY,
    "deep objects": '{"a":' * MANY,
    "keys": "{" + ",".join(f'"{number}": 1' for number in range(MANY)) + "}",
    "long integers": chat(("9" * 4000 + ",") * 2500),
    "escaped quotes": '{"model": "' + r"\"" * MANY,
    "escaped backslashes": '{"model": "' + r"\\" * MANY,
    "one key twice": "{" + ",".join(f'"{number % 20_000}": 1' for number in range(20_001)) + "}",
    "a long tag": f'{{"messages": [{{"role": "{"a" * MANY}"}}]}}',
    "a long key": f'{{"{"a" * MANY}": 1}}',
    "a long number": f'{{"seed": {"9" * MANY}}}',
}


@pytest.mark.parametrize("model", [ChatRequest, RecordRequest])
@pytest.mark.parametrize("body", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_of_values_is_rejected_at_once(body: str, model: type[BaseModel]) -> None:
    start = time.perf_counter()
    with pytest.raises((ApiError, RequestValidationError)):
        parse(body.encode(), model)
    assert time.perf_counter() - start < 0.5


def test_the_error_counts_the_values() -> None:
    with pytest.raises(ApiError, match="1,000,005 JSON values or strings; the limit is 25,000"):
        parse(FLOODS["parts that are numbers"].encode(), ChatRequest)


def test_validation_stops_at_the_first_invalid_element() -> None:
    for content in ([1] * 200, [{"type": "text", "text": 1}] * 200):
        with pytest.raises(RequestValidationError) as caught:
            parse(
                json.dumps({"messages": [{"role": "user", "content": content}]}).encode(),
                ChatRequest,
            )
        assert len(caught.value.errors()) == 2  # not a string, and not a list of parts


def test_the_longest_allowed_schema_has_fewer_values() -> None:
    assert count_values(b"[" + b"1," * (MAX_CHARACTERS // 2 - 1) + b"1]") <= MAX_VALUES


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_body_is_read_as_utf_8(encoding: str) -> None:
    assert parse('{"note": "Maß"}'.encode(encoding), Order).note == "Maß"
    with pytest.raises(ApiError, match="not JSON"):
        parse('{"note": "Maß"}'.encode("utf-16"), Order)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"size": 1, "size": 2}', "the key 'size' occurs twice"),
        ('{"size": NaN}', "NaN is not a JSON number"),
        ('{"size": -Infinity}', "-Infinity is not a JSON number"),
        ('{"size": ٣}', r"Expecting value: line 1 column 10"),
        ('{"size": 1}{', "Extra data: line 1 column 12"),
        ("[" * 5000 + "]" * 5000, "it is nested too deeply; send one JSON"),
    ],
)
def test_the_error_says_why_a_body_is_not_json(body: str, reason: str) -> None:
    with pytest.raises(ApiError, match=f"the body is not JSON: {reason}"):
        parse(body.encode(), Order)


def test_a_long_integer_is_no_integer() -> None:
    assert parse(b'{"size": %d}' % 2**64, Order).size == 2**64
    for digits in (41, 5000):
        with pytest.raises(RequestValidationError):
            parse(b'{"size": -%s}' % (b"9" * digits), Order)


def test_errors_do_not_repeat_long_texts() -> None:
    assert len(json.dumps(ApiError(400, "a" * 10**6, param="b" * 10**6).body())) < 5000
