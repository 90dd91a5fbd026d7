"""What a model is asked in a trial: with its images, with others, with none, within a grammar."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from phi_vision.data.image_ablations import blank_images, shuffle_images, withhold_images
from phi_vision.data.samples import Sample
from phi_vision.data.template_grammar import grammar_of
from phi_vision.data.template_grammar import known_categories as known_of
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.inference.predictions_file import FilePredictor
from phi_vision.inference.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class Round:
    """Samples that are asked about, and what limits the answers."""

    samples: Sequence[Sample]
    grammar: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Everything that a model is asked."""

    rounds: Mapping[str, Round]
    """Who of `evaluate.score.WHO` -> what is asked."""

    left_out: Mapping[str, str]
    """Who -> why it is not asked."""


def rounds_for(
    answerer: Predictor,
    samples: Sequence[Sample],
    training: Sequence[Sample],
    *,
    known_categories: bool,
    seed: int,
    skip: Sequence[str],
) -> Rounds:
    """Lay out what a model is asked: as they are, with changed images, and within a grammar.

    Args:
        answerer: Who is asked.
        samples: What it is judged on.
        training: Tells the known categories.
        known_categories: Limit constrained answers to these.
        seed: Of the shuffle.
        skip: Names of passes to leave out.

    Raises:
        ValueError: There are no categories to limit to, or whoever answers cannot be limited.
    """
    unable = _unable(answerer)
    if known_categories and CONSTRAINED in unable:
        raise ValueError(
            f"known_categories cannot take effect: {unable[CONSTRAINED]}; leave it out"
        )
    asked = {"model": Round(samples=samples)}
    for system, change in CHANGES.items():
        if system not in (*skip, *unable):
            asked[system] = Round(samples=change(samples, seed))
    if CONSTRAINED not in (*skip, *unable):
        known = known_of(training, answerer.template) if known_categories else None
        grammar = grammar_of(answerer.template, known)
        asked[CONSTRAINED] = Round(samples=samples, grammar=grammar)
    left_out = {system: why for system, why in unable.items() if system not in skip}
    return Rounds(rounds=asked, left_out=left_out)


def _unable(answerer: Predictor) -> dict[str, str]:
    """Say what an answerer cannot be asked, and why."""
    if isinstance(answerer, FilePredictor):
        why = "a file holds no answers about other images"
        return dict.fromkeys((*CHANGES, CONSTRAINED), why)
    if isinstance(answerer, OpenAIPredictor):
        return {CONSTRAINED: "this server is not asked for constrained answers"}
    return {}


CONSTRAINED = "constrained"

CHANGES: dict[str, Callable[[Sequence[Sample], int], list[Sample]]] = {
    "shuffled": lambda samples, seed: shuffle_images(samples, seed=seed),
    "blank": lambda samples, seed: blank_images(samples),
    "withheld": lambda samples, seed: withhold_images(samples),
}
"""Who -> what is done to the images."""
