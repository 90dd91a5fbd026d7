"""Leaks: what ties a judged sample to training, and which one it is tied to."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from phi_vision.data.sample import Sample
from phi_vision.trial import leaks
from phi_vision.trial.leaks import find_leaks


def paint(seed: int, size: tuple[int, int] = (120, 100)) -> Image.Image:
    """Draw some coloured shapes on white, others for each seed."""
    draw = np.random.default_rng(seed)
    picture = Image.new("RGB", (120, 100), "white")
    for _ in range(6):
        left, top = draw.integers(5, 80), draw.integers(5, 60)
        box = (left, top, left + draw.integers(10, 35), top + draw.integers(10, 35))
        color = tuple(draw.integers(0, 200, 3).tolist())
        ImageDraw.Draw(picture).rectangle([int(side) for side in box], fill=color)
    return picture.resize(size)


def encode(picture: Image.Image, kind: str = "PNG") -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, kind)
    return encoded.getvalue()


def sample(id: str, *pictures: bytes, title: str | None = None, group: str = "") -> Sample:
    record = {} if title is None else {"title": title}
    return Sample(id=id, group=group or f"group of {id}", images=pictures, record=record)


TRAINING = [
    sample("x", encode(paint(0)), title="Wool Coat"),
    sample("y", encode(paint(1)), encode(paint(2)), title="Belt", group="belts"),
    sample("z", encode(paint(3)), title="N/A"),
    sample("again", encode(paint(0)), title="Wool Coat"),
]


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        (sample("a", encode(paint(9)), title="Hat"), None),
        (sample("a", encode(paint(0))), "same picture as x"),
        (sample("a", encode(paint(0), "WEBP")), "near picture as x"),
        (sample("a", encode(paint(0, (240, 200)), "JPEG")), "near picture as x"),
        (sample("a", encode(paint(9)), encode(paint(2))), "same picture as y"),
        (sample("a", encode(paint(9)), title="Wool Coat"), None),
        (sample("a", group="belts"), "same group as y"),
        (
            sample("a", encode(paint(3)), title="Belt", group="belts"),
            "same picture as z, same group as y",
        ),
    ],
)
def test_what_a_sample_has_in_common_with_training(judged, words):
    assert find_leaks([judged], TRAINING) == ({"a": words} if words else {})


def test_judged_samples_that_are_alike_do_not_leak():
    twins = [sample(id, encode(paint(9)), title="Hat", group="hats") for id in "ab"]
    assert find_leaks(twins, TRAINING) == {}
    assert find_leaks(twins, []) == {}
    assert find_leaks([], TRAINING) == {}


def test_the_same_picture_in_a_flat_colour_is_found_and_another_is_not():
    white, black = (encode(Image.new("RGB", (50, 50), color)) for color in ("white", "black"))
    judged = [sample("a", white), sample("b", black)]
    assert find_leaks(judged, [sample("x", white)]) == {"a": "same picture as x"}


def test_the_picture_most_alike_is_named(monkeypatch):
    bits = {0: 0b0, 1: 0b111, 2: 0b1, 3: 0b11111 << 20}
    monkeypatch.setattr(leaks, "look_of", lambda picture: bits[picture.width - 100])
    pictures = {number: encode(paint(number, (100 + number, 90))) for number in bits}
    training = [sample(str(number), pictures[number]) for number in (1, 2, 3)]
    assert find_leaks([sample("a", pictures[0])], training) == {"a": "near picture as 2"}


def test_a_chain_of_near_pictures_is_not_cut(monkeypatch):
    # Looks that differ in one bit each, more of them than `phi-vision prepare` ties together.
    monkeypatch.setattr(leaks, "look_of", lambda picture: (1 << (picture.width - 20)) - 1)
    pictures = [encode(Image.new("RGB", (20 + number, 9))) for number in range(64)]
    samples = [sample(str(number), each) for number, each in enumerate(pictures)]
    found = find_leaks(samples[1::2], samples[::2])
    assert len(found) == 32
    assert found["31"] == "near picture as 30"


def test_progress_is_told_and_a_broken_picture_names_its_sample():
    told = []
    find_leaks([sample("a")], TRAINING, lambda done, total: told.append((done, total)))
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    with pytest.raises(ValueError, match="sample 'a', picture 1: cannot read a picture"):
        find_leaks([sample("a", b"broken")], TRAINING)
