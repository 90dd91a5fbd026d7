"""Slices: which parts there are, what they are called, and that each holds what it says."""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES, Template
from phi_vision.metrics.slices import Subset, UnseenCounts, count_unseen, find_slices

PRODUCT = TEMPLATES["product"]


def image(width: int, height: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(encoded, "PNG")
    return encoded.getvalue()


def sample(*, category="COATS", price=100.0, size=(30, 20), group="g", title="Coat") -> Sample:
    record = {"title": title, "category3_code": category, "full_price": price}
    images = (image(*size),) if size else ()
    return Sample(id="s", group=group, images=images, record=record)


TEN = [sample(price=10.0 * number) for number in range(1, 11)]


def parts_of(samples: Sequence[Sample], by: str, training=TEN, template=PRODUCT) -> dict:
    parts = [part for part in find_slices(samples, training, template) if part.by == by]
    assert (sum(part.mask.astype(int) for part in parts) == np.ones(len(samples))).all()
    return {part.name: np.flatnonzero(part.mask).tolist() for part in parts}


def test_frequent_categories_stand_alone_and_rare_ones_together():
    names = ["BELTS"] * 5 + ["COATS"] * 7 + ["HATS"] * 4 + [None]
    assert parts_of([sample(category=name) for name in names], "category3_code") == {
        "COATS": [*range(5, 12)],
        "BELTS": [*range(5)],
        "2 others": [*range(12, 17)],
    }


def test_no_more_than_twelve_categories_stand_alone():
    samples = [sample(category=f"C{number % 15:02}") for number in range(15 * 5)]
    names = list(parts_of(samples, "category3_code"))
    assert names == [*(f"C{number:02}" for number in range(12)), "3 others"]


def test_numbers_fall_into_fifths_of_those_in_training():
    prices = [5.0, 27.9, 28.0, 46.0, 81.9, 82.0, 999.0, None]
    assert parts_of([sample(price=price) for price in prices], "full_price") == {
        "below 28": [0, 1],
        "28 to 46": [2],
        "46 to 64": [3],
        "64 to 82": [4],
        "from 82": [5, 6],
        "none": [7],
    }


def test_bands_are_named_by_the_edges_that_they_have():
    training = [sample(price=price) for price in (1234.5678, 1234.5679, 1234.568, 2000.0)]
    # The first three edges are alike in four digits, to which all are rounded.
    names = parts_of([sample(price=1234.9), sample(price=1235.0)], "full_price", training)
    assert names == {"below 1235": [0], "1235 to 1541": [1]}


def test_training_without_numbers_makes_one_band():
    prices = [sample(price=price) for price in (1.0, 5.0, None)]
    assert parts_of(prices, "full_price", [sample(price=None)]) == {"all": [0, 1], "none": [2]}


def test_images_are_parted_by_thirds_of_their_longest_side():
    sizes = [(300, 200), (400, 400), (90, 500), (800, 600), (900, 20), (1000, 900), None]
    assert parts_of([sample(size=size) for size in sizes], "image size") == {
        "300 to 400 px": [0, 1],
        "500 to 800 px": [2, 3],
        "900 to 1000 px": [4, 5],
        "none": [6],
    }


def test_images_that_are_all_alike_make_one_band():
    assert parts_of([sample()] * 9, "image size") == {"30 px": [*range(9)]}
    sizes = [(30, 20)] * 8 + [(40, 20)]
    assert list(parts_of([sample(size=size) for size in sizes], "image size")) == [
        "30 px",
        "40 px",
    ]


def test_a_file_that_is_no_image_has_no_size():
    broken = Sample(id="b", group="g", images=(b"no image",), record=sample().record)
    assert parts_of([broken, sample()], "image size") == {"30 px": [1], "none": [0]}


def test_styles_and_titles_that_training_has_seen():
    samples = [sample(group="new"), sample(title="Belt"), sample(title="coat", group="other")]
    assert parts_of(samples, "group in training") == {"seen": [1], "unseen": [0, 2]}
    assert parts_of(samples, "title in training") == {"seen": [0], "unseen": [1, 2]}


def test_values_that_training_has_not_are_counted():
    """In training are coats alone: of three other predictions one is right."""
    said, true = (
        ["COATS", "CAOTS", "HATS", None, "BELTS"],
        ["COATS", "COATS", "HATS", "TIES", "COATS"],
    )
    predictions = [
        ScoredPrediction(
            id="s",
            group="g",
            truth=dict(sample(category=two).record),
            prediction=Prediction(text="", record={"category3_code": one} if one else None),
        )
        for one, two in zip(said, true, strict=True)
    ]
    counts = count_unseen(predictions, TEN, PRODUCT)
    assert counts == {"category3_code": UnseenCounts(predicted=3, right=1, true=2)}
    assert count_unseen(predictions, TEN, replace(PRODUCT, answer="{title}")) == {}


def test_a_template_without_categories_and_numbers_has_fewer_slices():
    template = Template(name="t", question="What?", answer="{title}", layout="chat")
    parts: list[Subset] = find_slices([sample()], TEN, template)
    assert [part.by for part in parts] == ["image size", "group in training", "title in training"]
    assert find_slices([], [], PRODUCT) == []
