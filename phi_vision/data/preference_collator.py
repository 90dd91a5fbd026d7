"""Preference pairs: samples with a chosen and a rejected completion -> batch.

Both rows of a pair have the same prompt, that of supervised training and of inference, and share
its images. Rows are never truncated.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from phi_vision.data.collator import CHARACTER_TOKENS, IGNORED, TURN_TOKENS, CompletionCollator
from phi_vision.data.conversation import CONTROL_TOKEN, Segment
from phi_vision.data.samples import Sample, failure
from phi_vision.data.template import END

SHARED_PIXELS, SHARED_SIZES = "shared_pixel_values", "shared_image_sizes"
"""Names of a batch's images, each of which belongs to two rows. The model does not know them, and
rejects rows without images; training/dpo.py shows them to both rows."""


def collate_pairs(collator: CompletionCollator, samples: Sequence[Sample]) -> dict[str, Any]:
    """Collate samples to a batch of the chosen completions, then the rejected ones.

    Input:  two samples; the prompts `1 3` and `1`, chosen are `8 2` and `5 2`, rejected `9 2` and
            `6 7 2`
    Output: `input_ids`        1 3 8 2    `completion_mask`  0 0 1 1    `sample_ids`  "a"
                               1 5 2 0                       0 1 1 0                  "b"
                               1 3 9 2                       0 0 1 1                  "a"
                               1 6 7 2                       0 1 1 1                  "b"
            `attention_mask`, and the images of the first half under names of their own. Of a
            conversation only the last completion is compared.
    """
    padded = collator(samples)
    prompts, chosen = [], []
    for ids, labels in zip(padded["input_ids"], padded["labels"], strict=True):
        end = int((labels != IGNORED).nonzero()[-1]) + 1
        start = int((labels[:end] == IGNORED).nonzero()[-1]) + 1
        prompts.append(ids[:start])
        chosen.append(ids[start:end])
    rejected = [torch.tensor(tokenize_rejected(collator, sample)) for sample in samples]
    rows = [*zip(prompts, chosen, strict=True), *zip(prompts, rejected, strict=True)]
    padding = collator.processor.tokenizer.pad_token_id
    pad = partial(pad_sequence, batch_first=True)
    batch: dict[str, Any] = {
        "input_ids": pad([torch.cat(row) for row in rows], padding_value=padding),
        "attention_mask": pad([torch.ones_like(torch.cat(row)) for row in rows]),
        "completion_mask": pad([torch.arange(len(p) + len(c)).ge(len(p)).long() for p, c in rows]),
        "sample_ids": [sample.id for sample in samples] * 2,
    }
    if "pixel_values" in padded:
        batch |= {SHARED_PIXELS: padded["pixel_values"], SHARED_SIZES: padded["image_sizes"]}
    return batch


def tokenize_rejected(collator: CompletionCollator, sample: Sample) -> list[int]:
    """Tokenize a sample's rejected completion and its `<|end|>` as they follow the prompt.

    A completion that is missing, or that the model could not generate, is an error.
    """
    *prompt, chosen = collator.segments(sample)
    _check_rejected(sample, chosen.text)
    return collator.tokenize([*prompt, Segment(sample.rejected + END, True)])[-1]


def _check_rejected(sample: Sample, chosen: str) -> None:
    problem = None
    if not sample.rejected:
        problem = "there is none; `phi-vision pairs DATA --out FOLDER` makes some"
    elif sample.rejected + END == chosen:
        problem = f"it is the right one, {sample.rejected[:80]!r}; let it differ, or leave it out"
    elif found := CONTROL_TOKEN.search(sample.rejected):
        problem = f"it holds the control token {found.group()}; take it out"
    if problem:
        raise failure("no_pair", id=sample.id, problem=problem)


def check_pairs(
    collator: CompletionCollator,
    samples: Sequence[Sample],
    lengths: Sequence[int],
    split_at: int,
    *,
    enough: int = 0,
) -> list[int]:
    """Check all rejected completions; return the tokens of the longer row of each pair.

    `lengths` are those of the rows with the chosen completion; `split_at` is the end of the
    original context (`packing.original_context`). Up to `enough` tokens a bound is returned.
    """
    missing = [sample.id for sample in samples if not sample.rejected]
    if missing:
        raise failure("no_pairs", count=len(missing), total=len(samples), first=missing[0])
    longer = []
    for sample, length in zip(samples, lengths, strict=True):
        bound = length + len(sample.rejected) * CHARACTER_TOKENS + TURN_TOKENS
        if bound <= enough and not sample.messages:
            _check_rejected(sample, collator.template.render(sample.record) + END)
            longer.append(bound)
            continue
        chosen = collator.tokenize(collator.segments(sample))[-1]
        other = length - len(chosen) + len(tokenize_rejected(collator, sample))
        limit, what = collator.max_length, " with its rejected completion"
        if limit is not None and other > limit:
            raise failure("too_long", id=sample.id, length=other, what=what, limit=limit)
        if (length > split_at) != (other > split_at):
            raise failure(
                "pair_of_two_contexts", id=sample.id, length=length, other=other, limit=split_at
            )
        longer.append(max(length, other))
    return longer
