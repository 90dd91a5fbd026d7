"""Hearing: who was asked what in a trial, what came back, and how long it took."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from phi_vision.data.reply import Reply
from phi_vision.deploy.answerers import Answerer
from phi_vision.evaluate.metrics import Predicted
from phi_vision.journal.versions import fingerprint
from phi_vision.model.checkpoint import adapter_base, resolve
from phi_vision.trial.asking import ask, seconds_a_reply
from phi_vision.trial.questions import Question

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Shows how far something is: called with what it is, gives what moves it."""


@dataclass(kw_only=True)
class Hearing:
    """Collects replies; each is on disk as soon as it is given."""

    answers: Path
    """Folder for the replies; a killed trial goes on from there."""

    batch_size: int
    bar: Bar

    replies: dict[str, list[Reply]] = field(default_factory=dict)
    """Who -> a reply for each sample."""

    rivals: dict[str, Predicted] = field(default_factory=dict)
    """Who -> records that were made with the help of a model that was loaded for its replies."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Who -> why it was not asked."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Who -> seconds that a reply took, whenever it was given."""

    def ask(self, who: str, words: str, answerer: Answerer, question: Question) -> None:
        """Have samples answered, or read the replies that are already there.

        Args:
            who: Of `evaluate.score.WHO`.
            words: What the answerer was found by.
            answerer: Who is asked.
            question: What is asked.
        """
        asked = _describe(words, answerer, question)
        file = self.answers / f"{who}-{asked[:12]}.jsonl"
        with self.bar(f"answering: {who.replace('_', ' ')}") as advance:
            self.replies[who] = ask(
                answerer,
                question.samples,
                file,
                fingerprint=asked,
                grammar=question.grammar,
                progress=advance,
            )
        self.seconds[who] = seconds_a_reply(file)


def identify(words: str) -> list[str]:
    """Tell one model from another in the same place: names, sizes and times of its files."""
    place = Path(words)
    if not place.is_file():
        try:
            place = Path(resolve(words))
        except ValueError:  # a server's address
            return [words]
    # A model's files lie side by side; folders in it may be those that this trial writes.
    files = [place] if place.is_file() else sorted(place.glob("*"))
    facts = ((file, file.stat()) for file in files if file.is_file())
    told = [words, *(f"{file} {fact.st_size} {fact.st_mtime_ns}" for file, fact in facts)]
    base = None if place.is_file() else adapter_base(str(place))
    return told if base is None else [*told, *identify(base)]


def _describe(words: str, answerer: Answerer, question: Question) -> str:
    """Hash what decides the replies: who answers, in which wording, about what, how limited."""
    told = {
        "answerer": identify(words),
        "template": dataclasses.asdict(answerer.template),
        "samples": fingerprint(question.samples),
        "grammar": question.grammar,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
