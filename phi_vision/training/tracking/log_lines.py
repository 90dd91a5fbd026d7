"""The lines of log.jsonl: what stands in them, and how trackers name it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phi_vision.io.atomic import write_text
from phi_vision.metrics.scores import Scores
from phi_vision.runs import read_history
from phi_vision.training.tracking.machine_meter import MACHINE_FIGURES

MEASURED = frozenset({"samples_per_second", "tokens_per_second", "seconds", *MACHINE_FIGURES})
"""Figures of the log that depend on the machine: all others are the same in an equal run."""


def plain_figures(scores: Scores) -> dict[str, dict[str, float | None]]:
    """Give the figures of the model, with its own and with shuffled images, and of the commonest
    answer, without intervals.

    Output: {"model": {"parse_rate": 1.0, …}, "shuffled": {…}, "constant": {…}}
    """
    return {
        who: {
            name: None if math.isnan(figure.value) else round(figure.value, 6)
            for name, figure in scores.estimates[who].items()
        }
        for who in ("model", "shuffled", "constant")
        if who in scores.estimates
    }


def name_step(figures: Mapping[str, float]) -> dict[str, float]:
    """Name a step's figures for a tracker.

    Input:  {"loss": 1.5, "cpu_percent": 93.0}
    Output: {"train/loss": 1.5, "machine/cpu_percent": 93.0}
    """
    return {
        f"{'machine' if name in MACHINE_FIGURES else 'train'}/{name}": value
        for name, value in figures.items()
    }


def name_evaluation(line: Mapping[str, Any]) -> dict[str, float]:
    """Name an evaluation's figures for a tracker; what was not measured is left out.

    Input:  {"step": 5, "validation_loss": 1.5, "model": {"price_mae": 80.0, "title_exact": None},
             "shuffled": {"price_mae": 90.0}, "uses_image": True, "shuffled_image_check": "…"}
    Output: {"validation/loss": 1.5, "validation/price_mae": 80.0, "shuffled/price_mae": 90.0,
             "validation/uses_image": True}
    """
    named: dict[str, Any] = {"validation/loss": line["validation_loss"]}
    named |= {f"validation/{name}": line.get(name) for name in ("uses_image", "is_best", "seconds")}
    for who, prefix in (("model", "validation"), ("shuffled", "shuffled")):
        named |= {f"{prefix}/{name}": value for name, value in line.get(who, {}).items()}
    return {name: value for name, value in named.items() if value is not None}


def best_evaluation(log: Path) -> dict[str, object]:
    """Find the evaluation whose weights are kept, by its figures.

    Output: {"step": 40, "validation_loss": 0.61, "parse_rate": 0.98, …}; {} without any
    """
    kept = [line for line in read_history(log).evaluations if line.get("is_best")]
    if not kept:
        return {}
    names = ("step", "epoch", "validation_loss")
    return {**{name: kept[-1].get(name) for name in names}, **kept[-1].get("model", {})}


def forget_after(log: Path, step: int) -> None:
    """Drop lines of a log that a resumed run is about to write again, and a half-written last one.

    Input:  lines of the steps 1 2 3 4 5, step 3
    Output: lines of the steps 1 2 3
    """
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:  # the line the kill fell into
            break
    write_text(log, "".join(kept))
