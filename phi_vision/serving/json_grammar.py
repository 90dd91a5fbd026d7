"""Untrusted JSON schema -> grammar; unusable and unsatisfiable ones are rejected."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llguidance import LLMatcher

from phi_vision.io.formatting import error_texts

failure = error_texts(__file__)
Schema = Mapping[str, Any]
ANY_OBJECT: Schema = {"type": "object"}
MAX_CHARACTERS = 50_000  # ten times a long schema
MAX_DEPTH = 64  # about two levels for each level of the JSON
MAX_PASSES = 100  # of the fixed-point search; only hundreds of chained references exceed them
# Keywords that hold a list of schemas, named schemas, one schema.
LIST_KEYWORDS = ("allOf", "anyOf", "oneOf", "prefixItems")
DICT_KEYWORDS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
SCHEMA_KEYWORDS = ("items", "additionalProperties", "if", "then", "else", "not", "contains")


def grammar_of_schema(schema: Schema) -> str:
    """Build a grammar of a schema's JSON in llguidance's dialect of Lark."""
    # Whitespace only in front, where SentencePiece begins: elsewhere models repeat it endlessly.
    if _is_deeper(schema, MAX_DEPTH):
        raise failure("too_deep", limit=MAX_DEPTH)
    text = json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}})
    try:
        json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise failure("not_json") from error
    if len(text) > MAX_CHARACTERS:
        raise failure("too_long", length=len(text), limit=MAX_CHARACTERS)
    schemas = dict(_subschemas(schema, "#"))
    # Only paths are resolved below, not anchors or other documents.
    for each in schemas.values():
        if "$ref" in each and str(each["$ref"]) not in schemas:
            raise failure("reference", found=repr(each["$ref"]))
    # What no finite value matches: all but the least fixed point of `_is_finite`.
    unknown, count, passes = dict(schemas), -1, 0
    while len(unknown) != count and passes < MAX_PASSES:
        count, passes = len(unknown), passes + 1
        for path in reversed(list(unknown)):
            if _is_finite(schemas[path], path, unknown):
                del unknown[path]
    if unknown:
        raise failure("infinite", path=next(iter(unknown)))
    grammar = f'start: " "? value\nvalue: %json {text}\n'
    # llguidance limits its own work, for untrusted grammars.
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if failed:
        before, _, reason = str(messages[0]).partition("failed to compile JSON schema: ")
        # An excerpt of the grammar follows the reason.
        reason = (reason or before).partition("\n   1 |")[0]
        raise failure("unsupported", reason=" ".join(reason.split()))
    return grammar


def _is_deeper(schema: Any, limit: int) -> bool:
    """Whether a schema has more levels; the recursion is as shallow as the limit."""
    inside = schema.values() if isinstance(schema, Mapping) else schema
    is_nested = isinstance(schema, Mapping | list)
    return limit == 0 or (is_nested and any(_is_deeper(each, limit - 1) for each in inside))


def _subschemas(schema: object, path: str) -> Iterator[tuple[str, Schema]]:
    """List a schema and all schemas inside it with their paths, as `$ref` writes them."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    inside = [(keyword, schema.get(keyword)) for keyword in SCHEMA_KEYWORDS]
    for keyword in LIST_KEYWORDS:
        if isinstance(each := schema.get(keyword), list):
            inside += [(f"{keyword}/{number}", item) for number, item in enumerate(each)]
    for keyword in DICT_KEYWORDS:
        if isinstance(each := schema.get(keyword), Mapping):
            inside += [(f"{keyword}/{_escape(name)}", item) for name, item in each.items()]
    for step, item in inside:
        yield from _subschemas(item, f"{path}/{step}")


def _is_finite(schema: Schema, path: str, unknown: Mapping[str, Schema]) -> bool:
    """Whether a finite value matches a schema, given the schemas of which that is unknown."""

    def items_of(keyword: str) -> list[Any]:
        items = schema.get(keyword)
        return items if isinstance(items, list) else []

    def finite(keyword: str) -> list[bool]:
        return [f"{path}/{keyword}/{n}" not in unknown for n in range(len(items_of(keyword)))]

    choices = [each for each in (finite("anyOf"), finite("oneOf")) if each]
    if not all([str(schema.get("$ref")) not in unknown, *map(any, choices), *finite("allOf")]):
        return False
    named = schema.get("type", "any")
    kinds = set(map(str, named if isinstance(named, list) else [named]))
    if "enum" in schema or "const" in schema or kinds - {"object", "array"}:
        return True
    named = schema.get("properties")
    properties = set(map(str, named)) if isinstance(named, Mapping) else set()
    steps = [
        f"properties/{_escape(name)}" if str(name) in properties else "additionalProperties"
        for name in items_of("required")
    ]
    if "object" in kinds and all(f"{path}/{step}" not in unknown for step in steps):
        return True
    items = [*finite("prefixItems"), f"{path}/items" not in unknown]
    return "array" in kinds and (not schema.get("minItems") or all(items))


def _escape(name: object) -> str:
    """Escape a name as a step of a JSON pointer (RFC 6901)."""
    return str(name).replace("~", "~0").replace("/", "~1")
