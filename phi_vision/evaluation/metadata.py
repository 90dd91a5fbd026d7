"""Facts: what a report tells besides figures. RawRow elsewhere, shown here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from phi_vision.data.samples import Sample
from phi_vision.metrics.scores import Scores
from phi_vision.runs import History


@dataclass(frozen=True, kw_only=True)
class EvaluationMetadata:
    """What is known of a model, its training and its evaluation."""

    model: str
    """Who was judged, such as "checkpoint runs/coats/model"."""

    data: str
    """Where the samples lie."""

    split: str
    """Which of them were judged."""

    data_card: Mapping[str, str]
    """What -> how much: rows, splits, fingerprint."""

    recipe: str
    """How the model was trained, as YAML; "" where that is not known."""

    versions: Mapping[str, str]
    """Library or data -> version or fingerprint."""

    log: History | None
    """The training's, for its learning curves."""

    cost: Mapping[str, str]
    """What -> how much, in words: training, an answer, the machine."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """Who of `evaluate.score.WHO` was not asked -> why."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All there is to report."""

    scores: Scores

    samples: Sequence[Sample]
    """The samples of the scores, in the same order, for their images."""

    metadata: EvaluationMetadata
