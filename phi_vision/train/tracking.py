"""What a run writes down: progress bar, log.jsonl, versions.json, and Weights & Biases on request.

Nothing here can stop a training: without a login or a network W&B writes beside the run, to be
sent later with `wandb sync`.
"""

import hashlib
import json
import logging
import math
import netrc
import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlparse

import wandb
from PIL import ImageOps
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phi_vision.data.sample import Sample
from phi_vision.evaluate.score import Answer, Scores
from phi_vision.train.recipes import Recipe

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "phi-vision")
SHOWN_ANSWERS = 8
"""Answers that each evaluation sends to W&B with their pictures."""
SHOWN_SIZE = (224, 224)
"""Width and height of those pictures in pixels."""
LINES_WITHOUT_TERMINAL = 20
"""Progress lines of a run whose output goes to a file."""


class Tracking:
    """Writes a run down while it goes; a context, so that it ends well on any way out."""

    def __init__(self, recipe: Recipe, *, first_step: int, total_steps: int) -> None:
        self.recipe = recipe
        self.first_step = first_step
        self.total_steps = total_steps
        self.bar = _progress_bar()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        path = self.recipe.out / "log.jsonl"
        forget_after(path, self.first_step)
        self._log = self._stack.enter_context(path.open("a", encoding="utf-8"))
        self._wandb = None
        if self.recipe.tracker == "wandb":
            self._wandb = self._stack.enter_context(open_wandb(self.recipe))
        self._stack.enter_context(self.bar)
        self._task = self.bar.add_task(
            "training", total=self.total_steps, completed=self.first_step, figures=""
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Write down one optimizer step."""
        self._write({"step": step, **figures})
        words = f"loss {figures['loss']:.3f}  {figures['samples_per_second']:.1f} samples/s"
        self.bar.update(self._task, completed=step, figures=words)
        every = max(1, self.total_steps // LINES_WITHOUT_TERMINAL)
        if self.bar.disable and (step % every == 0 or step == self.total_steps):
            logger.info("step %d of %d  %s", step, self.total_steps, words)
        if self._wandb:
            self._wandb.log({f"train/{name}": value for name, value in figures.items()}, step=step)

    def say(self, doing: str) -> None:
        """Show in front of the bar what is being done."""
        self.bar.update(self._task, description=doing)

    def evaluation(
        self,
        step: int,
        figures: Mapping[str, object],
        scores: Scores | None,
        samples: Sequence[Sample],
    ) -> None:
        """Write down one evaluation; `scores` are of `samples`, None where only loss was had."""
        values = {} if scores is None else plain_figures(scores)
        canary = {} if scores is None else {"looks": scores.looks, "canary": scores.canary}
        self._write({"step": step, **figures, **values, **canary})
        accuracy = values.get("model", {}).get("category_accuracy")
        right = "" if accuracy is None else f", {accuracy:.0%} of categories right"
        logger.info("step %d: validation loss %.4f%s", step, figures["validation_loss"], right)
        if self._wandb:
            self._wandb.log(_for_wandb(figures, values), step=step)
            if scores is not None:
                self._wandb.log(_shown(scores.answers, samples), step=step)

    def _write(self, record: Mapping[str, object]) -> None:
        self._log.write(json.dumps(record) + "\n")
        self._log.flush()


class StepCallback(TrainerCallback):
    """Hands each step of the Trainer to a Tracking."""

    def __init__(self, tracking: Tracking, samples_per_step: int) -> None:
        self.tracking = tracking
        self.samples_per_step = samples_per_step
        self._since = time.perf_counter()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Write down a step; evaluations log too, and come from elsewhere."""
        if logs is None or "loss" not in logs:
            return
        now = time.perf_counter()
        speed = self.samples_per_step / (now - self._since)
        self._since = now
        names = ("epoch", "loss", "learning_rate", "grad_norm")
        figures = {name: logs[name] for name in names if name in logs}
        self.tracking.step(state.global_step, {**figures, "samples_per_second": round(speed, 3)})

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Leave the time of an evaluation out of the speed of training."""
        self._since = time.perf_counter()

    def on_save(self, *_: Any, **__: Any) -> None:
        """Leave the time of a checkpoint out of the speed of training."""
        self._since = time.perf_counter()


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
    log.write_text("".join(kept), encoding="utf-8")


def versions(samples: Sequence[Sample]) -> dict[str, str]:
    """Name what a run depends on besides its recipe: Python, libraries, and the data's content."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "data_sha256": fingerprint(samples),
    }


def fingerprint(samples: Sequence[Sample]) -> str:
    """Hash ids, records and pictures of samples, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        words = json.dumps([sample.id, sample.group, dict(sample.record)], ensure_ascii=True)
        pictures = [hashlib.sha256(picture).hexdigest() for picture in sample.images]
        digest.update(json.dumps([words, pictures]).encode())
    return digest.hexdigest()


def plain_figures(scores: Scores) -> dict[str, dict[str, float | None]]:
    """Give the figures of the model, with its own and with shuffled pictures, without intervals.

    Output: {"model": {"parse_rate": 1.0, …}, "shuffled": {"parse_rate": 1.0, …}}
    """
    return {
        who: {
            name: None if math.isnan(figure.value) else round(figure.value, 6)
            for name, figure in scores.figures[who].items()
        }
        for who in ("model", "shuffled")
        if who in scores.figures
    }


def is_logged_in() -> bool:
    """Whether W&B would find a key: in the environment, or in netrc as `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return bool(host and path.is_file() and netrc.netrc(path).authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


@contextmanager
def open_wandb(recipe: Recipe) -> Iterator[Any]:
    """Open a W&B run that keeps all its files inside the run folder: online when logged in."""
    place = recipe.out / "wandb"
    place.mkdir(exist_ok=True)
    files = {
        "WANDB_DIR": recipe.out,
        "WANDB_DATA_DIR": place / "data",
        "WANDB_CACHE_DIR": place / "cache",
        "WANDB_ARTIFACT_DIR": place / "artifacts",
    }
    with _environment({name: str(path.resolve()) for name, path in files.items()}):
        wished = os.environ.get("WANDB_MODE") or ("online" if is_logged_in() else "offline")
        try:
            run = _start_wandb(recipe, wished)
        except wandb.Error as problem:
            logger.warning("W&B did not answer (%s); this run is recorded offline", problem)
            run = _start_wandb(recipe, "offline")
        try:
            yield run
        finally:
            run.finish()


def _start_wandb(recipe: Recipe, mode: Any) -> Any:
    config = {name: str(value) for name, value in vars(recipe).items()}
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "phi-vision"),
        name=recipe.out.name,
        # The same folder is the same run, also after it was resumed.
        id=_wandb_id(recipe.out),
        resume="allow" if mode == "online" else None,
        dir=recipe.out.resolve(),
        config=config,
        mode=mode,
        settings=wandb.Settings(silent=True, console="off", init_timeout=30, disable_git=True),
    )


def _wandb_id(out: Path) -> str:
    """Read the run's W&B id, or choose one and keep it."""
    file = out / "wandb" / "id"
    if not file.is_file():
        file.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _for_wandb(
    figures: Mapping[str, object], values: Mapping[str, Mapping[str, float | None]]
) -> dict[str, object]:
    flat: dict[str, object] = {f"validation/{name}": value for name, value in figures.items()}
    for who, theirs in values.items():
        prefix = "validation" if who == "model" else f"validation_{who}"
        flat |= {f"{prefix}/{name}": value for name, value in theirs.items() if value is not None}
    return flat


def _shown(answers: Sequence[Answer], samples: Sequence[Sample]) -> dict[str, object]:
    """Show some answers with their pictures: as a table, and as plain pictures readable offline."""
    table = wandb.Table(columns=["id", "picture", "true", "answer"])
    pictures = []
    for answer, sample in list(zip(answers, samples, strict=True))[:SHOWN_ANSWERS]:
        true = ", ".join(str(value) for value in answer.truth.values())
        shown = None
        if sample.images:
            # One size for all, or W&B's page shows them wrong.
            picture = ImageOps.pad(sample.pictures()[0].convert("RGB"), SHOWN_SIZE, color="white")
            shown = wandb.Image(picture, caption=f"{answer.text} (true: {true})")
            pictures.append(shown)
        table.add_data(sample.id, shown, true, answer.text)
    return {"validation/answers": table, "validation/pictures": pictures}


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


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
