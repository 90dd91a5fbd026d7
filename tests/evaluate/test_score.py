"""Scoring whole predictors: one that looks, one that does not, one that is silent."""

import math
import subprocess
import sys
from collections import Counter
from zlib import crc32

import pytest

from phi_vision.data.sample import Sample
from phi_vision.data.template import TEMPLATES, Template
from phi_vision.evaluate.metrics import METRICS
from phi_vision.evaluate.score import SAMPLES_PER_CALL, Scores, score, shuffle_images

PRODUCT = TEMPLATES["product"]


def sample(number: int, *, styles=30) -> Sample:
    """Its picture is its answer: a predictor that reads `images` is one that looks."""
    style = number % styles
    record = {
        "title": f"Style {style}",
        "category3_code": "ABCDE"[style % 5],
        "full_price": 100.0 + 10 * style,
    }
    answer = PRODUCT.render(record).encode()
    return Sample(id=str(number), group=f"g{style}", images=(answer,), record=record)


SAMPLES = [sample(number) for number in range(90)]


def look(samples):
    return [each.images[0].decode() for each in samples]


def guess(samples):
    return [PRODUCT.render(SAMPLES[3].record)] * len(samples)


def scores_of(predict, samples=SAMPLES, template=PRODUCT, **options) -> Scores:
    return score(predict, samples, template, baselines_from=SAMPLES, **options)


def test_a_predictor_that_looks():
    scores = scores_of(look)
    assert set(scores.figures) == {"model", "majority", "category_median", "shuffled"}
    assert scores.figures["model"]["category_accuracy"] == (1.0, 1.0, 1.0)
    assert scores.figures["shuffled"]["category_accuracy"].value < 0.5
    assert scores.figures["shuffled"]["title_exact"].value == 0
    assert scores.looks is True
    assert scores.canary.startswith(
        "The pictures matter: with others' pictures title_fuzzy from 1.000 to 0."
    )
    assert (scores.samples, scores.groups) == (90, 30)


@pytest.mark.parametrize("predict", [guess, lambda samples: ["no idea"] * len(samples)])
def test_a_predictor_that_does_not_look_is_found_out(predict):
    scores = scores_of(predict)
    assert scores.looks is False
    assert "THE PICTURES DO NOT MATTER" in scores.canary


def test_noise_is_not_taken_for_looking():
    def throw(samples):
        return [
            PRODUCT.render(SAMPLES[crc32(s.id.encode() + s.images[0]) % 90].record) for s in samples
        ]

    assert [scores_of(throw, seed=seed).looks for seed in range(3)].count(True) <= 1


def test_baselines_stand_beside():
    figures = scores_of(look).figures
    assert figures["majority"]["category_accuracy"].value == pytest.approx(1 / 5)
    assert figures["majority"]["parse_rate"].value == 1
    assert all(METRICS[name].field == "full_price" for name in figures["category_median"])
    # A category's prices are p, p+50, …, p+250: on average 75 from their median.
    assert figures["category_median"]["price_mae"].value == pytest.approx(75.0)


def test_answers_keep_text_and_reading():
    scores = scores_of(lambda samples: ["?", *look(samples)[1:]])
    first, second = scores.answers[:2]
    assert (first.id, first.text, first.parsed) == ("0", "?", None)
    assert second.parsed == second.truth == SAMPLES[1].record


def test_intervals_resample_groups_and_not_samples():
    # One group of 60 samples and 29 of one: its luck must show in a wide interval.
    lopsided = [sample(0) for _ in range(60)] + [sample(number) for number in range(1, 30)]

    def know_the_big_one(samples):
        return [PRODUCT.render(SAMPLES[0].record) for _ in samples]

    figure = scores_of(know_the_big_one, lopsided, shuffled=False).figures["model"]["title_exact"]
    assert figure.value == pytest.approx(60 / 89)
    assert figure.low == 0.0
    assert figure.high > 0.85


def test_one_group_has_no_interval():
    scores = scores_of(look, [sample(0), sample(0)])
    assert math.isnan(scores.figures["model"]["parse_rate"].low)
    assert scores.looks is None
    assert "Not tested" in scores.canary


def test_the_same_seed_gives_the_same_scores():
    assert scores_of(look, seed=1) == scores_of(look, seed=1)


def test_shuffled_can_be_left_out():
    scores = scores_of(look, shuffled=False)
    assert "shuffled" not in scores.figures
    assert scores.looks is None


def test_a_template_without_price_has_no_price_metrics():
    template = Template(name="t", question="?", answer="It is {title}", layout="chat")
    scores = scores_of(lambda samples: ["It is it"] * len(samples), template=template)
    assert set(scores.figures) == {"model", "majority", "shuffled"}
    assert list(scores.figures["model"]) == ["parse_rate", "title_exact", "title_fuzzy"]


def test_progress_reaches_the_end():
    seen = []
    scores_of(look, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(SAMPLES_PER_CALL, 180), (2 * SAMPLES_PER_CALL, 180), (180, 180)]


@pytest.mark.parametrize(
    "sizes", [[1] * 9, [3, 2, 1], [4, 4], [5, 1, 1, 1, 2], [2, 2, 3], [6, 1, 1]]
)
@pytest.mark.parametrize("seed", range(5))
def test_no_sample_keeps_its_groups_pictures(sizes, seed):
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    samples = [
        Sample(
            id=str(n), group=str(group), images=(str(group).encode(), str(n).encode()), record={}
        )
        for n, group in enumerate(groups)
    ]
    shuffled = shuffle_images(samples, seed=seed)
    kept = sum(each.images[0].decode() == each.group for each in shuffled)
    assert kept == max(0, 2 * max(sizes) - len(samples))  # fewer is impossible
    assert all(each.images[1].decode() != each.id for each in shuffled)
    assert Counter(each.images for each in shuffled) == Counter(each.images for each in samples)
    assert [each.id for each in shuffled] == [each.id for each in samples]


def test_one_group_exchanges_among_itself():
    samples = [Sample(id=str(n), group="g", images=(str(n).encode(),), record={}) for n in range(3)]
    assert all(s.images != (s.id.encode(),) for s in shuffle_images(samples, seed=0))


def test_bad_input_is_said():
    with pytest.raises(ValueError, match="no samples to evaluate on"):
        scores_of(look, [])
    with pytest.raises(ValueError, match="no samples for the baselines"):
        score(look, SAMPLES, PRODUCT, baselines_from=[])
    with pytest.raises(ValueError, match="asked about 64 samples and gave 1 texts"):
        scores_of(lambda samples: ["one"])
    template = Template(name="t", question="?", answer="It is {colour}", layout="chat")
    with pytest.raises(ValueError, match="needs the field 'colour'"):
        scores_of(look, template=template)


def test_evaluating_needs_no_torch():
    code = (
        "import sys; import phi_vision.evaluate.score, phi_vision.evaluate.report; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
