"""Scoring whole predictors: one that looks, one that does not, one that is silent."""

import io
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from phi_vision.data.image_ablations import shuffle_images
from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import PRODUCT, Template
from phi_vision.metrics.bootstrap import Estimate, Figure
from phi_vision.metrics.constant_baselines import category_median, constant
from phi_vision.metrics.field_metrics import metrics_for
from phi_vision.metrics.scores import WHO, Scores, better_by, score, verdict

Predict = Callable[[Sequence[Sample]], list[str]]


def image_of(answer: str) -> bytes:
    buffer, notes = io.BytesIO(), PngInfo()
    notes.add_text("answer", answer)
    Image.new("L", (8, 8)).save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()


def sample(number: int, *, styles: int = 30) -> Sample:
    """Its answer is written in its image: a predictor that reads `images` is one that looks."""
    style = number % styles
    record = {
        "title": f"Style {style}",
        "category3_code": "ABCDE"[style % 5],
        "full_price": 100.0 + 10 * style,
    }
    images = (image_of(PRODUCT.render(record)),)
    return Sample(id=str(number), group=f"g{style}", images=images, record=record)


SAMPLES = [sample(number) for number in range(90)]


def look(samples: Sequence[Sample]) -> list[str]:
    return [str(Image.open(io.BytesIO(each.images[0])).info["answer"]) for each in samples]


def guess(samples: Sequence[Sample]) -> list[str]:
    return [PRODUCT.render(SAMPLES[3].record)] * len(samples)


def replies_of(texts: Sequence[str]) -> list[Prediction]:
    return [Prediction.parse(text, PRODUCT) for text in texts]


def scores_of(
    predict: Predict,
    samples: Sequence[Sample] = SAMPLES,
    template: Template = PRODUCT,
    *,
    shuffled: bool = True,
    **options: Any,
) -> Scores:
    replies = {"model": replies_of(predict(samples))}
    if shuffled:
        replies["shuffled"] = replies_of(predict(shuffle_images(samples, seed=0)))
    return score(replies, samples, template, training=SAMPLES, **options)


def test_a_predictor_that_looks() -> None:
    scores = scores_of(look)
    assert list(scores.figures) == ["model", "shuffled"]
    assert scores.figures["model"]["category3_code_accuracy"] == (1.0, 1.0, 1.0)
    assert scores.figures["shuffled"]["category3_code_accuracy"].value < 0.5
    assert scores.figures["shuffled"]["title_exact"].value == 0
    assert scores.looks is True
    assert scores.canary.startswith(
        "The images matter: with others' images title_similarity from 1.000 to 0."
    )
    assert (scores.samples, scores.groups) == (90, 30)


@pytest.mark.parametrize("predict", [guess, lambda samples: ["no idea"] * len(samples)])
def test_a_predictor_that_does_not_look_is_found_out(predict: Predict) -> None:
    scores = scores_of(predict)
    assert scores.looks is False
    assert "NO SIGN THAT THE IMAGES MATTER" in scores.canary


def test_noise_is_not_taken_for_looking() -> None:
    def throw(samples: Sequence[Sample]) -> list[str]:
        return [
            PRODUCT.render(SAMPLES[crc32(s.id.encode() + s.images[0]) % 90].record) for s in samples
        ]

    assert [scores_of(throw, seed=seed).looks for seed in range(3)].count(True) <= 1


def test_rivals_stand_beside_and_are_measured_where_they_answer() -> None:
    said = [PRODUCT.parse(text) for text in look(SAMPLES)]
    rivals = {
        "category_median": category_median(said, SAMPLES, PRODUCT),
        "constant": constant(SAMPLES, PRODUCT, len(SAMPLES)),
    }
    scores = scores_of(look, rivals=rivals)
    assert list(scores.figures) == ["model", "constant", "category_median", "shuffled"]
    figures = scores.figures
    assert figures["constant"]["category3_code_accuracy"].value == pytest.approx(1 / 5)
    assert figures["constant"]["parse_rate"].value == 1
    assert {scores.metrics[name].field for name in figures["category_median"]} == {"full_price"}
    # A category's prices are p, p+50, …, p+250: on average 75 from their median.
    assert figures["category_median"]["full_price_mae"].value == pytest.approx(75.0)
    margin = scores.margins["category_median"]["full_price_mae"]
    assert margin.value == pytest.approx(75.0)
    assert verdict(margin) == "better"
    assert "model" not in scores.margins


def test_the_interval_of_a_difference_is_paired() -> None:
    # Both answer the same half of the samples wrongly: each is uncertain, their difference is not.
    def half(samples: Sequence[Sample]) -> list[str]:
        return [
            t if int(s.group[1:]) % 2 else "?" for s, t in zip(samples, look(samples), strict=True)
        ]

    scores = score(
        {"model": replies_of(half(SAMPLES)), "base": replies_of(half(SAMPLES))},
        SAMPLES,
        PRODUCT,
        training=SAMPLES,
    )
    figure = scores.figures["base"]["title_exact"]
    assert figure.high - figure.low > 0.2
    assert scores.margins["base"]["title_exact"] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("better", "one", "other", "margin"),
    [
        ("higher", 0.8, 0.5, 0.3),
        ("lower", 0.8, 0.5, -0.3),
        ("zero", 0.1, -0.4, 0.3),
        ("zero", -0.4, 0.1, -0.3),
    ],
)
def test_a_margin_above_zero_is_always_the_better_one(
    better: str, one: float, other: float, margin: float
) -> None:
    names = {"higher": "parse_rate", "lower": "full_price_mae", "zero": "full_price_bias"}
    metric = metrics_for(PRODUCT)[names[better]]
    estimates = (Estimate(value, np.array([value, value])) for value in (one, other))
    found = better_by(metric, *estimates)
    assert found.value == pytest.approx(margin)
    assert found.drawn == pytest.approx([margin, margin])


@pytest.mark.parametrize(
    ("margin", "words"),
    [
        (Figure(0.3, 0.1, 0.5), "better"),
        (Figure(-0.3, -0.5, -0.1), "worse"),
        (Figure(0.3, -0.1, 0.5), "not told apart"),
        (Figure(0.3, math.nan, math.nan), "not told apart"),
    ],
)
def test_a_verdict_needs_an_interval_on_one_side_of_zero(margin: Figure, words: str) -> None:
    assert verdict(margin) == words


def test_answers_keep_text_reading_and_confidence() -> None:
    replies = [Prediction.parse("?", PRODUCT), *replies_of(look(SAMPLES[1:]))]
    replies[1] = replace(replies[1], confidence={"title": 0.5})
    scores = score({"model": replies}, SAMPLES, PRODUCT, training=SAMPLES)
    first, second = scores.answers[:2]
    assert (first.id, first.group, first.prediction.text, first.prediction.record) == (
        "0",
        "g0",
        "?",
        None,
    )
    assert second.prediction.record == second.truth == SAMPLES[1].record
    assert second.prediction.confidence == {"title": 0.5}


def test_intervals_resample_groups_and_not_samples() -> None:
    # One group of 60 samples and 29 of one: its luck must show in a wide interval.
    lopsided = [sample(0) for _ in range(60)] + [sample(number) for number in range(1, 30)]

    def know_the_big_one(samples: Sequence[Sample]) -> list[str]:
        return [PRODUCT.render(SAMPLES[0].record) for _ in samples]

    figure = scores_of(know_the_big_one, lopsided, shuffled=False).figures["model"]["title_exact"]
    assert figure.value == pytest.approx(60 / 89)
    assert figure.low == 0.0
    assert figure.high > 0.85


def test_one_group_has_no_interval() -> None:
    scores = scores_of(look, [sample(0), sample(0)])
    assert math.isnan(scores.figures["model"]["parse_rate"].low)
    assert scores.looks is None
    assert "Not tested" in scores.canary


def test_the_same_seed_gives_the_same_figures() -> None:
    one, again = scores_of(look, seed=1), scores_of(look, seed=1)
    assert one.figures == again.figures
    assert one.margins == again.margins


def test_shuffled_can_be_left_out() -> None:
    scores = scores_of(look, shuffled=False)
    assert "shuffled" not in scores.figures
    assert scores.looks is None


def test_slices_part_the_samples() -> None:
    def know_a(samples: Sequence[Sample]) -> list[str]:
        return [t if "Category: A" in t else "?" for t in look(samples)]

    of_category = {
        part.name: part.figures["category3_code_accuracy"].value
        for part in scores_of(know_a).slices
        if part.by == "category3_code"
    }
    assert of_category == {"A": 1.0, "B": 0.0, "C": 0.0, "D": 0.0, "E": 0.0}
    whole = [part for part in scores_of(know_a).slices if part.by == "full_price"]
    assert sum(part.samples for part in whole) == 90


def test_leaked_samples_are_judged_apart() -> None:
    def know_the_leaked(samples: Sequence[Sample]) -> list[str]:
        return [t if s.id in leaked else "?" for s, t in zip(samples, look(samples), strict=True)]

    leaked: Mapping[str, str] = {str(n): "the same image as 7" for n in range(30)}
    leaks = scores_of(know_the_leaked, leaked=leaked).leaks
    assert leaks is not None
    assert leaks.found == leaked
    assert leaks.without["title_exact"].value == 0.0
    assert leaks.effect["title_exact"].value == pytest.approx(30 / 90)
    none = scores_of(look, leaked={}).leaks
    assert none is not None
    assert none.without == {}
    assert scores_of(look).leaks is None


def test_a_template_without_price_has_no_price_metrics() -> None:
    template = Template(name="t", question="?", answer="It is {title}", layout="chat")
    scores = scores_of(lambda samples: ["It is it"] * len(samples), template=template)
    assert {metric.field for metric in scores.metrics.values()} == {None, "title"}


def test_every_row_has_words() -> None:
    assert next(iter(WHO)) == "model"
    assert all(words and not words.endswith(".") for words in WHO.values())


def test_bad_input_is_said() -> None:
    with pytest.raises(ValueError, match="no samples to evaluate on"):
        score({"model": []}, [], PRODUCT, training=SAMPLES)
    with pytest.raises(ValueError, match="no samples to learn from"):
        score({"model": []}, SAMPLES, PRODUCT, training=[])
    with pytest.raises(ValueError, match="the model was asked about 90 samples and gave 1 replies"):
        scores_of(lambda samples: ["one"], shuffled=False)
    template = Template(name="t", question="?", answer="It is {colour}", layout="chat")
    with pytest.raises(ValueError, match="needs the field 'colour'"):
        scores_of(look, template=template)


def test_evaluating_needs_no_torch() -> None:
    code = (
        "import sys; import phi_vision.metrics.scores, phi_vision.evaluation.report; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
