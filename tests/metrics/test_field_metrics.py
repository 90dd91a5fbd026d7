"""Metrics against figures worked by hand, scikit-learn and scipy."""

import math
import random
import time

import numpy as np
import pytest
import sacrebleu
import sklearn.metrics as sk
from draws import check_draws
from scipy.stats import spearmanr

from phi_vision.data.kinds.number_kind import (
    absolute,
    as_number,
    relative,
    relative_error,
    signed,
    squared_log,
    symmetric,
    within,
)
from phi_vision.data.kinds.text_kind import chrf, edit_similarity, rouge_l
from phi_vision.data.template import KINDS, TEMPLATES, Template
from phi_vision.metrics.bootstrap import draw_groups
from phi_vision.metrics.category_hierarchy import CategoryHierarchy
from phi_vision.metrics.field_metrics import METRICS, headline_metrics, is_correct, metrics_for

PRODUCT = TEMPLATES["product"]
HIERARCHY = CategoryHierarchy(
    levels=("category2_code", "category1_code"),
    ancestors={
        "COATS":   ("CLOTHES",     "WEAR"),
        "SHIRTS":  ("CLOTHES",     "WEAR"),
        "SCARVES": ("ACCESSORIES", "WEAR"),
    },
)  # fmt: skip
MEASURED = metrics_for(PRODUCT, {"category3_code": HIERARCHY})


def distribution(metric, predicted, true, counts):
    return metric.distribution(metric.values(predicted, true), counts)


def record(title="Coat", category="COATS", price=100.0):
    return {"title": title, "category3_code": category, "full_price": price}


TRUE = [
    record("Wool Coat",   "COATS",   100.0),
    record("Silk Scarf",  "SCARVES", 200.0),
    record("Linen Shirt", "SHIRTS",   50.0),
    record("Wool Coat",   "COATS",   400.0),
]  # fmt: skip
PREDICTED = [
    record("Wool Coat",  "COATS",  110.0),  # 10 % off
    record("Silk Shirt", "SHIRTS", 100.0),  # half
    None,                                   # could not be read
    record("Wool Coat",  "HATS",   400.0),  # a category that is never true
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parse_rate",                3 / 4),
        ("title_exact",               2 / 4),
        ("title_similarity",          (1 + 0.7 + 0 + 1) / 4),  # "hirt" for "carf", r the same
        ("title_rouge_l",             (1 + 0.5 + 0 + 1) / 4),
        ("category3_code_accuracy",   1 / 4),
        # COATS: 2·1 / (2 true + 1 said); SCARVES: 0; SHIRTS: 0 (said once, for the scarf).
        ("category3_code_macro_f1",   (2 / 3 + 0 + 0) / 3),
        # Shared: a whole branch, WEAR, nothing, nothing. Said: 3 + 3 + 0 + 1 (HATS is nowhere).
        ("category3_code_hierarchical_f1", 2 * (3 + 1) / (7 + 4 * 3)),
        # Unread counts as 0: an error of 50, of 100 %, and of 2 in the symmetric form.
        ("full_price_mae",            (10 + 100 + 50 + 0) / 4),
        ("full_price_median_ape",     (0.1 + 0.5) / 2),
        ("full_price_mape",           (0.1 + 0.5 + 1 + 0) / 4),
        ("full_price_smape",          (20 / 210 + 200 / 300 + 2 + 0) / 4),
        ("full_price_rmsle",          math.sqrt(
            (math.log(111 / 101) ** 2 + math.log(101 / 201) ** 2 + math.log(51) ** 2) / 4
        )),
        ("full_price_within_5",       1 / 4),
        ("full_price_within_10",      2 / 4),
        ("full_price_within_25",      2 / 4),
        # Said 110 100 0 400, true 100 200 50 400: ranks 3 2 1 4 and 2 3 1 4, 1 − 6·2 / (4·15).
        ("full_price_spearman",       0.8),
        ("full_price_bias",           (0.1 - 0.5 - 1 + 0) / 4),
    ],
)  # fmt: skip
def test_values_by_hand(name, value):
    assert MEASURED[name](PREDICTED, TRUE) == pytest.approx(value)


def test_chrf_of_predictions_is_the_mean_of_their_sentences():
    # The one that is neither right nor unread: "SilkShirt" for "SilkScarf", precision = recall:
    # characters S i l k S r of nine; pairs Si il lk kS of eight; SilkS holds 3, 2 and 1 of the
    # seven triples, six fours and five fives, and none of the four sixes.
    sentence = (6 / 9 + 4 / 8 + 3 / 7 + 2 / 6 + 1 / 5 + 0 / 4) / 6
    assert MEASURED["title_chrf"](PREDICTED, TRUE) == pytest.approx((1 + sentence + 0 + 1) / 4)


def test_every_metric_has_a_value_computed_by_hand():
    kinds = {*PRODUCT.kinds.values()}  # of the others: test_kind_metrics.py
    assert {name for kind in kinds for name in METRICS[kind]} == {
        *("exact", "similarity", "rouge_l", "chrf", "accuracy", "macro_f1", "hierarchical_f1"),
        *("mae", "median_ape", "mape", "smape", "rmsle", "within_5", "within_10", "within_25"),
        *("spearman", "bias"),
    }


def test_perfect_predictions_have_the_best_values():
    for name, metric in MEASURED.items():
        best = {"higher": 1, "lower": 0, "zero": 0}[metric.better]
        assert metric(TRUE, TRUE) == pytest.approx(best), name


def test_no_prediction_has_the_worst_values():
    worst = {
        "full_price_mae": (100 + 200 + 50 + 400) / 4,
        "full_price_median_ape": 1,
        "full_price_mape": 1,
        "full_price_smape": 2,
        "full_price_rmsle": math.sqrt(sum(math.log(1 + r["full_price"]) ** 2 for r in TRUE) / 4),
        "full_price_bias": -1,
    }
    for name, metric in MEASURED.items():
        assert metric([None] * 4, TRUE) == pytest.approx(worst.get(name, 0)), name


@pytest.mark.parametrize("name", MEASURED)
def test_a_field_left_out_is_as_bad_as_an_unparsed_prediction(name):
    if name != "parse_rate":
        assert MEASURED[name]([{}, *PREDICTED[1:]], TRUE) == pytest.approx(
            MEASURED[name]([None, *PREDICTED[1:]], TRUE)
        )


def test_a_missing_prediction_is_wrong_also_where_the_truth_is_empty():
    true = [record(title=None, category=None)]
    for name in ("title_exact", "title_similarity", "title_rouge_l", "title_chrf"):
        assert MEASURED[name](true, true) == 1
        assert MEASURED[name]([None], true) == 0
    for name in ("accuracy", "macro_f1", "hierarchical_f1"):
        assert MEASURED[f"category3_code_{name}"](true, true) == 1
        assert MEASURED[f"category3_code_{name}"]([None], true) == 0


@pytest.mark.parametrize("price", [None, "100.0", math.nan, math.inf, True, 10**400])
def test_a_prediction_without_a_number_is_read_as_0(price):
    assert as_number(price) is None
    assert MEASURED["full_price_mae"]([record(price=price)], [record(price=100.0)]) == 100


@pytest.mark.parametrize("price", [None, math.nan, 0.0, -5.0])
def test_samples_without_a_positive_number_do_not_count(price):
    true = [record(price=price), record(price=100.0)]
    assert MEASURED["full_price_mae"]([record(price=7.0), record(price=90.0)], true) == 10
    assert MEASURED["full_price_within_10"]([None, record(price=90.0)], true) == 1
    for name in METRICS["number"]:
        assert math.isnan(MEASURED[f"full_price_{name}"]([record()], true[:1])), name


@pytest.mark.parametrize("price", [1.7e308, -1.7e308])
def test_absurd_numbers_leave_every_value_finite(price):
    true = [record(price=5e-324), record(price=1.7e308), record(price=1.0), record(price=2.0)]
    said = [record(price=price)] * 3 + [record(price=-price)]
    counts = np.array([[0, 1, 1, 2], [4, 0, 0, 0]], dtype=float)
    for name in METRICS["number"]:
        value, resampled, *_ = distribution(MEASURED[f"full_price_{name}"], said, true, counts)
        assert math.isfinite(value), name
        assert np.isfinite(resampled[0]), name


def predictions(seed, samples=60):
    """True records, and what a middling model says: an eighth cannot be read."""
    rng = random.Random(seed)
    titles = ["Wool Coat", "Silk Scarf", "Linen Shirt", "Coat", "Long Wool Coat"]
    true = [
        record(
            rng.choice(titles),
            rng.choice([*HIERARCHY.ancestors]),
            round(rng.lognormvariate(4, 1), 1),
        )
        for _ in range(samples)
    ]
    said = [
        None if rng.random() < 1 / 8 else
        record(
            rng.choice([t["title"], rng.choice(titles)]),
            rng.choice([t["category3_code"], *HIERARCHY.ancestors, "HATS"]),
            round(t["full_price"] * rng.lognormvariate(0, 0.2), 1),
        )
        for t in true
    ]  # fmt: skip
    return said, true


@pytest.mark.parametrize("name", MEASURED)
def test_a_draw_is_as_good_as_its_samples_repeated(name):
    said, true = predictions(seed=1)
    check_draws({name: MEASURED[name]}, said, true, of_a_group=2)


def columns(said, true, field, silence):
    return [t[field] for t in true], [silence if s is None else s[field] for s in said]


@pytest.mark.parametrize("seed", range(3))
def test_categories_equal_scikit_learn(seed):
    said, true = predictions(seed)
    t, s = columns(said, true, "category3_code", "")
    assert MEASURED["category3_code_accuracy"](said, true) == pytest.approx(sk.accuracy_score(t, s))
    macro = sk.f1_score(t, s, labels=sorted(set(t)), average="macro")
    assert MEASURED["category3_code_macro_f1"](said, true) == pytest.approx(macro)


@pytest.mark.parametrize("seed", range(3))
def test_numbers_equal_scikit_learn_and_scipy(seed):
    said, true = predictions(seed)
    t, s = map(np.array, columns(said, true, "full_price", 0.0))
    expected = {
        "mae": sk.mean_absolute_error(t, s),
        "mape": sk.mean_absolute_percentage_error(t, s),
        "rmsle": sk.root_mean_squared_log_error(t, s),
        "median_ape": np.median(np.abs(s - t) / t),
        "spearman": spearmanr(t, s).statistic,
    }
    for name, value in expected.items():
        assert MEASURED[f"full_price_{name}"](said, true) == pytest.approx(value), name


def test_relative_error_of_one_number():
    assert relative_error(150.0, 100.0) == 0.5
    assert relative_error(None, 100.0) == 1
    assert math.isnan(relative_error(100.0, 0.0))
    assert math.isnan(relative_error(100.0, None))


@pytest.mark.parametrize(
    ("kind", "said", "true", "right"),
    [
        ("text",     "Coat",  "Coat",  True),
        ("text",     "coat",  "Coat",  False),
        ("category", "COATS", "COATS", True),
        ("category", None,    "COATS", False),
        ("category", None,    None,    True),
        ("number",   0.33,    0.3,     True),   # 10 % off, though floats say a little more
        ("number",   111.0,   100.0,   False),
        ("number",   -11.0,   -10.0,   True),
        ("number",   0.0,     0.0,     True),
        ("number",   0.1,     0.0,     False),
        ("number",   "100",   100.0,   False),
        ("number",   None,    100.0,   False),
        ("number",   None,    None,    True),
    ],
)  # fmt: skip
def test_correct_and_wrong_values(kind, said, true, right):
    assert is_correct(kind, said, true) is right


def test_metrics_follow_the_kinds_of_the_fields():
    shoe = Template(
        name="shoe",
        question="?",
        answer="{size:number} {brand} {kind:category} {note}",
        layout="chat",
    )
    names = [
        "parse_rate",
        *(f"size_{short}" for short in METRICS["number"]),
        *(f"brand_{short}" for short in METRICS["text"]),
        *("kind_accuracy", "kind_macro_f1"),
        *(f"note_{short}" for short in METRICS["text"]),
    ]
    assert list(metrics_for(shoe)) == names
    assert list(metrics_for(shoe, {"kind": None})) == names
    assert headline_metrics(shoe) == (
        *("size_median_ape", "brand_similarity", "kind_accuracy", "note_similarity"),
    )
    with_tree = metrics_for(shoe, {"kind": HIERARCHY})
    assert set(with_tree) - set(names) == {"kind_hierarchical_f1"}
    assert [metric.field for metric in with_tree.values()].count("kind") == 3
    assert all(name == metric.name for name, metric in with_tree.items())


def test_every_kind_has_metrics_a_headline_and_words():
    for kind in KINDS.values():
        assert kind.headline in kind.measures
    for metric in MEASURED.values():
        assert metric.description.endswith("."), metric.name


def test_lists_of_different_lengths_are_rejected():
    for metric in MEASURED.values():
        with pytest.raises(ValueError, match="zip"):
            metric(PREDICTED[:1], TRUE)


def test_all_intervals_of_305_samples_take_less_than_a_second():
    """Measured: 0.06 s of one core; the slowest is chrF, the next Spearman."""
    said, true = predictions(seed=3, samples=305)
    counts = draw_groups([str(place) for place in range(305)], seed=0)
    began = time.process_time()
    for metric in MEASURED.values():
        distribution(metric, said, true, counts)
    assert time.process_time() - began < 1


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
