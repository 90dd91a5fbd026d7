"""Answers that a buyer would try first, made without the model that is judged, or with its eyes."""

from collections.abc import Sequence

from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.evaluation.boosting import boost
from phi_vision.evaluation.collect import Bar
from phi_vision.evaluation.nearest_neighbour import nearest
from phi_vision.inference.local import LocalPredictor
from phi_vision.metrics.constant_baselines import category_median, constant
from phi_vision.metrics.field_metrics import Predicted

NEAREST = "nearest"
"""Who needs the vision tower of one."""


def predict_baselines(
    samples: Sequence[Sample],
    training: Sequence[Sample],
    template: Template,
    *,
    predicted: Predicted,
    skip: Sequence[str],
    seed: int,
    bar: Bar,
) -> dict[str, Predicted]:
    """Have the rivals that need no model answer about samples.

    Args:
        samples: What they are asked about.
        training: What they learn from.
        template: Says which fields they answer with.
        said: What the model said, for its categories.
        skip: Names of rivals to leave out.
        seed: Of the boosting.
        bar: Shows how far it is.
    """
    made: dict[str, Predicted] = {}
    if "constant" not in skip:
        made["constant"] = constant(training, template, len(samples))
    if "category_median" not in skip and {"category", "number"} <= set(template.kinds.values()):
        made["category_median"] = category_median(predicted, training, template)
    if "boosting" not in skip:
        with bar("boosting") as advance:
            made["boosting"] = boost(samples, training, template, seed=seed, progress=advance)
    return made


def nearest_of(
    predictor: LocalPredictor, samples: Sequence[Sample], training: Sequence[Sample], bar: Bar
) -> Predicted:
    """Answer each sample with what is known of the training image that looks most like it."""
    everything = [*training, *samples]
    with bar("looking for the nearest image") as advance:
        features = predictor.features(everything)
        advance(len(everything), len(everything))
    known = len(training)
    return nearest(features[known:], features[:known], training, predictor.template)
