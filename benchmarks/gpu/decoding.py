"""Parts that measure generation: prompts and new tokens against the GPU's bandwidth."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import StaticCache

from benchmarks.gpu.costs import StepShape
from benchmarks.gpu.model import SharedModel, samples
from benchmarks.gpu.session import Session
from phi_vision.data.template import TEMPLATES
from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest

CONTEXT, ROOM = 832, 32
"""Earlier positions of a row of 4 crops, and new ones after them."""
CROPS = 4


def measure_answer(session: Session, shared: SharedModel) -> None:
    """Prompts and new tokens, by the project's `generate` and by that of transformers."""
    for rows in _rows(session):
        with session.attempt(rows=rows):
            _measure_rows(session, shared, rows)


def requests_for(shared: SharedModel, rows: int, tokens: int) -> list[GenerationRequest]:
    """Ask for the records of drawn products; random weights seldom stop before the last token."""
    prompt = TEMPLATES["product"].prompt(shared.processor(CROPS), 1)
    return [
        GenerationRequest(prompt=prompt, images=tuple(sample.open_images()), max_new_tokens=tokens)
        for sample in samples(rows)
    ]


def _measure_rows(session: Session, shared: SharedModel, rows: int) -> None:
    model, processor = shared.model, shared.processor(CROPS)
    asked = requests_for(shared, rows, 1)
    text = {"text": [each.prompt for each in asked], "padding": True, "return_tensors": "pt"}
    inputs = shared.to_device(processor(**text, images=[list(each.images) for each in asked]))
    shape = StepShape(
        rows=rows,
        length=inputs["input_ids"].shape[1],
        crops=len(inputs["pixel_values"]),
        image_tokens=int((inputs["input_ids"] == shared.config.image_token_id).sum()),
        supervised=rows,
    )
    with session.attempt(way="prompt", rows=rows), torch.inference_mode():
        session.tidy()
        seconds = session.seconds(lambda: model(**inputs, logits_to_keep=1), warm=1, repeat=2)
        mfu = shared.costs.prefill(shape) / seconds / session.peak_rate
        session.add(way="prompt", rows=rows, length=shape.length, ms=1e3 * seconds, mfu=mfu)

    def plain(tokens: int) -> None:
        limits = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        model.generate(**inputs, **limits, do_sample=False)

    def ours(tokens: int) -> None:
        requests = [replace(each, max_new_tokens=tokens) for each in asked]
        generate(model, processor, requests, batch_size=rows)

    for way, write in (("transformers", plain), ("ours", ours)):
        with session.attempt(way=way, rows=rows):
            _measure_tokens(session, shared, write, rows, shape.length, way)


def _measure_tokens(
    session: Session,
    shared: SharedModel,
    write: Callable[[int], None],
    rows: int,
    length: int,
    way: str,
) -> None:
    """Time a new token of each row as the difference between many tokens and two."""
    new = 4 if session.is_tiny else 24
    session.tidy()
    few = session.seconds(lambda: write(2), warm=1, repeat=1)
    many = session.seconds(lambda: write(2 + new), warm=0, repeat=1)
    figures = _against_bandwidth(session, shared, (many - few) / new, rows, length + new / 2)
    session.add(way=way, rows=rows, **figures, answers_s=rows / many)


def measure_graph(session: Session, shared: SharedModel) -> None:
    """One new token with a cache of fixed size: launched by Python, and as a CUDA graph."""
    context = 24 if session.is_tiny else CONTEXT
    for rows in _rows(session):
        with session.attempt(rows=rows), torch.inference_mode():
            session.tidy()
            step = static_step(shared.model, rows, context, context + ROOM)
            begun = time.perf_counter()
            step()
            session.wait()
            by_python = session.seconds(step) if time.perf_counter() - begun < 5 else None
            work = _captured(session, step) if session.on_gpu else step
            seconds = session.device_seconds(work)
            figures = _against_bandwidth(session, shared, seconds, rows, context + ROOM)
            by_python_ms = None if by_python is None else 1e3 * by_python
            session.add(rows=rows, **figures, by_python_ms=by_python_ms)


def static_step(model: Any, rows: int, context: int, room: int) -> Callable[[], torch.Tensor]:
    """Return a step of the decoder over one token of each row that looks at no value."""
    cache: Any = StaticCache(config=model.config, max_cache_len=room)
    device, dtype = model.device, model.dtype
    ids_B1 = torch.full((rows, 1), 5, device=device)
    positions_B1 = torch.full((rows, 1), context, device=device)
    mask = torch.zeros(rows, 1, 1, room, dtype=dtype, device=device)
    mask[..., context + 1 :] = torch.finfo(dtype).min
    decoder = model.model

    def step() -> torch.Tensor:
        for layer in cache.layers:
            if layer.is_initialized:
                layer.cumulative_length.fill_(context)
        hidden = decoder.embed_tokens(ids_B1)
        turns = decoder.rotary_emb(hidden, position_ids=positions_B1)
        for layer in decoder.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=positions_B1,
                past_key_values=cache,
                use_cache=True,
                position_embeddings=turns,
            )
        tokens: torch.Tensor = model.lm_head(decoder.norm(hidden))[:, -1].argmax(-1)
        return tokens

    return step


def _captured(session: Session, step: Callable[[], torch.Tensor]) -> Callable[[], None]:
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    session.wait()
    with torch.cuda.graph(graph, stream=stream):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def _against_bandwidth(
    session: Session, shared: SharedModel, seconds: float, rows: int, context: float
) -> dict[str, float]:
    least = shared.costs.token_bytes(rows, context) / session.copy_rate
    return {
        "token_ms": 1e3 * seconds,
        "least_ms": 1e3 * least,
        "of_bandwidth": least / seconds,
        "tokens_s": rows / seconds,
        "peak_gib": session.peak_gib(),
    }


def _rows(session: Session) -> tuple[int, ...]:
    return (1, 2) if session.is_tiny else (1, 8, 32, 64)
