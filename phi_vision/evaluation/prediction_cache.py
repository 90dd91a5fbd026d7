"""Prediction cache: each prediction is stored as soon as it exists, so an evaluation resumes.

Its lines are JSON: {"asked": "9f86d08…"}, the fingerprint of all that decides the predictions, then
{"place": 1, "id": "B-blue", "text": "…", "confidence": {"title": 0.8}, "seconds": 0.4} for each.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample, select
from phi_vision.data.template import Template
from phi_vision.evaluation.config import Progress, failure
from phi_vision.inference.predictor import FilePredictor, Predictor
from phi_vision.io.hashing import sha256


def predict_cached(
    predictor: Predictor,
    samples: Sequence[Sample],
    file: Path,
    grammar: str | None = None,
    *,
    key: str,
    known: dict[object, Prediction] | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Prediction]:
    """Predict the samples that the file lacks, and return the predictions of all, in order.

    Samples with the very same images (white ones of one size, none at all) and conversations are
    predicted once; `known` holds such predictions of the same predictor and takes the new ones, so
    that shuffled images need no others. A batch arrives at once: the `seconds` of its first
    prediction are those of all. The key is the fingerprint of model, template, samples and grammar.
    """
    known = {} if known is None else known
    inputs: list[object] = [
        # A file knows samples by their ids.
        each.id
        if isinstance(predictor, FilePredictor)
        else (grammar, *map(sha256, each.images), each.messages[:-1])
        for each in samples
    ]
    first: dict[object, int] = {}
    places = [first.setdefault(each, place) for place, each in enumerate(inputs)]
    total = len(set(places))
    with _opened(file) as cache:
        predictions = _read(cache, file, key, samples, predictor.template)
        shared = {place for place in set(places) - set(predictions) if inputs[place] in known}
        predictions |= {place: known[inputs[place]] for place in shared}
        missing = sorted(set(places) - set(predictions))
        progress(total - len(missing), total)
        before = time.perf_counter()
        todo = select(samples, missing)
        for index, found in predictor.predict_samples(todo, grammar=grammar) if todo else ():
            now, place = time.perf_counter(), missing[index]
            seconds, before = round(now - before, 6), now
            row = {"place": place, "id": samples[place].id, "text": found.text}
            row |= {"confidence": dict(found.confidence), "seconds": seconds}
            _append(cache, file, row)
            predictions[place] = dataclasses.replace(found, seconds=seconds)
            progress(len(predictions), total)
    known |= {inputs[place]: each for place, each in predictions.items()}
    return [predictions[place] for place in places]


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """Open a cache to read and append; a failure before a prediction leaves no file or folder."""
    made = [folder for folder in file.parents if not folder.exists()]
    with _storing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        cache = file.open("a+b", buffering=0)  # unbuffered: an interruption loses no line
    try:
        with cache:
            yield cache
    except BaseException:
        with suppress(OSError):  # others may write there meanwhile
            if file.read_bytes().count(b"\n") < 2:
                file.unlink()
                for folder in made:
                    folder.rmdir()
        raise


def _read(
    cache: IO[bytes], file: Path, key: str, samples: Sequence[Sample], template: Template
) -> dict[int, Prediction]:
    """Read the predictions by place, and leave the file ready for the next line."""
    cache.seek(0)
    # An interrupted write leaves part of a line: that prediction is repeated.
    whole, newline, _ = cache.read().rpartition(b"\n")
    head, *lines = whole.split(b"\n")
    if newline and head != json.dumps({"asked": key}).encode():
        raise failure("other_cache", file=file)
    cache.truncate(len(whole) + len(newline))
    if not newline:
        _append(cache, file, {"asked": key})
    predictions, ids = {}, {place: sample.id for place, sample in enumerate(samples)}
    for number, line in enumerate(lines, start=2):
        try:
            row = json.loads(line)
            id, text, confidence = row["id"], row["text"], row["confidence"]
            if ids[row["place"]] != id:
                raise ValueError(f"it is of sample {id}")
            predictions[row["place"]] = Prediction.parse(
                text, template, confidence=confidence, seconds=row["seconds"], source=id
            )
        except (ValueError, TypeError, KeyError) as error:
            raise failure("cached", file=file, number=number) from error
    return predictions


def _append(cache: IO[bytes], file: Path, row: dict[str, Any]) -> None:
    rest = json.dumps(row).encode() + b"\n"
    with _storing(file):
        while rest:  # an almost full disk takes a part, and rejects the rest
            rest = rest[cache.write(rest) :]


@contextmanager
def _storing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failure("not_stored", file=file, error=error.strerror) from error
