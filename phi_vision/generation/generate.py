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

from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.generation.sampling import RowState, TokenSelector, compile_grammar, decoder_for
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
) -> list[Generation]:
    """Generate a text for each request, of whatever kind, in the order given.

    Rows are batched by length, so that there is little padding, and only with rows that leave the
    original context at the same new token, if ever: beyond it the rotary factors of the whole batch
    change. An invalid grammar, and tags that do not match the images, are errors.
    """
    # Graphs of ONNX Runtime have neither modes nor layers.
    network = model if isinstance(model, torch.nn.Module) else torch.nn.Module()
    was_training = network.training
    network.eval()
    stops = model.generation_config.eos_token_id
    stops = (stops,) if isinstance(stops, int) else tuple(stops)
    encoded, rows = [], []
    for request in requests:
        images = list(request.images) or None
        encoded.append(processor(text=request.prompt, images=images, return_tensors="pt"))
        length = encoded[-1]["input_ids"].shape[1]
        rows.append(_row(model.config, processor.tokenizer, request, length, stops))
    order = sorted(range(len(rows)), key=lambda index: rows[index].prompt_tokens)
    context = model.config.original_max_position_embeddings
    limits = [_tokens_within_context(row, context - row.prompt_tokens) for row in rows]
    for chosen in _batches(order, limits, batch_size):
        while chosen:
            batch = left_pad([encoded[index] for index in chosen], processor.tokenizer.pad_token_id)
            selector = TokenSelector([rows[index] for index in chosen], stops[0])
            with suppress(_CancelledError), _cancellation(network, selector.rows):
                model.generate(
                    **{name: values.to(model.device) for name, values in batch.items()},
                    max_new_tokens=max(row.limit for row in selector.rows),
                    do_sample=False,
                    num_beams=1,
                    logits_processor=LogitsProcessorList([selector]),
                )
                break
            chosen = [index for index in chosen if rows[index].finish_reason is None]
    network.train(was_training)
    return [row.generation() for row in rows]


class _CancelledError(Exception):
    """Ends a step of the model; rows without a finish reason begin again."""


@contextmanager
def _cancellation(network: torch.nn.Module, rows: Sequence[RowState]) -> Iterator[None]:
    """End a step, between layers, once all rows are cancelled; the prompt's also if it pays off.

    It does where the others alone have less to compute than is left of the step.
    """
    asked = {row: row.request.is_cancelled for row in rows if row.request.is_cancelled}

    def check(left: float, *_: object) -> None:
        cancelled = [row for row, is_cancelled in asked.items() if is_cancelled()]
        others = [row for row in rows if not row.finish_reason and row not in cancelled]
        is_prompt = not any(row.tokens for row in rows)
        pays_off = not others or (is_prompt and _area(others) < left * _area(rows))
        if cancelled and pays_off:
            for row in cancelled:
                row.finish_reason = row.finish_reason or "cancelled"
            raise _CancelledError

    modules = list(network.modules()) if asked else []
    decoder = [module for module in modules if isinstance(module, Phi3DecoderLayer)]
    left = {layer: 1 - place / len(decoder) for place, layer in enumerate(decoder)}
    # Those of the vision tower come before.
    left |= {module: 1.0 for module in modules if isinstance(module, CLIPEncoderLayer)}
    hooks = [layer.register_forward_pre_hook(partial(check, left[layer])) for layer in left]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _area(rows: Sequence[RowState]) -> int:
    """Count the tokens of a batch of prompts, padding included."""
    return len(rows) * max(row.prompt_tokens for row in rows)


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


def left_pad(rows: Sequence[dict[str, torch.Tensor]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Join single rows into one batch, padded on the left.

    Input:  ids `[[1, 5]]` and `[[1, 6, 7]]`
    Output: ids `[[pad, 1, 5], [1, 6, 7]]`, mask `[[0, 1, 1], [1, 1, 1]]`, images concatenated
    """
    ids = [row["input_ids"][0] for row in rows]
    ones = [torch.ones_like(each) for each in ids]
    pad = partial(pad_sequence, batch_first=True, padding_side="left")
    batch = {"input_ids": pad(ids, padding_value=pad_token_id), "attention_mask": pad(ones)}
    for name in ("pixel_values", "image_sizes"):
        parts = [row[name] for row in rows if name in row]
        if parts:
            batch[name] = torch.cat(parts)
    return batch


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
