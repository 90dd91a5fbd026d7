"""Scores -> a table for the terminal, and a folder for the eyes and for other programs.

The folder holds scores.json, predictions.jsonl and report.html, which `page.py` words.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from phi_vision.data.sample import Sample
from phi_vision.data.whole_files import replace_text
from phi_vision.evaluate.metrics import METRICS
from phi_vision.evaluate.page import as_page
from phi_vision.evaluate.score import Figure, Scores


def as_table(scores: Scores) -> Table:
    """Lay the figures out for the terminal: a row for each metric, a column for each predictor.

    Input:  Scores of a model that reads 93 of 100 categories
    Output: category_accuracy ↑   0.930 (0.880–0.970)   0.110 (…)   …
    """
    table = Table(
        title=f"{scores.samples} held-out samples in {scores.groups} groups",
        caption="in brackets: 95 % intervals, resampled by group · ↑ higher is better, ↓ lower",
    )
    table.add_column("metric")
    for who in scores.figures:
        table.add_column(who.replace("_", " "), justify="right")
    if scores.floor:
        table.add_column("noise floor", justify="right")
    for name in scores.figures["model"]:
        metric = METRICS[name]
        cells = [_cell(theirs.get(name), metric.decimals) for theirs in scores.figures.values()]
        if scores.floor:
            floor = scores.floor.get(name)
            cells.append("" if floor is None else f"{floor:.{metric.decimals}f}")
        table.add_row(f"{name} {'↑' if metric.higher_is_better else '↓'}", *cells)
    return table


def write_report(scores: Scores, samples: Sequence[Sample], out: Path) -> Path:
    """Write scores.json, predictions.jsonl and report.html into a folder; return the page's path.

    Every file appears whole or not at all.

    Args:
        scores: What `score` found.
        samples: The samples it was asked about, in the same order, for their pictures.
        out: The folder; made where it does not exist.

    Raises:
        ValueError: The samples are not those of the scores, or `out` is a file.
    """
    if [sample.id for sample in samples] != [answer.id for answer in scores.answers]:
        raise ValueError(
            f"the scores are of {len(scores.answers)} other samples than the {len(samples)} given; "
            "pass the samples that were scored, in the same order"
        )
    if out.exists() and not out.is_dir():
        raise ValueError(f"cannot write a report to {out}: found a file; give a folder")
    predictions = [
        json.dumps(_jsonable(asdict(answer)), ensure_ascii=True) for answer in scores.answers
    ]
    files = {
        "scores.json": json.dumps(_summary(scores), indent=2, ensure_ascii=False) + "\n",
        "predictions.jsonl": "\n".join(predictions) + "\n",
        "report.html": as_page(scores, samples),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        replace_text(out / name, text)
    return out / "report.html"


def _cell(figure: Figure | None, decimals: int) -> str:
    if figure is None or math.isnan(figure.value):
        return ""
    if math.isnan(figure.low):
        return f"{figure.value:.{decimals}f}"
    value, low, high = (f"{number:.{decimals}f}" for number in figure)
    return f"{value} [dim]({low}–{high})[/dim]"


def _summary(scores: Scores) -> dict[str, Any]:
    """Everything but the single answers, as JSON holds it: NaN is null."""
    return {
        "template": scores.template,
        "samples": scores.samples,
        "groups": scores.groups,
        "seed": scores.seed,
        "looks": scores.looks,
        "canary": scores.canary,
        "figures": {
            who: {name: _jsonable(figure._asdict()) for name, figure in theirs.items()}
            for who, theirs in scores.figures.items()
        },
        "floor": _jsonable(scores.floor),
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
