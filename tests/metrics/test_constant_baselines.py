"""Answers that need no model."""

import pytest

from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES, Template
from phi_vision.metrics.constant_baselines import category_median, constant, most_frequent_texts

PRODUCT = TEMPLATES["product"]


def sample(title, category, price):
    record = {"title": title, "category3_code": category, "full_price": price, "brand": "B"}
    return Sample(id=title, group=title, images=(), record=record)


def template(answer):
    return Template(name="t", question="?", answer=answer, layout="chat")


TRAINING = [
    sample("Belt",      "BELTS", 50.0),
    sample("Wool Coat", "COATS", 300.0),
    sample("Cape",      "COATS", 500.0),
    sample("Wool Coat", "COATS", None),
    sample("Scarf",     "SCARVES", 100.0),
    sample("Hat",       "HATS", None),
]  # fmt: skip


def test_the_constant_prediction_is_the_majority_and_the_median():
    predictions = constant(TRAINING, PRODUCT, 3)
    assert len(predictions) == 3
    assert (
        predictions[0]
        == predictions[2]
        == {
            "title": "Wool Coat",
            "category3_code": "COATS",
            "full_price": 200.0,  # of 50, 100, 300, 500
        }
    )


def test_every_category_field_has_its_majority_and_texts_follow_the_first():
    rows = [("A", "X"), ("B", "Y"), ("B", "Z"), ("A", "X"), ("A", "X"), ("B", "Y")]
    training = [
        Sample(id=str(n), group="g", images=(), record={"kind": kind, "cut": cut, "words": words})
        for n, ((kind, cut), words) in enumerate(zip(rows, "pqqrss", strict=True))
    ]
    several = template("{words} ({cut:category}, {kind:category})")
    assert constant(training, several, 1) == [{"words": "p", "cut": "X", "kind": "A"}]


def test_without_a_category_the_most_frequent_text_is_taken_over_all():
    predictions = constant(TRAINING, template("{brand}: {title}"), 1)
    assert predictions == [{"brand": "B", "title": "Wool Coat"}]


def test_a_template_of_numbers_alone_has_its_median():
    assert constant(TRAINING, template("{full_price:number}"), 1) == [{"full_price": 200.0}]


def test_numbers_that_are_nowhere_known_stay_unknown():
    predictions = constant(TRAINING[-1:], PRODUCT, 1)
    assert predictions == [{"title": "Hat", "category3_code": "HATS", "full_price": None}]


def test_the_most_frequent_texts_of_each_category():
    usual = {
        category: texts["title"]
        for category, texts in most_frequent_texts(TRAINING, PRODUCT).items()
    }
    assert usual == {"BELTS": "Belt", "COATS": "Wool Coat", "SCARVES": "Scarf", "HATS": "Hat"}


def test_the_median_number_of_the_predicted_category():
    said = [{"category3_code": name} for name in ("COATS", "BELTS", "SHOES", "HATS")]
    predictions = category_median([*said, None, {}], TRAINING, PRODUCT)
    assert [answer["full_price"] for answer in predictions] == [
        400.0,
        50.0,
        200.0,
        200.0,
        200.0,
        200.0,
    ]
    assert list(predictions[0]) == ["full_price"]


def test_a_record_without_a_field_of_the_template_is_named():
    with pytest.raises(ValueError, match="needs the field 'size'"):
        constant(TRAINING, template("{title}, {size:category}"), 1)
