"""What an OpenAI-compatible server is asked about a sample, and how its answer is read.

Holds the form of requests and answers alone; `served.py` sends them.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from PIL import Image

from phi_vision.data.prediction import Prediction, field_confidence
from phi_vision.data.samples import Sample
from phi_vision.data.template import END, Template

MAX_TOKENS = 256
"""Most tokens of an answer. Servers count in their own tokens, so this is far above the length of a
record: an answer that gets there goes round in circles."""

READ_EVERYWHERE = {"JPEG", "PNG", "WEBP"}
"""Formats that are sent as they are; others, and turned images, are sent as PNG."""

ORIENTATION = 0x0112
"""EXIF's name for how an image was turned; 1 for not at all. Few servers heed it."""

PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
"""What a PNG can hold."""


def request_of(sample: Sample, template: Template, model: str) -> dict[str, Any]:
    """Word a sample as the body of a request: its images, then the question.

    Input:  a sample with one JPEG
    Output: {"model": "coats", "temperature": 0, "max_tokens": 256, "logprobs": True,
             "messages": [{"role": "user", "content": [
                 {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ…"}},
                 {"type": "text", "text": "Name the product in this image, …"}]}]}

    Raises:
        ValueError: An image cannot be read; names the sample.
    """
    shown = [
        {"type": "image_url", "image_url": {"url": _as_address(encoded, image)}}
        for encoded, image in zip(sample.images, sample.open_images(), strict=True)
    ]
    question = template.question
    # Some servers take only plain text where no image is shown.
    content = [*shown, {"type": "text", "text": question}] if shown else question
    return {
        "model": model,
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "logprobs": True,
        "messages": [{"role": "user", "content": content}],
    }


def read_reply(answer: Mapping[str, Any], template: Template) -> Prediction:
    """Take the reply out of an answer's body.

    Input:  {"choices": [{"message": {"content": "Product: Coat, …"}, "logprobs": {"content": [
             {"token": "Product", "logprob": -0.1, "bytes": [80, …]}, …]}}], …}
    Output: Prediction(text="Product: Coat, …", confidence={"title": 0.81, …})

    Returns:
        The reply; without confidence where the server tells no probabilities, or tells them of
        tokens that do not add up to the answer.

    Raises:
        ValueError: It has another form; shows it.
    """
    try:
        choice = answer["choices"][0]
        content = choice["message"]["content"] or ""
        tokens = (choice.get("logprobs") or {}).get("content") or []
        parts = [_bytes_of(token) for token in tokens]
        logprobs = [float(token["logprob"]) for token in tokens]
        text = content.strip().removesuffix(END).rstrip()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"its answer has no choices[0].message.content: {answer!r:.200}"
        ) from error
    # Some servers, vLLM among them, also tell of the token that ended the answer.
    if content.encode(errors="surrogatepass") not in (b"".join(parts), b"".join(parts[:-1])):
        return Prediction.parse(text, template)
    skipped = len(content) - len(content.lstrip())
    counted = _by_letters(parts, logprobs)
    ends = [min(max(end - skipped, 0), len(text)) for end, _ in counted]
    totals = [total for _, total in counted]
    confidence = field_confidence(template, text, ends, totals)
    return Prediction.parse(text, template, confidence=confidence)


def _as_address(encoded: bytes, image: Image.Image) -> str:
    """Write an image as a data: address, in a form that every server sees as it is meant."""
    with Image.open(io.BytesIO(encoded)) as sent:
        kind, turned = sent.format or "", sent.getexif().get(ORIENTATION, 1) != 1
    if turned or kind not in READ_EVERYWHERE:
        buffer = io.BytesIO()
        plain = image if image.mode in PNG_MODES else image.convert("RGB")
        plain.save(buffer, "PNG")
        encoded, kind = buffer.getvalue(), "PNG"
    return f"data:{Image.MIME[kind]};base64,{base64.b64encode(encoded).decode()}"


def _bytes_of(token: Mapping[str, Any]) -> bytes:
    """What a token writes; a letter can be written by several, so text alone does not tell."""
    held = token.get("bytes")
    return bytes(held) if held is not None else str(token["token"]).encode(errors="surrogatepass")


def _by_letters(parts: Sequence[bytes], logprobs: Sequence[float]) -> list[tuple[int, float]]:
    """Count the letters that are written after each token; those that share a letter become one.

    Input:  b"caf", b"\\xc3", b"\\xa9", b"s" with logarithms -0.1, -0.2, -0.3, -0.4
    Output: [(3, -0.1), (4, -0.5), (5, -0.4)]
    """
    counted, written, total = [], b"", 0.0
    for part, logprob in zip(parts, logprobs, strict=True):
        written, total = written + part, total + logprob
        with suppress(UnicodeDecodeError):  # the next token goes on with this letter
            counted.append((len(written.decode()), total))
            total = 0.0
    return counted
