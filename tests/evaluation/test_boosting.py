"""Gradient boosting on simple image features."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.evaluation.baselines import boost, describe_image, image_features

TEMPLATE = Template(
    name="t",
    question="?",
    answer="{title}: {shape:category}, {colour:category}, {price:number}",
    layout="chat",
)
NOTHING = {"colour": None, "price": None}
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def drawn(shape, colour, size, canvas=80):
    image = Image.new("RGB", (canvas, canvas), "white")
    low, high = canvas / 2 - size / 2, canvas / 2 + size / 2 - 1
    pen = ImageDraw.Draw(image)
    draw = pen.ellipse if shape == "disc" else pen.rectangle
    draw((low, low, high, high), fill=COLOURS[colour])
    return encoded(image)


def sample(number, images=None, **changed):
    """A disc or a square, red or blue; the larger, the dearer, and squares cost twice as much."""
    rng = np.random.default_rng(number)
    shape, colour = rng.choice(["disc", "square"]), rng.choice(["red", "blue"])
    size = int(rng.integers(20, 70))
    price = size * (20.0 if shape == "square" else 10.0)
    record = {"title": f"A {shape}", "shape": str(shape), "colour": str(colour), "price": price}
    image = drawn(shape, colour, size) if images is None else None
    return Sample(
        id=str(number),
        group=str(number),
        images=(image,) if images is None else images,
        record=record | changed,
    )


TRAINING = [sample(number) for number in range(160)]
ASKED = [sample(number) for number in range(1000, 1030)]


@pytest.fixture(scope="module")
def predictions():
    return boost(ASKED, TRAINING, TEMPLATE, seed=0)


def test_it_learns_categories_numbers_and_the_usual_text_from_images(predictions):
    truth = [each.record for each in ASKED]
    assert list(predictions[0]) == ["title", "shape", "colour", "price"]
    for field in ("title", "shape", "colour"):
        right = [
            predicted[field] == true[field]
            for predicted, true in zip(predictions, truth, strict=True)
        ]
        assert np.mean(right) >= 0.9, field
    errors = [
        abs(predicted["price"] / true["price"] - 1)
        for predicted, true in zip(predictions, truth, strict=True)
    ]
    assert np.median(errors) < 0.1


def test_the_same_seed_gives_the_same_answers(predictions):
    assert boost(ASKED, TRAINING, TEMPLATE, seed=0) == predictions


def test_predictions_do_not_depend_on_the_truth(predictions):
    blind = [sample(int(each.id), title="?", shape="?", colour="?", price=-1.0) for each in ASKED]
    assert boost(blind, TRAINING, TEMPLATE, seed=0) == predictions


def test_progress_counts_images_and_then_fields_up_to_the_end():
    told = []
    boost(ASKED, TRAINING, TEMPLATE, seed=0, progress=lambda *step: told.append(step))
    assert told[0] == (1, 190 * 4)
    assert told[-3:] == [(190 * 2, 190 * 4), (190 * 3, 190 * 4), (190 * 4, 190 * 4)]
    assert sorted(told) == told


def test_numbers_stay_within_what_was_learnt_and_may_be_negative_zero_or_missing():
    training = [
        sample(number, price=price)
        for number, price in enumerate([-5.0, 0.0, 3.0, None, float("nan"), True] * 10)
    ]
    numbers = [answer["price"] for answer in boost(ASKED, training, TEMPLATE, seed=0)]
    assert all(-5.0 <= number <= 3.0 for number in numbers)


def test_without_signal_the_baseline_predicts_the_most_frequent_value():
    training = [sample(n, title="T", shape="disc", colour=None, price=None) for n in range(3)]
    (answer,) = boost(ASKED[:1], training, TEMPLATE, seed=0)
    assert answer == {"title": "T", "shape": "disc", "colour": None, "price": None}


def test_a_template_of_texts_alone_has_its_usual_text():
    words = Template(name="t", question="?", answer="{title}", layout="chat")
    common = max({"A disc", "A square"}, key=[each.record["title"] for each in TRAINING].count)
    assert boost(ASKED[:2], TRAINING, words, seed=0) == [{"title": common}] * 2


def test_samples_without_an_image_are_answered_too():
    asked = [*ASKED[:3], sample(1, images=())]
    predictions = boost(asked, TRAINING, TEMPLATE, seed=0)
    assert predictions[:3] == boost(ASKED[:3], TRAINING, TEMPLATE, seed=0)
    assert predictions[3]["shape"] in ("disc", "square")
    nobody = [sample(number, images=()) for number in range(40)]
    assert boost(nobody[:2], nobody, TEMPLATE, seed=0)[0]["shape"] in ("disc", "square")


def test_an_empty_request_gives_no_predictions():
    assert boost([], TRAINING[:5], TEMPLATE, seed=0) == []


def test_an_image_that_cannot_be_read_is_named():
    with pytest.raises(ValueError, match="sample '7', image 1: not an image"):
        boost([sample(7, images=(b"no image",))], TRAINING[:5], TEMPLATE, seed=0)


def test_the_features_of_a_square_match_values_computed_by_hand():
    parts = describe_image(drawn("square", "red", 40))
    encoded_bytes = len(drawn("square", "red", 40))
    assert parts["size"] == pytest.approx(np.log([80, 80, 1, encoded_bytes / 6400]))
    #                        width height left top  filled log ratio
    assert parts["box"] == pytest.approx([0.5, 0.5, 0.25, 0.25, 1, 0])
    assert parts["outline"].tolist() == [1] * 64
    #                                   brightness        red-green  yellow-blue
    assert parts["colour_grid"][:3] == pytest.approx([(200 + 30 + 30) / 3, 170, 115 - 30])
    assert parts["colours"][:18].sum() == pytest.approx(1)
    assert parts["texture"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "CMYK", "I;16", "1"])
def test_images_of_every_mode_have_the_same_number_of_features(mode):
    image = Image.new("L", (50, 30), 255)
    ImageDraw.Draw(image).rectangle((10, 10, 20, 20), fill=0)
    wide = image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
    asked = sample(1, images=(encoded(wide, "TIFF"),))
    assert image_features([asked, TRAINING[0]]).shape == (2, 543)
    assert np.isfinite(image_features([asked])).all()


def test_transparent_pixels_become_white():
    clear = Image.new("RGBA", (80, 80), (0, 0, 0, 0))
    ImageDraw.Draw(clear).rectangle((20, 20, 59, 59), fill=(200, 30, 30, 255))
    seen, paper = describe_image(encoded(clear)), describe_image(drawn("square", "red", 40))
    for part in ("box", "colour_grid", "outline", "colours", "gradients"):
        assert seen[part] == pytest.approx(paper[part]), part


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2)])
@pytest.mark.parametrize("colour", ["white", "black"])
def test_flat_and_tiny_images_have_features_too(size, colour):
    image = encoded(Image.new("RGB", size, colour))
    assert np.isfinite(image_features([sample(1, images=(image,))])).all()


def test_optional_fields_are_missing_where_the_image_says_so():
    """Blue products have no price, and no colour that is named."""

    def hidden(samples):
        return [
            each if each.record["colour"] == "red" else replace(each, record=each.record | NOTHING)
            for each in samples
        ]

    answer = TEMPLATE.answer.replace("category}, {price:number}", "category?}, {price:number?}")
    template = replace(TEMPLATE, answer=answer)
    predicted = boost(hidden(ASKED), hidden(TRAINING), template, seed=0)
    for field in NOTHING:
        same = [
            (a[field] is None) == (b.record["colour"] == "blue")
            for a, b in zip(predicted, ASKED, strict=True)
        ]
        assert np.mean(same) > 0.9, field
