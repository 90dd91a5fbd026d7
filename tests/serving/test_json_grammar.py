"""Untrusted JSON schemas: enforced, or rejected with a reason, in bounded time."""

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from jsonschema_rs import validate

from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.json_grammar import MAX_CHARACTERS, grammar_of_schema

Schema = dict[str, Any]


def node(inside: object, *required: str) -> Schema:
    kind = {"type": "object", "properties": {"next": inside}, "additionalProperties": False}
    return {"$defs": {"node": {**kind, "required": [*required]}}, "$ref": "#/$defs/node"}


SELF = {"$ref": "#/$defs/node"}
PRODUCT = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12},
        "size": {"enum": ["S", "M", "L"]},
        "sold": {"type": "boolean"},
    },
    "required": ["title", "size", "sold"],
    "additionalProperties": False,
}


def nested(levels: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        PRODUCT,
        node({"anyOf": [SELF, {"type": "null"}]}, "next"),
        {"enum": ["S", 1, None, {"a": []}]},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
        {"const": "a<|end|>b</s>"},
        {"enum": ["<|user|>", "<s>x"]},
        {
            "type": "object",
            "properties": {"<|end|>": {"const": "<|image_1|>"}},
            "required": ["<|end|>"],
            "additionalProperties": False,
        },
    ],
    ids=["product", "chain", "enum", "list", "const token", "enum token", "name token"],
)
def test_constrained_output_matches_the_schema(small: LocalPredictor, schema: Schema) -> None:
    generation_request = GenerationRequest(
        prompt="<s><|user|>\nSay it.<|end|>\n<|assistant|>\n",
        grammar=grammar_of_schema(schema),
        temperature=1.5,
        seed=3,
        max_new_tokens=200,
    )
    (answered,) = generate(small.model, small.processor, [generation_request])
    assert answered.finish_reason == "stop"
    validate(schema, json.loads(answered.text))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "#"}, "at # requires itself"),
        (node(SELF, "next"), "requires itself"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "at # requires itself"),
        ({"anyOf": [{"type": "string"}, node(SELF, "next")]}, "is not in it"),
        ({"$ref": "#/nowhere"}, r"\$ref '#/nowhere' is not in it"),
        ({"$ref": "http://127.0.0.1/x.json"}, "is not in it"),
        ({"not": {"type": "string"}}, r'Unimplemented keys: \["not"\]'),
        ({"type": "string", "pattern": "("}, "regex parse error: .* unclosed group"),
        ({"type": "klingon"}, "Invalid type: klingon"),
        ({"type": 5, "required": [{}], "properties": [1]}, "is not supported"),
        ({"enum": []}, "anyOf is empty"),
        ({"properties": {"\ud800": {}}}, "is not supported, with a lone surrogate or a number"),
        ({"const": float("inf")}, "is not supported, with a lone surrogate or a number beyond"),
        (nested(100), "more than 64 levels deep"),
        (
            {"enum": [f"{number:05}" for number in range(MAX_CHARACTERS // 8)]},
            "limit is 50,000",
        ),
    ],
)
def test_unsupported_schemas_are_rejected_with_the_reason(schema: Schema, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        grammar_of_schema(schema)


def test_optional_recursion_is_allowed(small: LocalPredictor) -> None:
    grammar_of_schema(node(SELF))
    grammar_of_schema({"type": "array", "items": {"$ref": "#"}})
    grammar_of_schema({"type": "object", "additionalProperties": {"$ref": "#"}})


def test_adversarial_schemas_are_checked_in_bounded_time() -> None:
    last = {"type": "string"}
    places = [(place * 617) % 1361 for place in range(1361)]
    chain = {f"a{place}": {"$ref": f"#/$defs/a{place + 1}"} for place in places}
    choices = [{"properties": {f"p{number}": {}}} for number in range(4)]
    for schema in (
        {"$defs": {**chain, "a1361": last}, "$ref": "#/$defs/a0"},
        {"allOf": [{"anyOf": choices}] * 12},
        {"type": "string", "pattern": "((a{1,100}){1,100}){1,100}"},
    ):
        began = time.process_time()
        with suppress(ValueError):
            grammar_of_schema(schema)
        assert time.process_time() - began < 5
