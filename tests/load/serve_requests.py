"""What the clients of a load send: questions whose answers are known, and requests to be refused.

Holds no sending (`serve_clients.py`). Images are drawn, a few of many shapes and sizes.
"""

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from phi_vision.data.template import Template
from phi_vision.synthetic.catalog import plan_catalog
from phi_vision.synthetic.drawing import draw, encode, random_scene

CHAT, RECORDS, MODELS = "/v1/chat/completions", "/v1/records", "/v1/models"

MAX_BODY = 4 * 2**20
"""Limit in bytes that the server is started with; a drawn image has about 30,000."""

JSON_TYPE = {"Content-Type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is sent, and what may come of it."""

    name: str
    """In tables and complaints."""

    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"

    expected: frozenset[int] = frozenset({200})
    """Statuses that are right; beyond them only 429."""

    @property
    def streams(self) -> bool:
        """Whether the answer comes in pieces."""
        return b'"stream": true' in self.body

    @property
    def route(self) -> str:
        """The path without what is asked of it."""
        return self.path.split("?")[0]


def draw_images(count: int, seed: int = 7) -> list[bytes]:
    """Draw products as JPEG files."""
    rng = random.Random(seed)
    products = rng.sample(plan_catalog(150, seed), count)
    scenes = [random_scene(rng) for _ in products]
    return [
        encode(draw(product.garment, scene), scene)
        for product, scene in zip(products, scenes, strict=True)
    ]


def good_requests(images: Sequence[bytes], template: Template) -> list[Request]:
    """Word questions about each image in all the forms that the server takes."""
    asked: list[Request] = []
    for number, image in enumerate(images):
        shown = _chat([_shown(_address(image)), _words(template.question)], max_tokens=48)
        inside = {"image": _address(image)}
        forms = [
            _json("chat", CHAT, shown),
            _json("chat, streamed", CHAT, shown | {"stream": True} | WITH_USAGE),
            _json("record, JSON", RECORDS, inside),
            _raw("record, raw", RECORDS, image),
            _raw("record, constrained", f"{RECORDS}?constrained=true", image),
        ]
        asked += [replace(form, name=f"{form.name} #{number}") for form in forms]
    two = [_shown(_address(image)) for image in images[:2]]
    plain = _chat([_words("Name three colours.")], max_tokens=4)
    both = _chat([*two, _words(template.question)], max_tokens=24, response_format=SCHEMA)
    models = Request(name="models", path=MODELS, method="GET")
    return [*asked, _json("words alone", CHAT, plain), _json("schema", CHAT, both), models]


def refused_requests(image: bytes) -> list[Request]:
    """Word what has to be refused: each with the statuses that say why."""
    good = _chat([_shown(_address(image)), _words("What is it?")])
    wrong_images = {
        "truncated": image[: len(image) // 2],
        "no image": b"GIF89a, or so it says",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "empty": b"",
        "a million pixels square": png_head(1_000_000, 1_000_000),
        "too many pixels": png_head(12_000, 12_000),
        "a hair": _png(Image.new("RGB", (4000, 1))),
    }
    refused = [
        _raw(f"image: {name}", RECORDS, each, 400, 413, 415) for name, each in wrong_images.items()
    ]
    refused += [
        _json(f"in chat: {name}", CHAT, _chat([_shown(_address(each))]), 400, 413)
        for name, each in wrong_images.items()
    ]
    refused += [_json(name, CHAT, body, 400) for name, body in _wrong_chats(good).items()]
    refused += [_json(name, RECORDS, body, 400) for name, body in _wrong_records(image).items()]
    return refused + _wrong_letters(good)


def huge_request() -> Request:
    """Word a request that is half again as large as the server takes."""
    body = json.dumps({"image": "data:image/png;base64," + "A" * (MAX_BODY * 3 // 2)}).encode()
    return _raw("huge", RECORDS, body, 413, kind="application/json")


def png_head(width: int, height: int) -> bytes:
    """Write a PNG of a few bytes that says it has so many pixels: what a decoder would fall for."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def response_text(request: Request, body: bytes) -> str:
    """Take out of an answer what has to be the same each time it is asked.

    Of numbers that the server computed (confidences, seconds) nothing: they depend in their last
    places on who else is asked about at that moment.

    Raises:
        ValueError: It has another form.
    """
    try:
        if request.streams:
            return _streamed_text(body)
        answer = json.loads(body)
        if request.route == CHAT:
            (choice,) = answer["choices"]
            return _kept(choice["message"]["content"], choice["finish_reason"], answer["usage"])
        if request.route == RECORDS:
            return json.dumps([answer["text"], answer["record"], answer["usage"]], sort_keys=True)
        return json.dumps([each["id"] for each in answer["data"]])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"another form than it should have ({error!r}): {body!r:.300}") from error


def _streamed_text(body: bytes) -> str:
    """Join the pieces of a streamed answer; it keeps what the same answer in one piece keeps."""
    *events, end = body.decode().strip().split("\n\n")
    if end != "data: [DONE]":
        raise ValueError(f"the last event is {end:.80}")
    pieces = [json.loads(event.removeprefix("data: ")) for event in events]
    choices = [choice for piece in pieces for choice in piece["choices"]]
    content = "".join(choice["delta"].get("content") or "" for choice in choices)
    (reason,) = {choice["finish_reason"] for choice in choices} - {None}
    return _kept(content, reason, pieces[-1]["usage"])


def _kept(content: str, reason: str, usage: Mapping[str, Any]) -> str:
    counts = {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    return json.dumps([content, reason, counts], sort_keys=True)


def _wrong_chats(good: dict[str, Any]) -> dict[str, Any]:
    messages = good["messages"]
    fetched = [_shown("http://127.0.0.1:9/coat.jpg"), _words("What is it?")]
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "coat"}}}
    return {
        "chat: no messages": {"messages": []},
        "chat: messages missing": {},
        "chat: messages are text": {"messages": "hello"},
        "chat: a list": [good],
        "chat: unknown role": {"messages": [{"role": "king", "content": "hello"}]},
        "chat: an image to be fetched": _chat(fetched),
        "chat: a file to be fetched": _chat([_shown("file:///etc/passwd")]),
        "chat: no base64": _chat([_shown("data:image/png;base64,@@@@")]),
        "chat: two answers": {"messages": messages, "n": 2},
        "chat: tools": good | {"tools": [{"type": "function", "function": {"name": "buy"}}]},
        "chat: endless": good | {"max_tokens": 10**9},
        "chat: no tokens": good | {"max_tokens": 0},
        "chat: too hot": good | {"temperature": 1e9},
        "chat: schema of nothing known": good | {"response_format": broken},
        "chat: many stop words": good | {"stop": list("abcdefgh")},
        "chat: too many words": _chat([_words("x " * 50_000)]),
        "chat: many images": _chat([_shown(SMALLEST)] * 40 + [_words("What are they?")]),
    }


def _wrong_records(image: bytes) -> dict[str, Any]:
    return {
        "record: no image": {},
        "record: a number": {"image": 7},
        "record: none": {"images": []},
        "record: many": {"images": [SMALLEST] * 40},
        "record: to be fetched": {"image": "https://127.0.0.1/coat.jpg"},
        "record: constrained is text": {"image": _address(image), "constrained": "perhaps"},
    }


def _wrong_letters(good: dict[str, Any]) -> list[Request]:
    """Word what is wrong before anything is understood: bytes, addresses, tokens."""
    body = json.dumps(good).encode()
    deep = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    stranger = {**JSON_TYPE, "Authorization": "Bearer somebody-else"}
    nobody = {**JSON_TYPE, "Authorization": ""}
    letters = {
        "cut": body[:-9],
        "not UTF-8": b'{"messages": "\xff\xfe"}',
        "empty": b"",
        "deep": deep,
    }
    cut = [_raw(f"JSON: {n}", CHAT, b, 400, kind="application/json") for n, b in letters.items()]
    unknown = [_json("unknown model", CHAT, good | {"model": "gpt-9"}, 404)]
    return [
        *(cut + unknown),
        _raw("a kind of image that is not taken", RECORDS, b"BM", 400, 415, kind="image/bmp"),
        _raw("stranger", CHAT, body, 401, headers=stranger),
        _raw("nobody", CHAT, body, 401, headers=nobody),
        Request(name="no such path", path="/v1/completions", body=body, expected=_all(404)),
        Request(name="no such model", path=f"{MODELS}/coats", method="GET", expected=_all(404)),
        Request(name="wrong method", path=CHAT, method="GET", expected=_all(405)),
        Request(
            name="out of the house", path="/page/..%2f..%2fapp.py", method="GET", expected=_all(404)
        ),
    ]


def _chat(content: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **settings}


def _shown(address: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address}}


def _words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _address(image: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _json(name: str, path: str, body: Any, *expected: int) -> Request:
    return _raw(name, path, json.dumps(body).encode(), *expected, kind="application/json")


def _raw(
    name: str,
    path: str,
    body: bytes,
    *expected: int,
    kind: str = "image/jpeg",
    headers: Mapping[str, str] | None = None,
) -> Request:
    return Request(
        name=name,
        path=path,
        body=body,
        headers=headers or {"Content-Type": kind},
        expected=_all(*expected or (200,)),
    )


def _all(*expected: int) -> frozenset[int]:
    return frozenset(expected)


WITH_USAGE = {"stream_options": {"include_usage": True}}

SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "look",
        "schema": {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "navy", "black"]}},
            "required": ["colour"],
            "additionalProperties": False,
        },
    },
}
"""An answer of one of three words."""

SMALLEST = _address(_png(Image.new("RGB", (8, 8), "navy")))
