"""Free text, such as a title: scored by its similarity to the true one."""

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq, Levenshtein

from phi_vision.data.kinds.field_kind import (
    FieldKind,
    FieldValues,
    Measure,
    SampleValues,
    as_pattern,
    equal,
)
from phi_vision.data.samples import Value

MAX_CHARACTERS = 160  # of a constrained text: more than any but the longest titles
# Excluded: control characters, `<` and the backslash, which begins escapes.
UNSAFE = r"\x00-\x1f\x7f-\x9f\x{3c}\x{5c}"
# Excluded from both ends: all other characters of `str.isspace` are unsafe.
BLANKS = r"\x{20}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"


def write(value: Value) -> str | None:
    """Return a text as it is; an empty one would not be seen."""
    return value if isinstance(value, str) and value else None


def grammar(until: str, *, longest: int = MAX_CHARACTERS, excluded: str = "") -> str:
    r"""Build the expression of a text up to the literal after it.

    Input:  ", "
    Output: safe characters, the first and the last no blanks, or `\u{2c}` and a blank between them
    """
    inner, outer = f"[^{UNSAFE}{excluded}]", f"[^{UNSAFE}{excluded}{BLANKS}]"
    first = last = outer
    # " - " overlaps itself in " - - ".
    overlaps = any(until.endswith(until[:length]) for length in range(1, len(until)))
    if until and "\n" not in until and not overlaps:
        escaped = as_pattern(f"\\u{{{ord(until[0]):x}}}{until[1:]}")
        inner, first = f"({inner}|{escaped})", f"({outer}|{escaped})"
        if len(until) == 1 or not until[-1].isspace():
            last = first
    return f"{last}|{first}{inner}{{0,{longest - 2}}}{last}"


def edit_similarity(predicted: str, true: str) -> float:
    """Compute 1 − Levenshtein distance / length of the longer text."""
    return float(Levenshtein.normalized_similarity(predicted, true))


def rouge_l(predicted: str, true: str) -> float:
    """Compute ROUGE-L (Lin, 2004): F1 of the longest common subsequence of words of any script."""
    words, others = (re.findall(r"\w+", text.lower()) for text in (predicted, true))
    both = len(words) + len(others)
    return 2 * LCSseq.similarity(words, others) / both if both else 0.0


def chrf(predicted: str, true: str) -> float:
    """Compute chrF (Popović, 2015) as sacrebleu does: F2 of character n-grams up to 6."""
    return float(_chrf().sentence_score(predicted, [true]).score) / 100


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF  # here, as only evaluation computes it

    return CHRF()


def _similarity(similarity: Callable[[str, str], float], column: FieldValues) -> SampleValues:
    """Compute similarities of texts: 1 for equal ones, 0 where none was predicted."""
    values = []
    for present, *pair in column.pairs():
        predicted, true = ("" if value is None else str(value) for value in pair)
        # Similarities of parts have nothing to compare in empty texts; equal texts are right.
        values.append((float(predicted == true) or similarity(predicted, true)) * present)
    return np.array(values, float)


TEXT = FieldKind(
    write=write,
    read=str,
    grammar=grammar,
    is_correct=lambda predicted, true: predicted == true,
    error=lambda predicted, true: (
        float(predicted != true) and 1 - edit_similarity(str(predicted), str(true))
    ),
    measures={
        "exact": Measure(equal),
        "similarity": Measure(partial(_similarity, edit_similarity)),
        "rouge_l": Measure(partial(_similarity, rouge_l)),
        "chrf": Measure(partial(_similarity, chrf)),
    },
    headline="similarity",
)
