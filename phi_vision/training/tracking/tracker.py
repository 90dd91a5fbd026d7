"""What a run writes down while it goes: log.jsonl, plots/, a progress bar, and one tracker.

A line of log.jsonl is one optimizer step or one evaluation. No tracker can stop a training: one
that breaks is named and left out. Of several processes only the first writes.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from phi_vision.data.samples import Sample
from phi_vision.data.template import find_template
from phi_vision.metrics.field_metrics import headline_metrics
from phi_vision.metrics.scores import Scores
from phi_vision.runs import RunDir
from phi_vision.training.tracking.log_lines import (
    best_evaluation,
    forget_after,
    name_evaluation,
    name_step,
    plain_figures,
)
from phi_vision.training.tracking.plots import draw_plots, write_image
from phi_vision.training.tracking.prediction_sheet import draw_answers
from phi_vision.training.tracking.prediction_table import ShownPrediction, show_answers
from phi_vision.training.tracking.run_metadata import RunFacts
from phi_vision.training.tracking.tensorboard import TensorboardRun
from phi_vision.training.tracking.wandb import WandbRun

logger = logging.getLogger(__name__)

LINES_WITHOUT_TERMINAL = 20
"""Progress lines of a run whose output goes to a file."""

SECONDS_BETWEEN_PLOTS = 20.0
"""Plots take a second to draw, so those of evaluations that follow each other faster are left out;
those of the end never are."""


class Tracker(Protocol):
    """Where curves and answers go besides the run folder."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures, named `train/loss`, `validation/loss`, `machine/cpu_percent`, …"""

    def show(self, step: int, answers: Sequence[ShownPrediction]) -> None:
        """Show what was answered at an evaluation."""

    def finish(self, model: Path, best: Mapping[str, object]) -> None:
        """Keep the best weights of a run that came to its end, and what is known of them."""

    def close(self, *, failed: bool) -> None:
        """End, on any way out."""


class Tracking:
    """Writes a run down; a context, so that it ends well on any way out.

    With `writes` off nothing is written: of several processes one does.
    """

    def __init__(
        self, facts: RunFacts, *, first_step: int, total_steps: int, writes: bool = True
    ) -> None:
        self.facts = facts
        self.writes = writes
        self.first_step = first_step
        self.total_steps = total_steps
        self.bar = _progress_bar()
        self._stack = ExitStack()
        self._is_open = False
        self._tracker: Tracker | None = None
        self._drawn = time.monotonic()

    def __enter__(self) -> Self:
        if self.writes:
            self._open()
        return self

    def _open(self) -> None:
        path = RunDir(self.facts.folder).log_file
        forget_after(path, self.first_step)
        self._log = self._stack.enter_context(path.open("a", encoding="utf-8"))
        self._tracker = _open_tracker(self.facts, self.first_step)
        self._stack.enter_context(self.bar)
        self._task = self.bar.add_task(
            "training", total=self.total_steps, completed=self.first_step, figures=""
        )
        self._is_open = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if not self._is_open:
            return
        self._draw()
        if kind is None:
            best = best_evaluation(RunDir(self.facts.folder).log_file)
            self._tell(lambda tracker: tracker.finish(self.facts.model, best))
        self._tell(lambda tracker: tracker.close(failed=kind is not None))

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Write down one optimizer step."""
        if not self._is_open:
            return
        self._write({"step": step, **figures})
        words = f"loss {figures['loss']:.3f}  {figures['samples_per_second']:.1f} samples/s"
        self.bar.update(self._task, completed=step, figures=words)
        every = max(1, self.total_steps // LINES_WITHOUT_TERMINAL)
        if self.bar.disable and (step % every == 0 or step == self.total_steps):
            logger.info("step %d of %d  %s", step, self.total_steps, words)
        self._tell(lambda tracker: tracker.log(step, name_step(figures)))

    def say(self, doing: str) -> None:
        """Show in front of the bar what is being done."""
        if self._is_open:
            self.bar.update(self._task, description=doing)

    def evaluation(
        self,
        step: int,
        figures: Mapping[str, Any],
        scores: Scores | None,
        samples: Sequence[Sample],
    ) -> None:
        """Write down one evaluation; `scores` are of `samples`, None where only loss was had."""
        if not self._is_open:
            return
        values = {} if scores is None else plain_figures(scores)
        canary = (
            {}
            if scores is None
            else {
                "uses_image": scores.uses_image,
                "shuffled_image_check": scores.shuffled_image_check,
            }
        )
        line = {"step": step, **figures, **values, **canary}
        self._write(line)
        told = "".join(
            f", {name} {values['model'][name]:.3f}"
            for name in (headline_metrics(scores.template) if scores is not None else ())
            if values["model"][name] is not None
        )
        logger.info("step %d: validation loss %.4f%s", step, figures["validation_loss"], told)
        self._tell(lambda tracker: tracker.log(step, name_evaluation(line)))
        if scores is not None:
            _attempt("showing the answers", lambda: self._show(step, scores, samples))
        if time.monotonic() - self._drawn > SECONDS_BETWEEN_PLOTS:
            self._draw()

    def _show(self, step: int, scores: Scores, samples: Sequence[Sample]) -> None:
        template = find_template(str(RunDir(self.facts.folder).template_file))
        answers = show_answers(scores.predictions, samples, template)
        write_image(
            draw_answers(answers, step), RunDir(self.facts.folder).plots_dir / "answers.png"
        )
        self._tell(lambda tracker: tracker.show(step, answers))

    def _draw(self) -> None:
        _attempt("drawing the plots", lambda: draw_plots(self.facts.folder))
        self._drawn = time.monotonic()

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        """Tell the tracker something; one that breaks is not told anything any more."""
        tracker = self._tracker
        if tracker is not None and not _attempt(self.facts.tracker, lambda: what(tracker)):
            self._tracker = None
            with suppress(Exception):  # It may be too broken to be closed, and that was said.
                tracker.close(failed=True)

    def _write(self, record: Mapping[str, object]) -> None:
        self._log.write(json.dumps(record) + "\n")
        self._log.flush()


def _open_tracker(facts: RunFacts, first_step: int) -> Tracker | None:
    try:
        return TRACKERS[facts.tracker](facts, first_step)
    except ImportError as error:
        raise ValueError(
            f"tracker {facts.tracker} needs a library that is not installed ({error}); "
            f"pip install 'phi-vision[{facts.tracker}]', or use another tracker"
        ) from error
    except Exception as problem:
        _say_left_out(facts.tracker, problem)
        return None


def _attempt(what: str, act: Callable[[], object]) -> bool:
    """Do what must not stop a training; say where it broke, and whether it did not."""
    try:
        act()
    # W&B, TensorBoard and the disk below them fail in ways of their own, and none is a reason to
    # lose hours of training.
    except Exception as problem:
        _say_left_out(what, problem)
        return False
    return True


def _say_left_out(what: str, problem: Exception) -> None:
    name = type(problem).__name__
    logger.warning("%s broke (%s: %s) and is left out; log.jsonl goes on", what, name, problem)


def _progress_bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


TRACKERS: dict[str, Callable[[RunFacts, int], Tracker | None]] = {
    "wandb": lambda facts, _: WandbRun(facts),
    "tensorboard": lambda facts, first_step: TensorboardRun(facts, first_step=first_step),
    "none": lambda facts, first_step: None,
}
"""Name -> what opens it, given the facts of a run and the steps that are already done."""
