"""Samples -> batch. The only place where it is decided what a training step learns from.

A row is `prompt + answer + <|end|>`; only the answer and its `<|end|>` are labelled. Nothing is
ever cut: a row that is too long is an error, since a cut row would lose image tokens or its end.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import ExifTags, Image
from torch import nn

from phi_vision.data.sample import Sample
from phi_vision.data.template import END, Template
from phi_vision.model.image_processing_phi3_v import resized_size
from phi_vision.model.processing_phi3_v import IMAGE_TAG, Phi3VProcessor

IGNORED = -100
"""The label that cross-entropy skips (PyTorch's default `ignore_index`)."""

FIRST_TURNED = 5
"""EXIF orientations from here on exchange width and height."""

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class AnswerCollator:
    """Makes a batch of samples in which only the answers are learnt.

    Input:  two samples; the words `<s><|user|>…<|assistant|>` and pictures, then the answer
    Output: `input_ids`       1 … 7  8  2 0    `attention_mask`  1 … 1 1 1 0
                              1 … 9  5  4 2                      1 … 1 1 1 1
            `labels`          - … -  8  2 -    (- is -100)
                              - … -  5  4 2
            and `pixel_values` (crops, 3, S, S), `image_sizes` (pictures, 2) over all rows, which
            are missing when no sample has a picture.

    Raises:
        ValueError: A row is longer than `max_length`, or the tokenizer joins prompt and answer.
    """

    processor: Phi3VProcessor
    template: Template
    max_length: int | None = None

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate samples, padding on the right to the longest row."""
        prompts = [self.template.prompt(self.processor, len(sample.images)) for sample in samples]
        answers = [self.template.render(sample.record) + END for sample in samples]
        texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        pictures = [sample.pictures() for sample in samples]
        batch: Batch = self.processor(
            text=texts,
            images=pictures if any(pictures) else None,
            return_tensors="pt",
            padding=True,
            padding_side="right",
        ).data
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        self._refuse_long_rows(samples, lengths)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for row, length in enumerate(lengths):
            answer = slice(length - self._count_answer(prompts[row], texts[row]), length)
            labels[row, answer] = batch["input_ids"][row, answer]
        # The Trainer takes the batch size from the first tensor, so `input_ids` stays in front.
        return {**batch, "labels": labels}

    def count_tokens(self, sample: Sample) -> tuple[int, int]:
        """Count a sample's image tokens and its other tokens, without decoding its pictures.

        Raises:
            ValueError: A picture cannot be read or is too thin to cut, or the record lacks a field.
        """
        tokenizer = self.processor.tokenizer
        prompt = self.template.prompt(self.processor, len(sample.images))
        # One placeholder for each picture, spelt as the processor spells it, then taken off again.
        prompt = IMAGE_TAG.sub(self.processor.image_token + tokenizer.bos_token, prompt)
        words = prompt.removeprefix(tokenizer.bos_token) + self.template.render(sample.record) + END
        tokens_of_pictures = [self._count_picture(sample, at) for at in range(len(sample.images))]
        return sum(tokens_of_pictures), len(tokenizer(words)["input_ids"]) - len(sample.images)

    def _count_picture(self, sample: Sample, at: int) -> int:
        cutter = self.processor.image_processor
        try:
            width, height = picture_size(sample.images[at])
            longer, shorter = max(width, height), min(width, height)
            long, short = resized_size(longer, shorter, cutter.num_crops, cutter.crop_size)
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r}, picture {at + 1}: {error}") from error
        short = math.ceil(short / cutter.crop_size) * cutter.crop_size
        return int(cutter.count_tokens(*((long, short) if height > width else (short, long))))

    def _count_answer(self, prompt: str, text: str) -> int:
        """Count the tokens of a row that come after its prompt.

        Words only: image tags stand here as plain text, which is the same in both.
        """
        tokenize = self.processor.tokenizer
        before = tokenize(prompt, add_special_tokens=False)["input_ids"]
        whole = tokenize(text, add_special_tokens=False)["input_ids"]
        if whole[: len(before)] != before:
            raise ValueError(
                f"template {self.template.name!r}: the tokenizer joins the end of the prompt "
                f"{prompt[-20:]!r} to the answer, so the model would be asked with other tokens "
                "than it learnt; let the prompt end with a control token such as <|assistant|>"
            )
        return len(whole) - len(before)

    def _refuse_long_rows(self, samples: Sequence[Sample], lengths: list[int]) -> None:
        for sample, length in zip(samples, lengths, strict=True):
            if self.max_length is not None and length > self.max_length:
                raise ValueError(
                    f"sample {sample.id!r} has {length} tokens, more than max_length "
                    f"{self.max_length}; raise it or leave it out: rows are never cut"
                )


def picture_size(encoded: bytes) -> tuple[int, int]:
    """Read a picture's width and height off its head, turned as its EXIF orientation says.

    Raises:
        ValueError: It is no picture.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            is_turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= FIRST_TURNED
            return picture.size[::-1] if is_turned else picture.size
    # Decoders fail in their own ways (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        raise ValueError(
            f"cannot read a picture from {len(encoded)} bytes: {error}; give a JPEG, PNG or WebP"
        ) from error


def select_answers(batch: Batch) -> Batch:
    """Tell the model to compute logits only where the next token is labelled.

    Same loss at about half the cost of a step, as most positions are image tokens and prompt.

    Input:  `labels`          -100 -100   8    2  -100
    Output: also `logits_to_keep`  0    1   1    0    0   (position 1 predicts the 8)
            and  `shift_labels`    8 2                    (those of the kept positions)
    """
    following = nn.functional.pad(batch["labels"], (0, 1), value=IGNORED)[:, 1:]
    keep = following != IGNORED
    return {**batch, "logits_to_keep": keep, "shift_labels": following[keep]}
