"""Errors of validation in the words of the request: path of the field, what is allowed and found.

The texts are in field_errors.yaml. Names of validators and classes never reach a client.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from phi_vision.io.formatting import join_words

TEXTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
MAX_SHOWN = 60  # Characters of a name or value that an error repeats.
Error = Mapping[str, Any]  # one of pydantic's errors


def describe_errors(errors: Sequence[Error], body: object) -> tuple[str | None, str]:
    """Return the path of the first invalid field, None for the whole body, and what is wrong.

    Input:  errors of {"messages": [{"role": "user", "content": 3}]}
    Output: "messages[0].content", "messages[0].content must be a string or a list; found 3"
    """
    paths = [_path(error, body) for error in errors]
    # A value that may be of several types has errors of each type: the deepest are of its own type.
    inside = [path for path in paths if path[: len(paths[0])] == paths[0]]
    deepest = max(inside, key=len)
    chosen = [error for error, path in zip(errors, paths, strict=True) if path == deepest]
    steps = (f"[{s}]" if isinstance(s, int) else f".{_shorten(s)}" for s in deepest)
    param = "".join(steps).removeprefix(".") or None
    return param, f"{param or 'the body'} {_sentence(chosen, deepest)}"


def _path(error: Error, body: Any) -> list[str | int]:
    """Return the steps of an error's location that are fields or indices of the body."""
    location, kind, context = error["loc"], error["type"], error.get("ctx", {})
    steps: list[str | int] = []
    value, previous = body, None
    # The first step is the part of the request, such as `body`.
    for number, step in enumerate(location[1:], start=2):
        # In a list, and for a format, the value's own `role` or `type` comes before its fields.
        is_tag = (
            (isinstance(previous, int) or previous == "response_format")
            and isinstance(value, dict)
            and step == value.get("role", value.get("type"))
            and (number < len(location) or kind == "unknown_field")
        )
        previous = step
        is_index = isinstance(value, list) and isinstance(step, int)
        if not is_tag and (is_index or (isinstance(value, dict) and step in value)):
            steps.append(step)
            value = value[step]
    if kind == "missing":
        steps += location[1:][-1:]
    elif "discriminator" in context:
        steps.append(context["discriminator"].strip("'"))
    elif kind == "unknown_field":
        steps.append(context["name"])
    return steps


def _sentence(errors: Sequence[Error], path: Sequence[str | int]) -> str:
    kind, context, value = errors[0]["type"], errors[0].get("ctx", {}), errors[0]["input"]
    if kind == "unknown_field":
        return f"{TEXTS['sentences'][kind]}{_advice(context['name'], context['known'])}"
    if kind in TEXTS["sentences"]:
        return str(TEXTS["sentences"][kind])
    if "discriminator" in context:
        value = value[path[-1]]
    field = next((step for step in reversed(path) if isinstance(step, str)), "")
    allowed = [text for error in errors if (text := _allowed(error, field))]
    if not allowed:
        return str(TEXTS["sentences"]["other"])
    return f"must be {join_words(list(dict.fromkeys(allowed)), 'or')}; found {_found(value)}"


def _allowed(error: Error, field: str) -> str:
    text = TEXTS["allowed"].get(error["type"], "")
    words = str(text.format(**error.get("ctx", {}))).replace("'", '"')
    if words == "an object" and field in TEXTS["objects"]:
        return f"{words} such as {TEXTS['objects'][field]}"
    return join_words(words.split(", "), "or") if error["type"] == "union_tag_invalid" else words


def _advice(name: str, known: Sequence[str]) -> str:
    for beginning, advice in TEXTS["instead"].items():
        if name.startswith(beginning):
            return f", or send {advice}"
    nearest = difflib.get_close_matches(name[:MAX_SHOWN], known, n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def _found(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str):
        value = value[: MAX_SHOWN + 1]
    return _shorten(json.dumps(value, ensure_ascii=False))


def _shorten(text: str) -> str:
    """Return the beginning of a text, without the lone surrogates that UTF-8 cannot encode."""
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    return shown.encode("utf-8", "replace").decode()
