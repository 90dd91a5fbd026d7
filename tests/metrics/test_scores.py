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
from scipy.stats import binomtest

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample, shuffle_images
from phi_vision.data.template import PRODUCT, Template
from phi_vision.metrics.bootstrap import BootstrapDistribution, Estimate
from phi_vision.metrics.constant_baselines import category_median, constant
from phi_vision.metrics.field_metrics import metrics_for
from phi_vision.metrics.scores import SYSTEMS, Scores, paired_difference, score, significance

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
    predictions = {"model": replies_of(predict(samples))}
    if shuffled:
        predictions["shuffled"] = replies_of(predict(shuffle_images(samples, seed=0)))
    return score(predictions, samples, template, training=SAMPLES, **options)


def test_a_predictor_that_uses_the_image() -> None:
    scores = scores_of(look)
    assert list(scores.estimates) == ["model", "shuffled"]
    lowest = 0.025 ** (1 / 30)  # 30 groups of equal size, and none with an error
    accuracy = scores.estimates["model"]["category3_code_accuracy"]
    assert accuracy == pytest.approx((1.0, lowest, 1.0))
    assert scores.estimates["shuffled"]["category3_code_accuracy"].value < 0.5
    assert scores.estimates["shuffled"]["title_exact"].value == 0
    assert scores.uses_image is True
    assert scores.shuffled_image_check.startswith(
        "The images matter: with shuffled images title_similarity from 1.000 to 0."
    )
    assert (scores.samples, scores.groups) == (90, 30)


def test_a_predictor_that_ignores_the_image_is_detected() -> None:
    scores = scores_of(guess)
    assert scores.uses_image is False
    assert "NO SIGN THAT THE IMAGES MATTER" in scores.shuffled_image_check
    price = Template(name="t", question="?", answer="{full_price:number}", layout="chat")
    texts = {system: [Prediction.parse("5.0", price)] * 90 for system in ("model", "shuffled")}
    # Equal predictions of a field without limits, too.
    assert score(texts, SAMPLES, price, training=SAMPLES).uses_image is False


@pytest.mark.parametrize(
    ("own", "shuffled", "uses_image", "words"),
    [
        (0, 0, None, "Not tested whether the images matter: 0 of 90 samples have predictions that"),
        (90, 0, None, "Not tested whether the images matter: 0 of 90 samples have predictions"),
        (0, 90, None, "Not tested whether the images matter: 0 of 90 samples have predictions"),
        (44, 90, None, "Not tested whether the images matter: 44 of 90 samples have predictions"),
        (90, 60, False, "; 60 of 90 samples have predictions that parse with both images, and"),
    ],
)
def test_predictions_that_do_not_parse_are_no_evidence_about_the_images(
    own: int, shuffled: int, uses_image: bool | None, words: str
) -> None:
    texts = {"model": own, "shuffled": shuffled}
    guessed = guess(SAMPLES)
    predictions = {
        system: replies_of([*guessed[:parsed], *["?"] * (90 - parsed)])
        for system, parsed in texts.items()
    }
    scores = score(predictions, SAMPLES, PRODUCT, training=SAMPLES)
    assert scores.uses_image is uses_image
    assert words in scores.shuffled_image_check


def test_noise_is_not_taken_for_looking() -> None:
    def throw(samples: Sequence[Sample]) -> list[str]:
        return [
            PRODUCT.render(SAMPLES[crc32(s.id.encode() + s.images[0]) % 90].record) for s in samples
        ]

    assert [scores_of(throw, seed=seed).uses_image for seed in range(3)].count(True) <= 1


def test_baselines_stand_beside_and_are_measured_where_they_apply() -> None:
    said = [PRODUCT.parse(text) for text in look(SAMPLES)]
    baselines = {
        "category_median": category_median(said, SAMPLES, PRODUCT),
        "constant": constant(SAMPLES, PRODUCT, len(SAMPLES)),
    }
    scores = scores_of(look, baselines=baselines)
    assert list(scores.estimates) == ["model", "constant", "category_median", "shuffled"]
    estimates = scores.estimates
    assert estimates["constant"]["category3_code_accuracy"].value == pytest.approx(1 / 5)
    assert estimates["constant"]["parse_rate"].value == 1
    assert {scores.metrics[name].field for name in estimates["category_median"]} == {"full_price"}
    # A category's prices are p, p+50, …, p+250: on average 75 from their median.
    assert estimates["category_median"]["full_price_mae"].value == pytest.approx(75.0)
    difference = scores.differences["category_median"]["full_price_mae"]
    assert difference.value == pytest.approx(75.0)
    assert significance(difference) == "better"
    assert "model" not in scores.differences


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
    estimate = scores.estimates["base"]["title_exact"]
    assert estimate.high - estimate.low > 0.2
    unseen = 1 - 0.025 ** (1 / 30)
    assert scores.differences["base"]["title_exact"] == pytest.approx((0.0, -unseen, unseen))


@pytest.mark.parametrize(
    ("better", "one", "other", "difference"),
    [
        ("higher", 0.8, 0.5, 0.3),
        ("lower", 0.8, 0.5, -0.3),
        ("zero", 0.1, -0.4, 0.3),
        ("zero", -0.4, 0.1, -0.3),
    ],
)
def test_a_difference_above_zero_is_always_the_better_one(
    better: str, one: float, other: float, difference: float
) -> None:
    names = {"higher": "parse_rate", "lower": "full_price_mae", "zero": "full_price_bias"}
    metric = metrics_for(PRODUCT)[names[better]]
    estimates = (BootstrapDistribution(value, np.array([value, value])) for value in (one, other))
    found = paired_difference(metric, *estimates)
    assert found.value == pytest.approx(difference)
    assert found.resampled == pytest.approx([difference, difference])


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (Estimate(0.3, 0.1, 0.5), "better"),
        (Estimate(-0.3, -0.5, -0.1), "worse"),
        (Estimate(0.3, -0.1, 0.5), "not significant"),
        (Estimate(0.3, math.nan, math.nan), "not significant"),
    ],
)
def test_a_result_needs_an_interval_on_one_side_of_zero(difference: Estimate, words: str) -> None:
    assert significance(difference) == words


def test_predictions_keep_text_reading_and_confidence() -> None:
    predictions = [Prediction.parse("?", PRODUCT), *replies_of(look(SAMPLES[1:]))]
    predictions[1] = replace(predictions[1], confidence={"title": 0.5})
    scores = score({"model": predictions}, SAMPLES, PRODUCT, training=SAMPLES)
    first, second = scores.predictions[:2]
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

    estimate = scores_of(know_the_big_one, lopsided, shuffled=False).estimates["model"][
        "title_exact"
    ]
    assert estimate.value == pytest.approx(60 / 89)
    assert estimate.low == 0.0
    assert estimate.high > 0.85


@pytest.mark.parametrize("styles", [2, 3, 5])
def test_few_groups_tell_nothing_apart(styles: int) -> None:
    scores = scores_of(look, [sample(number, styles=styles) for number in range(15)])
    assert scores.uses_image is None
    assert f"{styles} groups are too few to tell" in scores.shuffled_image_check
    shuffled = scores.differences["shuffled"].values()
    assert {significance(difference) for difference in shuffled} == {"not significant"}
    half = [t if n % 2 else "?" for n, t in enumerate(look(SAMPLES))]
    few = [sample(number, styles=styles) for number in range(15)]
    model = replies_of([*look(few)[:8], *half[:7]])
    estimates = score({"model": model}, few, PRODUCT, training=SAMPLES).estimates["model"]
    exact = binomtest(0, styles).proportion_ci(0.95, method="exact")
    rate = estimates["parse_rate"]
    assert rate.high - rate.low > exact.high / 2, "no narrower than so few groups allow"
    assert math.isinf(estimates["full_price_mae"].high)


def test_one_group_has_no_interval() -> None:
    scores = scores_of(look, [sample(0), sample(0)])
    assert math.isnan(scores.estimates["model"]["parse_rate"].low)
    assert scores.uses_image is None
    assert "Not tested" in scores.shuffled_image_check


def test_the_same_seed_gives_the_same_values() -> None:
    one, again = scores_of(look, seed=1), scores_of(look, seed=1)
    assert one.estimates == again.estimates
    assert one.differences == again.differences


def test_shuffled_can_be_left_out() -> None:
    scores = scores_of(look, shuffled=False)
    assert "shuffled" not in scores.estimates
    assert scores.uses_image is None


def test_slices_partition_the_samples() -> None:
    def know_a(samples: Sequence[Sample]) -> list[str]:
        return [t if "Category: A" in t else "?" for t in look(samples)]

    of_category = {
        part.name: part.estimates["category3_code_accuracy"].value
        for part in scores_of(know_a).slices
        if part.by == "category3_code"
    }
    assert of_category == {"A": 1.0, "B": 0.0, "C": 0.0, "D": 0.0, "E": 0.0}
    whole = [part for part in scores_of(know_a).slices if part.by == "full_price"]
    assert sum(part.samples for part in whole) == 90


def test_leaked_samples_are_evaluated_apart() -> None:
    def know_the_leaked(samples: Sequence[Sample]) -> list[str]:
        return [t if s.id in leaked else "?" for s, t in zip(samples, look(samples), strict=True)]

    leaked: Mapping[str, str] = {str(n): "the same image as 7" for n in range(30)}
    leakage = scores_of(know_the_leaked, leaked=leaked).leakage
    assert leakage is not None
    assert leakage.leaked == leaked
    assert leakage.without["title_exact"].value == 0.0
    assert leakage.effect["title_exact"].value == pytest.approx(30 / 90)
    none = scores_of(look, leaked={}).leakage
    assert none is not None
    assert none.without == {}
    assert scores_of(look).leakage is None


def test_a_template_without_price_has_no_price_metrics() -> None:
    template = Template(name="t", question="?", answer="It is {title}", layout="chat")
    scores = scores_of(lambda samples: ["It is it"] * len(samples), template=template)
    assert {metric.field for metric in scores.metrics.values()} == {None, "title"}


def test_every_system_has_a_description() -> None:
    assert next(iter(SYSTEMS)) == "model"
    assert all(words and not words.endswith(".") for words in SYSTEMS.values())


def test_bad_input_is_reported() -> None:
    with pytest.raises(ValueError, match="no samples to evaluate on"):
        score({"model": []}, [], PRODUCT, training=SAMPLES)
    with pytest.raises(ValueError, match="no samples to learn from"):
        score({"model": []}, SAMPLES, PRODUCT, training=[])
    with pytest.raises(ValueError, match="the model has 1 predictions for 90 samples"):
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
