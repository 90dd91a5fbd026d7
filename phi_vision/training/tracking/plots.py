"""A run's curves as images: OUT/plots/*.png, drawn from log.jsonl alone.

A resumed run continues its curves, and those of an old run are redrawn by
`draw_plots(RunDir("runs/old"))`.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from phi_vision.io.atomic import write_bytes
from phi_vision.metrics.field_metrics import METRICS, PARSE_RATE
from phi_vision.runs import SMOOTHING, Curve, History, RunDir, curve, read_history, smooth, thin

BLUE, ORANGE, GREEN, GRAY = "#2563eb", "#e8760c", "#15803d", "#8a8f98"
INK, SOFT, GRID = "#1f2430", "#5b6270", "#e9ebef"
PARTS = {"language": BLUE, "projector": GREEN, "vision": ORANGE}
"""Color of each part of the model with a learning rate of its own."""

DRAWN = {"exact", "similarity", "accuracy", "macro_f1", "mae", "median_ape", "within_10"}
"""Metrics to draw, two or three per field; the log has all of them."""

SYSTEMS: Mapping[str, Mapping[str, Any]] = {
    "constant": {"color": GRAY, "linestyle": ":", "label": "constant baseline"},
    "shuffled": {
        "color": ORANGE,
        "alpha": 0.6,
        "linewidth": 3.0,
        "marker": "o",
        "markersize": 6,
        "label": "shuffled images",
    },
    "model": {"color": BLUE, "marker": "o", "markersize": 3.5, "label": "own images"},
}
"""System -> line style, the model's on top; the broad ones stay visible below it."""

WIDTH, DPI = 8.0, 144
"""A figure's width in inches and its dots per inch: 1152 pixels."""

STEEP = 20.0
"""A loss that falls by more than this factor is drawn on a logarithmic axis."""


def draw_plots(run: RunDir) -> list[Path]:
    """Draw a run's log.jsonl into its plots/, each file atomically.

    Output: [plots/loss.png, plots/learning.png, …]; without those that have no data.
    """
    log = read_history(run.log_file)
    figures = {name: draw(log) for name, draw in PLOTS.items()}
    return [
        write_image(to_png(figure), run.plots_dir / f"{name}.png")
        for name, figure in figures.items()
        if figure is not None
    ]


def write_image(encoded: bytes, path: Path) -> Path:
    """Write an image file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, encoded)
    return path


def to_png(figure: Figure) -> bytes:
    """Render a figure as the bytes of a PNG file."""
    encoded = io.BytesIO()
    FigureCanvasAgg(figure).print_png(encoded)
    return encoded.getvalue()


def draw_loss(log: History) -> Figure | None:
    """Draw the loss of every step, smoothed, and the validation loss."""
    training, held_out = curve(log.steps, "loss"), curve(log.evaluations, "validation_loss")
    if not training.steps:
        return None
    figure, (axes,) = _panels("Loss", 1)
    _draw_smoothed(axes, training, BLUE, "training")
    axes.plot(*held_out, color=ORANGE, marker="o", markersize=4.5, label="validation")
    _mark_kept(axes, log)
    lowest = min([*training.values, *held_out.values])
    if lowest > 0 and max(training.values) > STEEP * lowest:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0.0, lowest))
    axes.set_ylabel("loss")
    _legend(axes)
    return figure


def draw_learning(log: History) -> Figure | None:
    """Draw learning rates, and the gradient norm before clipping."""
    if not curve(log.steps, "learning_rate").steps:
        return None
    figure, (rates, norms) = _panels("Learning rate and gradient norm", 2)
    prefix = "learning_rate_"
    parts = sorted({name for line in log.steps for name in line if name.startswith(prefix)})
    for name in parts or ["learning_rate"]:
        part, _, is_fast = name.removeprefix(prefix).partition("_")
        rates.plot(
            *thin(curve(log.steps, name)),
            color=PARTS.get(part, BLUE),
            linestyle="--" if is_fast and parts else "-",
            label=f"{part}, LoRA's second matrix" if is_fast else part,
        )
    if parts:
        _legend(rates)
    rates.set_ylabel("learning rate")
    rates.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    _draw_smoothed(norms, curve(log.steps, "grad_norm"), GREEN, "gradient norm")
    norms.set_ylabel("gradient norm")
    _start_at_zero(rates, norms)
    return figure


def draw_speed(log: History) -> Figure | None:
    """Draw samples and tokens per second."""
    if not curve(log.steps, "samples_per_second").steps:
        return None
    figure, panels = _panels("Throughput", 2)
    for axes, what, color in zip(panels, ("samples", "tokens"), (BLUE, GREEN), strict=True):
        _draw_smoothed(axes, curve(log.steps, f"{what}_per_second"), color, what)
        axes.set_ylabel(f"{what} / s")
    _start_at_zero(*panels)
    return figure


def draw_machine(log: History) -> Figure | None:
    """Draw memory and utilization of CPU and GPU."""
    if not curve(log.steps, "memory_mib").steps:
        return None
    figure, (memory, load) = _panels("Machine", 2)
    for name, color, label in (
        ("memory_mib", BLUE, "main memory of the process"),
        ("gpu_peak_mib", GRAY, "GPU, peak so far"),
        ("gpu_memory_mib", ORANGE, "GPU, between steps"),
    ):
        points = thin(curve(log.steps, name))
        if points.steps:
            gib = [value / 1024 for value in points.values]
            memory.plot(points.steps, gib, color=color, label=label)
    for name, color, label in (("cpu_percent", BLUE, "CPU"), ("gpu_percent", ORANGE, "GPU")):
        _draw_smoothed(load, curve(log.steps, name), color, label)
    memory.set_ylabel("memory in GiB")
    load.set_ylabel("utilization")
    _start_at_zero(memory, load)
    load.set_ylim(top=105)
    load.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    for axes in (memory, load):
        _legend(axes)
    return figure


def draw_validation(log: History) -> Figure | None:
    """Draw every metric of the generated predictions, with own and with shuffled images."""
    scored = [line for line in log.evaluations if line.get("model")]
    names = [name for name in (scored[0]["model"] if scored else ()) if _better(name) is not None]
    if not names:
        return None
    figure, panels = _panels("Validation: generated predictions", len(names), columns=3)
    for axes, name in zip(panels, names, strict=True):
        for system, style in SYSTEMS.items():
            axes.plot(
                *curve([{"step": e["step"], **e.get(system, {})} for e in scored], name), **style
            )
        _mark_kept(axes, log)
        better = _better(name)
        axes.set_title(f"{name.replace('_', ' ')} ({better} is better)", fontsize=9, color=INK)
        axes.set_ylim(*((-0.04, 1.04) if better == "higher" else (0.0, None)))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        labels[::-1],
        loc="lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    return figure


def draw_preferences(log: History) -> Figure | None:
    """Draw the reward margin of DPO, and how often the chosen completion is preferred."""
    margins = curve(log.steps, "rewards/margins")
    if not margins.steps:
        return None
    figure, (margin, share) = _panels("Preferences", 2)
    _draw_smoothed(margin, margins, BLUE, "margin")
    margin.set_ylabel("reward margin")
    _draw_smoothed(share, curve(log.steps, "rewards/accuracies"), GREEN, "chosen preferred")
    share.set_ylabel("chosen preferred")
    share.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    share.set_ylim(-0.04, 1.04)
    return figure


def _better(name: str) -> str | None:
    """Return the better direction of a metric by its name; None for one that is not drawn.

    Input:  "full_price_median_ape", "full_price_rmsle"
    Output: "lower", None
    """
    if name == PARSE_RATE.name:
        return PARSE_RATE.better
    for measures in METRICS.values():
        for short in DRAWN & measures.keys():
            if name.endswith(f"_{short}"):
                return measures[short].better
    return None


def new_figure(title: str, *, height: float) -> Figure:
    """Make a figure of the common width with its title."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    middle = 1 - 0.22 / height
    figure.text(0.012, middle, title, va="center", fontsize=13, fontweight="bold", color=INK)
    return figure


def _panels(title: str, count: int, *, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Make a figure with panels below each other, or in columns, over the same steps.

    With fixed margins all plots of a run are aligned, and drawn twice as fast as with a layout
    that measures its labels.
    """
    rows = math.ceil(count / columns)
    above, below, each = 0.75, 0.95 if columns > 1 else 0.5, 3.6 if count == 1 else 1.9
    between = 0.5 if columns > 1 else 0.6
    height = above + below + rows * each + (rows - 1) * between
    figure = new_figure(title, height=height)
    figure.subplots_adjust(
        left=0.6 / WIDTH if columns > 1 else 0.75 / WIDTH,
        right=1 - 0.15 / WIDTH,
        top=1 - above / height,
        bottom=below / height,
        hspace=between / each,
        wspace=0.27,
    )
    panels: list[Axes] = []
    for place in range(count):
        axes = figure.add_subplot(rows, columns, place + 1, sharex=panels[0] if panels else None)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.06 if columns > 1 else 0.02)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRAY)
        axes.tick_params(colors=SOFT, labelsize=8 if columns > 1 else 9)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6 if columns > 1 else 10, integer=True))
        if place + columns >= count:
            axes.set_xlabel("step", color=SOFT)
        axes.yaxis.set_label_coords(-0.55 / WIDTH, 0.5)
        axes.yaxis.label.set_color(SOFT)
        panels.append(axes)
    return figure, panels


def _draw_smoothed(axes: Axes, points: Curve, color: str, label: str) -> None:
    """Draw a curve raw, pale, and smoothed."""
    at, values = thin(points)
    if not at:
        return
    window = round(SMOOTHING * len(at))
    axes.plot(at, values, color=color, alpha=0.25, linewidth=1)
    dot = "o" if len(at) == 1 else None
    axes.plot(at, smooth(values, window), color=color, linewidth=1.8, marker=dot, label=label)


def _mark_kept(axes: Axes, log: History) -> None:
    kept = [line["step"] for line in log.evaluations if line.get("is_best")]
    if kept:
        axes.axvline(kept[-1], color=INK, linewidth=0.9, alpha=0.6, label="kept weights")


def _start_at_zero(*panels: Axes) -> None:
    for axes in panels:
        axes.set_ylim(bottom=0)


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )


PLOTS: dict[str, Callable[[History], Figure | None]] = {
    "loss": draw_loss,
    "learning": draw_learning,
    "speed": draw_speed,
    "validation": draw_validation,
    "preferences": draw_preferences,
    "machine": draw_machine,
}
"""Name of the file in plots/ -> what draws it. Another plot is one function and one entry here."""
