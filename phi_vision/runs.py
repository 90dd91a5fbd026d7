"""RunDir: every file name and format of a run folder, once, and the readers of its files.

    recipe.yaml      the resolved recipe; trains the same run again
    template.yaml    the prompt template
    versions.json    versions of Python and the libraries, fingerprint of the data
    log.jsonl        one line per optimizer step or evaluation
    checkpoints/     checkpoint-STEP folders to resume from
    model/           the best weights
    plots/           curves as PNG
    report/          the evaluation: see ReportDir

`model.checkpoint.resolve` repeats the name `model`, because it may import only `io`.
"""

import itertools
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import yaml

from phi_vision import __version__
from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template
from phi_vision.io.formatting import read_fields, yaml_fault
from phi_vision.io.hashing import sha256, sha256_of_all

RECIPE_FILE = "recipe.yaml"
CHECKPOINT_PREFIX = "checkpoint-"
STATE_FILE = "trainer_state.json"  # written last: a checkpoint without it is incomplete
DATA_FINGERPRINT = "data_sha256"  # key in versions.json of the fingerprint of the training data
LIBRARIES = ("torch", "transformers", "peft", "tokenizers")

SMOOTHING = 0.06  # width of the window that a loss is averaged over, as a share of the run
MAX_POINTS = 2000  # of a drawn curve: a plot has no more pixels than that

LogLine = Mapping[str, Any]


class History(NamedTuple):
    """The lines of a run's log.jsonl, by kind; evaluations have a validation loss."""

    steps: Sequence[LogLine]
    evaluations: Sequence[LogLine]


class Curve(NamedTuple):
    """Points to draw, in the order of the steps."""

    steps: Sequence[float]
    values: Sequence[float]


class ReportDir:
    """The folder of an evaluation: `report/` in a run, or any other."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.page_file = self.path / "report.html"
        self.summary_file = self.path / "report.md"
        self.scores_file = self.path / "scores.json"
        self.predictions_file = self.path / "predictions.jsonl"
        self.template_file = self.path / TEMPLATE_FILE

    def scores(self) -> dict[str, Any]:
        """Read scores.json."""
        return read_fields(self.scores_file, "evaluate again")

    def predictions(self, template: Template) -> tuple[ScoredPrediction, ...]:
        """Read the prediction of each sample from predictions.jsonl; the texts are parsed again."""
        predictions, file = [], self.predictions_file
        for number, line in enumerate(_read_text(file).splitlines(), start=1):
            try:
                predictions.append(_scored(json.loads(line), template))
            except (ValueError, TypeError, KeyError) as error:
                found = f"{error!r}; found {line:.80}; evaluate again"
                raise ValueError(f"{file}, line {number} is not a prediction: {found}") from error
        if not predictions:
            raise ValueError(f"{file} holds no predictions; evaluate again")
        return tuple(predictions)


class RunDir:
    """The folder of a run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / RECIPE_FILE
        self.template_file = self.path / TEMPLATE_FILE
        self.versions_file = self.path / "versions.json"
        self.log_file = self.path / "log.jsonl"
        self.checkpoints_dir = self.path / "checkpoints"
        self.model_dir = self.path / "model"
        self.plots_dir = self.path / "plots"
        self.report = ReportDir(self.path / "report")

    @staticmethod
    def is_run(path: str | Path) -> bool:
        """Whether a path is the folder of a run."""
        return (Path(path) / RECIPE_FILE).is_file()

    def recipe_text(self) -> str:
        """Read the recipe as YAML; "" without one."""
        return self.recipe_file.read_text(encoding="utf-8") if self.is_run(self.path) else ""

    def recipe(self, default: str = "") -> Mapping[str, Any]:
        """Read the fields of the recipe, or of the `default` YAML, without checking them."""
        try:
            fields = yaml.safe_load(self.recipe_text() or default)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.recipe_file} is no YAML: {yaml_fault(error)}") from error
        return fields if isinstance(fields, dict) else {}

    def versions(self) -> Mapping[str, str]:
        """Read versions.json; {} without one."""
        advice = "remove it, or train again"
        return read_fields(self.versions_file, advice) if self.versions_file.is_file() else {}

    def history(self) -> History | None:
        """Read log.jsonl; None without one."""
        return read_history(self.log_file) if self.log_file.is_file() else None

    def checkpoints(self) -> list[Path]:
        """List the checkpoint folders by step, incomplete ones included."""
        found = self.checkpoints_dir.glob(f"{CHECKPOINT_PREFIX}*")
        named = (each for each in found if each.name.removeprefix(CHECKPOINT_PREFIX).isdecimal())
        return sorted((folder for folder in named if folder.is_dir()), key=checkpoint_step)

    def last_checkpoint(self) -> Path | None:
        """Find the last checkpoint that was written to its end."""
        return next(filter(is_complete, reversed(self.checkpoints())), None)


def checkpoint_step(checkpoint: Path) -> int:
    """Read the optimizer step off a checkpoint's name."""
    return int(checkpoint.name.removeprefix(CHECKPOINT_PREFIX))


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    try:
        json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def read_history(log: Path) -> History:
    """Read a log."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    evaluations = [line for line in lines if "validation_loss" in line]
    return History([line for line in lines if "loss" in line], evaluations)


def collect_versions(data: str) -> dict[str, str]:
    """List the content of versions.json: Python, libraries, the given fingerprint of the data."""
    return {"python": platform.python_version(), **package_versions(), DATA_FINGERPRINT: data}


def package_versions() -> dict[str, str]:
    """List the versions of the libraries and of this package, which need not be installed."""
    return {**{name: version(name) for name in LIBRARIES}, "phi-vision": __version__}


def fingerprint(samples: Sequence[Sample]) -> str:
    """Hash ids, groups, records, images and conversations of samples, in order."""
    # Records without a conversation keep the hash that they had before there were any.
    records = (
        json.dumps([s.id, s.group, dict(s.record), *filter(None, (s.messages, s.rejected))])
        for s in samples
    )
    images = ([sha256(image) for image in sample.images] for sample in samples)
    return sha256_of_all(map(json.dumps, zip(records, images, strict=True)))


def curve(lines: Sequence[LogLine], name: str) -> Curve:
    """Extract one value from log lines, where it is a finite number.

    Input:  {"step": 1, "loss": 2.5} {"step": 2, "loss": null} {"step": 3, "loss": 2.0}
    Output: steps 1 3, values 2.5 2.0
    """
    known = [line for line in lines if line.get(name) is not None and math.isfinite(line[name])]
    return Curve([line["step"] for line in known], [line[name] for line in known])


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Compute the centered moving average; at the ends over fewer values.

    Input:  0 6 3 3, window 3
    Output: 3 3 4 3
    """
    sums, half = [0.0, *itertools.accumulate(values)], window // 2
    spans = ((max(0, at - half), min(len(values), at + half + 1)) for at in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def thin(points: Curve, limit: int = MAX_POINTS) -> Curve:
    """Average runs of consecutive points until at most `limit` are left.

    Input:  steps 1 2 3 4, values 1.0 3.0 5.0 5.0, limit 2
    Output: steps 1.5 3.5, values 2.0 5.0
    """
    size = math.ceil(len(points.steps) / limit) or 1
    places = range(0, len(points.steps), size)
    return Curve(*([fmean(values[at : at + size]) for at in places] for values in points))


def _scored(row: LogLine, template: Template) -> ScoredPrediction:
    id, text, held = str(row["id"]), str(row["text"]), row.get("confidence") or {}
    confidence = {str(name): float(each) for name, each in dict(held).items() if each is not None}
    # The text and not the kept record: JSON has neither NaN nor infinity.
    parsed = Prediction.parse(text, template, confidence=confidence, source=id)
    truth = template.select(row["truth"])
    return ScoredPrediction(id=id, group=str(row["group"]), truth=truth, prediction=parsed)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {file}: {error}; evaluate again") from error
