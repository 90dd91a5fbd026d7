"""Confidence: measured by hand, then on simulated models of which the truth is known."""

import math

import numpy as np
import pytest

from phi_vision.data.acceptance import PlattScaler
from phi_vision.data.prediction import Prediction, ScoredPrediction, field_confidence
from phi_vision.data.template import TEMPLATES, Template
from phi_vision.metrics.bootstrap import draw_groups
from phi_vision.metrics.calibration import (
    Calibration,
    RiskPoint,
    assign_bins,
    calibrate,
    calibration_error,
    calibrations,
)
from phi_vision.metrics.platt_scaling import (
    binomial_bound,
    choose_threshold,
    cross_fit,
    effective_sizes,
    fit_platt_scaler,
    intraclass_correlation,
)
from phi_vision.metrics.thresholds import choose_acceptance

PRODUCT = TEMPLATES["product"]


def measure(confidence, right, *, groups=None, target=None, seed=0, draws=1000) -> Calibration:
    confidence, right = np.array(confidence, dtype=float), np.array(right, dtype=bool)
    groups = groups or [str(number) for number in range(len(right))]
    counts = draw_groups(groups, seed=seed, draws=draws)
    return calibrate(confidence, right, groups, counts, target=target, seed=seed)


def world(count, seed, *, too_sure=False, together=1):
    """Draw confidences, the true probabilities, answers and groups that are right or wrong alike.

    The true log-odds are normal around 1.8; who is too sure doubles them and adds 1.
    """
    draw = np.random.default_rng(seed)
    odds = draw.normal(1.8, 1.8, count // together).repeat(together) + draw.normal(0, 0.3, count)
    shared, own = draw.random(count // together).repeat(together), draw.random(count)
    luck = np.where(draw.random(count) < 0.5, shared, own)
    truth, sure = (1 / (1 + np.exp(-each)) for each in (odds, 2 * odds + 1 if too_sure else odds))
    groups = [str(number // together) for number in range(count)]
    return sure, truth, luck < truth, groups


def test_values_computed_by_hand():
    # Two bins are filled: 0.9 of ten (7 right), 0.6 of ten (5 right).
    found = measure([0.9] * 10 + [0.6] * 10, [1] * 7 + [0] * 3 + [1] * 5 + [0] * 5)
    assert found.raw_error.value == pytest.approx((0.2 + 0.1) / 2)
    assert found.raw_brier.value == pytest.approx(
        (7 * 0.1**2 + 3 * 0.9**2 + 5 * 0.4**2 + 5 * 0.6**2) / 20
    )
    assert found.accuracy == pytest.approx(0.6)
    assert [(each.confidence, each.accuracy, each.samples) for each in found.bins] == [
        (pytest.approx(0.6), 0.5, 10),
        (pytest.approx(0.9), 0.7, 10),
    ]
    assert found.bins[1].low == pytest.approx(0.348, abs=1e-3)  # Clopper-Pearson, 7 of 10
    assert found.bins[1].high == pytest.approx(0.933, abs=1e-3)
    assert found.risk_curve == (RiskPoint(0.5, 0.3), RiskPoint(1.0, 0.4))
    assert found.limitations == ""
    assert found.auto_accept is None


def test_risk_of_the_most_confident_and_its_area():
    found = measure([0.7, 0.9, 0.7, math.nan], [0, 1, 1, 0])
    # 0.9 is right; one of the two of 0.7 is; what nobody knows comes last and is wrong.
    risks = (RiskPoint(1 / 4, 0.0), RiskPoint(3 / 4, 1 / 3), RiskPoint(1.0, 2 / 4))
    assert found.risk_curve == risks
    assert found.aurc == pytest.approx((0 + 0.5 / 2 + 1 / 3 + 2 / 4) / 4)
    assert (found.samples, found.with_confidence, found.accuracy) == (4, 3, pytest.approx(2 / 3))


def test_bins_are_of_equal_size_and_equal_confidences_share_one():
    confidence = np.array([*np.arange(1, 9) / 10, 0.9, 0.9, 0.9, *[1.0] * 9])
    expected = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, *[7] * 9]
    assert assign_bins(confidence).tolist() == expected
    order = np.random.default_rng(0).permutation(20)
    assert assign_bins(confidence[order]).tolist() == np.array(expected)[order].tolist()
    assert np.bincount(assign_bins(np.random.default_rng(0).random(100))).tolist() == [10] * 10


def test_a_curve_of_many_samples_is_thinned_with_both_ends():
    found = measure(np.arange(1, 1001) / 1001, np.ones(1000))
    assert len(found.risk_curve) == 200
    ends = (found.risk_curve[0], found.risk_curve[-1])
    assert ends == (RiskPoint(0.001, 0.0), RiskPoint(1.0, 0.0))


def test_the_fitted_scaler_recovers_the_simulated_one():
    sure, _, right, _ = world(20_000, 0, too_sure=True)
    line = fit_platt_scaler(sure, right)
    assert line.slope == pytest.approx(0.5, abs=0.03)
    assert line.intercept == pytest.approx(-0.5, abs=0.05)
    assert PlattScaler(0.5, 0).apply(np.array([0.5, 0.9])) == pytest.approx([0.5, 0.75])


@pytest.mark.parametrize(("right", "expected"), [(True, 0.95), (False, 0.05)])
def test_a_fitted_scaler_gives_no_certainty_from_few_predictions(right, expected):
    confidence = np.linspace(0.2, 1.0, 18)
    line = fit_platt_scaler(confidence, np.full(18, right))
    assert line.apply(confidence) == pytest.approx(np.full(18, expected), abs=1e-3)


def test_bounds_of_shares_are_the_exact_ones():
    shares, independent = np.array([1.0, 0.0, 0.7]), np.array([45.0, 45.0, 10.0])
    assert binomial_bound(shares, independent, 0.1) == pytest.approx([0.95, 0.0, 0.448], abs=1e-3)
    assert binomial_bound(shares, independent, 0.9) == pytest.approx([1.0, 0.05, 0.884], abs=1e-3)


def test_samples_of_a_group_count_as_fewer_where_they_are_right_together():
    assert effective_sizes(list("aab"), 1.0)[-1] == pytest.approx(1.8)
    assert effective_sizes(list("aab"), 0.0)[-1] == pytest.approx(3.0)
    surprise = np.array([0.5, 0.5, -0.5, -0.5])
    assert intraclass_correlation(surprise, list("aabb")) == 1.0
    assert intraclass_correlation(surprise, list("abab")) == 0.0
    assert intraclass_correlation(surprise, list("abcd")) == 1.0  # nothing to measure it by


def test_a_threshold_is_proven_and_not_only_measured():
    probability = np.array([0.99] * 89 + [0.9, 0.6])
    right = np.array([True] * 90 + [False])
    groups = [str(number) for number in range(91)]
    assert choose_threshold(probability, right, groups, 0.95) == 0.9
    assert choose_threshold(probability[1:], right[1:], groups[1:], 0.95) is None
    assert choose_threshold(probability[1:], right[1:], groups[1:], 0.9) == 0.6
    # That of all predictions is not chosen among many: a bound of 95 % is enough.
    assert choose_threshold(probability[:59], right[:59], groups[:59], 0.95) == 0.99
    assert choose_threshold(probability[:58], right[:58], groups[:58], 0.95) is None


def test_predictions_of_one_probability_are_used_together_or_not_at_all():
    right = np.array([True] * 45 + [False] * 5)
    groups = [str(number) for number in range(50)]
    assert choose_threshold(np.full(50, 0.9), right, groups, 0.95) is None


def test_no_sample_is_recalibrated_by_its_own_group():
    sure, _, right, groups = world(200, 0, together=4)
    before = cross_fit(sure, right, groups, target=0.8, seed=0)
    for chosen in ("0", "17", "49"):
        own = np.array([group == chosen for group in groups])
        after = cross_fit(sure, np.where(own, ~right, right), groups, target=0.8, seed=0)
        assert all((new[own] == old[own]).all() for new, old in zip(after, before, strict=True))
        assert (after[0] != before[0]).any()


def test_a_calibrated_model_is_distinguished_from_an_overconfident_one():
    for seed in range(5):
        sure, _, right, groups = world(600, seed)
        honest = measure(sure, right, groups=groups)
        assert honest.raw_error.low < 0.01
        assert honest.raw_error.value < 2 * honest.chance_error
        assert 0.7 < honest.slope < 1.4
        sure, _, right, groups = world(600, seed, too_sure=True)
        bold = measure(sure, right, groups=groups)
        assert bold.raw_error.low > 0.03
        assert bold.raw_error.value > 2 * bold.chance_error
        assert 0.35 < bold.slope < 0.7
        assert bold.error.value < 2 * bold.chance_error
        assert bold.brier.value < bold.raw_brier.value
        assert PlattScaler(bold.slope, bold.intercept).apply(np.array([0.99])) < 0.96


@pytest.mark.parametrize("too_sure", [False, True])
def test_intervals_of_the_error_hold_the_true_one(too_sure):
    sure, truth, _, _ = world(200_000, 99, too_sure=too_sure)
    expected = np.abs(sure - truth).mean()  # 0, or 0.115
    held = 0
    for seed in range(60):
        sure, _, right, groups = world(300, seed, too_sure=too_sure)
        counts = draw_groups(groups, seed=seed, draws=300)
        found = calibration_error(sure, right, counts)
        assert found.low <= found.value <= found.high
        held += found.low <= expected <= found.high
    # 95 % are promised; 54 of 60 or more have a probability of 0.97.
    assert held >= 54


@pytest.mark.parametrize("together", [1, 5])
def test_a_promised_precision_is_kept_in_nine_evaluations_of_ten(together):
    kept, held, used, runs = 0, 0, [], 60
    sure, truth, _, _ = world(100_000, 99, too_sure=True)
    for seed in range(runs):
        mine, _, right, groups = world(300, seed, too_sure=True, together=together)
        found = measure(mine, right, groups=groups, target=0.9, seed=seed, draws=10)
        assert found.auto_accept is not None
        if found.auto_accept.threshold is None:
            kept, held = kept + 1, held + 1
            continue
        filled = (
            PlattScaler(found.slope, found.intercept).apply(sure) >= found.auto_accept.threshold
        )
        precision = truth[filled].mean()
        kept += precision >= 0.9
        held += found.auto_accept.precision.low <= precision <= found.auto_accept.precision.high
        used.append((found.auto_accept.coverage.value, filled.mean()))
    # Of 60, 54 or more have a probability of 0.97 where the true share is 0.95.
    assert kept >= 54
    assert held >= 53
    # About 0.7 of all could be used if the truth were known; a fifth fewer samples promise less.
    measured, true = np.mean(used, axis=0)
    assert 0.3 < measured < true < 0.7


def test_no_prediction_is_never_used_and_counts_as_not_filled():
    sure, _, right, _ = world(1200, 3)
    sure[:600], right[:600] = math.nan, False
    found = measure(sure, right, target=0.9)
    assert found.auto_accept is not None
    assert 0.1 < found.auto_accept.coverage.value < 0.5
    assert found.auto_accept.precision.value > 0.85
    assert (found.samples, found.with_confidence) == (1200, 600)


@pytest.mark.parametrize(
    ("confidence", "right", "groups", "words"),
    [
        ([], [], [], "No prediction has a confidence."),
        ([math.nan] * 3, [1, 0, 0], list("abc"), "No prediction has a confidence."),
        ([0.9], [1], ["a"], "all predictions are of one group"),
        ([0.9, 0.8, 0.3], [1, 1, 0], ["a"] * 3, "all predictions are of one group"),
        ([0.9, 0.8, math.nan], [1, 1, 0], list("aab"), "all predictions are of one group"),
        ([0.9, 0.8], [1, 0], ["a", "b"], "at least 59 of the most confident predictions"),
        ([0.9] * 30, [1] * 30, [], "at least 59 of the most confident predictions"),
        ([0.0] * 30, [0] * 30, [], "No threshold is known to reach a precision of 0.95"),
    ],
)
def test_too_little_is_reported_in_words(confidence, right, groups, words):
    found = measure(confidence, right, groups=groups, target=0.95)
    assert words in found.limitations
    assert found.auto_accept is not None
    assert found.auto_accept.threshold is None
    assert found.auto_accept.coverage == (0, 0, 0)
    assert math.isnan(found.auto_accept.precision.value)
    assert len(found.bins) <= found.with_confidence


def test_predictions_that_are_all_right_can_all_be_used():
    found = measure([0.9] * 100, [1] * 100, target=0.94)
    assert found.limitations == ""
    assert found.auto_accept is not None
    assert found.auto_accept.coverage.value == 1
    assert found.auto_accept.precision.value == 1
    assert found.auto_accept.precision.low == pytest.approx(0.964, abs=1e-3)  # 0.025^(1/100)
    line = PlattScaler(found.slope, found.intercept)
    assert line.apply(np.array([0.9])) == pytest.approx([101 / 102], abs=1e-3)


def test_a_target_that_cannot_be_proven_is_rejected():
    with pytest.raises(ValueError, match=r"target precision is 1\.0; pass a share above 0"):
        measure([0.9], [1], target=1.0)


def said(number, *, name="Coat", price=100.0, readable=True, **confidence) -> ScoredPrediction:
    truth = {"title": "Coat", "category3_code": "COATS", "full_price": 100.0}
    parsed = truth | {"title": name, "full_price": price} if readable else None
    prediction = Prediction(text="", record=parsed, confidence=confidence)
    name = f"s{number}"
    return ScoredPrediction(id=name, group=name, truth=truth, prediction=prediction)


def judge(predictions) -> dict[str, Calibration]:
    counts = draw_groups([answer.id for answer in predictions], seed=0)
    return calibrations(predictions, PRODUCT, counts, target=None, seed=0)


def test_each_field_is_evaluated_by_its_kind_and_the_record_by_all():
    sure = {"title": 0.5, "category3_code": 0.9, "full_price": 0.8}
    found = judge(
        [
            said(0, **sure),
            said(1, price=109.0, **sure),  # 9 % off is right
            said(2, price=120.0, **sure),
            said(3, name="Shirt", **sure),
            said(4, readable=False, **sure),  # what it is sure of cannot be read
        ]
    )
    assert list(found) == ["title", "category3_code", "full_price", "whole record"]
    assert {name: each.accuracy for name, each in found.items()} == {
        "title": 0.75,
        "category3_code": 1.0,
        "full_price": 0.75,
        "whole record": 0.5,
    }
    assert found["whole record"].bins[0].confidence == pytest.approx(0.5 * 0.9 * 0.8)
    assert {each.with_confidence for each in found.values()} == {4}


def test_fields_without_any_confidence_are_left_out():
    assert judge([said(0, category3_code=0.5), said(1)])["category3_code"].with_confidence == 1
    assert list(judge([said(0, category3_code=0.5), said(1)])) == ["category3_code"]
    assert judge([said(0), said(1)]) == {}


def test_a_confidence_that_is_no_probability_is_rejected_with_its_sample():
    with pytest.raises(ValueError, match=r"'full_price' of sample 's0' is 1\.5; pass a prob"):
        judge([said(0, full_price=1.5), said(1)])


def test_levels_of_a_path_have_thresholds_of_their_own():
    """The first level is always right, the second in seven of ten, whatever the confidence."""
    template = Template(name="t", question="?", answer="{shelf:path}, {title}", layout="chat")
    draw = np.random.default_rng(0)
    held = []
    for number in range(400):
        value = "Apparel > Tops" if draw.random() < 0.7 else "Apparel > Coats"
        text = template.render({"shelf": value, "title": "a"})
        sure = {"shelf level 1": 0.99, "shelf level 2": 0.6, "shelf": 0.6, "title": 0.9}
        held.append(
            ScoredPrediction(
                id=str(number),
                group=str(number),
                truth={"shelf": "Apparel > Tops", "title": "a"},
                prediction=Prediction.parse(text, template, confidence=sure),
            )
        )
    acceptance = choose_acceptance(held, template, target=0.95)
    assert acceptance.levels == {"shelf": ("shelf level 1", "shelf level 2")}
    assert acceptance.rules["shelf level 2"].threshold is None
    decision = acceptance.decide(held[0].prediction)
    assert decision.accept["shelf level 1"] is True
    assert decision.accept["shelf"] is False
    assert decision.accepted_path == {"shelf": "Apparel"}


def test_the_confidence_in_a_level_ends_behind_its_name():
    template = Template(name="t", question="?", answer="{shelf:path?}, {title}", layout="chat")
    text = "Apparel > Tops, a"
    parts = {name: text[slice(*span)] for name, span in template.spans(text).items()}
    assert parts["shelf level 1"] == "Apparel"
    assert parts["shelf level 2"] == parts["shelf"] == "Apparel > Tops"
    assert template.spans("not visible, a").keys() == {"shelf", "title"}
    # Tokens "Apparel", " >", " Tops", ",", " a", and the one that ends the text.
    logs = [math.log(each) for each in (0.9, 0.8, 0.5, 0.5, 1.0, 1.0)]
    confidence = field_confidence(template, text, (7, 9, 14, 15, 17, 17), logs)
    assert confidence["shelf level 1"] == pytest.approx(0.9 * 0.8)
    assert confidence["shelf"] == pytest.approx(0.9 * 0.8 * 0.5 * 0.5)
