"""Distances of single texts and numbers against values worked by hand."""

import math

import numpy as np
import pytest
import sacrebleu

from phi_vision.metrics.distances import (
    absolute,
    chrf,
    edit_similarity,
    relative,
    rouge_l,
    signed,
    squared_log,
    symmetric,
    within,
)


@pytest.mark.parametrize(
    ("said", "true", "similarity"),
    [
        ("Wool Coat", "Wool Coat", 1),
        ("Wool Coat", "Wool Cape", 6 / 9),   # "oat" for "ape"
        ("kitten",    "sitting",   4 / 7),   # k→s, e→i, +g
        ("Coat",      "",          0),
        ("COAT",      "coat",      0),       # case counts
    ],
)  # fmt: skip
def test_edit_similarity(said, true, similarity):
    assert edit_similarity(said, true) == pytest.approx(similarity)


@pytest.mark.parametrize(
    ("said", "true", "f1"),
    [
        ("Blue wool coat", "Wool Coat, long", 2 * 2 / 6),
        ("coat wool",      "wool coat",       2 * 1 / 4),  # the order counts
        ("the the the",    "the cat",         2 * 1 / 5),
        ("T-shirt",        "t shirt",         1),          # two words
        ("ΜΆΛΛΙΝΟ παλτό",  "μάλλινο παλτό",   1),
        ("Wool",           "Silk",            0),
        ("",               "Silk",            0),
        ("!!!",            "???",             0),          # no words at all
    ],
)  # fmt: skip
def test_rouge_l(said, true, f1):
    assert rouge_l(said, true) == pytest.approx(f1)


def test_chrf_by_hand():
    # Characters 2 of 3, pairs 1 of 2, triples 0 of 1, both ways; longer sequences do not exist.
    assert chrf("abc", "abd") == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # Precision 1 and 1, recall 1/2 and 1/3 (characters and pairs): F2 = 5PR / (4P + R).
    recall = (1 / 2 + 1 / 3) / 2
    assert chrf("ab", "abcd") == pytest.approx(5 * recall / (4 + recall))


@pytest.mark.parametrize("said", ["Wool Coat", "Wool cape, long", "x", "羊毛大衣", "Wo"])
def test_chrf_equals_sacrebleu(said):
    expected = sacrebleu.sentence_chrf(said, ["Wool Cape"]).score / 100
    assert chrf(said, "Wool Cape") == pytest.approx(expected)


def test_errors_of_numbers():
    said = np.array([150.0,  90.0, 0.0, -50.0])  # fmt: skip
    true = np.array([100.0, 100.0, 7.0,  50.0])  # fmt: skip
    np.testing.assert_allclose(absolute(said, true),  [50, 10, 7, 100])  # fmt: skip
    np.testing.assert_allclose(signed(said, true),    [0.5, -0.1, -1, -2])  # fmt: skip
    np.testing.assert_allclose(relative(said, true),  [0.5, 0.1, 1, 2])  # fmt: skip
    np.testing.assert_allclose(symmetric(said, true), [100 / 250, 20 / 190, 2, 2])  # fmt: skip
    logs = [math.log(151 / 101), math.log(91 / 101), math.log(8), math.log(51)]
    np.testing.assert_allclose(squared_log(said, true), np.square(logs))


def test_the_edge_of_a_share_is_within_it():
    said, true = np.array([0.33, 17.1, 17.0, 5.0]), np.array([0.3, 19.0, 19.0, math.nan])
    np.testing.assert_array_equal(within(said, true, tolerance=0.1), [1, 1, 0, math.nan])


def test_errors_beyond_all_numbers_are_cut_off():
    assert signed(np.array([1e300]), np.array([1e-300])) == [1e300]
    assert signed(np.array([-1e300]), np.array([1e-300])) == [-1e300]
