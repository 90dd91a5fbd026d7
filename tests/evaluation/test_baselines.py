"""The nearest-neighbour baseline."""

import numpy as np

from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.evaluation.baselines import nearest

PRODUCT = TEMPLATES["product"]


def sample(title, category, price):
    record = {"title": title, "category3_code": category, "full_price": price, "brand": "B"}
    return Sample(id=title, group=title, images=(), record=record)


# Images as directions in a plane, by their angle in degrees; lengths do not count.
TRAINING = [
    (0,   sample("Coat",  "COATS", 300.0)),
    (5,   sample("Cape",  "COATS", 310.0)),
    (10,  sample("Parka", "COATS", 500.0)),
    (15,  sample("Gilet", "VESTS", None)),
    (20,  sample("Vest",  "VESTS", 290.0)),
    (90,  sample("Belt",  "BELTS", 50.0)),
    (180, sample("Hat",   "HATS", 20.0)),
]  # fmt: skip


def directions(angles, length=1.0):
    radians = np.radians(list(angles))
    return (length * np.stack([np.cos(radians), np.sin(radians)], axis=1)).astype(np.float32)


def ask(angles, known=TRAINING):
    features = directions((angle for angle, _ in known), length=7.0)
    return nearest(directions(angles), features, [each for _, each in known], PRODUCT)


def test_words_are_those_of_the_nearest_and_numbers_the_median_of_five():
    assert ask([-1, 16]) == [
        {"title": "Coat", "category3_code": "COATS", "full_price": 305.0},  # 290 300 310 500
        {"title": "Gilet", "category3_code": "VESTS", "full_price": 305.0},
    ]


def test_fewer_training_samples_than_neighbours_are_enough():
    assert ask([80], TRAINING[-2:]) == [
        {"title": "Belt", "category3_code": "BELTS", "full_price": 35.0}
    ]


def test_no_samples_have_no_nearest_images():
    assert ask([]) == []
