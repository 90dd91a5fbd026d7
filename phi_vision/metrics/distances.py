"""How far apart is what was said and what is true: of two texts, or of two arrays of numbers.

Knows no samples and no fields; what silence means is decided in `metrics.py`.
"""

import re

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq, Levenshtein
from sacrebleu.metrics.chrf import CHRF

Numbers = NDArray[np.float64]
"""One number per sample; true ones are NaN where a sample does not count."""

LARGEST = 1e300
"""Numbers and errors are cut off here, so that sums of absurd answers stay finite."""

NEARLY = 1e-9
"""A number that is exactly 10 % off is within, also where floats say 0.10000000000000009."""

_CHRF = CHRF()


def edit_similarity(said: str, true: str) -> float:
    """Take 1 − edits / length of the longer text; an edit adds, drops or replaces a character.

    Input:  "Wool Coat" for "Wool Cape"
    Output: 0.667: three of nine characters replaced
    """
    return float(Levenshtein.normalized_similarity(said, true))


def rouge_l(said: str, true: str) -> float:
    """Take the F1 of the longest common subsequence of words, without case and punctuation.

    ROUGE-L of Lin (2004), with words of any script.

    Input:  "Blue wool coat" for "Wool Coat, long"
    Output: 2 · 2 / (3 + 3) = 0.667
    """
    words, others = (re.findall(r"\w+", text.lower()) for text in (said, true))
    both = len(words) + len(others)
    return 2 * LCSseq.similarity(words, others) / both if both else 0.0


def chrf(said: str, true: str) -> float:
    """Take the F2 of sequences of 1 to 6 characters, blanks left out (Popović 2015), as sacrebleu.

    Input:  "abc" for "abd"
    Output: 0.389: single characters 2/3, pairs 1/2, triples 0, in precision and recall
    """
    return float(_CHRF.sentence_score(said, [true]).score) / 100


def absolute(said: Numbers, true: Numbers) -> Numbers:
    """Take |said − true|."""
    return np.abs(said - true)


def signed(said: Numbers, true: Numbers) -> Numbers:
    """Take (said − true) / true."""
    with np.errstate(over="ignore"):
        return np.asarray(((said - true) / true).clip(-LARGEST, LARGEST))


def relative(said: Numbers, true: Numbers) -> Numbers:
    """Take |said − true| / true."""
    return np.abs(signed(said, true))


def symmetric(said: Numbers, true: Numbers) -> Numbers:
    """Take 2 · |said − true| / (|said| + true), from 0 to 2: the Amazon ML Challenge's form."""
    return 2 * np.abs(said - true) / (np.abs(said) + true)


def squared_log(said: Numbers, true: Numbers) -> Numbers:
    """Take (ln(1 + said) − ln(1 + true))²; a negative number is as good as 0."""
    return np.asarray(np.square(np.log1p(np.maximum(said, 0)) - np.log1p(true)))


def within(said: Numbers, true: Numbers, *, share: float) -> Numbers:
    """Mark with 1 what is at most that share off, with 0 what is more.

    Input:  9, 12 for 10, 10; a share of 0.1
    Output: 1, 0
    """
    return np.where(np.isnan(true), np.nan, relative(said, true) <= share + NEARLY)
