"""Batched generation: requests -> generations. The only generation loop of the package."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessorList
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer

from phi_vision.generation.growing_batch import GrowingBatch, Inputs, join_images
from phi_vision.generation.number_draws import draw_numbers, with_prefix
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.generation.sampling import (
    RowState,
    TokenSelector,
    compile_grammar,
    decoder_for,
    select_tokens,
)
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.processing_phi3_v import Phi3VProcessor

FINITE_GRAMMAR_TOKENS = 1024  # assumed maximum under a finite grammar: ten times what occurs


class GenerativeModel(Protocol):
    """A model with weights, or ONNX graphs."""

    config: Phi3VConfig
    generation_config: GenerationConfig
    device: torch.device  # where its inputs must be

    @property
    def generate(self) -> Callable[..., torch.Tensor]:
        """Extend sequences, as transformers' `generate` does."""


@torch.inference_mode()
def generate(
    model: GenerativeModel,
    processor: Phi3VProcessor,
    requests: Sequence[GenerationRequest],
    *,
    batch_size: int = 16,
    inputs: Sequence[Inputs] = (),
) -> list[Generation]:
    """Generate a text for each request, of whatever kind, in the order given.

    `inputs` are those that `encode` makes of the requests, where they exist already.

    Rows are batched by length, so that there is little padding, and only with rows that leave the
    original context at the same new token, if ever: beyond it the rotary factors of the whole batch
    change. Numbers that a request asks to draw are drawn once all texts are there. An invalid
    grammar, and tags that do not match the images, are errors.
    """
    # Graphs of ONNX Runtime have neither modes nor layers.
    network = model if isinstance(model, torch.nn.Module) else torch.nn.Module()
    was_training = network.training
    network.eval()
    stops = model.generation_config.eos_token_id
    stops = (stops,) if isinstance(stops, int) else tuple(stops)
    encoded = inputs or [encode(processor, request) for request in requests]
    run = partial(_generate_rows, model, processor, stops, batch_size)
    rows = run(requests, encoded)
    draw_numbers(rows, encoded, run)
    network.train(was_training)
    return [row.generation() for row in rows]


def encode(processor: Phi3VProcessor, request: GenerationRequest) -> Inputs:
    """Convert a prompt, its images and the completion's prefix to inputs of the model."""
    images = list(request.images) or None
    encoded: Inputs = processor(text=request.prompt, images=images, return_tensors="pt")
    return with_prefix(encoded, request.prefix)


def _generate_rows(
    model: GenerativeModel,
    processor: Phi3VProcessor,
    stops: tuple[int, ...],
    batch_size: int,
    requests: Sequence[GenerationRequest],
    encoded: Sequence[Inputs],
) -> list[RowState]:
    """Generate in batches; return the ended rows, in the order of the requests."""
    rows = []
    for request, each in zip(requests, encoded, strict=True):
        length = each["input_ids"].shape[1]
        rows.append(_row(model.config, processor.tokenizer, request, length, stops))
    order = sorted(range(len(rows)), key=lambda index: rows[index].prompt_tokens)
    context = model.config.original_max_position_embeddings
    limits = [_tokens_within_context(row, context - row.prompt_tokens) for row in rows]
    for chosen in _batches(order, limits, batch_size):
        batch, states = [encoded[index] for index in chosen], [rows[index] for index in chosen]
        most = max(row.limit for row in states)
        if isinstance(model, torch.nn.Module):
            _generate_batch(model, batch, states, most)
        else:
            model.generate(
                **left_pad(batch, processor.tokenizer.pad_token_id),
                max_new_tokens=most,
                logits_processor=LogitsProcessorList([TokenSelector(states, stops[0])]),
            )
    return rows


def _generate_batch(model: Any, inputs: Sequence[Inputs], rows: list[RowState], most: int) -> None:
    """Read the prompts, and append tokens to all rows together; rows that have ended leave.

    Rows side by side with the same inputs, such as draws, are read once.
    """
    places = range(len(rows))
    runs = [list(run) for _, run in itertools.groupby(places, key=lambda at: id(inputs[at]))]
    batch = GrowingBatch(model, [inputs[run[0]] for run in runs], most)
    active = list[RowState]()  # in the current step of the model
    with batch.attention(), _cancellation(batch.decoder, rows, active):
        for group in batch.groups():
            active[:] = [rows[place] for run in group for place in runs[run]]
            with suppress(_CancelledError):
                batch.read(group)
        batch.repeat(list(map(len, runs)))
        while left := [place for place, row in enumerate(rows) if row.finish_reason is None]:
            if len(left) < len(rows):
                rows = [rows[place] for place in batch.keep(left)]
            active[:] = rows
            try:
                logits_BV = batch.logits()
            except _CancelledError:
                return
            batch.append(select_tokens(rows, logits_BV))


class _CancelledError(Exception):
    """Ends a step of the model."""


@contextmanager
def _cancellation(
    network: torch.nn.Module, rows: Sequence[RowState], active: Sequence[RowState]
) -> Iterator[None]:
    """End a step, between two layers, once all rows that are active in it are cancelled."""

    def check(*_: object) -> None:
        asked = [row.request.is_cancelled for row in active]
        found = [is_cancelled is not None and is_cancelled() for is_cancelled in asked]
        if all(found):
            for row in active:
                row.finish_reason = "cancelled"
            raise _CancelledError

    is_watched = any(row.request.is_cancelled for row in rows)
    kinds = (Phi3DecoderLayer, CLIPEncoderLayer) if is_watched else ()
    layers = [module for module in network.modules() if isinstance(module, kinds)]
    hooks = [layer.register_forward_pre_hook(check) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _row(
    config: Phi3VConfig,
    tokenizer: Any,
    request: GenerationRequest,
    length: int,
    stops: tuple[int, ...],
) -> RowState:
    matcher = None
    if request.grammar is not None:
        matcher = compile_grammar(tokenizer, request.grammar, config.vocab_size, stops).deep_copy()
        matcher.consume_tokens(list(request.prefix))
    left = (most := config.max_position_embeddings) - length
    if left < 1:
        raise ValueError(
            f"the prompt has {length} tokens, and the model reads at most {most}, the generated "
            "text included; shorten it"
        )
    limit = left if request.finite_grammar else min(left, request.max_new_tokens)
    decoder = decoder_for(tokenizer)
    return RowState(request, decoder, stops, matcher=matcher, prompt_tokens=length, limit=limit)


def _tokens_within_context(row: RowState, left: int) -> int | None:
    """Count the tokens until a row leaves the original context; -1 if its prompt, None if never."""
    is_finite = row.request.finite_grammar
    expected = min(row.limit, FINITE_GRAMMAR_TOKENS) if is_finite else row.limit
    return None if left >= expected else max(left, -1)


def left_pad(rows: Sequence[Inputs], pad_token_id: int) -> Inputs:
    """Join single rows into one batch, padded on the left.

    Input:  ids `[[1, 5]]` and `[[1, 6, 7]]`
    Output: ids `[[pad, 1, 5], [1, 6, 7]]`, mask `[[0, 1, 1], [1, 1, 1]]`, images concatenated
    """
    ids = [row["input_ids"][0] for row in rows]
    ones = [torch.ones_like(each) for each in ids]
    pad = partial(pad_sequence, batch_first=True, padding_side="left")
    batch = {"input_ids": pad(ids, padding_value=pad_token_id), "attention_mask": pad(ones)}
    return batch | join_images(rows)


def _batches(
    order: Sequence[int], limits: Sequence[int | None], batch_size: int
) -> Iterator[list[int]]:
    """Cut rows, in the given order, into batches of rows with equal limits.

    Input:  order `[3, 0, 1, 2]`, limits `[None, 5, -1, None]`, batch_size 16
    Output: `[3, 0]`, `[1]`, `[2]`
    """
    for _, equal in itertools.groupby(order, key=lambda row: limits[row]):
        rows = list(equal)
        yield from (rows[at : at + batch_size] for at in range(0, len(rows), batch_size))
