"""Questions to answers: generation in batches, the only one in the house."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, LogitsProcessorList

from phi_vision.generation.constrained import begin
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.generation.sampling import Row, Writing, reader_of
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.processing_phi3_v import Phi3VProcessor

ROOM_UNDER_GRAMMAR = 1024
"""New tokens that a row is expected to stay below under a grammar that ends every answer itself:
about ten times what is written in practice."""


class GenerativeModel(Protocol):
    """What is asked of a model that answers; graphs have it as well as weights."""

    config: Phi3VConfig
    generation_config: GenerationConfig
    training: bool

    @property
    def device(self) -> torch.device:
        """Where its inputs must lie."""

    def eval(self) -> Any:
        """Leave out what is for training only."""

    def train(self, mode: bool = True) -> Any:
        """Take it up again."""

    @property
    def generate(self) -> Callable[..., torch.Tensor]:
        """Goes on with each text, as transformers' `generate` does."""


@torch.inference_mode()
def generate(
    model: GenerativeModel,
    processor: Phi3VProcessor,
    questions: Sequence[GenerationRequest],
    *,
    batch_size: int = 16,
) -> list[Generation]:
    """Answer questions, in the order given.

    Rows are batched by length, so that little is padded, and only with rows that leave the original
    context at the same new token, if ever: beyond it the whole batch is rotated by other factors.

    Args:
        model: A Phi-3-Vision model, with or without an adapter, or its graphs.
        processor: Its processor.
        questions: Of any kinds: rows of a batch have nothing in common but the model.
        batch_size: Most rows generated together.

    Raises:
        ValueError: A grammar cannot be read, or tags and images do not match.
    """
    was_training = model.training
    model.eval()
    tokenizer = processor.tokenizer
    encoded = [
        processor(text=asked.prompt, images=list(asked.images) or None, return_tensors="pt")
        for asked in questions
    ]
    lengths = [each["input_ids"].shape[1] for each in encoded]
    rows = [
        _row(model, processor, asked, length)
        for asked, length in zip(questions, lengths, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda place: lengths[place])
    limit = model.config.original_max_position_embeddings
    room = [_room(row, limit - length) for row, length in zip(rows, lengths, strict=True)]
    for chosen in _batches(order, room, batch_size):
        batch = left_pad([encoded[place] for place in chosen], tokenizer.pad_token_id)
        _generate(model, batch, [rows[place] for place in chosen])
    model.train(was_training)
    return [row.generation() for row in rows]


def _row(
    model: GenerativeModel, processor: Phi3VProcessor, question: GenerationRequest, length: int
) -> Row:
    """Make ready to write the answer to a prompt of so many tokens."""
    stops = _stops(model)
    matcher = None
    if question.grammar is not None:
        size = model.config.vocab_size
        matcher = begin(processor.tokenizer, question.grammar, size, stops).deep_copy()
    left = model.config.max_position_embeddings - length
    if left < 1:
        raise ValueError(
            f"the prompt is {length} tokens long, and the model reads at most "
            f"{model.config.max_position_embeddings}, the answer included; shorten it"
        )
    limit = left if question.finite_grammar else min(left, question.max_new_tokens)
    reader = reader_of(processor.tokenizer)
    return Row(question, reader, stops, matcher=matcher, prompt_tokens=length, limit=limit)


def _generate(model: GenerativeModel, batch: dict[str, torch.Tensor], rows: Sequence[Row]) -> None:
    """Write the answers of one batch into its rows."""
    model.generate(
        **{name: values.to(model.device) for name, values in batch.items()},
        max_new_tokens=max(row.limit for row in rows),
        do_sample=False,
        num_beams=1,
        logits_processor=LogitsProcessorList([Writing(rows, _stops(model)[0])]),
    )


def _stops(model: GenerativeModel) -> tuple[int, ...]:
    """Name the tokens that end an answer, as `generate` takes them: one or several."""
    stops = model.generation_config.eos_token_id
    return (stops,) if isinstance(stops, int) else tuple(stops)


def _room(row: Row, left: int) -> int | None:
    """Count the new tokens until a row leaves the original context; None where it never does.

    -1 where its prompt is beyond already.
    """
    expected = min(row.limit, ROOM_UNDER_GRAMMAR) if row.question.finite_grammar else row.limit
    return None if left >= expected else max(left, -1)


def left_pad(rows: Sequence[dict[str, torch.Tensor]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Join single rows into one batch, padded on the left.

    Input:  ids `[[1, 5]]` and `[[1, 6, 7]]`
    Output: ids `[[pad, 1, 5], [1, 6, 7]]`, mask `[[0, 1, 1], [1, 1, 1]]`, images concatenated
    """
    longest = max(row["input_ids"].shape[1] for row in rows)
    shape = (len(rows), longest)
    ids = torch.full(shape, pad_token_id)
    mask = torch.zeros(shape, dtype=torch.long)
    for place, row in enumerate(rows):
        length = row["input_ids"].shape[1]
        ids[place, longest - length :] = row["input_ids"][0]
        mask[place, longest - length :] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    for name in ("pixel_values", "image_sizes"):
        parts = [row[name] for row in rows if name in row]
        if parts:
            batch[name] = torch.cat(parts)
    return batch


def _batches(order: Sequence[int], room: Sequence[int | None], batch_size: int) -> list[list[int]]:
    """Cut rows, in the given order, into batches of rows with equal room.

    Input:  order `[3, 0, 1, 2]`, room `[None, 5, -1, None]`, batch_size 16
    Output: `[[3, 0], [1], [2]]`
    """
    batches: list[list[int]] = []
    for row in order:
        last = batches[-1] if batches else []
        if last and len(last) < batch_size and room[last[0]] == room[row]:
            last.append(row)
        else:
            batches.append([row])
    return batches
