"""Leakage: what an evaluated sample shares with the training data, and with which sample."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from phi_vision.data.samples import Sample
from phi_vision.evaluation import leakage
from phi_vision.evaluation.leakage import find_leakage


def paint(seed: int, size: tuple[int, int] = (120, 100)) -> Image.Image:
    """Draw some coloured shapes on white, others for each seed."""
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", (120, 100), "white")
    for _ in range(6):
        left, top = draw.integers(5, 80), draw.integers(5, 60)
        box = (left, top, left + draw.integers(10, 35), top + draw.integers(10, 35))
        color = tuple(draw.integers(0, 200, 3).tolist())
        ImageDraw.Draw(image).rectangle([int(side) for side in box], fill=color)
    return image.resize(size)


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, kind)
    return encoded.getvalue()


def sample(id: str, *images: bytes, title: str | None = None, group: str = "") -> Sample:
    record = {} if title is None else {"title": title}
    return Sample(id=id, group=group or f"group of {id}", images=images, record=record)


TRAINING = [
    sample("x", encode(paint(0)), title="Wool Coat"),
    sample("y", encode(paint(1)), encode(paint(2)), title="Belt", group="belts"),
    sample("z", encode(paint(3)), title="N/A"),
    sample("again", encode(paint(0)), title="Wool Coat"),
]


@pytest.mark.parametrize(
    ("evaluated", "words"),
    [
        (sample("a", encode(paint(9)), title="Hat"), None),
        (sample("a", encode(paint(0))), "same image as x"),
        (sample("a", encode(paint(0), "WEBP")), "near-duplicate image as x"),
        (sample("a", encode(paint(0, (240, 200)), "JPEG")), "near-duplicate image as x"),
        (sample("a", encode(paint(9)), encode(paint(2))), "same image as y"),
        (sample("a", encode(paint(9)), title="Wool Coat"), None),
        (sample("a", group="belts"), "same group as y"),
        (
            sample("a", encode(paint(3)), title="Belt", group="belts"),
            "same image as z, same group as y",
        ),
    ],
)
def test_the_link_between_a_sample_and_training_is_named(evaluated, words):
    assert find_leakage([evaluated], TRAINING) == ({"a": words} if words else {})


def test_evaluated_samples_that_are_alike_do_not_leak():
    twins = [sample(id, encode(paint(9)), title="Hat", group="hats") for id in "ab"]
    assert find_leakage(twins, TRAINING) == {}
    assert find_leakage(twins, []) == {}
    assert find_leakage([], TRAINING) == {}


def test_the_same_image_in_a_flat_colour_is_found_and_another_is_not():
    white, black = (encode(Image.new("RGB", (50, 50), color)) for color in ("white", "black"))
    evaluated = [sample("a", white), sample("b", black)]
    assert find_leakage(evaluated, [sample("x", white)]) == {"a": "same image as x"}


def test_the_image_most_alike_is_named(monkeypatch):
    bits = {0: 0b0, 1: 0b111, 2: 0b1, 3: 0b11111 << 20}
    monkeypatch.setattr(leakage, "perceptual_hash", lambda image: bits[image.width - 100])
    images = {number: encode(paint(number, (100 + number, 90))) for number in bits}
    training = [sample(str(number), images[number]) for number in (1, 2, 3)]
    assert find_leakage([sample("a", images[0])], training) == {"a": "near-duplicate image as 2"}


def test_a_chain_of_near_images_is_not_cut(monkeypatch):
    # Looks that differ in one bit each, more of them than `phi-vision prepare` ties together.
    monkeypatch.setattr(leakage, "perceptual_hash", lambda image: (1 << (image.width - 20)) - 1)
    images = [encode(Image.new("RGB", (20 + number, 9))) for number in range(64)]
    samples = [sample(str(number), each) for number, each in enumerate(images)]
    found = find_leakage(samples[1::2], samples[::2])
    assert len(found) == 32
    assert found["31"] == "near-duplicate image as 30"


def test_progress_is_reported_and_a_broken_image_names_its_sample():
    told = []
    find_leakage([sample("a")], TRAINING, lambda done, total: told.append((done, total)))
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    with pytest.raises(ValueError, match="sample 'a', image 1: not an image"):
        find_leakage([sample("a", b"broken")], TRAINING)
