"""Prompts and pictures to answers: greedy generation in batches, the only one in the house.

Of each token it keeps how probable the model held it: what is sure of a field is made of that.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import torch
from PIL.Image import Image
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from .configuration_phi3_v import Phi3VConfig
from .constraining import Constraint, begin, control_tokens
from .processing_phi3_v import Phi3VProcessor

MAX_NEW_TOKENS = 96
"""Longest answer in tokens where nothing else is asked: three times an answer about a product."""

ROOM_UNDER_GRAMMAR = 1024
"""New tokens that a batch is expected to stay below under a grammar, which ends every answer
itself: about ten times what is written in practice."""


class Answered(NamedTuple):
    """What was written in answer to one prompt, token by token."""

    text: str
    """Without control tokens and blanks around."""

    ends: tuple[int, ...]
    """For each token, how many characters of `text` are written after it. The token that ended the
    answer comes last, unless the answer was cut."""

    logprobs: tuple[float, ...]
    """For each token, the natural logarithm of the probability that the model gave it, whatever a
    grammar allowed."""


class Generates(Protocol):
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
def answer(
    model: Generates,
    processor: Phi3VProcessor,
    prompts: Sequence[str],
    images: Sequence[Sequence[Image]],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 16,
    grammar: str | None = None,
) -> list[Answered]:
    """Answer each prompt about its pictures, in the order given.

    Rows are batched by length, so that little is padded, and only with rows that leave the original
    context at the same new token, if ever: beyond it the whole batch is rotated by other factors.

    Args:
        model: A Phi-3-Vision model, with or without an adapter, or its graphs.
        processor: Its processor.
        prompts: Texts with `<|image_k|>` tags.
        images: For each prompt its pictures.
        max_new_tokens: Longest answer in tokens; under a grammar nothing is cut, so it has to be
            one whose words end.
        batch_size: Most rows generated together.
        grammar: All that may be written, in llguidance's dialect of Lark; anything unless given.

    Raises:
        ValueError: The grammar cannot be read.
    """
    was_training = model.training
    model.eval()
    rows = [
        processor(text=prompt, images=list(pictures) or None, return_tensors="pt")
        for prompt, pictures in zip(prompts, images, strict=True)
    ]
    answers: dict[int, Answered] = {}
    limit = model.config.original_max_position_embeddings
    lengths = [row["input_ids"].shape[1] for row in rows]
    order = sorted(range(len(rows)), key=lambda row: lengths[row])
    expected = max_new_tokens if grammar is None else max(max_new_tokens, ROOM_UNDER_GRAMMAR)
    # New tokens until a row leaves the original context; -1 where its prompt is beyond already.
    room = [min(max(limit - length, -1), expected) for length in lengths]
    for chosen in _batches(order, room, batch_size):
        batch = left_pad([rows[row] for row in chosen], processor.tokenizer.pad_token_id)
        batch = {name: values.to(model.device) for name, values in batch.items()}
        written = _generate(model, processor, batch, max_new_tokens, grammar)
        answers.update(zip(chosen, written, strict=True))
    model.train(was_training)
    return [answers[row] for row in range(len(rows))]


def _generate(
    model: Generates,
    processor: Phi3VProcessor,
    batch: dict[str, torch.Tensor],
    max_new_tokens: int,
    grammar: str | None,
) -> list[Answered]:
    """Write the answers of one batch."""
    stops = _stops(model)
    rows, length = batch["input_ids"].shape
    constraint = None
    if grammar is not None:
        start = begin(processor.tokenizer, grammar, model.config.vocab_size, stops)
        constraint = Constraint(start, rows, stops)
        max_new_tokens = model.config.max_position_embeddings - length
    recorder = _Recorder(constraint)
    ids = model.generate(
        **batch,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        logits_processor=LogitsProcessorList([recorder]),
    )
    logprobs = torch.stack(recorder.logprobs, dim=1).tolist()
    return [
        _read(processor, _until_stop(row, stops), of_row)
        for row, of_row in zip(ids[:, length:].tolist(), logprobs, strict=True)
    ]


class _Recorder(LogitsProcessor):
    """Notes how probable the model holds each token that is about to be chosen.

    Looks at the logits as they pass: keeping them would take (B, L, V) numbers.
    """

    def __init__(self, constraint: Constraint | None) -> None:
        self.constraint = constraint
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Note the likeliest of the tokens that are allowed: generation is greedy."""
        allowed = scores if self.constraint is None else self.constraint(input_ids, scores)
        self.logprobs.append(allowed.amax(dim=-1) - scores.logsumexp(dim=-1))
        return allowed


def _stops(model: Generates) -> tuple[int, ...]:
    """Name the tokens that end an answer, as `generate` takes them: one or several."""
    stops = model.generation_config.eos_token_id
    return (stops,) if isinstance(stops, int) else tuple(stops)


def _until_stop(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    """Cut the padding off: of `5 6 <|end|> pad pad` keep `5 6 <|end|>`."""
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids) - 1)
    return list(ids[: end + 1])


def _read(processor: Phi3VProcessor, ids: Sequence[int], logprobs: Sequence[float]) -> Answered:
    """Decode an answer, and say where in it each token ends.

    A character of several tokens is written by the last of them: what stands before decodes as
    something else, which agrees with the whole only up to the character before.
    """
    controls = control_tokens(processor.tokenizer)
    written = [
        [token for token in ids[:count] if token not in controls]
        for count in range(1, len(ids) + 1)
    ]
    decode = processor.tokenizer.backend_tokenizer.decode_batch
    beginnings = decode(written, skip_special_tokens=False)
    whole = beginnings[-1]
    text = whole.strip()
    blanks = len(whole) - len(whole.lstrip())
    ends = [min(max(_agreeing(each, whole) - blanks, 0), len(text)) for each in beginnings]
    # The decoder takes one torn character for a reason to tear those that touch it, too.
    return Answered(text, tuple(accumulate(ends, max)), tuple(logprobs[: len(ids)]))


def _agreeing(beginning: str, whole: str) -> int:
    """Count the characters with which both begin."""
    pairs = enumerate(zip(beginning, whole, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(beginning), len(whole)))


def left_pad(rows: Sequence[dict[str, torch.Tensor]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Join single rows into one batch, padded on the left.

    Input:  ids `[[1, 5]]` and `[[1, 6, 7]]`
    Output: ids `[[pad, 1, 5], [1, 6, 7]]`, mask `[[0, 1, 1], [1, 1, 1]]`, pictures concatenated
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


def _batches(order: Sequence[int], room: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut rows, in the given order, into batches of rows with equal room.

    Input:  order `[3, 0, 1, 2]`, room `[8, 5, -1, 8]`, batch_size 16
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
