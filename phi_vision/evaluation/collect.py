"""PredictionCollector: who was asked what in a trial, what came back, and how long it took."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from phi_vision.data.prediction import Prediction
from phi_vision.evaluation.ablations import Round
from phi_vision.evaluation.prediction_cache import ask, seconds_a_reply
from phi_vision.inference.predictor import Predictor, model_identity
from phi_vision.io.hashing import digest
from phi_vision.metrics.field_metrics import Predicted
from phi_vision.runs import fingerprint

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Shows how far something is: called with what it is, gives what moves it."""


@dataclass(kw_only=True)
class PredictionCollector:
    """Collects replies; each is on disk as soon as it is given."""

    cache: Path
    """Folder for the replies; a killed trial goes on from there."""

    batch_size: int
    bar: Bar

    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    """Who -> a reply for each sample."""

    baselines: dict[str, Predicted] = field(default_factory=dict)
    """Who -> records that were made with the help of a model that was loaded for its replies."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Who -> why it was not asked."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Who -> seconds that a reply took, whenever it was given."""

    def ask(self, system: str, words: str, answerer: Predictor, asked: Round) -> None:
        """Have samples answered, or read the replies that are already there.

        Args:
            who: Of `evaluate.score.WHO`.
            words: What the answerer was found by.
            answerer: Who is asked.
            asked: About what, how limited.
        """
        described = _describe(words, answerer, asked)
        file = self.cache / f"{system}-{described[:12]}.jsonl"
        with self.bar(f"answering: {system.replace('_', ' ')}") as advance:
            self.predictions[system] = ask(
                answerer,
                asked.samples,
                file,
                fingerprint=described,
                grammar=asked.grammar,
                progress=advance,
            )
        self.seconds[system] = seconds_a_reply(file)


def _describe(words: str, answerer: Predictor, asked: Round) -> str:
    """Hash what decides the replies: who answers, in which wording, about what, how limited."""
    told = {
        "answerer": model_identity(words),
        "template": dataclasses.asdict(answerer.template),
        "samples": fingerprint(asked.samples),
        "grammar": asked.grammar,
    }
    return digest(told)
