"""Image ablations: the model on shuffled, blank and withheld images, and with a grammar."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from phi_vision.data.image_ablations import blank_images, shuffle_images, withhold_images
from phi_vision.data.samples import Sample
from phi_vision.data.template_grammar import grammar_of, known_categories
from phi_vision.evaluation.config import EvaluationConfig
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.inference.predictions_file import FilePredictor
from phi_vision.inference.predictor import Predictor

CONSTRAINED = "constrained"

ABLATIONS: dict[str, Callable[[Sequence[Sample], int], list[Sample]]] = {
    "shuffled": lambda samples, seed: shuffle_images(samples, seed=seed),
    "blank": lambda samples, seed: blank_images(samples),
    "withheld": lambda samples, seed: withhold_images(samples),
}
"""System -> the change of its images, given a seed."""


class PredictionTask(NamedTuple):
    """Samples to predict, and the grammar that constrains the text."""

    samples: Sequence[Sample]
    grammar: str | None = None


def plan_predictions(
    predictor: Predictor,
    samples: Sequence[Sample],
    training: Sequence[Sample],
    config: EvaluationConfig,
) -> tuple[dict[str, PredictionTask], dict[str, str]]:
    """Plan the predictions of one model: raw, with changed images, and constrained.

    Returns:
        System of `metrics.scores.SYSTEMS` -> its task; system that the predictor does not support
        -> reason.

    Raises:
        ValueError: Categories are to be known and there are none, or text cannot be constrained.
    """
    unsupported = _unsupported(predictor)
    if config.known_categories and CONSTRAINED in unsupported:
        raise ValueError(
            f"known_categories cannot take effect: {unsupported[CONSTRAINED]}; leave it out"
        )
    left_out = {*config.skip, *unsupported}
    tasks = {"model": PredictionTask(samples)} | {
        system: PredictionTask(change(samples, config.seed))
        for system, change in ABLATIONS.items()
        if system not in left_out
    }
    if CONSTRAINED not in left_out:
        template = predictor.template
        known = known_categories(training, template) if config.known_categories else None
        tasks[CONSTRAINED] = PredictionTask(samples, grammar_of(template, known))
    return tasks, {key: reason for key, reason in unsupported.items() if key not in config.skip}


def _unsupported(predictor: Predictor) -> dict[str, str]:
    if isinstance(predictor, FilePredictor):
        reason = "a file has no predictions for other images"
        return dict.fromkeys((*ABLATIONS, CONSTRAINED), reason)
    if isinstance(predictor, OpenAIPredictor):
        return {CONSTRAINED: "constrained generation is not requested from a server"}
    return {}
