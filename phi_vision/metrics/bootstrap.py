"""How sure a figure is: intervals from drawing whole groups again and again.

Samples of one style are not independent evidence, so groups are drawn, not samples. All figures
of an evaluation share their draws: so the difference of two is paired.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
"""The ends of a 95 % interval then move by about a tenth of its width."""

Counts = NDArray[np.float64]
"""How often each sample was drawn, of shape (draws, samples)."""


class Estimate(NamedTuple):
    """A measured value and its 95 % interval (NaN with fewer than two groups)."""

    value: float
    low: float
    high: float


class BootstrapDistribution(NamedTuple):
    """A value, and its values on the draws, which all figures of an evaluation share."""

    value: float
    drawn: NDArray[np.float64]

    def estimate(self) -> Estimate:
        """Give the value with its interval: the middle 95 % of the draws that have one."""
        known = self.drawn[~np.isnan(self.drawn)]
        low, high = np.percentile(known, [2.5, 97.5]) if known.size else (math.nan, math.nan)
        return Estimate(self.value, float(low), float(high))

    def minus(self, other: "BootstrapDistribution") -> "BootstrapDistribution":
        """Subtract, draw by draw."""
        return BootstrapDistribution(self.value - other.value, self.drawn - other.drawn)


def draw_groups(groups: Sequence[str], *, seed: int, draws: int = RESAMPLES) -> Counts:
    """Draw as many groups as there are, with replacement, `draws` times; none from fewer than two.

    Input:  groups a a b, two draws that take a a and b a
    Output: [[2, 2, 0], [1, 1, 1]]
    """
    names, of = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    if len(names) < 2:
        return np.empty((0, len(groups)))
    taken = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=draws
    )
    return taken[:, of].astype(np.float64)
