"""POST /v1/chat/completions: OpenAI's chat completions, whole or streamed."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

from fastapi import APIRouter
from PIL.Image import Image
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.serving.batcher import PendingRequest
from phi_vision.serving.chat_template import count_characters, image_urls
from phi_vision.serving.errors import ApiError
from phi_vision.serving.json_grammar import ANY_OBJECT, grammar_of_schema
from phi_vision.serving.schemas import (
    ChatCompletion,
    ChatRequest,
    Choice,
    CompletionMessage,
    FinishReason,
    Logprobs,
    SchemaFormat,
    TokenLogprob,
)
from phi_vision.serving.service import Service, usage_of

STREAM = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "description": 'one event: an OpenAI chunk, {"error": …} or [DONE]',
            "properties": {"data": {"type": "string"}},
            "required": ["data"],
        }
    }
}
"""OpenAPI description of a streamed response."""


def chat_routes(service: Service, errors: dict[int | str, dict[str, Any]]) -> APIRouter:
    """Create the route; `errors` describes its error responses for OpenAPI."""
    routes = APIRouter()

    @routes.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={**errors, 200: {"content": STREAM}},
        operation_id="complete_chat",
    )
    async def complete_chat(body: ChatRequest, request: Request) -> Response | ChatCompletion:
        """Generate the next message of a conversation with images."""
        generation_request = await _generation_request(body, service)
        async with service.submit(generation_request, request) as pending:
            if body.stream:
                # Errors before the first chunk still get a status of their own.
                chunks = aiter(pending)
                first = await anext(chunks, "")
                events = _events(first, chunks, pending, body, request, service)
                return StreamingResponse(events, media_type="text/event-stream")
            generation = await pending.result()
        choice = Choice(
            message=CompletionMessage(content=generation.text),
            logprobs=logprobs_of(generation) if body.logprobs else None,
            finish_reason=_finish_reason(generation),
        )
        return ChatCompletion(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=service.name,
            choices=[choice],
            usage=usage_of(generation, request),
        )

    return routes


def logprobs_of(generation: Generation) -> Logprobs:
    """List each token's text and log-probability.

    A character of several tokens belongs to the last; the others, and the one that ended the
    completion, have no text.

    Input:  text "Hat", ends (1, 3, 3), logprobs (-0.1, -0.2, -0.3)
    Output: content [{"token": "H", "logprob": -0.1, "bytes": [72]},
                     {"token": "at", "logprob": -0.2, "bytes": [97, 116]},
                     {"token": "", "logprob": -0.3, "bytes": []}]
    """
    texts = [generation.text[start:end] for start, end in pairwise((0, *generation.token_ends))]
    return Logprobs(
        content=[
            TokenLogprob(token=text, logprob=logprob, bytes=list(text.encode()))
            for text, logprob in zip(texts, generation.logprobs, strict=True)
        ]
    )


async def _generation_request(body: ChatRequest, service: Service) -> GenerationRequest:
    settings = service.settings
    service.check_model(body.model)
    for param in ("max_completion_tokens", "max_tokens"):
        if (wanted := getattr(body, param) or 0) > settings.max_tokens:
            message = f"{wanted:,} tokens are requested; the limit is {settings.max_tokens:,}"
            raise ApiError(400, message, param=param, code="integer_above_max_value")
    count, limit = count_characters(body.messages), settings.max_prompt_characters
    if count > limit:
        message = f"the messages have {count:,} characters; the limit is {limit:,}"
        raise ApiError(400, message, param="messages", code="string_above_max_length")
    if body.messages[-1].role == "assistant":
        message = "the last message is the assistant's; end with a user message"
        raise ApiError(400, message, param="messages")
    images = await service.images.read_all(image_urls(body.messages), "messages")
    # On a thread: long schemas and conversations would block the event loop.
    return await asyncio.to_thread(_build, body, images, service)


def _build(body: ChatRequest, images: Sequence[Image], service: Service) -> GenerationRequest:
    prompt = service.chat_template.prompt(body.messages)
    service.chat_template.check_length(prompt, images, "messages")
    return GenerationRequest(
        prompt=prompt,
        images=tuple(images),
        max_new_tokens=(
            body.max_completion_tokens or body.max_tokens or service.settings.max_tokens
        ),
        grammar=_grammar(body),
        temperature=body.temperature or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
    )


def _grammar(body: ChatRequest) -> str | None:
    response_format = body.response_format
    if response_format is None or response_format.type == "text":
        return None
    if not isinstance(response_format, SchemaFormat):
        return grammar_of_schema(ANY_OBJECT)
    try:
        return grammar_of_schema(response_format.json_schema.schema_)
    except ValueError as error:
        param = "response_format.json_schema.schema"
        message = f"the schema is invalid: {error}"
        raise ApiError(400, message, param=param, code="invalid_json_schema") from error


async def _events(
    first: str,
    chunks: AsyncIterator[str],
    pending: PendingRequest,
    body: ChatRequest,
    request: Request,
    service: Service,
) -> AsyncIterator[str]:
    completion_id, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
    include_usage = bool(body.stream_options and body.stream_options.include_usage)

    def event(delta: dict[str, str], *, logprobs: Any = None, reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return chunk([choice], None)

    def chunk(choices: list[Any], usage: Any) -> str:
        data = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": service.name,
            "choices": choices,
        }
        # As OpenAI's: `usage` exists only on request, and is null in all chunks but the last.
        if include_usage:
            data["usage"] = usage
        return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"

    try:
        yield event({"role": "assistant", "content": ""})
        if first:
            yield event({"content": first})
        async for text in chunks:
            yield event({"content": text})
        generation = await pending.result()
        logprobs = logprobs_of(generation).model_dump() if body.logprobs else None
        usage = usage_of(generation, request)
        yield event({}, logprobs=logprobs, reason=_finish_reason(generation))
        if include_usage:
            yield chunk([], usage.model_dump())
        yield "data: [DONE]\n\n"
    except ApiError as error:
        error.__traceback__ = None  # Its frames would keep the images in memory.
        yield f"data: {json.dumps(error.body())}\n\n"
    finally:
        pending.cancel()


def _finish_reason(generation: Generation) -> FinishReason:
    return "stop" if generation.finish_reason == "stop" else "length"
