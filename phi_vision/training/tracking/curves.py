"""A run's log.jsonl as curves: read, picked apart, smoothed and thinned. Draws nothing."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SMOOTHED = 0.06
"""Width of the window that a loss is averaged over, as a share of the run."""

MOST_POINTS = 2000
"""More steps than pixels cannot be seen; a longer run's steps are averaged in stretches."""

Line = Mapping[str, Any]
"""A line of log.jsonl."""


class Log(NamedTuple):
    """A run's log, by kind of line."""

    steps: Sequence[Line]
    evaluations: Sequence[Line]


class Curve(NamedTuple):
    """Points to draw, in the order of the steps."""

    at: Sequence[float]
    values: Sequence[float]


def read_log(path: Path) -> Log:
    """Read a log; evaluations are the lines that have a validation loss."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    evaluations = [line for line in lines if "validation_loss" in line]
    return Log([line for line in lines if "loss" in line], evaluations)


def curve(lines: Sequence[Line], name: str) -> Curve:
    """Take one figure out of lines, where it is a number.

    Input:  {"step": 1, "loss": 2.5} {"step": 2, "loss": null} {"step": 3, "loss": 2.0}
    Output: at 1 3, values 2.5 2.0
    """
    found = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    finite = [(step, value) for step, value in found if math.isfinite(value)]
    return Curve([step for step, _ in finite], [value for _, value in finite])


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Average each value with those before and after it, `window` in all, fewer at the ends.

    As both sides count alike, a smoothed curve does not lag behind.

    Input:  0 6 3 3, window 3
    Output: 3 3 4 3
    """
    sums = [0.0, *itertools.accumulate(values)]
    ends = [
        (max(0, at - window // 2), min(len(values), at + window // 2 + 1))
        for at in range(len(values))
    ]
    return [(sums[end] - sums[start]) / (end - start) for start, end in ends]


def thin(points: Curve, most: int = MOST_POINTS) -> Curve:
    """Average stretches of equal length, so that no more than `most` points are left.

    Input:  at 1 2 3 4, values 1.0 3.0 5.0 5.0, most 2
    Output: at 1.5 3.5, values 2.0 5.0
    """
    stretch = math.ceil(len(points.at) / most) or 1

    def means(values: Sequence[float]) -> list[float]:
        stretches = [values[at : at + stretch] for at in range(0, len(values), stretch)]
        return [sum(each) / len(each) for each in stretches]

    return Curve(means(points.at), means(points.values))
