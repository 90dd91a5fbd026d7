"""Distances between a predicted and a true text, and between arrays of numbers."""

import re

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq, Levenshtein
from sacrebleu.metrics.chrf import CHRF

Numbers = NDArray[np.float64]
"""One number per sample; true ones are NaN where a sample does not count."""

MAX_NUMBER = 1e300
"""Numbers and errors are clipped to this, so that sums over absurd predictions stay finite."""

TOLERANCE = 1e-9
"""A number exactly 10 % off is within 10 %, also where floats compute 0.10000000000000009."""

_CHRF = CHRF()


def edit_similarity(predicted: str, true: str) -> float:
    """Compute 1 − Levenshtein distance / length of the longer text.

    Input:  "Wool Coat" for "Wool Cape"
    Output: 0.667: three of nine characters are substituted
    """
    return float(Levenshtein.normalized_similarity(predicted, true))


def rouge_l(predicted: str, true: str) -> float:
    """Compute ROUGE-L (Lin, 2004): F1 of the longest common subsequence of words of any script.

    Input:  "Blue wool coat" for "Wool Coat, long"
    Output: 2 · 2 / (3 + 3) = 0.667
    """
    words, others = (re.findall(r"\w+", text.lower()) for text in (predicted, true))
    both = len(words) + len(others)
    return 2 * LCSseq.similarity(words, others) / both if both else 0.0


def chrf(predicted: str, true: str) -> float:
    """Compute chrF (Popović, 2015) as sacrebleu does: F2 of character n-grams up to 6.

    Input:  "abc" for "abd"
    Output: 0.389: precision and recall of unigrams 2/3, bigrams 1/2, trigrams 0
    """
    return float(_CHRF.sentence_score(predicted, [true]).score) / 100


def absolute(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute |predicted − true|."""
    return np.abs(predicted - true)


def signed(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute (predicted − true) / true."""
    with np.errstate(over="ignore"):
        return np.asarray(((predicted - true) / true).clip(-MAX_NUMBER, MAX_NUMBER))


def relative(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute |predicted − true| / true."""
    return np.abs(signed(predicted, true))


def symmetric(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute 2 · |predicted − true| / (|predicted| + true), as the Amazon ML Challenge's SMAPE."""
    return 2 * np.abs(predicted - true) / (np.abs(predicted) + true)


def squared_log(predicted: Numbers, true: Numbers) -> Numbers:
    """Compute (ln(1 + predicted) − ln(1 + true))²; a negative prediction counts as 0."""
    return np.asarray(np.square(np.log1p(np.maximum(predicted, 0)) - np.log1p(true)))


def within(predicted: Numbers, true: Numbers, *, tolerance: float) -> Numbers:
    """Return 1 where the relative error is at most the tolerance, else 0.

    Input:  9, 12 for 10, 10; tolerance 0.1
    Output: 1, 0
    """
    is_within = relative(predicted, true) <= tolerance + TOLERANCE
    return np.where(np.isnan(true), np.nan, is_within)
