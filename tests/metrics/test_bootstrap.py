"""Figures of many draws at once against the ordinary figures of repeated samples."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import f1_score

from phi_vision.metrics.bootstrap import (
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
