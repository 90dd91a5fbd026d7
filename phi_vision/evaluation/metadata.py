"""EvaluationMetadata: what a report states besides the scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from phi_vision.runs import History


@dataclass(frozen=True, kw_only=True)
class EvaluationMetadata:
    """Model, data, training and cost of an evaluation."""

    model: str
    """Name of the predictor, such as "checkpoint runs/coats/model"."""

    data: str
    """Folder of the samples."""

    split: str

    data_card: Mapping[str, str]
    """Part of the data -> its size, in words."""

    recipe: str
    """The training recipe as YAML; "" where it is unknown."""

    versions: Mapping[str, str]
    """Library or data -> version or fingerprint."""

    history: History | None
    """The run's, for its learning curves."""

    cost: Mapping[str, str]
    """Item -> cost in words: training, a prediction, the machine."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """System of `metrics.scores.SYSTEMS` that was not run -> reason."""
