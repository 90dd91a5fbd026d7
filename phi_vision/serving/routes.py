"""The routes of the API: chat completions, records, models, health and metrics."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from PIL.Image import Image
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from phi_vision.data.acceptance import Decision
from phi_vision.data.template_grammar import grammar_of
from phi_vision.generation.generate import generate
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.inference.local import LocalPredictor
from phi_vision.metrics.thresholds import load_acceptance
from phi_vision.serving import schemas
from phi_vision.serving.batcher import Batcher, PendingRequest
from phi_vision.serving.chat_template import ChatTemplate, image_urls, joined_text
from phi_vision.serving.errors import ApiError, api_error
from phi_vision.serving.image_inputs import ImageReader
from phi_vision.serving.json_body import JSON, media_type, read_json
from phi_vision.serving.json_grammar import ANY_OBJECT, Schema, grammar_of_schema
from phi_vision.serving.schemas import ChatRequest, RecordQuery, RecordRequest, RecordResponse
from phi_vision.serving.settings import Settings
from phi_vision.serving.telemetry import ServerMetrics

# Content types of a single image; its actual format is detected from its bytes.
IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
RECORD_ADVICE = (
    f'{JSON} such as {{"image": "data:image/jpeg;base64,…"}}, or the bytes of one image as '
    f"{', '.join(IMAGE_TYPES)}"
)

router = APIRouter(generate_unique_id_function=lambda route: route.name)


class Service:
    """One loaded model under its name in the API, with everything the routes share."""

    def __init__(self, predictor: LocalPredictor, settings: Settings) -> None:
        source = Path(predictor.source)
        self.name = settings.name or source.resolve().name
        self.model = {"id": self.name, "object": "model", "created": int(time.time())}
        self.model |= {"owned_by": "phi-vision"}
        self.predictor, self.settings = predictor, settings
        target = settings.target_precision
        self.acceptance = load_acceptance(source, predictor.template, target=target)
        self.chat_template = ChatTemplate(predictor)
        self.images = ImageReader(settings)
        self.metrics = ServerMetrics()
        size = settings.batch_size
        run = partial(generate, predictor.model, predictor.processor, batch_size=size)
        self.batcher = Batcher(run, settings, self.metrics)

    def check_model(self, name: str | None) -> None:
        """Reject requests for another model (404)."""
        if name not in (None, self.name):
            raise api_error("model_not_found", param="model", found=name, name=self.name)

    @asynccontextmanager
    async def submit(
        self, generation_request: GenerationRequest, request: Request
    ) -> AsyncIterator[PendingRequest]:
        """Queue a request; cancel it if its client disconnects or the block raises."""
        pending = await self.batcher.submit(generation_request)

        async def cancel_on_disconnect() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            pending.cancel()

        watcher = asyncio.create_task(cancel_on_disconnect())
        try:
            yield pending
        except BaseException:
            pending.cancel()
            raise
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher


async def _service(request: Request) -> Any:
    return request.app.state.service


Loaded = Annotated[Service, Depends(_service)]


@router.post("/v1/chat/completions")
async def complete_chat(request: Request, service: Loaded) -> Response:
    """Generate the next message of a conversation with images."""
    body = await read_json(request, ChatRequest)
    generation_request = await _chat_request(body, service)
    completion_id = f"chatcmpl-{uuid.uuid4().hex}"
    head: Any = {"id": completion_id, "created": int(time.time()), "model": service.name}
    async with service.submit(generation_request, request) as pending:
        if body.stream:
            # Errors before the first chunk still get a status of their own.
            chunks = aiter(pending)
            first = await anext(chunks, "")
            events = _events(first, chunks, pending, body, request, head)
            return StreamingResponse(events, media_type="text/event-stream")
        generation = await pending.result()
    message = {"role": "assistant", "content": generation.text, "refusal": None}
    choice = {"index": 0, "message": message, **_end(generation, body)}
    usage = _usage(generation, request).model_dump()
    return JSONResponse({"object": "chat.completion", **head, "choices": [choice], "usage": usage})


async def _chat_request(body: ChatRequest, service: Service) -> GenerationRequest:
    settings, template, messages = service.settings, service.chat_template, body.messages
    service.check_model(body.model)
    for param in ("max_completion_tokens", "max_tokens"):
        if (wanted := getattr(body, param) or 0) > (limit := settings.max_tokens):
            raise api_error("integer_above_max_value", param=param, wanted=wanted, limit=limit)
    text, limit = joined_text(messages), settings.max_prompt_characters
    if (count := len(text)) > limit:
        raise api_error("string_above_max_length", param="messages", count=count, limit=limit)
    if messages[-1].role == "assistant":
        message = "the last message is the assistant's; end with a user message"
        raise ApiError(400, message, param="messages")
    images = await service.images.read_all(image_urls(messages), "messages")

    def build() -> GenerationRequest:
        # Emoji and rare scripts take up to five tokens a character.
        if (tokens := template.length(template.neutralize(text), ())) > limit:
            found = {"tokens": tokens, "limit": limit}
            raise api_error("context_length_exceeded.text", param="messages", **found)
        prompt = template.prompt(messages)
        template.check_length(prompt, images, "messages")
        return GenerationRequest(
            prompt=prompt,
            images=images,
            max_new_tokens=body.max_completion_tokens or body.max_tokens or settings.max_tokens,
            grammar=_grammar(body.response_format),
            temperature=body.temperature or 0.0,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=body.seed,
            stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        )

    # On a thread: long schemas and conversations would block the event loop.
    return await asyncio.to_thread(build)


def _grammar(wanted: schemas.Format | None) -> str | None:
    if wanted is None or wanted.type == "text":
        return None
    if isinstance(wanted, schemas.SchemaFormat):
        schema: Schema = wanted.json_schema.schema_
        param = "response_format.json_schema.schema"
    else:
        schema, param = wanted.schema_ or ANY_OBJECT, "response_format.schema"
    try:
        return grammar_of_schema(schema)
    except ValueError as error:
        raise api_error("invalid_json_schema", param=param, reason=error) from error


async def _events(
    first: str,
    chunks: AsyncIterator[str],
    pending: PendingRequest,
    body: ChatRequest,
    request: Request,
    head: dict[str, Any],
) -> AsyncIterator[str]:
    include_usage = bool(body.stream_options and body.stream_options.include_usage)

    def event(choices: list[Any], usage: Any = None) -> str:
        data = {"object": "chat.completion.chunk", **head, "choices": choices}
        # As OpenAI's: `usage` exists only on request, and is null in all chunks but the last.
        data |= {"usage": usage} if include_usage else {}
        return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"

    def text_event(**delta: str) -> str:
        return event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    try:
        yield text_event(role="assistant", content="")
        if first:
            yield text_event(content=first)
        async for text in chunks:
            yield text_event(content=text)
        generation = await pending.result()
        yield event([{"index": 0, "delta": {}, **_end(generation, body)}])
        usage = _usage(generation, request)  # also for the log
        if include_usage:
            yield event([], usage.model_dump())
        yield "data: [DONE]\n\n"
    except ApiError as error:
        error.__traceback__ = None  # Its frames would keep the images in memory.
        yield f"data: {json.dumps(error.body())}\n\n"
    finally:
        pending.cancel()


def _end(generation: Generation, body: ChatRequest) -> dict[str, Any]:
    """Return why a text ended and, if wanted, its tokens; the one that ended the text has no text.

    Input:  text "Hat", ends (1, 3, 3), logprobs (-0.1, -0.2, -0.3)
    Output: content [{"token": "H", "logprob": -0.1, "bytes": [72], "top_logprobs": []},
                     {"token": "at", "logprob": -0.2, "bytes": [97, 116], "top_logprobs": []},
                     {"token": "", "logprob": -0.3, "bytes": [], "top_logprobs": []}]
    """
    reason = "stop" if generation.finish_reason == "stop" else "length"
    if not body.logprobs:
        return {"logprobs": None, "finish_reason": reason}
    texts = [generation.text[start:end] for start, end in pairwise((0, *generation.token_ends))]
    content = [
        # -9999 is OpenAI's number for what JSON cannot carry.
        {"token": text, "logprob": max(-9999.0, logprob)}
        | {"bytes": list(text.encode()), "top_logprobs": []}
        for text, logprob in zip(texts, generation.logprobs, strict=True)
    ]
    return {"logprobs": {"content": content}, "finish_reason": reason}


def _usage(generation: Generation, request: Request) -> schemas.Usage:
    """Count a generation's tokens, also for the request's log line."""
    prompt, new = generation.prompt_tokens, len(generation.logprobs)
    request.state.tokens = (prompt, new)
    return schemas.Usage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)


@router.post("/v1/records")
async def read_record(
    request: Request, service: Loaded, query: Annotated[RecordQuery, Query()]
) -> RecordResponse:
    """Predict the record of one product from its images."""
    start = time.monotonic()
    generation_request = await _record_request(request, service, query.constrained == "true")
    async with service.submit(generation_request, request) as pending:
        generation = await pending.result()
    prediction = service.predictor.to_prediction(generation)
    confidence, decision, target = prediction.confidence, Decision({}, {}, {}), None
    # The evaluation is of free generation.
    acceptance = service.acceptance if generation_request.grammar is None else None
    if acceptance is not None:
        decision, target = acceptance.decide(prediction), acceptance.target
        if acceptance.is_calibrated:
            known = decision.confidence
            confidence = {name: known[name] for name in confidence if name in known}
    return RecordResponse(
        id=f"rec-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=service.name,
        text=prediction.text,
        record=prediction.record,
        kinds=service.predictor.template.kinds,
        confidence=dict(confidence),
        calibrated=acceptance is not None and acceptance.is_calibrated,
        target_precision=target,
        accept=decision.accept,
        accepted_path=decision.accepted_path,
        seconds=time.monotonic() - start,
        usage=_usage(generation, request),
    )


async def _record_request(
    request: Request, service: Service, constrained: bool
) -> GenerationRequest:
    if media_type(request) in IMAGE_TYPES:
        images: tuple[Image, ...] = (await service.images.read(await request.body()),)
    else:
        parsed = await read_json(request, RecordRequest, allowed=RECORD_ADVICE)
        service.check_model(parsed.model)
        constrained = constrained or parsed.constrained
        urls = {f"images[{number}]": url for number, url in enumerate(parsed.images)}
        images = await service.images.read_all(urls or {"image": parsed.image}, "images")
    if constrained and service.predictor.template.is_conversation:
        raise api_error("no_records", param="constrained")
    grammar = grammar_of(service.predictor.template) if constrained else None
    wanted = service.predictor.request(images, grammar=grammar)
    await asyncio.to_thread(service.chat_template.check_length, wanted.prompt, images, "images")
    return wanted


@router.get("/v1/models")
async def list_models(service: Loaded) -> Response:
    """List the served models: one."""
    return JSONResponse({"object": "list", "data": [service.model]})


@router.get("/v1/models/{name:path}")
async def model(name: str, service: Loaded) -> Response:
    """Describe a model."""
    service.check_model(name)
    return JSONResponse(service.model)


@router.get("/health")
async def health(service: Loaded) -> Response:
    """Return whether the server accepts requests."""
    status = service.batcher.status
    return JSONResponse({"status": status}, status_code=200 if status == "ok" else 503)


@router.get("/metrics")
async def metrics(service: Loaded) -> Response:
    """Return metrics in Prometheus' text format."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
