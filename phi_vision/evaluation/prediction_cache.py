"""Asking: every sample once, each reply on disk as it comes, so that a kill loses little.

The file has one JSON object per line: first whose answers these are, then the answers.

    {"asked": "9f86d08…"}
    {"place": 1, "id": "B-blue", "text": "Product: Sun Hat, ...", "confidence": {"title": 0.8},
     "seconds": 0.4}
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.inference.predictions_file import FilePredictor
from phi_vision.inference.predictor import Predictor

KEYS = {"place", "id", "text", "confidence", "seconds"}
"""What each line but the first holds; the place is the sample's, counted from 0."""

Progress = Callable[[int, int], None]
"""Called with how many questions are answered, of how many."""


def ask(
    answerer: Predictor,
    samples: Sequence[Sample],
    file: Path,
    *,
    fingerprint: str,
    grammar: str | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Ask about every sample that the file holds no reply for, and return all replies.

    Samples that show the very same images are one question, asked once: white images of one
    size, no image at all.

    Args:
        answerer: Who is asked; not at all where the file holds every reply.
        samples: What is asked about.
        file: Keeps the replies; made with its folder unless it is there.
        fingerprint: Stands for all that decides the replies: who answers, in which wording, about
            which samples, within which grammar.
        grammar: All that may be written; anything unless given.
        progress: Called at the start and after each reply.

    Returns:
        A reply for each sample, in the order of the samples.

    Raises:
        ValueError: The file holds replies of another fingerprint, or something else, or cannot be
            written; a sample cannot be asked about.
    """
    places = _first_places(samples, alike=not isinstance(answerer, FilePredictor))
    questions = sorted(set(places))
    with _open(file) as kept:
        replies = _read(kept, file, fingerprint, samples, answerer.template)
        unanswered = [place for place in questions if place not in replies]
        show = progress or (lambda done, total: None)
        show(len(questions) - len(unanswered), len(questions))
        if unanswered:
            asked = [samples[place] for place in unanswered]
            before = time.perf_counter()
            for number, reply in answerer.predict_samples(asked, grammar=grammar):
                place, now = unanswered[number], time.perf_counter()
                _append(kept, file, _line(place, samples[place], reply, now - before))
                before = now
                replies[place] = reply
                show(len(replies), len(questions))
    return [replies[place] for place in places]


def seconds_a_reply(file: Path) -> float:
    """Say how long a reply took on average, of those that a file keeps; NaN of none.

    Replies of one batch come at once: the first took all its time.
    """
    _, *rows = file.read_text(encoding="utf-8").splitlines()
    taken = [float(json.loads(row)["seconds"]) for row in rows]
    return sum(taken) / len(taken) if taken else math.nan


def _first_places(samples: Sequence[Sample], *, alike: bool) -> list[int]:
    """Say for each sample which place is asked for it: the first with the same images.

    Input:  images a b a, and alike, or not (a file knows samples by their ids)
    Output: [0, 1, 0],           [0, 1, 2]
    """
    first: dict[tuple[bytes, ...], int] = {}
    if not alike:
        return list(range(len(samples)))
    return [first.setdefault(sample.images, place) for place, sample in enumerate(samples)]


def _read(
    kept: IO[bytes], file: Path, fingerprint: str, samples: Sequence[Sample], template: Template
) -> dict[int, Prediction]:
    """Read what an earlier run has asked, and leave the file ready for the next line."""
    kept.seek(0)
    # A kill in the middle of a line leaves its beginning: that reply is asked for again.
    whole, newline, _ = kept.read().rpartition(b"\n")
    if not newline:
        kept.truncate(0)
        _append(kept, file, {"asked": fingerprint})
        return {}
    header, *rows = [
        _row(line, f"{file}, line {number}") for number, line in enumerate(whole.split(b"\n"), 1)
    ]
    if header != {"asked": fingerprint}:
        raise ValueError(
            f"{file} holds answers of another evaluation (another model, wording or data); choose "
            "another folder with --out, or delete the file"
        )
    kept.truncate(len(whole) + len(newline))
    ids = {place: sample.id for place, sample in enumerate(samples)}
    replies = {}
    for number, row in enumerate(rows, start=2):
        if row.keys() != KEYS or ids.get(row["place"]) != row["id"]:
            raise _damaged(f"{file}, line {number}")
        replies[row["place"]] = Prediction.parse(
            row["text"],
            template,
            confidence=row["confidence"],
            seconds=row["seconds"],
            source=row["id"],
        )
    return replies


def _row(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise _damaged(place) from error
    if not isinstance(row, dict):
        raise _damaged(place)
    return row


def _damaged(place: str) -> ValueError:
    return ValueError(f"{place} is no answer of this evaluation; delete the file to ask again")


def _line(place: int, sample: Sample, reply: Prediction, seconds: float) -> dict[str, Any]:
    return {
        "place": place,
        "id": sample.id,
        "text": reply.text,
        "confidence": dict(reply.confidence),
        "seconds": round(seconds, 6),
    }


@contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    """Open a file to read and append; unbuffered, so that a kill loses no line."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = file.open("a+b", buffering=0)
    except OSError as error:
        raise _unwritable(file, error) from error
    with kept:
        yield kept


def _append(kept: IO[bytes], file: Path, row: dict[str, Any]) -> None:
    rest = json.dumps(row).encode() + b"\n"
    try:
        while rest:  # a disk that is almost full takes a part, and refuses what is left
            rest = rest[kept.write(rest) :]
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> ValueError:
    return ValueError(
        f"cannot keep answers in {file}: {error.strerror}; free space or give another folder"
    )
