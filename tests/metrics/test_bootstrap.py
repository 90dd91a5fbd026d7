"""Figures of many draws at once against the ordinary figures of repeated samples."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, spearmanr
from sklearn.metrics import f1_score

from phi_vision.metrics.bootstrap import (
    BootstrapDistribution,
    distribution,
    draw_groups,
    effective_groups,
    macro_f1,
    mean,
    median,
    overlap_f1,
    rank_correlation,
    root_mean,
)

NAN = math.nan


def drawn(seed, samples, draws=50):
    """Counts as the bootstrap gives them; the first draw takes every sample once."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(samples, np.full(samples, 1 / samples), size=draws)
    return np.concatenate([np.ones((1, samples)), counts])


def repeated(marks, counts):
    return np.repeat(marks, counts.astype(int), axis=0)


def test_mean_by_hand():
    counts = np.array([[1, 1, 1], [3, 1, 0], [0, 0, 2]], dtype=float)
    np.testing.assert_allclose(mean(np.array([1.0, 4.0, NAN]), counts), [2.5, 1.75, NAN])


def test_root_mean_by_hand():
    counts = np.array([[1, 1], [3, 0]], dtype=float)
    np.testing.assert_allclose(root_mean(np.array([9.0, 16.0]), counts), [math.sqrt(12.5), 3])


def test_median_by_hand():
    counts = np.array([[1, 1, 1, 1], [2, 1, 1, 0], [2, 0, 0, 1], [0, 0, 0, 3]], dtype=float)
    marks = np.array([5.0, 1.0, 2.0, NAN])
    np.testing.assert_array_equal(median(marks, counts), [2, 3.5, 5, NAN])


@pytest.mark.parametrize("samples", [1, 2, 3, 10, 41])
def test_median_equals_numpy(samples):
    marks = np.random.default_rng(samples).integers(0, 8, samples).astype(float)
    counts = drawn(samples, samples)
    expected = [np.median(repeated(marks, row)) for row in counts]
    np.testing.assert_array_equal(median(marks, counts), expected)


def test_macro_f1_by_hand():
    marks = np.array([(0, 0), (0, 0), (0, 1), (1, 1), (2, -1)], dtype=float)
    once = np.ones((1, 5))
    # Category 0: 2·2 / (3 + 2); category 1: 2·1 / (1 + 2); category 2: never said.
    np.testing.assert_allclose(macro_f1(marks, once), [(4 / 5 + 2 / 3 + 0) / 3])


@pytest.mark.parametrize("seed", range(4))
def test_macro_f1_equals_scikit_learn_on_every_draw(seed):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 5, 30)
    said = np.where(rng.random(30) < 0.5, true, rng.integers(-1, 5, 30))
    marks = np.stack([true, said], axis=1).astype(float)
    expected = []
    for row in drawn(seed, 30):
        t, s = repeated(marks, row).T
        expected.append(f1_score(t, s, labels=np.unique(t), average="macro", zero_division=0))
    np.testing.assert_allclose(macro_f1(marks, drawn(seed, 30)), expected)


def test_overlap_by_hand():
    marks = np.array([(1, 2, 2), (0, 0, 2)], dtype=float)
    counts = np.array([[1, 1], [1, 0], [0, 1]], dtype=float)
    np.testing.assert_allclose(overlap_f1(marks, counts), [2 / 6, 2 / 4, 0])


@pytest.mark.parametrize("levels", [3, 10, 10_000])
def test_rank_correlation_equals_scipy_on_every_draw(levels):
    """With 3 levels nearly all ranks are shared, with 10,000 none but those of repeated samples."""
    rng = np.random.default_rng(levels)
    true = rng.integers(1, levels + 1, 25)
    said = true + rng.integers(-levels, levels, 25) // 2
    marks = np.stack([said, true], axis=1).astype(float)
    counts = drawn(levels, 25)
    expected = [spearmanr(*repeated(marks, row).T).statistic for row in counts]
    np.testing.assert_allclose(rank_correlation(marks, counts), expected, atol=1e-12)


def test_the_same_prediction_for_all_has_no_order_and_one_true_number_has_none_to_find():
    once = np.ones((1, 3))
    assert rank_correlation(np.array([(7.0, 1.0), (7.0, 2.0), (7.0, 3.0)]), once) == [0]
    assert np.isnan(rank_correlation(np.array([(1.0, 7.0), (2.0, 7.0), (3.0, 7.0)]), once))
    assert np.isnan(rank_correlation(np.array([(7.0, 7.0), (7.0, 7.0), (7.0, 7.0)]), once))


def test_samples_without_a_true_number_have_no_rank():
    marks = np.array([(1.0, 10.0), (9.0, NAN), (2.0, 20.0), (3.0, 15.0)])
    # Ranks 1 2 3 against 1 3 2: 1 − 6 · (0 + 1 + 1) / (3 · (9 − 1)).
    assert rank_correlation(marks, np.ones((1, 4))) == pytest.approx([0.5])


SHAPES = {mean: (), root_mean: (), median: (), macro_f1: (2,), overlap_f1: (3,)}
SHAPES[rank_correlation] = (2,)


@pytest.mark.parametrize("combine", SHAPES, ids=lambda combine: combine.__name__)
def test_no_draws_give_no_values_and_no_samples_give_nan(combine):
    some = np.ones((4, *SHAPES[combine]))
    assert combine(some, np.empty((0, 4))).shape == (0,)
    assert np.isnan(combine(some[:0], np.ones((2, 0)))).tolist() == [True, True]
    assert np.isnan(combine(some, np.zeros((1, 4)))).tolist() == [True]


SHARE, NO_LIMITS = (0.0, 1.0), (-math.inf, math.inf)


def interval(values, groups, limits=SHARE, combine=mean):
    counts = draw_groups(groups, seed=0)
    return distribution(combine, np.array(values), counts, limits).estimate()


def test_samples_of_one_group_count_as_one_observation():
    counts = draw_groups(["a", "a", "b"], seed=0)
    found = distribution(mean, np.ones(3), counts, SHARE)
    assert effective_groups(found.groups) == pytest.approx(3**2 / (2**2 + 1**2))
    counts = draw_groups([str(n // 3) for n in range(300)], seed=1)
    assert effective_groups(distribution(mean, np.ones(300), counts, SHARE).groups) == 100


@pytest.mark.parametrize("groups", [2, 10, 142])
def test_without_an_error_the_interval_is_the_exact_one_of_the_groups(groups):
    names = [str(number // 2) for number in range(2 * groups)]
    lowest = 0.025 ** (1 / groups)  # Clopper and Pearson, 1934
    assert interval(np.ones(2 * groups), names) == pytest.approx((1, lowest, 1))
    assert interval(np.zeros(2 * groups), names) == pytest.approx((0, 0, 1 - lowest))
    # Half right everywhere: what was not seen may lie at either limit.
    half = (1 - lowest) / 2
    assert interval(np.full(2 * groups, 0.5), names) == pytest.approx((0.5, 0.5 - half, 0.5 + half))


def test_samples_that_do_not_count_give_no_certainty():
    names = [str(number) for number in range(142)]
    values = [1.0] * 10 + [NAN] * 132
    assert interval(values, names) == pytest.approx((1, 0.025 ** (1 / 10), 1))


def test_without_a_limit_equal_values_have_no_interval_and_one_group_has_none():
    names = [str(number) for number in range(20)]
    assert interval(np.zeros(20), names, NO_LIMITS, median) == (0, -math.inf, math.inf)
    assert np.isnan(interval(np.ones(3), ["a"] * 3)[1:]).all()


def test_an_interval_that_ends_at_a_limit_is_at_least_the_exact_one():
    names = [str(number) for number in range(142)]
    value, low, high = interval([0.0] + [1.0] * 141, names)
    exact = binomtest(141, 142).proportion_ci(0.95, method="exact")
    assert value == 141 / 142
    assert low == pytest.approx(exact.low)
    assert high == 1.0
    # With more errors no resample is without one, and the percentiles remain as they are.
    values = np.array([0.0] * 12 + [1.0] * 130)
    counts = draw_groups(names, seed=0)
    percentiles = np.percentile(mean(values, counts), [2.5, 97.5])
    assert interval(values, names)[1:] == tuple(percentiles)


def test_a_difference_that_never_varies_has_the_interval_of_what_was_not_seen():
    counts = draw_groups([str(number) for number in range(100)], seed=0)
    right, wrong = (distribution(mean, np.full(100, share), counts, SHARE) for share in (1.0, 0.0))
    unseen = 1 - 0.025 ** (1 / 100)
    assert right.minus(right).estimate() == pytest.approx((0, -unseen, unseen))
    assert right.minus(wrong).estimate() == pytest.approx((1, 1 - 2 * unseen, 1))
    unbounded = BootstrapDistribution(0.0, np.zeros(1000))
    assert unbounded.minus(right).estimate()[1:] == (-math.inf, math.inf)


def difference(better, worse, groups=142, limits=SHARE):
    """Two systems of which the first is better in some groups of two, and worse in some."""
    counts = draw_groups([str(number // 2) for number in range(2 * groups)], seed=0)
    one, other = np.zeros(2 * groups), np.zeros(2 * groups)
    one[: 2 * better] = other[2 * better : 2 * (better + worse)] = 1.0
    one, other = (distribution(mean, values, counts, limits) for values in (one, other))
    return one.minus(other).estimate()


@pytest.mark.parametrize(("better", "worse"), [(1, 0), (2, 0), (3, 0), (5, 0), (1, 1), (2, 1)])
def test_a_difference_in_few_groups_is_that_of_a_sign_test(better, worse):
    value, low, high = difference(better, worse)
    assert value == pytest.approx((better - worse) / 142)
    of_groups = binomtest(better + worse, 142).proportion_ci(0.95, method="exact").high
    signs = binomtest(better, better + worse).proportion_ci(0.95, method="exact")
    ends = [of_groups * (2 * end - 1) for end in (signs.low, signs.high)]
    assert (low, high) == (pytest.approx(min(low, ends[0])), pytest.approx(max(high, ends[1])))
    assert low < 0 < high, "5 of 5 in a row have a probability of 1 in 16"
    assert difference(worse, better) == pytest.approx((-value, -high, -low), abs=0.01)


def test_a_difference_in_six_groups_or_more_has_the_bootstrap_interval():
    assert difference(6, 0).low > 0
    assert difference(5, 0, limits=NO_LIMITS) == (pytest.approx(5 / 142), -math.inf, math.inf)
    assert math.isfinite(difference(6, 0, limits=NO_LIMITS).low)


def test_intervals_of_differences_hold_the_true_one_in_19_of_20_evaluations():
    """Of 60 groups of three, 2 and 2 on average are better and worse: mostly fewer than 6."""
    rng, names, held = np.random.default_rng(0), [str(n // 3) for n in range(180)], 0
    counts = draw_groups(names, seed=0)
    for _ in range(100):
        luck = rng.random(60).repeat(3)
        pair = (
            distribution(mean, each.astype(float), counts, SHARE)
            for each in (luck < 2 / 60, luck > 58 / 60)
        )
        found = next(pair).minus(next(pair)).estimate()
        held += found.low <= 0 <= found.high
    assert held >= 95


def test_the_exact_interval_holds_the_true_share_in_19_of_20_evaluations():
    """An accuracy of 0.99 in 60 groups of three: most evaluations have no error or one."""
    rng, names, held = np.random.default_rng(0), [str(n // 3) for n in range(180)], 0
    for _ in range(100):
        low, high = interval(np.repeat(rng.random(60) < 0.99, 3).astype(float), names)[1:]
        held += low <= 0.99 <= high
    assert held >= 95
