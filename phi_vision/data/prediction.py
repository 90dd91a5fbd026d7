"""Reply: what was answered about a sample, and how sure of each field the model was.

The noun between whoever answers (a model here, a graph, a server, a file) and whoever judges.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from phi_vision.data.template import Template


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer as it was written."""

    text: str
    """Without control tokens and blanks around."""

    confidence: Mapping[str, float] = field(default_factory=dict)
    """Field -> probability (0 to 1) that the model gave to what it wrote there; empty where that is
    not known, or where the answer cannot be read."""


def field_confidence(
    template: Template, text: str, ends: Sequence[int], logprobs: Sequence[float]
) -> dict[str, float]:
    """Multiply the probabilities of the tokens that write a field and that end it.

    A token counts where it holds a character of the field, or the one right after it: "39" and
    "390" differ only in whether the number ends. The model's probability of the whole value, given
    what stands before it.

    Input:  tokens "Product: " "Wool" " Coat" ", Category: " ... with logarithms -0.1 -0.7 0.0 -0.2
    Output: {"title": 0.41, ...}, the exponential of -0.7 + 0.0 - 0.2

    Args:
        template: Reads the answer.
        text: The answer.
        ends: For each token, how many characters of the answer are written after it; the token
            that ended the answer, which writes none, comes last.
        logprobs: The natural logarithm of each token's probability.

    Returns:
        Field -> probability; {} where the answer cannot be read.
    """
    starts = [0, *ends[:-1]]
    found = {}
    for name, (start, end) in template.spans(text).items():
        total = 0.0
        for began, ended, logprob in zip(starts, ends, logprobs, strict=True):
            writes = began < end and ended > start
            closes = began <= end and (ended > end or began == ended == len(text))
            if writes or closes:
                total += logprob
        found[name] = math.exp(min(total, 0.0))
    return found
