"""A run's curves as images: OUT/plots/*.png, drawn from log.jsonl alone.

A resumed run continues its curves, and those of an old run are redrawn by
`draw_plots(RunDir("runs/old"))`.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from phi_vision.io.atomic import write_bytes
from phi_vision.metrics.field_metrics import METRICS, PARSE_RATE
from phi_vision.runs import SMOOTHING, History, RunDir, curve, read_history, smooth, thin

STYLE_FILE = Path(__file__).parents[1] / "templates" / "plots.mplstyle"

BLUE, ORANGE, GREEN, GRAY = "#2563eb", "#e8760c", "#15803d", "#8a8f98"
INK, SOFT = "#1f2430", "#5b6270"
PARTS = {"language": BLUE, "projector": GREEN, "vision": ORANGE}
"""Color of each part of the model with a learning rate of its own."""

DRAWN = {"exact", "similarity", "accuracy", "macro_f1", "mae", "median_ape", "within_10"}
"""Metrics to draw, two or three per field; the log has all of them."""

SYSTEMS: Mapping[str, Mapping[str, Any]] = {
    "constant": {"label": "constant baseline", "color": GRAY, "ls": ":"},
    "shuffled": {
        **{"label": "shuffled images", "color": ORANGE, "alpha": 0.6},
        **{"lw": 3.0, "marker": "o", "ms": 6},
    },
    "model": {"label": "own images", "color": BLUE, "marker": "o", "ms": 3.5},
}
"""System -> line style, the model's on top; the broad ones stay visible below it."""

WIDTH, DPI = 8.0, 144
"""A figure's width in inches and its dots per inch: 1152 pixels."""

STEEP = 20.0
"""A loss that falls by more than this factor is drawn on a logarithmic axis."""

RATE = "learning_rate"


def draw_plots(run: RunDir) -> list[Path]:
    """Draw a run's log.jsonl into its plots/, each file atomically.

    Output: [plots/loss.png, plots/learning.png, …]; without those that have no data.
    """
    log = read_history(run.log_file)
    with matplotlib.rc_context(fname=STYLE_FILE):
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


def draw_loss(log: History) -> Figure:
    """Draw the loss of every step, smoothed, and the validation loss."""
    figure, (axes,) = _panels("Loss", "loss")
    _draw_smoothed(axes, log, "loss", BLUE, "training")
    training, held_out = curve(log.steps, "loss"), curve(log.evaluations, "validation_loss")
    axes.plot(*held_out, color=ORANGE, marker="o", markersize=4.5, label="validation")
    _mark_kept(axes, log)
    lowest = min([*training.values, *held_out.values])
    if lowest > 0 and max(training.values) > STEEP * lowest:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0.0, lowest))
    _legend(axes)
    return figure


def draw_learning(log: History) -> Figure:
    """Draw learning rates, and the gradient norm before clipping."""
    title = "Learning rate and gradient norm"
    figure, (rates, norms) = _panels(title, "learning rate", "gradient norm")
    parts = sorted({name for line in log.steps for name in line if name.startswith(f"{RATE}_")})
    for name in parts or [RATE]:
        part, _, is_fast = name.removeprefix(RATE).strip("_").partition("_")
        color, dashes = PARTS.get(part, BLUE), "--" if is_fast else "-"
        label = f"{part}, LoRA's second matrix" if is_fast else part
        rates.plot(*thin(curve(log.steps, name)), color=color, ls=dashes, label=label)
    if parts:
        _legend(rates)
    rates.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    _draw_smoothed(norms, log, "grad_norm", GREEN, "gradient norm")
    _start_at_zero(rates, norms)
    return figure


def draw_speed(log: History) -> Figure:
    """Draw samples and tokens per second."""
    figure, panels = _panels("Throughput", "samples / s", "tokens / s")
    _draw_smoothed(panels[0], log, "samples_per_second", BLUE, "samples")
    _draw_smoothed(panels[1], log, "tokens_per_second", GREEN, "tokens")
    _start_at_zero(*panels)
    return figure


def draw_machine(log: History) -> Figure:
    """Draw memory and utilization of CPU and GPU."""
    figure, (memory, load) = _panels("Machine", "memory in GiB", "utilization")
    for name, color, label in (
        ("memory_mib", BLUE, "main memory of the process"),
        ("gpu_peak_mib", GRAY, "GPU, peak so far"),
        ("gpu_memory_mib", ORANGE, "GPU, between steps"),
    ):
        points = thin(curve(log.steps, name))
        if points.steps:
            gib = [value / 1024 for value in points.values]
            memory.plot(points.steps, gib, color=color, label=label)
    _draw_smoothed(load, log, "cpu_percent", BLUE, "CPU")
    _draw_smoothed(load, log, "gpu_percent", ORANGE, "GPU")
    _start_at_zero(memory, load)
    load.set_ylim(top=105)
    load.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    for axes in (memory, load):
        _legend(axes)
    return figure


def draw_validation(log: History) -> Figure | None:
    """Draw every metric of the generated predictions, with own and with shuffled images."""
    scored = [line for line in log.evaluations if line.get("model")]
    better = {name: _better(name) for name in (scored[0]["model"] if scored else ())}
    better = {name: direction for name, direction in better.items() if direction is not None}
    if not better:
        return None
    titles = [f"{name.replace('_', ' ')} ({each} is better)" for name, each in better.items()]
    figure, panels = _panels("Validation: generated predictions", *titles, columns=3)
    for axes, (name, direction) in zip(panels, better.items(), strict=True):
        for system, style in SYSTEMS.items():
            lines = [{"step": line["step"], **line.get(system, {})} for line in scored]
            axes.plot(*curve(lines, name), **style)
        _mark_kept(axes, log)
        axes.set_ylim(*((-0.04, 1.04) if direction == "higher" else (0.0, None)))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="lower center", ncols=4)
    return figure


def draw_preferences(log: History) -> Figure:
    """Draw the reward margin of DPO, and how often the chosen completion is preferred."""
    figure, (margin, share) = _panels("Preferences", "reward margin", "chosen preferred")
    _draw_smoothed(margin, log, "rewards/margins", BLUE, "margin")
    _draw_smoothed(share, log, "rewards/accuracies", GREEN, "chosen preferred")
    share.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    share.set_ylim(-0.04, 1.04)
    return figure


def new_figure(title: str, *, height: float) -> Figure:
    """Make a figure of the common width with its title."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    middle = 1 - 0.22 / height
    figure.text(0.012, middle, title, va="center", fontsize=13, fontweight="bold", color=INK)
    return figure


def _better(name: str) -> str | None:
    """Return the better direction of a metric by its name; None for one that is not drawn.

    Input:  "full_price_median_ape", "full_price_rmsle"
    Output: "lower", None
    """
    if name == PARSE_RATE.name:
        return PARSE_RATE.better
    metrics = {short: metric for each in METRICS.values() for short, metric in each.items()}
    drawn = [metrics[short].better for short in DRAWN if name.endswith(f"_{short}")]
    return drawn[0] if drawn else None


def _panels(title: str, *labels: str, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Make a figure with panels below each other, or in columns, over the same steps.

    With fixed margins all plots of a run are aligned, and drawn twice as fast as with a layout
    that measures its labels.
    """
    is_grid, count = columns > 1, len(labels)
    rows = math.ceil(count / columns)
    above, below, each = 0.75, 0.95 if is_grid else 0.5, 3.6 if count == 1 else 1.9
    between = 0.5 if is_grid else 0.6
    height = above + below + rows * each + (rows - 1) * between
    figure = new_figure(title, height=height)
    figure.subplots_adjust(
        left=(0.6 if is_grid else 0.75) / WIDTH,
        right=1 - 0.15 / WIDTH,
        top=1 - above / height,
        bottom=below / height,
        hspace=between / each,
        wspace=0.27,
    )
    panels: list[Axes] = []
    for place, label in enumerate(labels):
        axes = figure.add_subplot(rows, columns, place + 1, sharex=panels[0] if panels else None)
        axes.margins(x=0.06 if is_grid else 0.02)
        axes.tick_params(labelsize=8 if is_grid else 9)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6 if is_grid else 10, integer=True))
        if place + columns >= count:
            axes.set_xlabel("step")
        axes.yaxis.set_label_coords(-0.55 / WIDTH, 0.5)
        axes.set(**{"title" if is_grid else "ylabel": label})
        panels.append(axes)
    return figure, panels


def _draw_smoothed(axes: Axes, log: History, name: str, color: str, label: str) -> None:
    """Draw a curve raw, pale, and smoothed."""
    at, values = thin(curve(log.steps, name))
    if at:
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
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4)


def _if_logged(name: str, draw: Callable[[History], Figure]) -> Callable[[History], Figure | None]:
    return lambda log: draw(log) if curve(log.steps, name).steps else None


PLOTS: dict[str, Callable[[History], Figure | None]] = {
    "loss": _if_logged("loss", draw_loss),
    "learning": _if_logged(RATE, draw_learning),
    "speed": _if_logged("samples_per_second", draw_speed),
    "validation": draw_validation,
    "preferences": _if_logged("rewards/margins", draw_preferences),
    "machine": _if_logged("memory_mib", draw_machine),
}
"""Name of the file in plots/ -> what draws it. Another plot is one function and one entry here."""
