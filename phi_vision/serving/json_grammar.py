"""JSON schema -> grammar: all the JSON that a schema takes, for writing under it.

Schemas come from strangers: one that is too large, that cannot be kept to or that no finite value
satisfies is refused in words before anything is written.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llguidance import LLMatcher

Schema = Mapping[str, Any]

ANY_OBJECT: Schema = {"type": "object"}
"""What is asked for where JSON is wanted without a schema."""

LONGEST = 50_000
"""Most characters of a schema: ten times a long one, and read in a tenth of a second."""

DEEPEST = 64
"""Most levels of a schema, about two for each level of what is written."""

ROUNDS = 100
"""How often a schema is gone through for what ends: more takes chains of references by the hundred,
written so as to take long."""

SEVERAL_OF = ("allOf", "anyOf", "oneOf", "prefixItems")
NAMED_OF = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
ONE_OF = ("items", "additionalProperties", "if", "then", "else", "not", "contains")
"""Keywords that hold schemas: in a list, under names, alone."""


def grammar_of_schema(schema: Schema) -> str:
    """Describe the JSON that a schema takes, without blanks between its parts.

    Models that are not sure go on with blanks for ever where blanks are allowed.

    Input:  {"type": "object", "properties": {"price": {"type": "number"}}}
    Output: start: " "? value
            value: %json {"type": "object", ..., "x-guidance": {"whitespace_flexible": false}}

    Returns:
        A grammar in llguidance's dialect of Lark. A blank in front is allowed: SentencePiece models
        begin with one, and it does not count.

    Raises:
        ValueError: The schema is too large or too deep, uses what cannot be kept to, or takes
            nothing that ends.
    """
    if _depth_exceeds(schema, DEEPEST):
        raise ValueError(f"it is more than {DEEPEST} levels deep; make it flatter")
    written = json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}})
    if len(written) > LONGEST:
        raise ValueError(f"it has {len(written):,} characters; at most {LONGEST:,} are read")
    schemas = dict(_schemas(schema, "#"))
    # Only what is found here is seen to end: not what is named by anchors, or lies elsewhere.
    named = [each["$ref"] for each in schemas.values() if "$ref" in each]
    if strange := next((name for name in named if str(name) not in schemas), None):
        raise ValueError(
            f"$ref {strange!r:.100} names no schema in it; write the whole path, like #/$defs/size"
        )
    if endless := next(_endless(schemas), None):
        raise ValueError(
            f"what it asks for at {endless} contains itself and so never ends; let it be left out "
            "(not among `required`), be null, or be a list that may be empty"
        )
    grammar = f'start: " "? value\nvalue: %json {written}\n'
    # Within llguidance's own limits on work, which are made for grammars of strangers.
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if failed:
        told = str(messages[0]).partition("failed to compile JSON schema: ")
        # Behind the reason follows an image of the grammar, with the line it is about.
        reason = (told[2] or told[0]).partition("\n   1 |")[0]
        raise ValueError(f"it cannot be kept to: {' '.join(reason.split())[:300]}")
    return grammar


def _depth_exceeds(schema: object, limit: int) -> bool:
    """Whether anything lies deeper than so many levels; without recursion, whose depth is bound."""
    level: list[object] = [schema]
    for _ in range(limit):
        inside: list[object] = []
        for each in level:
            if isinstance(each, Mapping):
                inside += each.values()
            elif isinstance(each, list):
                inside += each
        if not inside:
            return False
        level = inside
    return True


def _endless(schemas: Mapping[str, Schema]) -> Iterator[str]:
    """Name the places where no finite value will do.

    Input:  {"#/$defs/node": {"type": "object", "required": ["next"],
                              "properties": {"next": {"$ref": "#/$defs/node"}}},
             "#/$defs/node/properties/next": {"$ref": "#/$defs/node"}}
    Output: "#/$defs/node", "#/$defs/node/properties/next"
    """
    ending: set[str] = set()
    left = dict(schemas)
    for _ in range(ROUNDS):  # each finds what ends because of what was found to end before
        for place, each in reversed(left.items()):
            if _ends(each, place, ending, schemas):
                ending.add(place)
        if not ending & left.keys():
            break
        left = {place: each for place, each in left.items() if place not in ending}
    return iter(left)


def _schemas(schema: object, place: str) -> Iterator[tuple[str, Schema]]:
    """List a schema and all schemas inside it, with their places as `$ref` names them."""
    if not isinstance(schema, Mapping):
        return
    yield place, schema
    for keyword in ONE_OF:
        yield from _schemas(schema.get(keyword), f"{place}/{keyword}")
    for keyword in SEVERAL_OF:
        several = schema.get(keyword)
        for number, each in enumerate(several if isinstance(several, list) else []):
            yield from _schemas(each, f"{place}/{keyword}/{number}")
    for keyword in NAMED_OF:
        named = schema.get(keyword)
        for name, each in (named if isinstance(named, Mapping) else {}).items():
            yield from _schemas(each, f"{place}/{keyword}/{_escaped(name)}")


def _ends(schema: Schema, place: str, ending: set[str], schemas: Mapping[str, Schema]) -> bool:
    """Whether some value of a schema ends, as far as it is known what ends inside it."""

    def known(inside: str) -> bool:
        # What is no schema of this document is for llguidance to refuse.
        return inside in ending or inside not in schemas

    def numbered(keyword: str) -> list[bool]:
        several = schema.get(keyword)
        count = len(several) if isinstance(several, list) else 0
        return [known(f"{place}/{keyword}/{number}") for number in range(count)]

    if "$ref" in schema and not known(str(schema["$ref"])):
        return False
    choices = [numbered(keyword) for keyword in ("anyOf", "oneOf")]
    if not all(any(choice) for choice in choices if choice) or not all(numbered("allOf")):
        return False
    kinds = schema.get("type", "any")
    if "enum" in schema or "const" in schema or not set(_listed(kinds)) <= {"object", "array"}:
        return True
    if "object" in _listed(kinds) and _ends_as_object(schema, place, known):
        return True
    return "array" in _listed(kinds) and (
        not schema.get("minItems") or (all(numbered("prefixItems")) and known(f"{place}/items"))
    )


def _ends_as_object(schema: Schema, place: str, known: Callable[[str], bool]) -> bool:
    required, named = schema.get("required"), schema.get("properties")
    for name in required if isinstance(required, list) else []:
        listed = isinstance(named, Mapping) and str(name) in named
        inside = f"properties/{_escaped(str(name))}" if listed else "additionalProperties"
        if not known(f"{place}/{inside}"):
            return False
    return True


def _listed(kinds: object) -> list[str]:
    return [str(kind) for kind in kinds] if isinstance(kinds, list) else [str(kinds)]


def _escaped(name: str) -> str:
    """Write a name as a step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
