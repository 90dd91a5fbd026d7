"""Baselines by features of a vision tower: nearest neighbours and the linear probe."""

import numpy as np

from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.evaluation import baselines
from phi_vision.evaluation.baselines import nearest, probe

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


def photographs(count, seed):
    """Samples of two categories at two ends of a line, whose price grows along another."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, 6)).astype(np.float32)
    features[:, 0] += 4 * (np.arange(count) % 2)
    samples = []
    for number, row in enumerate(features):
        category = ("HATS", "COATS")[number % 2]
        price = {"HATS": 20.0, "COATS": 300.0}[category] * float(np.exp(0.3 * row[1]))
        samples.append(sample(f"{category.title()}", category, price))
    return features, samples


def test_the_probe_finds_what_is_linear_in_the_features():
    known, training = photographs(400, seed=0)
    new, samples = photographs(100, seed=1)
    found = probe(new, known, training, PRODUCT)
    pairs = list(zip(found, samples, strict=True))
    right = [each["category3_code"] == s.record["category3_code"] for each, s in pairs]
    assert np.mean(right) > 0.95
    assert all(each["title"] == each["category3_code"].title() for each, _ in pairs)
    errors = [abs(each["full_price"] / s.record["full_price"] - 1) for each, s in pairs]
    assert np.median(errors) < 0.15  # 0.2 by the median of the category alone


def test_the_probe_of_one_category_and_of_no_samples():
    features, samples = photographs(8, seed=0)
    one = [each for each in samples if each.record["category3_code"] == "HATS"]
    assert {r["category3_code"] for r in probe(features[:2], features[::2], one, PRODUCT)} == {
        "HATS"
    }
    assert probe(features[:0], features, samples, PRODUCT) == []


def test_the_foreground_is_what_differs_in_any_channel() -> None:
    pixels = np.random.default_rng(0).integers(0, 60, (30, 20, 3)).astype(float)
    background = np.array([30.0, 20.0, 40.0])
    plain = np.abs(pixels - background).max(axis=2) > baselines.MIN_CONTRAST
    assert plain.any()
    assert np.array_equal(baselines._foreground(pixels, background), plain)
    assert baselines._foreground(pixels * 0 + background, background).all()
