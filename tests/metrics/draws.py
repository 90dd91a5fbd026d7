"""A metric of many draws at once against the same metric of repeated samples."""

import numpy as np
import pytest

from phi_vision.data.kinds.field_kind import Predicted
from phi_vision.data.samples import Record
from phi_vision.metrics.bootstrap import draw_groups
from phi_vision.metrics.field_metrics import Metric


def check_draws(
    metrics: dict[str, Metric], said: Predicted, true: list[Record], *, of_a_group: int = 1
) -> None:
    """Check that each draw is as good as its samples repeated; a group has so many of them."""
    groups = [str(place // of_a_group) for place in range(len(true))]
    counts = draw_groups(groups, seed=2, draws=20)
    for name, metric in metrics.items():
        drawn = metric.distribution(metric.values(said, true), counts).resampled
        for times, value in zip(counts.astype(int), drawn, strict=True):
            places = np.repeat(np.arange(len(true)), times).tolist()
            repeated = metric([said[at] for at in places], [true[at] for at in places])
            assert value == pytest.approx(repeated, nan_ok=True), name
