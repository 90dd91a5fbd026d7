"""Samples -> batch: the only place that decides which tokens are supervised.

A row is `prompt + completion + <|end|>`, or a conversation; only the assistant's texts and their
`<|end|>` are labelled. Rows are never truncated: a cut row would lose image tokens or its end, so a
row that is too long is an error.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TypedDict, cast

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.feature_extraction_utils import BatchFeature

from phi_vision.data.conversation import Segment, conversation_segments
from phi_vision.data.feature_cache import KnownImages
from phi_vision.data.samples import Sample, failure
from phi_vision.data.template import END, Template
from phi_vision.io.image_decoding import image_size
from phi_vision.model.processing_phi3_v import IMAGE_TAG, Phi3VProcessor

# A token is at least a byte: a character has up to four, and ten where the template escapes it.
# The control tokens around a turn, and the quotes of an unusual value, are fewer than 32.
CHARACTER_TOKENS, TURN_TOKENS = 10, 32
IMAGE_FRAME = 3  # tokens between images: `<s>`, and the line break of one without a place
IGNORED = -100  # the label that cross-entropy skips (PyTorch's default `ignore_index`)


class Batch(TypedDict, total=False):
    """The input of a training step. B rows of L tokens; N crops of all images, S pixels."""

    input_ids: torch.Tensor  # (B, L); the Trainer counts the rows of this first field
    attention_mask: torch.Tensor  # (B, L); 0 at padding. Packed rows have none
    position_ids: torch.Tensor  # (B, L), only of packed rows: restarts at 0 with each sample
    use_cache: bool  # False, only of packed rows: a cache would make the model ignore positions
    # (N, 3, S, S), or features (N, P*P, D) that were kept; missing when no sample has an image.
    pixel_values: torch.Tensor
    image_sizes: torch.Tensor  # (images, 2); missing when no sample has an image
    labels: torch.Tensor  # (B, L); -100 where there is no supervision
    logits_to_keep: torch.Tensor  # (B, L) bool: whether the next token is labelled
    shift_labels: torch.Tensor  # the labels that the kept positions predict
    sample_ids: list[str]  # of each row, for error messages; removed before the forward pass


@dataclass(frozen=True, kw_only=True)
class CompletionCollator:
    """Collates samples to a batch in which only the completions are supervised.

    Input:  two samples: the prompts `<s><|user|>…<|assistant|>` with images, and the completions
    Output: `input_ids`       1 … 7  8  2 0    `attention_mask`  1 … 1 1 1 0
                              1 … 9  5  4 2                      1 … 1 1 1 1
            `labels`          - … -  8  2 -    (- is -100)
                              - … -  5  4 2
            `pixel_values` (crops, 3, S, S) and `image_sizes` (images, 2) over all rows, which
            are missing when no sample has an image; `sample_ids` ["a", "b"].
    """

    processor: Phi3VProcessor
    template: Template
    max_length: int | None = None
    known_images: KnownImages | None = None  # whose features take the place of their crops

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate samples, padding on the right to the longest row."""
        rows = [self.segments(sample) for sample in samples]
        texts = ["".join(segment.text for segment in row) for row in rows]
        made = self._make_crops(samples, texts)
        counts = iter(made.pop("num_img_tokens").tolist() if made else ())
        ids, labels = list[list[int]](), list[torch.Tensor]()
        for sample, row, pieces in zip(samples, rows, self.tokenize_all(rows), strict=True):
            of_row, labels_of_row = list[int](), list[int]()
            for segment, piece in zip(row, pieces, strict=True):
                tokens = self.processor.repeat_image_token(piece, counts)
                of_row += tokens
                labels_of_row += tokens if segment.is_supervised else [IGNORED] * len(tokens)
            length, limit = len(of_row), self.max_length
            if limit is not None and length > limit:
                raise failure("too_long", id=sample.id, length=length, what="", limit=limit)
            ids.append(of_row)
            labels.append(torch.tensor(labels_of_row))
        batch = {
            **self.processor.pad_rows(ids, "right"),
            **made,
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "sample_ids": [sample.id for sample in samples],
        }
        return cast(Batch, batch)

    def _make_crops(self, samples: Sequence[Sample], texts: Sequence[str]) -> BatchFeature:
        """Cut the images of samples, in the order of the tags, or find their features."""
        encoded = self.processor.order_images(texts, [(*sample.images,) for sample in samples])
        if not encoded:
            return BatchFeature()
        if self.known_images and (known := self.known_images.find(encoded)):
            return known
        images = [sample.open_images() for sample in samples]
        made = self.processor.image_processor(self.processor.order_images(texts, images))
        if self.known_images:
            self.known_images.add(encoded, made)
        return made

    def segments(self, sample: Sample) -> list[Segment]:
        """Render a sample as prompts and completions by turns."""
        if sample.messages:
            return conversation_segments(self.processor, sample)
        prompt = self.template.prompt(self.processor, len(sample.images))
        completion = self.template.render(sample.record) + END
        return [Segment(prompt, False), Segment(completion, True)]

    def tokenize(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Tokenize a row's text, segment by segment, with one token for each image."""
        return self.tokenize_all([segments])[0]

    def tokenize_all(self, rows: Sequence[Sequence[Segment]]) -> list[list[list[int]]]:
        """Tokenize the texts of rows as `tokenize` does: at once, which is much faster."""
        tokenizer = self.processor.tokenizer
        # Spelt as the processor spells an image of one token.
        image = self.processor.image_token + tokenizer.bos_token
        texts = [
            [text.removeprefix(tokenizer.bos_token) for text in accumulate(parts)]
            for parts in ([IMAGE_TAG.sub(image, part.text) for part in row] for row in rows)
        ]
        unique = [*dict.fromkeys(chain.from_iterable(texts))]  # many rows have one prompt
        ids_of = dict(zip(unique, tokenizer(unique)["input_ids"] if unique else [], strict=True))
        tokens = list[list[list[int]]]()
        for row in texts:
            before, pieces = list[int](), list[list[int]]()
            for text, last in zip(row, ["", *row], strict=False):
                ids: list[int] = ids_of[text]
                if ids[: len(before)] != before:
                    raise failure("joined_tokens", name=self.template.name, end=last[-20:])
                pieces.append(ids[len(before) :])
                before = ids
            tokens.append(pieces)
        return tokens

    def count_tokens(self, sample: Sample) -> tuple[int, int]:
        """Count a sample's image tokens and its other tokens, without decoding its images."""
        return self.count_all([sample])[0]

    def count_all(self, samples: Sequence[Sample]) -> list[tuple[int, int]]:
        """Count the tokens of samples as `count_tokens` does."""
        count = self.processor.image_processor.calc_num_image_tokens_from_image_size
        image_tokens = [
            sum(sample.map_images(lambda encoded: count(*image_size(encoded))))
            for sample in samples
        ]
        tokenized = self.tokenize_all([self.segments(sample) for sample in samples])
        return [
            (of_images, sum(map(len, pieces)) - len(sample.images))
            for of_images, pieces, sample in zip(image_tokens, tokenized, samples, strict=True)
        ]

    def bound_tokens(self, samples: Iterable[Sample]) -> Iterator[tuple[Sample, int]]:
        """Yield samples with an upper bound of their tokens, by the lengths of their texts."""
        cutter, prompts = self.processor.image_processor, dict[int, int]()
        heights, side = range(1, cutter.num_crops + 1), cutter.crop_size
        grids = [(height * side, cutter.num_crops // height * side) for height in heights]
        of_image = max(cutter.count_tokens(*grid) for grid in grids) + IMAGE_FRAME
        literals, fields = len(self.template.answer) * CHARACTER_TOKENS, self.template.fields
        known = set(fields)
        for sample in samples:
            images = len(sample.images)
            if sample.messages:
                texts = [turn.content for turn in sample.messages]
                tokens = TURN_TOKENS * (len(texts) + 1)
            else:
                if images not in prompts:
                    prompt = Segment(self.template.prompt(self.processor, images), False)
                    prompts[images] = len(self.tokenize([prompt])[0])
                if not sample.record.keys() >= known:
                    self.template.select(sample.record)  # names the field that it lacks
                texts = [str(sample.record[field]) for field in fields]
                tokens = prompts[images] + literals + TURN_TOKENS * (len(texts) + 1)
            yield sample, tokens + CHARACTER_TOKENS * sum(map(len, texts)) + of_image * images


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
