"""Prediction: the text that a model generated for a sample, the record in it, and its confidence.

The one noun between the predictors (a checkpoint, ONNX graphs, a server, a file) and the metrics.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from phi_vision.data.samples import Value
from phi_vision.data.template import Template

FinishReason = Literal["stop", "length", "cancelled"] | None  # None where that is unknown


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The output of a model for one sample."""

    text: str  # generated, without control tokens and surrounding whitespace
    record: dict[str, Value] | None  # the text parsed by the template; None where it does not parse
    # Field -> probability (0 to 1) of its generated value; empty if unknown or without a record.
    confidence: Mapping[str, float] = field(default_factory=dict)
    finish_reason: FinishReason = field(default=None, compare=False)
    seconds: float | None = field(default=None, compare=False)  # of wall time; of a batch its share
    # Id of the sample, path of the image, or "image N" for the N-th image without a path.
    source: str = field(default="", compare=False)

    @classmethod
    def parse(
        cls,
        text: str,
        template: Template,
        *,
        confidence: Mapping[str, float] | None = None,
        finish_reason: FinishReason = None,
        seconds: float | None = None,
        source: str = "",
    ) -> Self:
        """Build a prediction from its text, with the record that `Template.parse` finds there."""
        return cls(
            text=text,
            record=template.parse(text),
            confidence=confidence or {},
            finish_reason=finish_reason,
            seconds=seconds,
            source=source,
        )


@dataclass(frozen=True, kw_only=True)
class ScoredPrediction:
    """A prediction beside the true record of its sample."""

    id: str
    group: str
    truth: Mapping[str, Value]  # the fields of the template
    prediction: Prediction


def field_confidence(
    template: Template, text: str, token_ends: Sequence[int], logprobs: Sequence[float]
) -> dict[str, float]:
    """Multiply the probabilities of the tokens of each field, its closing token included.

    A token counts where it holds a character of the field, or the one right after it: "39" and
    "390" differ only in whether the number ends. A text that does not parse has no confidence.

    Input:  tokens "Product: " "Wool" " Coat" ", Category: " ... with logprobs -0.1 -0.7 0.0 -0.2;
            `token_ends` 9 13 18 30 ..., the stop token, which adds no text, last
    Output: {"title": 0.41, ...}, the exponential of -0.7 + 0.0 - 0.2
    """
    tokens = list(zip([0, *token_ends][:-1], token_ends, logprobs, strict=True))
    confidence = {}
    for name, (start, end) in template.spans(text).items():
        total = 0.0
        for first, last, logprob in tokens:
            is_inside = first < end and last > start
            is_closing = first <= end and (last > end or first == last == len(text))
            total += logprob if is_inside or is_closing else 0.0
        confidence[name] = math.exp(min(total, 0.0))
    return confidence
