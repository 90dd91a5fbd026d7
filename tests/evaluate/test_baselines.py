"""Answers that need no model."""

from phi_vision.data.sample import Sample
from phi_vision.data.template import TEMPLATES, Template
from phi_vision.evaluate.baselines import category_median, majority

PRODUCT = TEMPLATES["product"]


def sample(title, category, price):
    record = {"title": title, "category3_code": category, "full_price": price, "brand": "B"}
    return Sample(id=title, group=title, images=(), record=record)


TRAINING = [
    sample("Belt",      "BELTS", 50.0),
    sample("Wool Coat", "COATS", 300.0),
    sample("Cape",      "COATS", 500.0),
    sample("Wool Coat", "COATS", None),
    sample("Scarf",     "SCARVES", 100.0),
]  # fmt: skip


def test_the_majority_answer():
    assert majority(TRAINING, PRODUCT) == {
        "title": "Wool Coat",
        "category3_code": "COATS",
        "full_price": 200.0,  # of 50, 100, 300, 500
    }


def test_without_a_category_the_majority_is_taken_over_all():
    template = Template(name="t", question="?", answer="{brand}: {title}", layout="chat")
    assert majority(TRAINING, template) == {"brand": "B", "title": "Wool Coat"}


def test_the_median_price_of_the_predicted_category():
    said = [{"category3_code": name} for name in ("COATS", "BELTS", "HATS")]
    prices = category_median([*said, None], TRAINING, PRODUCT)
    assert [record["full_price"] for record in prices] == [400.0, 50.0, 200.0, 200.0]
    assert list(prices[0]) == ["full_price"]
