"""Prediction cache: each prediction is stored as soon as it exists, so an evaluation resumes.

A cache file has one JSON object per line: first the fingerprint of all that decides the
predictions, then the predictions.

    {"asked": "9f86d08…"}
    {"place": 1, "id": "B-blue", "text": "Product: Sun Hat, ...", "confidence": {"title": 0.8},
     "seconds": 0.4}
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.evaluation.ablations import PredictionTask
from phi_vision.evaluation.config import Progress, ProgressBar
from phi_vision.inference.predictions_file import FilePredictor
from phi_vision.inference.predictor import Predictor, model_identity
from phi_vision.io.hashing import digest
from phi_vision.runs import fingerprint

KEYS = {"place", "id", "text", "confidence", "seconds"}
"""Keys of each line but the first; the place is the index of the sample."""


@dataclass(kw_only=True)
class PredictionCollector:
    """The predictions of an evaluation, by system of `metrics.scores.SYSTEMS`."""

    folder: Path
    """Holds a cache file for each system and fingerprint."""

    bar: ProgressBar

    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    """System -> a prediction for each sample."""

    left_out: dict[str, str] = field(default_factory=dict)
    """System that was not run -> reason."""

    seconds: dict[str, float] = field(default_factory=dict)
    """System -> mean seconds per prediction, cached ones included."""

    def predict(self, system: str, model: str, predictor: Predictor, task: PredictionTask) -> None:
        """Predict the samples of a task that are not in the cache."""
        identity = {
            "model": model_identity(model),
            "template": dataclasses.asdict(predictor.template),
            "samples": fingerprint(task.samples),
            "grammar": task.grammar,
        }
        key = digest(identity)
        file = self.folder / f"{system}-{key[:12]}.jsonl"
        with self.bar(f"predicting: {system.replace('_', ' ')}") as progress:
            self.predictions[system] = predict_cached(
                predictor, task, file, key=key, progress=progress
            )
        self.seconds[system] = mean_seconds(file)


def predict_cached(
    predictor: Predictor,
    task: PredictionTask,
    file: Path,
    *,
    key: str,
    progress: Progress = lambda done, total: None,
) -> list[Prediction]:
    """Predict the samples that the file lacks, and return the predictions of all, in order.

    Samples with the very same images (white ones of one size, none at all) are predicted once.

    Args:
        predictor: Not called where the file is complete.
        task: The samples and the grammar.
        file: The cache file; created with its folder where it does not exist.
        key: Fingerprint of all that decides the predictions: model, template, samples, grammar.
        progress: Called at the start and after each prediction.

    Raises:
        ValueError: The file has another fingerprint, is damaged or cannot be written, or a sample
            cannot be predicted.
    """
    samples = task.samples
    places = list(range(len(samples)))
    if not isinstance(predictor, FilePredictor):  # a file knows samples by their ids
        first: dict[tuple[bytes, ...], int] = {}
        places = [first.setdefault(sample.images, place) for place, sample in enumerate(samples)]
    total = len(set(places))
    with _open(file) as cache:
        predictions = _read(cache, file, key, samples, predictor.template)
        missing = sorted(set(places) - set(predictions))
        progress(total - len(missing), total)
        before = time.perf_counter()
        todo = [samples[place] for place in missing]
        for index, prediction in (
            predictor.predict_samples(todo, grammar=task.grammar) if todo else ()
        ):
            now, place = time.perf_counter(), missing[index]
            line = {
                "place": place,
                "id": samples[place].id,
                "text": prediction.text,
                "confidence": dict(prediction.confidence),
                "seconds": round(now - before, 6),
            }
            _append(cache, file, line)
            before = now
            predictions[place] = prediction
            progress(len(predictions), total)
    return [predictions[place] for place in places]


def mean_seconds(file: Path) -> float:
    """Compute the mean seconds per prediction of a cache file; NaN without any.

    A batch arrives at once: its first prediction carries all its time.
    """
    _, *lines = file.read_text(encoding="utf-8").splitlines()
    seconds = [float(json.loads(line)["seconds"]) for line in lines]
    return sum(seconds) / len(seconds) if seconds else math.nan


def _read(
    cache: IO[bytes], file: Path, key: str, samples: Sequence[Sample], template: Template
) -> dict[int, Prediction]:
    """Read the predictions by place, and leave the file ready for the next line."""
    cache.seek(0)
    # An interrupted write leaves part of a line: that prediction is repeated.
    whole, newline, _ = cache.read().rpartition(b"\n")
    if not newline:
        cache.truncate(0)
        _append(cache, file, {"asked": key})
        return {}
    header, *rows = [
        _parse_line(line, file, number) for number, line in enumerate(whole.split(b"\n"), start=1)
    ]
    if header != {"asked": key}:
        raise ValueError(
            f"{file} holds predictions of another evaluation (another model, template or data); "
            "choose another folder with --out, or delete the file"
        )
    cache.truncate(len(whole) + len(newline))
    ids = {place: sample.id for place, sample in enumerate(samples)}
    predictions = {}
    for number, row in enumerate(rows, start=2):
        if row.keys() != KEYS or ids.get(row["place"]) != row["id"]:
            raise _damaged(file, number)
        predictions[row["place"]] = Prediction.parse(
            row["text"],
            template,
            confidence=row["confidence"],
            seconds=row["seconds"],
            source=row["id"],
        )
    return predictions


def _parse_line(line: bytes, file: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise _damaged(file, number) from error
    if not isinstance(row, dict):
        raise _damaged(file, number)
    return row


def _damaged(file: Path, number: int) -> ValueError:
    return ValueError(
        f"{file}, line {number} is no prediction of this evaluation; delete the file to predict "
        "again"
    )


@contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    """Open a file to read and append; unbuffered, so that an interruption loses no line."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        cache = file.open("a+b", buffering=0)
    except OSError as error:
        raise _unwritable(file, error) from error
    with cache:
        yield cache


def _append(cache: IO[bytes], file: Path, row: dict[str, Any]) -> None:
    rest = json.dumps(row).encode() + b"\n"
    try:
        while rest:  # an almost full disk takes a part, and rejects the rest
            rest = rest[cache.write(rest) :]
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> ValueError:
    return ValueError(
        f"cannot store predictions in {file}: {error.strerror}; free space or choose another folder"
    )
