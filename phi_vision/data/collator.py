"""Samples -> batch: the only place that decides which tokens are supervised.

A row is `prompt + completion + <|end|>`, or a conversation; only the assistant's texts and their
`<|end|>` are labelled. Rows are never truncated: a cut row would lose image tokens or its end, so a
row that is too long is an error.
"""

import io
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, cast

import torch
from PIL import ExifTags, Image
from torch import nn

from phi_vision.data.samples import IMAGE_MARK, Sample
from phi_vision.data.template import END, Template
from phi_vision.model.image_processing_phi3_v import resized_size
from phi_vision.model.processing_phi3_v import IMAGE_TAG, Phi3VProcessor

IGNORED = -100
"""The label that cross-entropy skips (PyTorch's default `ignore_index`)."""

FIRST_TRANSPOSED = 5
"""EXIF orientations from here on exchange width and height."""

CONTROL_TOKEN = re.compile(r"<\|\w+\|>")


class Batch(TypedDict, total=False):
    """The input of a training step. B rows of L tokens; N crops of all images, S pixels."""

    input_ids: torch.Tensor
    """(B, L); the Trainer takes the number of rows from this first field."""

    attention_mask: torch.Tensor
    """(B, L); 0 at padding. Packed rows have none."""

    position_ids: torch.Tensor
    """(B, L), only of packed rows: restarts at 0 with each sample."""

    use_cache: bool
    """False, only of packed rows: with a cache the model would ignore `position_ids`."""

    pixel_values: torch.Tensor
    """(N, 3, S, S); missing when no sample has an image."""

    image_sizes: torch.Tensor
    """(images, 2); missing when no sample has an image."""

    labels: torch.Tensor
    """(B, L); -100 where there is no supervision."""

    logits_to_keep: torch.Tensor
    """(B, L) bool: where the next token is labelled; see `select_labelled`."""

    shift_labels: torch.Tensor
    """The labels that the kept positions predict."""

    sample_ids: list[str]
    """For each row the ids of its samples, for error messages; removed before the forward pass."""


class Segment(NamedTuple):
    """A stretch of a row's text."""

    text: str
    is_supervised: bool


@dataclass(frozen=True, kw_only=True)
class CompletionCollator:
    """Collates samples to a batch in which only the completions are supervised.

    Input:  two samples; the prompts `<s><|user|>…<|assistant|>` and images, then the completions
    Output: `input_ids`       1 … 7  8  2 0    `attention_mask`  1 … 1 1 1 0
                              1 … 9  5  4 2                      1 … 1 1 1 1
            `labels`          - … -  8  2 -    (- is -100)
                              - … -  5  4 2
            `pixel_values` (crops, 3, S, S) and `image_sizes` (images, 2) over all rows, which
            are missing when no sample has an image; `sample_ids` ["a", "b"].

    Raises:
        ValueError: A row is longer than `max_length`, or the tokenizer joins prompt and completion.
    """

    processor: Phi3VProcessor
    template: Template
    max_length: int | None = None

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate samples, padding on the right to the longest row."""
        rows = [self.segments(sample) for sample in samples]
        images = [sample.open_images() for sample in samples]
        batch = cast(
            Batch,
            self.processor(
                text=["".join(segment.text for segment in row) for row in rows],
                images=images if any(images) else None,
                return_tensors="pt",
                padding=True,
                padding_side="right",
            ).data,
        )
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        for sample, length in zip(samples, lengths, strict=True):
            if self.max_length is not None and length > self.max_length:
                raise ValueError(
                    f"sample {sample.id!r} has {length} tokens, more than max_length "
                    f"{self.max_length}; raise it or leave it out: rows are never cut"
                )
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            ids = batch["input_ids"][place, :length]
            is_supervised = self._supervised(row, ids)
            labels[place, :length][is_supervised] = ids[is_supervised]
        return {**batch, "labels": labels, "sample_ids": [sample.id for sample in samples]}

    def segments(self, sample: Sample) -> list[Segment]:
        """Render a sample as prompts and completions by turns.

        Raises:
            ValueError: The record lacks a field of the template, or the conversation is invalid.
        """
        if sample.messages:
            return _conversation_segments(self.processor, sample)
        prompt = self.template.prompt(self.processor, len(sample.images))
        completion = self.template.render(sample.record) + END
        return [Segment(prompt, False), Segment(completion, True)]

    def count_tokens(self, sample: Sample) -> tuple[int, int]:
        """Count a sample's image tokens and its other tokens, without decoding its images.

        Raises:
            ValueError: An image cannot be read or is too thin to cut, or the record lacks a field.
        """
        tokens = self._tokenize("".join(segment.text for segment in self.segments(sample)))
        image_tokens = [self._count_image(sample, at) for at in range(len(sample.images))]
        return sum(image_tokens), len(tokens) - len(sample.images)

    def _count_image(self, sample: Sample, at: int) -> int:
        cutter = self.processor.image_processor
        try:
            width, height = image_size(sample.images[at])
            longer, shorter = max(width, height), min(width, height)
            long, short = resized_size(longer, shorter, cutter.num_crops, cutter.crop_size)
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r}, image {at + 1}: {error}") from error
        short = math.ceil(short / cutter.crop_size) * cutter.crop_size
        return int(cutter.count_tokens(*((long, short) if height > width else (short, long))))

    def _supervised(self, row: Sequence[Segment], ids_L: torch.Tensor) -> torch.Tensor:
        """Mark the tokens of a row's supervised segments: (L,) bool.

        Counted on the text alone, in which each image is one token; then stretched to the tokens
        that the images became.
        """
        text, before, supervised = "", list[int](), list[bool]()
        for segment in row:
            text += segment.text
            tokens = self._tokenize(text)
            if tokens[: len(before)] != before:
                raise ValueError(
                    f"template {self.template.name!r}: the tokenizer joins the end of the prompt "
                    f"{text[: -len(segment.text)][-20:]!r} to the completion, so inference would "
                    "use other tokens than training; end the prompt with a control token such as "
                    "<|assistant|>"
                )
            supervised += [segment.is_supervised] * (len(tokens) - len(before))
            before = tokens
        is_image_L = ids_L == self.processor.image_token_id
        # A run of image tokens ends with <s>, so its first token stands for the whole run.
        starts_L = is_image_L & ~nn.functional.pad(is_image_L, (1, 0))[:-1]
        place_L = (~is_image_L | starts_L).cumsum(0) - 1
        return torch.tensor(supervised)[place_L]

    def _tokenize(self, text: str) -> list[int]:
        """Tokenize a row's text, with one token for each image."""
        tokenizer = self.processor.tokenizer
        # Spelt as the processor spells an image of one token.
        text = IMAGE_TAG.sub(self.processor.image_token + tokenizer.bos_token, text)
        ids: list[int] = tokenizer(text.removeprefix(tokenizer.bos_token))["input_ids"]
        return ids


def _conversation_segments(processor: Phi3VProcessor, sample: Sample) -> list[Segment]:
    r"""Render a conversation in the model's own chat format.

    Input:  one image; user "<image>\nWhat is it?", assistant "A hat."
    Output: <s><|user|>\n<|image_1|>\nWhat is it?<|end|>\n<|assistant|>\n     prompt
            A hat.<|end|>                                                      supervised
    """
    turns = [(message.role, message.content) for message in sample.messages]
    marks = sum(content.count(IMAGE_MARK) for _, content in turns)
    if not marks and sample.images:  # Images without a place are shown first.
        first = next((at for at, (role, _) in enumerate(turns) if role == "user"), 0)
        turns[first] = (turns[first][0], f"{IMAGE_MARK}\n" * len(sample.images) + turns[first][1])
        marks = len(sample.images)
    problem = None
    if marks != len(sample.images):
        problem = f"{marks} {IMAGE_MARK} marks for {len(sample.images)} images"
    elif turns[-1][0] != "assistant":
        problem = f"the last turn is the {turns[-1][0]}'s, so nothing is supervised"
    elif found := CONTROL_TOKEN.search("".join(content for _, content in turns)):
        problem = f"it holds the control token {found.group()}"
    if problem:
        raise ValueError(
            f"sample {sample.id!r}: the conversation cannot be trained on: {problem}; "
            "prepare the data with `phi-vision prepare`"
        )
    numbers = itertools.count(1)
    messages, segments, done = list[dict[str, str]](), list[Segment](), ""
    for role, content in turns:
        text = re.sub(IMAGE_MARK, lambda _: f"<|image_{next(numbers)}|>", content)
        if role == "assistant":
            prompt = processor.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            segments += [Segment(prompt[len(done) :], False), Segment(text + END, True)]
            done = prompt + text + END
        messages.append({"role": role, "content": text})
    return segments


def image_size(encoded: bytes) -> tuple[int, int]:
    """Read an image's width and height from its header, after its EXIF orientation.

    Raises:
        ValueError: The bytes are not an image.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return image.size[::-1] if orientation >= FIRST_TRANSPOSED else image.size
    # Decoders fail in their own ways (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        raise ValueError(
            f"cannot read an image from {len(encoded)} bytes: {error}; give a JPEG, PNG or WebP"
        ) from error


def select_labelled(batch: Batch) -> Batch:
    """Restrict the logits to the positions whose next token is labelled.

    The same loss at about half the cost of a step, as most positions are image tokens and prompt.

    Input:  `labels`          -100 -100   8    2  -100
    Output: also `logits_to_keep`  0    1   1    0    0   (position 1 predicts the 8)
            and  `shift_labels`    8 2                    (those of the kept positions)
    """
    following = nn.functional.pad(batch["labels"], (0, 1), value=IGNORED)[:, 1:]
    keep = following != IGNORED
    return {**batch, "logits_to_keep": keep, "shift_labels": following[keep]}
