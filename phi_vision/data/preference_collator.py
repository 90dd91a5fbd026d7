"""Samples with a right and a rejected answer -> batch, as preference optimisation wants them.

Both rows of a pair have one and the same prompt, that of supervised training and of inference, and
share its images. As everywhere nothing is cut.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from phi_vision.data.collator import CONTROL_TOKEN, IGNORED, AnswerCollator, Piece
from phi_vision.data.samples import Sample
from phi_vision.data.template import END
from phi_vision.model.processing_phi3_v import IMAGE_TAG

SHARED_PIXELS, SHARED_SIZES = "shared_pixel_values", "shared_image_sizes"
"""What a batch calls its images: each belongs to two rows. Under these names a
model does not know them: what shows them to both rows is train/preferences.py, and without it the
model refuses rows whose images it was not shown."""


def collate_pairs(collator: AnswerCollator, samples: Sequence[Sample]) -> dict[str, Any]:
    """Make a batch whose first half are right answers, whose second half are the rejected ones.

    Input:  two samples; the prompts `1 3` and `1`, the answers `8 2` and `5 2`, rejected are `9 2`
            and `6 7 2`
    Output: `input_ids`        1 3 8 2    `completion_mask`  0 0 1 1    `sample_ids`  "a"
                               1 5 2 0                       0 1 1 0                  "b"
                               1 3 9 2                       0 0 1 1                  "a"
                               1 6 7 2                       0 1 1 1                  "b"
            `attention_mask`, and the images of the first half under names of their own. Of a
            conversation only the last answer is compared.

    Raises:
        ValueError: As the collator does, or a rejected answer is none (see `check_pairs`).
    """
    right = collator(samples)
    prompts, answers = _cut_before_answers(right["input_ids"], right["labels"])
    rejected = [torch.tensor(tokenize_rejected(collator, sample)) for sample in samples]
    rows = [*zip(prompts, answers, strict=True), *zip(prompts, rejected, strict=True)]
    padding = collator.processor.tokenizer.pad_token_id
    batch: dict[str, Any] = {
        "input_ids": _pad([torch.cat(row) for row in rows], padding),
        "attention_mask": _pad([torch.ones(len(p) + len(a)).long() for p, a in rows], 0),
        "completion_mask": _pad([torch.arange(len(p) + len(a)) >= len(p) for p, a in rows], 0),
        "sample_ids": [sample.id for sample in samples] * 2,
    }
    if "pixel_values" in right:
        batch |= {SHARED_PIXELS: right["pixel_values"], SHARED_SIZES: right["image_sizes"]}
    return batch


def tokenize_rejected(collator: AnswerCollator, sample: Sample) -> list[int]:
    """Tokenize a sample's rejected answer and its `<|end|>` as they stand after the prompt.

    Raises:
        ValueError: There is no such answer, or none that the model could give.
    """
    *given, right = collator.pieces(sample)
    problem = None
    if not sample.rejected:
        problem = "there is none; `phi-vision pairs DATA --out FOLDER` makes some"
    elif sample.rejected + END == right.text:
        problem = f"it is the right one, {sample.rejected[:80]!r}; let it differ, or leave it out"
    elif found := CONTROL_TOKEN.search(sample.rejected):
        problem = f"it holds the control token {found.group()}; take it out"
    if problem:
        raise ValueError(
            f"sample {sample.id!r} cannot be compared with its rejected answer: {problem}"
        )
    return _tokenize_after(collator, given, sample.rejected + END)


def check_pairs(
    collator: AnswerCollator,
    samples: Sequence[Sample],
    lengths: Sequence[int],
    *,
    split_at: int,
) -> list[int]:
    """Refuse samples that could not be compared with a rejected answer.

    Args:
        collator: What words them.
        samples: All that are trained or evaluated on.
        lengths: Tokens of their rows with the right answer.
        split_at: Where the original context ends, see `packing.original_context`.

    Returns:
        Tokens of the longer row of each pair.

    Raises:
        ValueError: Rejected answers are missing or none, or too long to be compared.
    """
    missing = [sample.id for sample in samples if not sample.rejected]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(samples)} samples have no rejected answer to learn from, as "
            f"{missing[0]!r}; `phi-vision pairs DATA --out FOLDER` makes some, or use objective sft"
        )
    longer = []
    for sample, length in zip(samples, lengths, strict=True):
        *given, right = collator.pieces(sample)
        prompt = length - len(_tokenize_after(collator, given, right.text))
        other = prompt + len(tokenize_rejected(collator, sample))
        _refuse_lengths(sample, length, other, collator.max_length, split_at)
        longer.append(max(length, other))
    return longer


def _cut_before_answers(
    input_ids_BL: torch.Tensor, labels_BL: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Cut each row where its last answer begins, and drop the padding.

    Input:  `input_ids`  1 3 7 2 4 8 2 0    `labels`  - - 7 2 - 8 2 -
    Output: 1 3 7 2 4 and 8 2
    """
    prompts, answers = [], []
    for ids, labels in zip(input_ids_BL, labels_BL, strict=True):
        end = int((labels != IGNORED).nonzero()[-1]) + 1
        start = int((labels[:end] == IGNORED).nonzero()[-1]) + 1
        prompts.append(ids[:start])
        answers.append(ids[start:end])
    return prompts, answers


def _pad(rows: Sequence[torch.Tensor], value: int) -> torch.Tensor:
    return pad_sequence([row.long() for row in rows], batch_first=True, padding_value=value)


def _tokenize_after(collator: AnswerCollator, given: Sequence[Piece], answer: str) -> list[int]:
    # Whatever an image becomes stands before the control tokens that end a prompt, so the tokens
    # of an answer do not depend on it.
    prompt = IMAGE_TAG.sub("", "".join(piece.text for piece in given))
    tokenizer = collator.processor.tokenizer
    before, tokens = (tokenizer(text)["input_ids"] for text in (prompt, prompt + answer))
    if tokens[: len(before)] != before:
        raise ValueError(
            f"template {collator.template.name!r}: the tokenizer joins the end of the prompt "
            f"{prompt[-20:]!r} to {answer[:20]!r}; let the prompt end with a control token such as "
            "<|assistant|>"
        )
    after: list[int] = tokens[len(before) :]
    return after


def _refuse_lengths(
    sample: Sample, right: int, rejected: int, max_length: int | None, split_at: int
) -> None:
    if max_length is not None and rejected > max_length:
        raise ValueError(
            f"sample {sample.id!r} has {rejected} tokens with its rejected answer, more than "
            f"max_length {max_length}; raise it or leave the sample out: rows are never cut"
        )
    if (right > split_at) != (rejected > split_at):
        raise ValueError(
            f"sample {sample.id!r} has {right} tokens with the right answer and {rejected} with "
            f"the rejected one, on both sides of the original context of {split_at}, where all "
            "that is read together is read differently; leave the sample out"
        )
