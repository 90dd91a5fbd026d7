"""Group bootstrap: confidence intervals from resampling whole groups.

Samples of one group (a style, a product) are not independent, so groups are resampled and not
samples. All estimates of an evaluation share the resamples: the difference of two is paired.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
"""The ends of a 95 % interval then move by about a tenth of its width."""

Counts = NDArray[np.float64]
"""How often each resample contains each sample, of shape (resamples, samples)."""


class Estimate(NamedTuple):
    """A value and its 95 % confidence interval (NaN with fewer than two groups)."""

    value: float
    low: float
    high: float


class BootstrapDistribution(NamedTuple):
    """A value, and its values on the resamples."""

    value: float
    resampled: NDArray[np.float64]

    def estimate(self) -> Estimate:
        """Return the value with its percentile interval; resamples without a value are left out."""
        known = self.resampled[~np.isnan(self.resampled)]
        low, high = np.percentile(known, [2.5, 97.5]) if known.size else (math.nan, math.nan)
        return Estimate(self.value, float(low), float(high))

    def minus(self, other: "BootstrapDistribution") -> "BootstrapDistribution":
        """Subtract, resample by resample."""
        return BootstrapDistribution(self.value - other.value, self.resampled - other.resampled)


def draw_groups(groups: Sequence[str], *, seed: int, draws: int = RESAMPLES) -> Counts:
    """Draw as many groups as there are, with replacement; no resamples with fewer than two groups.

    Input:  groups a a b, two draws that take a a and b a
    Output: [[2, 2, 0], [1, 1, 1]]
    """
    names, group_of = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    if len(names) < 2:
        return np.empty((0, len(groups)))
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=draws
    )
    return drawn[:, group_of].astype(np.float64)
