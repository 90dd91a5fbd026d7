"""score: what a function from samples to texts is worth, with intervals, baselines and the canary.

Takes a function and not a model, so that an adapter, an export and a server are judged alike.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phi_vision.data.sample import Sample, Value
from phi_vision.data.template import Template
from phi_vision.evaluate.baselines import category_median, majority
from phi_vision.evaluate.metrics import CATEGORY, METRICS, PRICE, Predicted, metrics_for

Predict = Callable[[Sequence[Sample]], Sequence[str]]
"""Samples -> one text each."""

Progress = Callable[[int, int], None]
"""Called with how many samples are answered, of how many."""

SAMPLES_PER_CALL = 64
"""How many samples `predict` is given at once: enough for its batches, few enough for a bar."""

RESAMPLES = 1000
"""Of the bootstrap: the ends of a 95 % interval then move by about a tenth of its width."""

CANARY_METRICS = ("title_fuzzy", "category_accuracy", "price_median_ape")
"""One metric for each field that a picture should help with."""


class Figure(NamedTuple):
    """A measured value and its 95 % interval (NaN with fewer than two groups)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was said about one sample."""

    id: str
    truth: Mapping[str, Value]
    text: str
    parsed: Mapping[str, Value] | None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Everything an evaluation found."""

    template: str
    samples: int
    groups: int
    seed: int

    figures: Mapping[str, Mapping[str, Figure]]
    """`model`, `majority`, `category_median`, `shuffled` -> metric -> figure; where it applies."""

    answers: tuple[Answer, ...]
    """The model's, in the order of the samples."""

    looks: bool | None
    """Whether answers get worse with other samples' pictures; None where that was not tested."""

    canary: str
    """The same in words, with figures."""

    floor: Mapping[str, float] = field(default_factory=dict)
    """Metric -> the best value that noise in the data allows, where known."""


def score(
    predict: Predict,
    samples: Sequence[Sample],
    template: Template,
    *,
    baselines_from: Sequence[Sample],
    shuffled: bool = True,
    seed: int = 0,
    floor: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Have samples answered and measure the answers.

    Args:
        predict: Gives one text for each sample.
        samples: Held-out samples whose records are the truth.
        template: Reads the answers.
        baselines_from: Training samples, from which the baselines know categories and prices.
        shuffled: Also have the samples answered with each other's pictures (twice the time).
        seed: Of the resampling and of the shuffle.
        floor: Metric -> the best value that noise in the data allows, to show beside.
        progress: Called after each group of samples.

    Raises:
        ValueError: There are no samples, a record lacks a field of the template, or `predict`
            gives another number of texts.
    """
    if not samples or not baselines_from:
        which = "to evaluate on" if not samples else "for the baselines"
        raise ValueError(f"found no samples {which}; give at least one")
    truth = [template.select(sample.record) for sample in samples]
    asked = [*samples, *(shuffle_images(samples, seed=seed) if shuffled else [])]
    texts = _answer(predict, asked, progress)
    parsed = [template.parse(text) for text in texts]
    model = parsed[: len(samples)]
    answered = {"model": model, **_baselines(model, baselines_from, template)}
    if shuffled:
        answered["shuffled"] = parsed[len(samples) :]
    measured = _measure(answered, truth, template, [sample.group for sample in samples], seed)
    looks, canary = _canary(measured)
    return Scores(
        template=template.name,
        samples=len(samples),
        groups=len({sample.group for sample in samples}),
        seed=seed,
        figures={who: {m: _figure(e) for m, e in row.items()} for who, row in measured.items()},
        answers=tuple(
            Answer(id=sample.id, truth=record, text=text, parsed=read)
            for sample, record, text, read in zip(samples, truth, texts, model, strict=False)
        ),
        looks=looks,
        canary=canary,
        floor=dict(floor or {}),
    )


def shuffle_images(samples: Sequence[Sample], *, seed: int) -> list[Sample]:
    """Give every sample another group's pictures, as far as the sizes of the groups allow.

    Samples are laid out group by group and the pictures moved on by the size of the largest group:
    where that group is at most half of all, everyone's pictures come from another group.

    Input:  samples a1 a2 b1 c1 (groups a, b, c)
    Output: a1 with the pictures of b1, a2 of c1, b1 of a1, c1 of a2, or another such exchange
    """
    rng = np.random.default_rng(seed)
    members = _members([sample.group for sample in samples])
    order = np.concatenate([rng.permutation(members[g]) for g in rng.permutation(len(members))])
    step = max(map(len, members))
    # With a single group, any other sample's pictures have to do.
    givers = np.roll(order, -(step if step < len(samples) else 1))
    images = {int(to): samples[int(giver)].images for to, giver in zip(order, givers, strict=True)}
    return [replace(sample, images=images[place]) for place, sample in enumerate(samples)]


class _Estimate(NamedTuple):
    """A metric's value, and its values on the resamples, which all rows of a table share."""

    value: float
    resampled: NDArray[np.float64]


_Table = Mapping[str, Mapping[str, _Estimate]]


def _answer(
    predict: Predict, samples: Sequence[Sample], progress: Progress | None
) -> Sequence[str]:
    texts: list[str] = []
    for start in range(0, len(samples), SAMPLES_PER_CALL):
        asked = samples[start : start + SAMPLES_PER_CALL]
        answers = predict(asked)
        if len(answers) != len(asked):
            raise ValueError(
                f"predict was asked about {len(asked)} samples and gave {len(answers)} texts; "
                "it must give one text for each sample, in their order"
            )
        texts += answers
        if progress is not None:
            progress(len(texts), len(samples))
    return texts


def _baselines(
    model: Predicted, training: Sequence[Sample], template: Template
) -> dict[str, Predicted]:
    answered: dict[str, Predicted] = {"majority": [majority(training, template)] * len(model)}
    if {CATEGORY, PRICE} <= set(template.fields):
        answered["category_median"] = category_median(model, training, template)
    return answered


def _measure(
    answered: Mapping[str, Predicted],
    truth: Sequence[Mapping[str, Value]],
    template: Template,
    groups: Sequence[str],
    seed: int,
) -> _Table:
    """Measure every row of answers by the metrics of the fields it has, on the same resamples."""
    resamples = _resamples(groups, seed)
    table: dict[str, dict[str, _Estimate]] = {}
    for who, predicted in answered.items():
        table[who] = {}
        for name, metric in metrics_for(template).items():
            # The median of the predicted category is a baseline for the price alone.
            if who == "category_median" and metric.field != PRICE:
                continue
            marks = metric.mark(predicted, truth)
            resampled = np.array([metric.combine(marks[places]) for places in resamples])
            table[who][name] = _Estimate(metric.combine(marks), resampled)
    return table


def _resamples(groups: Sequence[str], seed: int) -> list[NDArray[np.intp]]:
    """Draw whole groups with replacement: samples of one style are not independent evidence."""
    rng = np.random.default_rng(seed)
    members = _members(groups)
    if len(members) < 2:
        return []
    return [
        np.concatenate([members[group] for group in rng.integers(len(members), size=len(members))])
        for _ in range(RESAMPLES)
    ]


def _members(groups: Sequence[str]) -> list[NDArray[np.intp]]:
    places: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    return [np.array(members) for members in places.values()]


def _figure(estimate: _Estimate) -> Figure:
    known = estimate.resampled[~np.isnan(estimate.resampled)]
    low, high = np.percentile(known, [2.5, 97.5]) if known.size else (math.nan, math.nan)
    return Figure(estimate.value, float(low), float(high))


def _canary(measured: _Table) -> tuple[bool | None, str]:
    """Say whether other samples' pictures make the answers worse, and by how much."""
    if "shuffled" not in measured:
        return None, "Not tested whether the pictures matter: the shuffled pass was left out."
    harms, lines = [], []
    for name in CANARY_METRICS:
        if name in measured["model"]:
            real, shuffled = measured["model"][name], measured["shuffled"][name]
            harm = _figure(_harm(name, real, shuffled))
            harms.append(harm)
            lines.append(
                f"{name} from {real.value:.3f} to {shuffled.value:.3f} "
                f"(worse by {harm.value:.3f}, 95 %: {harm.low:.3f} to {harm.high:.3f})"
            )
    figures = "; ".join(lines)
    if all(math.isnan(harm.low) for harm in harms):
        return None, "Not tested whether the pictures matter: too few groups or fields."
    if any(harm.low > 0 for harm in harms):
        return True, f"The pictures matter: with others' pictures {figures}."
    return False, (
        f"THE PICTURES DO NOT MATTER: answers are as good with other samples' pictures: {figures}. "
        "The model has not learned to look, or the pictures do not reach it: train longer, or "
        "check that pixel_values and image_sizes are passed."
    )


def _harm(name: str, real: _Estimate, shuffled: _Estimate) -> _Estimate:
    """How much worse the shuffled answers are, paired: both on the same resamples."""
    sign = 1 if METRICS[name].higher_is_better else -1
    return _Estimate(
        sign * (real.value - shuffled.value), sign * (real.resampled - shuffled.resampled)
    )
