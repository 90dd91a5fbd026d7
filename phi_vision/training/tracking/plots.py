"""A run's curves and predictions as images: OUT/plots/*.png.

Curves are drawn from log.jsonl alone: `draw_plots(RunDir("runs/old"))` redraws those of an old run.
"""

import functools
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image, ImageOps

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Sample, Value
from phi_vision.data.template import Template
from phi_vision.io.atomic import write_bytes
from phi_vision.io.image_decoding import open_image
from phi_vision.metrics.field_metrics import METRICS, OPTIONAL, PARSE_RATE, is_field_correct
from phi_vision.runs import SMOOTHING, History, RunDir, curve, read_history, smooth, thin

STYLE_FILE = Path(__file__).parents[1] / "templates" / "plots.mplstyle"

BLUE, ORANGE, GREEN, GRAY = "#2563eb", "#e8760c", "#15803d", "#8a8f98"
RED, INK, SOFT = "#c02626", "#1f2430", "#5b6270"
PARTS = {"language": BLUE, "projector": GREEN, "vision": ORANGE}  # part -> color of its rate

DRAWN = {"exact", "similarity", "accuracy", "macro_f1", "mae", "median_ape", "within_10"}
DRAWN |= {"set_f1", "path_f1", "overall", "missing_f1"}
BETTER = {PARSE_RATE.name: PARSE_RATE.better} | {
    f"_{short}": measures[short].better
    for measures in (*METRICS.values(), OPTIONAL)
    for short in DRAWN & {*measures}
}
"""Ending of a metric's name -> its better direction. Two or three per field are drawn; the log has
all of them."""

BROAD = {"alpha": 0.6, "lw": 3.0, "marker": "o", "ms": 6}
SYSTEMS: Mapping[str, Mapping[str, Any]] = {
    "constant": {"label": "constant baseline", "color": GRAY, "ls": ":"},
    "shuffled": {"label": "shuffled images", "color": ORANGE, **BROAD},
    "model": {"label": "own images", "color": BLUE, "marker": "o", "ms": 3.5},
}
"""System -> line style, the model's on top; the broad ones stay visible below it."""

WIDTH, DPI = 8.0, 144  # of a figure: inches, and dots per inch: 1152 pixels
STEEP = 20.0  # a loss that falls by more than this factor is drawn on a logarithmic axis
RATE = "learning_rate"

MAX_SHOWN = 64  # predictions that each evaluation shows; the log has the metrics of all
IMAGE_SIZE = 224  # width and height of the shown images in pixels; W&B's page wants them alike
COLUMNS, MAX_ROWS, MAX_LETTERS = 4, 3, 28
"""Predictions beside and below each other on a sheet, and letters below each: more would be too
small to read."""

FONT_SIZE = 7.5  # of captions in points; lines are half as high again


@dataclass(frozen=True, kw_only=True)
class ShownPrediction:
    """A scored prediction with the image of its sample, on a white square, and its true record."""

    scored: ScoredPrediction
    image: Image.Image | None
    ground_truth: str  # rendered by the template
    is_correct: Mapping[str, bool]  # field -> whether it is right


def draw_plots(run: RunDir) -> list[Path]:
    """Draw a run's log.jsonl into its plots/, each file atomically."""
    log = read_history(run.log_file)
    with matplotlib.rc_context(fname=STYLE_FILE):
        return [
            save_figure(figure, run.plots_dir / f"{name}.png")
            for name, draw in PLOTS.items()
            if (figure := draw(log)) is not None
        ]


def save_figure(figure: Figure, path: Path) -> Path:
    """Save a figure as a PNG file, atomically."""
    encoded = io.BytesIO()
    FigureCanvasAgg(figure).print_png(encoded)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, encoded.getvalue())
    return path


def _draw_loss(log: History) -> Figure:
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


def _draw_learning(log: History) -> Figure:
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
    rates.set_ylim(bottom=0)
    _draw_smoothed(norms, log, "grad_norm", GREEN, "gradient norm", ends=(0, None))
    return figure


def _draw_speed(log: History) -> Figure:
    figure, (samples, tokens) = _panels("Throughput", "samples / s", "tokens / s")
    _draw_smoothed(samples, log, "samples_per_second", BLUE, "samples", ends=(0, None))
    _draw_smoothed(tokens, log, "tokens_per_second", GREEN, "tokens", ends=(0, None))
    return figure


def _draw_machine(log: History) -> Figure:
    figure, (memory, load) = _panels("Machine", "memory in GiB", "utilization")
    for name, color, label in (
        ("memory_mib", BLUE, "main memory of the process"),
        ("gpu_peak_mib", GRAY, "GPU, peak so far"),
        ("gpu_memory_mib", ORANGE, "GPU, between steps"),
    ):
        at, values = thin(curve(log.steps, name))
        if at:
            memory.plot(at, [value / 1024 for value in values], color=color, label=label)
    memory.set_ylim(bottom=0)
    _legend(memory)
    _draw_smoothed(load, log, "cpu_percent", BLUE, "CPU")
    _draw_smoothed(load, log, "gpu_percent", ORANGE, "GPU", ends=(0, 105))
    load.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    _legend(load)
    return figure


def _draw_validation(log: History) -> Figure | None:
    scored = [line for line in log.evaluations if line.get("model")]
    names = scored[0]["model"] if scored else ()
    better = {name: BETTER[end] for name in names for end in BETTER if name.endswith(end)}
    if not better:
        return None
    titles = [f"{name} {'↑↓'[each == 'lower']}".replace("_", " ") for name, each in better.items()]
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


def _draw_preferences(log: History) -> Figure:
    figure, (margin, share) = _panels("Preferences", "reward margin", "chosen preferred")
    _draw_smoothed(margin, log, "rewards/margins", BLUE, "margin")
    _draw_smoothed(share, log, "rewards/accuracies", GREEN, "preferred", ends=(-0.04, 1.04))
    share.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def _figure(
    title: str, rows: int, each: float, margins: tuple[float, ...], wspace: float = 0.27
) -> Figure:
    """Make a figure of the common width with its title. Sizes are in inches: of each row, and the
    margins left, right, above, below and between rows. Fixed ones align all plots of a run, and
    draw twice as fast as a layout that measures its labels."""
    left, right, above, below, between = margins
    height = above + below + rows * each + (rows - 1) * between
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    middle = 1 - 0.22 / height
    figure.text(0.012, middle, title, va="center", fontsize=13, fontweight="bold", color=INK)
    sides = {"left": left / WIDTH, "right": 1 - right / WIDTH}
    ends = {"top": 1 - above / height, "bottom": below / height}
    figure.subplots_adjust(**sides, **ends, hspace=between / each, wspace=wspace)
    return figure


def _panels(title: str, *labels: str, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Make a figure with panels below each other, or in columns, over the same steps."""
    is_grid, count = columns > 1, len(labels)
    rows, each = math.ceil(count / columns), 3.6 if count == 1 else 1.9
    margins = (0.6, 0.15, 0.75, 0.95, 0.5) if is_grid else (0.75, 0.15, 0.75, 0.5, 0.6)
    figure = _figure(title, rows, each, margins)
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


def _draw_smoothed(
    axes: Axes,
    log: History,
    name: str,
    color: str,
    label: str,
    ends: tuple[float, float | None] | None = None,
) -> None:
    """Draw a curve raw, pale, and smoothed; `ends` are those of the axis."""
    at, values = thin(curve(log.steps, name))
    if at:
        smoothed, dot = smooth(values, round(SMOOTHING * len(at))), "o" if len(at) == 1 else None
        axes.plot(at, values, color=color, alpha=0.25, linewidth=1)
        axes.plot(at, smoothed, color=color, linewidth=1.8, marker=dot, label=label)
    if ends is not None:
        axes.set_ylim(*ends)


def _mark_kept(axes: Axes, log: History) -> None:
    kept = [line["step"] for line in log.evaluations if line.get("is_best")]
    if kept:
        axes.axvline(kept[-1], color=INK, linewidth=0.9, alpha=0.6, label="kept weights")


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4)


def show_predictions(
    predictions: Sequence[ScoredPrediction], samples: Sequence[Sample], template: Template
) -> list[ShownPrediction]:
    """Join predictions with their samples, the first `MAX_SHOWN` of them."""
    return [
        ShownPrediction(
            scored=scored,
            image=_thumbnail(sample.images[0]) if sample.images else None,
            ground_truth=template.render(scored.truth),
            is_correct=mark_fields(scored, template),
        )
        for scored, sample in list(zip(predictions, samples, strict=True))[:MAX_SHOWN]
    ]


def mark_fields(scored: ScoredPrediction, template: Template) -> dict[str, bool]:
    """Mark each field as right, equal or a number within 10 %, or wrong: {"title": True, …}."""
    return {field: is_field_correct(template, field, scored) for field in scored.truth}


# The same images are shown at every evaluation, and large photos take long to decode.
@functools.lru_cache(maxsize=MAX_SHOWN)
def _thumbnail(encoded: bytes) -> Image.Image:
    """Fit an image into the square, on white if it is not square."""
    square = (IMAGE_SIZE, IMAGE_SIZE)
    image = open_image(encoded).convert("RGB")
    image.thumbnail(square)
    return ImageOps.pad(image, square, color="white")


def draw_predictions(predictions: Sequence[ShownPrediction], step: int) -> Figure:
    """Draw the first predictions of an evaluation: the image of each, and its caption below."""
    shown = predictions[: COLUMNS * MAX_ROWS]
    captions = [list(caption(each)) for each in shown]
    rows = math.ceil(len(shown) / COLUMNS) or 1
    # Inches of an image with the text below it; text and gaps are between the images.
    below = 1.5 * FONT_SIZE / 72 * max(map(len, captions), default=0) + 0.25
    gap, width = 0.12, WIDTH / COLUMNS - 0.15
    title, margins = f"Predictions at step {step}", (gap, gap, 0.5, below, below)
    figure = _figure(title, rows, width, margins, wspace=gap / width)
    for place, (each, texts) in enumerate(zip(shown, captions, strict=True)):
        axes = figure.add_subplot(rows, COLUMNS, place + 1, xticks=[], yticks=[], anchor="N")
        axes.spines[:].set_visible(False)
        if each.image is not None:
            axes.imshow(each.image)
        for number, (text, color) in enumerate(texts, start=1):
            places = ((0, 0), (0, -1.5 * FONT_SIZE * number), "axes fraction", "offset points")
            axes.annotate(text, *places, color=color, fontsize=FONT_SIZE, parse_math=False)
    return figure


def caption(shown: ShownPrediction) -> Iterator[tuple[str, str]]:
    """Format the fields of a prediction, each with its color."""
    prediction = shown.scored.prediction
    if prediction.record is None:
        yield _shorten("✗", prediction.text or "(nothing)"), RED
    for field, true in shown.scored.truth.items():
        value, is_right = (prediction.record or {}).get(field), shown.is_correct[field]
        if prediction.record is not None:
            yield (_shorten("✓", value), GREEN) if is_right else (_shorten("✗", value), RED)
        if not is_right or value != true:
            yield _shorten("    true:", true), SOFT


def _shorten(mark: str, value: Value) -> str:
    text = f"{mark} {value:,.2f}" if isinstance(value, float) else f"{mark} {value}"
    text = text.replace("\n", " ")
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 1] + "…"


def _if_logged(name: str, draw: Callable[[History], Figure]) -> Callable[[History], Figure | None]:
    return lambda log: draw(log) if curve(log.steps, name).steps else None


PLOTS: dict[str, Callable[[History], Figure | None]] = {
    "loss": _if_logged("loss", _draw_loss),
    "learning": _if_logged(RATE, _draw_learning),
    "speed": _if_logged("samples_per_second", _draw_speed),
    "validation": _draw_validation,
    "preferences": _if_logged("rewards/margins", _draw_preferences),
    "machine": _if_logged("memory_mib", _draw_machine),
}
"""Name of the file in plots/ -> what draws it. Another plot is one function and one entry here."""
