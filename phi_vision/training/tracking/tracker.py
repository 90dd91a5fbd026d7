"""The records of a running training: log.jsonl, plots/, a progress bar, and one tracker.

A line of log.jsonl is one optimizer step or one evaluation. No tracker can stop a training: one
that fails is reported and dropped. Of several processes only the first writes.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from phi_vision.data.samples import Sample
from phi_vision.data.template import find_template
from phi_vision.io.atomic import write_text
from phi_vision.metrics.field_metrics import headline_metrics
from phi_vision.metrics.scores import Scores
from phi_vision.runs import RunDir, read_history
from phi_vision.training.tracking import plots
from phi_vision.training.tracking.plots import ShownPrediction
from phi_vision.training.tracking.tensorboard_run import TensorboardRun

if TYPE_CHECKING:
    from phi_vision.training.tracking.wandb_run import WandbRun

logger = logging.getLogger(__name__)

MACHINE_METRICS = ("cpu_percent", "memory_mib", "gpu_percent", "gpu_memory_mib", "gpu_peak_mib")
"""Load of the machine at a step; of a GPU only if there is one."""

MACHINE_DEPENDENT = {"samples_per_second", "tokens_per_second", "seconds", *MACHINE_METRICS}
"""Keys of the log that depend on the machine: all others are the same in an equal run."""

LOGGED_STEPS = 20  # progress lines of a run whose output goes to a file
PLOT_INTERVAL = 60.0  # seconds between plots, which take one to draw; the last are always drawn

Tracker: TypeAlias = "WandbRun | TensorboardRun"


@dataclass
class Tracking:
    """Records a run; a context manager, so that it ends well after any error."""

    run: RunDir
    recipe: str  # as YAML
    report_to: str  # a name of `TRACKERS`
    first_step: int  # steps before a resume
    total_steps: int
    writes: bool = True  # only one of several processes

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._tracker: Tracker | None = None
        self._shown: tuple[Sequence[ShownPrediction], int] | None = None  # and their step
        self._last_plots = time.monotonic()
        if self.writes:
            truncate_log(self.run.log_file, self.first_step)
            self._log = self._stack.enter_context(self.run.log_file.open("a", encoding="utf-8"))
            try:
                self._tracker = TRACKERS[self.report_to](self)
            except Exception as problem:
                _warn(self.report_to, problem)
            self._bar = self._stack.enter_context(_progress_bar())
            done, total = self.first_step, self.total_steps
            self._task = self._bar.add_task("training", total=total, completed=done, loss="")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        if self.writes:
            self._draw()
            if kind is None:
                best = best_evaluation(self.run.log_file)
                self._track(lambda tracker: tracker.finish(self.run.model_dir, best))
            self._track(lambda tracker: tracker.close(failed=kind is not None))

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one optimizer step."""
        if not self.writes:
            return
        self._write({"step": step, **metrics})
        text = f"loss {metrics['loss']:.3f}  {metrics['samples_per_second']:.1f} samples/s"
        self._bar.update(self._task, completed=step, loss=text)
        interval = max(1, self.total_steps // LOGGED_STEPS)
        if self._bar.disable and (step % interval == 0 or step == self.total_steps):
            logger.info("step %d of %d  %s", step, self.total_steps, text)
        groups = {name: "machine" if name in MACHINE_METRICS else "train" for name in metrics}
        named = {f"{groups[name]}/{name}": value for name, value in metrics.items()}
        self._track(lambda tracker: tracker.log(step, named))

    def describe(self, activity: str) -> None:
        """Show the current activity in front of the progress bar."""
        if self.writes:
            self._bar.update(self._task, description=activity)

    def evaluation(
        self,
        step: int,
        metrics: Mapping[str, Any],
        scores: Scores | None,
        samples: Sequence[Sample],
    ) -> None:
        """Record one evaluation; `scores` are of `samples`, None if only the loss was computed."""
        if not self.writes:
            return
        line, headline = {"step": step, **metrics}, [f"loss {metrics['validation_loss']:.4f}"]
        if scores is not None:
            line |= _plain_values(scores)
            values = {name: line["model"][name] for name in headline_metrics(scores.template)}
            headline += [f"{name} {each:.3f}" for name, each in values.items() if each is not None]
        self._write(line)
        logger.info("step %d: validation %s", step, ", ".join(headline))
        self._track(lambda tracker: tracker.log(step, rename_evaluation(line)))
        if scores is not None:
            _attempt("showing the predictions", lambda: self._show(step, scores, samples))
        if time.monotonic() - self._last_plots > PLOT_INTERVAL:
            self._draw()

    def _show(self, step: int, scores: Scores, samples: Sequence[Sample]) -> None:
        template = find_template(str(self.run.template_file))
        shown = plots.show_predictions(scores.predictions, samples, template)
        self._shown = shown, step
        self._track(lambda tracker: tracker.show(step, shown))

    def _draw(self) -> None:
        def draw() -> None:
            plots.draw_plots(self.run)
            if self._shown is not None:
                figure = plots.draw_predictions(*self._shown)
                plots.save_figure(figure, self.run.plots_dir / "answers.png")

        _attempt("drawing the plots", draw)
        self._last_plots = time.monotonic()

    def _track(self, act: Callable[[Tracker], None]) -> None:
        """Call the tracker; one that fails is dropped."""
        tracker = self._tracker
        if tracker is not None and not _attempt(self.report_to, lambda: act(tracker)):
            self._tracker = None
            with suppress(Exception):  # It may be too broken to be closed.
                tracker.close(failed=True)

    def _write(self, line: Mapping[str, object]) -> None:
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()


def _attempt(name: str, act: Callable[[], object]) -> bool:
    """Call what must not stop a training; return whether it succeeded."""
    try:
        act()
    # W&B, TensorBoard and the disk below them fail in ways of their own, and none is a reason to
    # lose hours of training.
    except Exception as problem:
        _warn(name, problem)
        return False
    return True


def _warn(name: str, problem: Exception) -> None:
    kind = type(problem).__name__
    logger.warning("%s failed (%s: %s) and is dropped; log.jsonl continues", name, kind, problem)


def _progress_bar() -> Progress:
    console = Console(stderr=True)
    counted = ("{task.description:<10}", BarColumn(), MofNCompleteColumn())
    columns = (*counted, "{task.fields[loss]}", TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _plain_values(scores: Scores) -> dict[str, Any]:
    # As {"uses_image": True, …, "model": {"parse_rate": 1.0, …}, "shuffled": {…}, "constant": {…}}
    return {
        system: {
            name: None if math.isnan(estimate.value) else round(estimate.value, 6)
            for name, estimate in scores.estimates[system].items()
        }
        for system in ("model", "shuffled", "constant")
        if system in scores.estimates
    } | {"uses_image": scores.uses_image, "shuffled_image_check": scores.shuffled_image_check}


def rename_evaluation(line: Mapping[str, Any]) -> dict[str, float]:
    """Prefix the metrics of an evaluation for a tracker; missing ones are left out.

    Input:  {"step": 5, "validation_loss": 1.5, "model": {"price_mae": 80.0, "title_exact": None},
             "shuffled": {"price_mae": 90.0}}
    Output: {"validation/loss": 1.5, "validation/price_mae": 80.0, "shuffled/price_mae": 90.0}
    """
    named: dict[str, Any] = {"validation/loss": line["validation_loss"]}
    named |= {f"validation/{name}": line.get(name) for name in ("uses_image", "is_best", "seconds")}
    for system, prefix in (("model", "validation"), ("shuffled", "shuffled")):
        named |= {f"{prefix}/{name}": value for name, value in line.get(system, {}).items()}
    return {name: value for name, value in named.items() if value is not None}


def best_evaluation(log: Path) -> dict[str, object]:
    """Return the metrics of the evaluation whose weights are kept; {} without any."""
    kept = [line for line in read_history(log).evaluations if line.get("is_best")]
    if not kept:
        return {}
    names = ("step", "epoch", "validation_loss")
    return {**{name: kept[-1].get(name) for name in names}, **kept[-1].get("model", {})}


def truncate_log(log: Path, step: int) -> None:
    """Remove the lines after a step, which a resumed run writes again, and an incomplete one."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    kept, lines = [], text.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            if number < len(lines):  # else it is the one in which the run was killed
                logger.warning("%s is damaged from line %d on, which is lost", log, number)
            break
    write_text(log, "".join(kept))


def _open_wandb(tracking: Tracking) -> "WandbRun":
    from phi_vision.training.tracking.wandb_run import WandbRun

    return WandbRun(tracking.run, tracking.recipe)


TRACKERS: dict[str, Callable[[Tracking], "Tracker | None"]] = {
    "wandb": _open_wandb,
    "tensorboard": lambda tracking: TensorboardRun(
        tracking.run, tracking.recipe, tracking.first_step
    ),
    "none": lambda tracking: None,
}
"""Name -> what opens it."""
