"""POST /v1/chat/completions: questions and answers in OpenAI's form, whole or piece by piece."""

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
from starlette.responses import JSONResponse, Response, StreamingResponse

from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.serving.batcher import PendingRequest
from phi_vision.serving.chat_template import characters_of, images_of
from phi_vision.serving.errors import ApiError, as_body, let_go
from phi_vision.serving.json_grammar import ANY_OBJECT, grammar_of_schema
from phi_vision.serving.schemas import (
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    FinishReason,
    Logprobs,
    ObjectFormat,
    SchemaFormat,
    TokenLogprob,
)
from phi_vision.serving.service import Service, usage_of

LAST_EVENT = "data: [DONE]\n\n"

STREAM = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "description": 'one event: a ChatChunk, {"error": …} or [DONE]',
            "properties": {"data": {"type": "string"}},
            "required": ["data"],
        }
    }
}
"""How an answer in pieces is described."""


def chat_routes(service: Service, refusals: dict[int | str, dict[str, Any]]) -> APIRouter:
    """Make the route.

    Args:
        service: Who answers.
        refusals: Descriptions of all errors that a question can meet.
    """
    routes = APIRouter()

    @routes.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={**refusals, 200: {"content": STREAM}},
        operation_id="complete_chat",
    )
    async def complete_chat(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation about images."""
        question = await _question_of(asked, service)
        if asked.stream:
            return await _stream(question, asked, request, service)
        async with service.ask(question, request) as ticket:
            answered = await ticket.result()
        completion = ChatCompletion(
            id=_new_id(),
            created=int(time.time()),
            model=service.name,
            choices=[
                Choice(
                    message=AnswerMessage(content=answered.text),
                    logprobs=logprobs_of(answered) if asked.logprobs else None,
                    finish_reason=_finish_reason(answered),
                )
            ],
            usage=usage_of(answered, request),
        )
        return JSONResponse(completion.model_dump())

    return routes


def logprobs_of(answered: Generation) -> Logprobs:
    """Say what each token wrote and how likely it was.

    A character that several tokens write is the last one's; the others, and the one that ended the
    answer, write nothing.

    Input:  text "Hat", ends (1, 3, 3), logprobs (-0.1, -0.2, -0.3)
    Output: content [{"token": "H", "logprob": -0.1, "bytes": [72]},
                     {"token": "at", "logprob": -0.2, "bytes": [97, 116]},
                     {"token": "", "logprob": -0.3, "bytes": []}]
    """
    words = [answered.text[start:end] for start, end in pairwise((0, *answered.token_ends))]
    return Logprobs(
        content=[
            TokenLogprob(token=word, logprob=logprob, bytes=list(word.encode()))
            for word, logprob in zip(words, answered.logprobs, strict=True)
        ]
    )


async def _question_of(asked: ChatRequest, service: Service) -> GenerationRequest:
    """Check a request and make its question.

    Raises:
        ApiError: It goes beyond a limit, or asks for what cannot be done.
    """
    service.require_model(asked.model)
    limit = _limit(asked, service)
    count, most = characters_of(asked.messages), service.settings.max_prompt_characters
    if count > most:
        message = f"the messages have {count:,} characters; at most {most:,} are read"
        raise ApiError(400, message, param="messages", code="string_above_max_length")
    if asked.messages[-1].role == "assistant":
        message = "the last message is the assistant's; end with the user's"
        raise ApiError(400, message, param="messages")
    images = await service.open_images(images_of(asked.messages), "messages")
    # Long schemas and conversations take long enough to hold the other callers up.
    return await asyncio.to_thread(_word, asked, images, limit, service)


def _word(
    asked: ChatRequest, images: Sequence[Image], limit: int, service: Service
) -> GenerationRequest:
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    question = GenerationRequest(
        prompt=service.wording.prompt(asked.messages),
        images=tuple(images),
        max_new_tokens=limit,
        grammar=_grammar_of(asked),
        temperature=asked.temperature or 0.0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=asked.seed,
        stop=tuple(stop),
    )
    service.check_length(question, "messages")
    return question


def _limit(asked: ChatRequest, service: Service) -> int:
    """Say how many tokens the answer may have: as many as the server allows, unless asked."""
    most = service.settings.max_tokens
    for name, wanted in (
        ("max_completion_tokens", asked.max_completion_tokens),
        ("max_tokens", asked.max_tokens),
    ):
        if wanted is not None and wanted > most:
            message = f"{wanted:,} tokens are wanted; this server writes at most {most:,}"
            raise ApiError(400, message, param=name, code="integer_above_max_value")
    return asked.max_completion_tokens or asked.max_tokens or most


def _grammar_of(asked: ChatRequest) -> str | None:
    wanted = asked.response_format
    if isinstance(wanted, ObjectFormat):
        return grammar_of_schema(ANY_OBJECT)
    if not isinstance(wanted, SchemaFormat):
        return None
    try:
        return grammar_of_schema(wanted.json_schema.schema_)
    except ValueError as error:
        param = "response_format.json_schema.schema"
        message = f"the schema cannot be used: {error}"
        raise ApiError(400, message, param=param, code="invalid_json_schema") from error


async def _stream(
    question: GenerationRequest, asked: ChatRequest, request: Request, service: Service
) -> Response:
    """Answer in pieces, from the first one on: what goes wrong before has a status of its own."""
    async with service.ask(question, request) as ticket:
        pieces = aiter(ticket)
        first = await anext(pieces, "")
    events = _events(ticket, _chained(first, pieces), asked, request, service)
    return StreamingResponse(events, media_type="text/event-stream")


async def _chained(first: str, others: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for piece in others:
        yield piece


async def _events(
    ticket: PendingRequest,
    pieces: AsyncIterator[str],
    asked: ChatRequest,
    request: Request,
    service: Service,
) -> AsyncIterator[str]:
    name, created = _new_id(), int(time.time())
    telling = bool(asked.stream_options and asked.stream_options.include_usage)

    def event(*choices: ChunkChoice, **more: Any) -> str:
        chunk = ChatChunk(
            id=name, created=created, model=service.name, choices=list(choices), **more
        )
        # OpenAI's chunks have a usage only where it was asked for, then null in all but the last.
        left_out = None if telling else {"usage"}
        return f"data: {chunk.model_dump_json(exclude=left_out)}\n\n"

    try:
        yield event(ChunkChoice(delta=Delta(role="assistant", content="")))
        async for piece in pieces:
            if piece:
                yield event(ChunkChoice(delta=Delta(content=piece)))
        answered = await ticket.result()
        logprobs = logprobs_of(answered) if asked.logprobs else None
        usage = usage_of(answered, request)
        yield event(
            ChunkChoice(delta=Delta(), logprobs=logprobs, finish_reason=_finish_reason(answered))
        )
        if telling:
            yield event(usage=usage)
        yield LAST_EVENT
    except ApiError as error:
        let_go(error)
        yield f"data: {json.dumps(as_body(error))}\n\n"
    finally:
        ticket.cancel()


def _finish_reason(answered: Generation) -> FinishReason:
    return "stop" if answered.finish_reason == "stop" else "length"


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
