"""Asks about a portion so that every entry gets an outcome, whatever becomes of its neighbours."""

from collections.abc import Mapping

import torch

from phi_vision.data.samples import Sample
from phi_vision.inference.batches import Failure, Outcome, Portion
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.openai_server import ServerError
from phi_vision.inference.predictor import Predictor

AWAY = frozenset({0, 401, 403, 404, 408, 425, 429, 502, 503, 504})
"""Statuses of a server that answers nobody now; others (400, 413, 500) may be about one image."""

TELLING = 8
"""So many questions that all fail have a common cause, which is not in the images."""


def ask_portion(answerer: Predictor, portion: Portion, grammar: str | None = None) -> list[Outcome]:
    """Ask about every entry that can be asked about; one that fails is asked about alone.

    Output: [Prediction(...), Failure(reason="unreadable image", detail="..."), Prediction(...)]

    Raises:
        ValueError: The answerer answers nothing: a server is away, or all questions fail.
        torch.AcceleratorError: The GPU stopped; this process cannot use it again.
    """
    outcomes: dict[int, Outcome] = {}
    samples: dict[int, Sample] = {}
    for place, entry in enumerate(portion.entries):
        if isinstance(entry.asked, Failure):
            outcomes[place] = entry.asked
        else:
            samples[place] = entry.asked
    outcomes |= _ask(answerer, samples, grammar)
    _refuse_silence([outcomes[place] for place in samples], portion)
    return [outcomes[place] for place in range(len(portion.entries))]


def _ask(
    answerer: Predictor, samples: Mapping[int, Sample], grammar: str | None
) -> dict[int, Outcome]:
    places, outcomes = list(samples), dict[int, Outcome]()
    problem = "it gave no reply"
    try:
        for number, reply in answerer.predict_samples(list(samples.values()), grammar=grammar):
            outcomes[places[number]] = reply
    except Exception as error:
        if _is_about_all(error):
            raise
        problem = str(error) or type(error).__name__
    # Not inside `except`: there the failed batch would still be in memory while others are asked.
    left = {place: sample for place, sample in samples.items() if place not in outcomes}
    return outcomes | _ask_apart(answerer, left, grammar, problem)


def _ask_apart(
    answerer: Predictor, left: Mapping[int, Sample], grammar: str | None, problem: str
) -> dict[int, Outcome]:
    """Put aside what nobody can look at, and ask about the others: again, or half by half."""
    if not left:
        return {}
    looked = {place: _look(answerer, sample) for place, sample in left.items()}
    outcomes: dict[int, Outcome] = {place: bad for place, bad in looked.items() if bad}
    rest = {place: sample for place, sample in left.items() if place not in outcomes}
    if outcomes:
        return outcomes | _ask(answerer, rest, grammar)
    if len(rest) == 1:
        return dict.fromkeys(rest, Failure("no answer", problem))
    places = list(rest)
    for half in (places[: len(places) // 2], places[len(places) // 2 :]):
        outcomes |= _ask(answerer, {place: rest[place] for place in half}, grammar)
    return outcomes


def _look(answerer: Predictor, sample: Sample) -> Failure | None:
    """Say what is wrong with a sample's images, if anything is."""
    try:
        images = sample.open_images()
    except ValueError as error:
        return Failure("unreadable image", str(error))
    try:
        if isinstance(answerer, LocalPredictor):
            for image in images:
                answerer.check_shape(image, f"sample {sample.id!r}")
    except ValueError as error:
        return Failure("impossible shape", str(error))
    return None


def _is_about_all(error: BaseException | None) -> bool:
    """Whether asking about another sample would fail as well."""
    while error is not None:
        if isinstance(error, torch.AcceleratorError):
            return True  # Not what a GPU raises when it is only out of memory.
        if isinstance(error, ServerError):
            return error.status in AWAY
        error = error.__cause__
    return False


def _refuse_silence(outcomes: list[Outcome], portion: Portion) -> None:
    """Stop where nothing was answered, instead of writing it down for the whole catalog."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    silent = [failure for failure in failures if failure.reason == "no answer"]
    if len(silent) < TELLING or len(failures) < len(outcomes):
        return
    span = portion.span
    raise ValueError(
        f"none of {len(silent)} questions about the rows {span.start} to {span.stop - 1} was "
        f"answered, the first because: {silent[0].detail}; that is not the images' fault, so "
        "nothing of it is kept: mend it, and the same command goes on from there"
    )
