"""The table of what is taken for what."""

import numpy as np

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.evaluation.sections import OTHERS, UNPARSED, confusion


def predictions(*pairs):
    """Answers from (true, said); None was not readable."""
    return [
        ScoredPrediction(
            id=str(place),
            group=str(place),
            truth={"kind": true},
            prediction=Prediction(text="", record=None if said is None else {"kind": said}),
        )
        for place, (true, said) in enumerate(pairs)
    ]


PAIRS = [
    ("COAT", "COAT"), ("COAT", "HAT"), ("COAT", "COAT"), ("COAT", None),
    ("HAT",  "HAT"),  ("HAT",  "COAT"), ("HAT", "HAT"),
    ("BAG",  "BAG"),  ("BAG",  "HAT"),
    ("BELT", "COAT"),
]  # fmt: skip


def test_counts_by_hand():
    found = confusion(predictions(*PAIRS), "kind")
    assert found.labels == ("COAT", "HAT", "BAG", "BELT")
    assert found.predicted == ("COAT", "HAT", "BAG", "BELT", UNPARSED)
    np.testing.assert_array_equal(
        found.counts,
        [
            [2, 1, 0, 0, 1],
            [1, 2, 0, 0, 0],
            [0, 1, 1, 0, 0],
            [1, 0, 0, 0, 0],
        ],
    )


def test_rare_categories_are_pooled():
    found = confusion(predictions(*PAIRS, ("HAT", "BELT")), "kind", max_labels=2)
    assert found.labels == ("COAT", "HAT", OTHERS)
    assert found.predicted == ("COAT", "HAT", OTHERS, UNPARSED)
    np.testing.assert_array_equal(
        found.counts,
        [
            [2, 1, 0, 1],
            [1, 2, 1, 0],
            [1, 1, 1, 0],
        ],
    )


def test_a_category_that_is_never_true_has_a_column_and_no_row():
    found = confusion(predictions(("COAT", "COAT"), ("COAT", "TENT")), "kind")
    assert found.labels == ("COAT",)
    assert found.predicted == ("COAT", OTHERS)
    np.testing.assert_array_equal(found.counts, [[1, 1]])


def test_the_columns_begin_with_the_rows_so_that_correct_predictions_are_on_the_diagonal():
    found = confusion(
        predictions(("COAT", "COAT"), ("HAT", "COAT"), ("HAT", "COAT")), "kind", max_labels=1
    )
    assert found.predicted[: len(found.labels)] == found.labels == ("HAT", OTHERS)
    # What was said belongs to the pool here, and so does one of the true ones.
    np.testing.assert_array_equal(found.counts, [[0, 2], [0, 1]])


def test_a_category_called_like_the_pool_stays_itself():
    found = confusion(predictions((OTHERS, OTHERS), ("COAT", "COAT"), (OTHERS, "TENT")), "kind")
    assert found.labels == (OTHERS, "COAT")
    assert found.predicted == (OTHERS, "COAT", OTHERS)
    np.testing.assert_array_equal(found.counts, [[1, 0, 1], [0, 1, 0]])


def test_a_missing_field_counts_as_unparsed_and_none_can_be_true():
    lacks = predictions(("COAT", "COAT"), (None, "COAT"))
    lacks[0].prediction.record.clear()
    found = confusion(lacks, "kind")
    assert found.labels == ("COAT", "(empty)")
    np.testing.assert_array_equal(found.counts, [[0, 0, 1], [1, 0, 0]])


def test_equally_frequent_categories_stand_in_the_order_of_their_names():
    assert confusion(predictions(("b", "b"), ("c", "c"), ("a", "a")), "kind").labels == (
        "a",
        "b",
        "c",
    )


def test_no_predictions_make_an_empty_table():
    found = confusion([], "kind")
    assert found.labels == found.predicted == ()
    assert found.counts.shape == (0, 0)
