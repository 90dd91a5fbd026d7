"""Random changes of training images: what they do, when they repeat, what they must not touch."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phi_vision.data.augmentation import (
    CHANGES,
    AugmentedRows,
    Change,
    augment,
    check_hue,
    find_coloured_field,
    recur,
)
from phi_vision.data.samples import Sample, SampleRows
from phi_vision.data.template import TEMPLATES
from phi_vision.io.image_decoding import encode_image, open_image


def gradient(mode: str = "RGB") -> Image.Image:
    """64×48 pixels, dark on the left and light on the right."""
    row = np.linspace(0, 255, 64).astype(np.uint8)
    return Image.fromarray(np.tile(row, (48, 1))).convert(mode)


def encoded(image: Image.Image) -> bytes:
    return encode_image(image, "PNG")


def sample(name: str, **record: Any) -> Sample:
    return Sample(id=name, group=name, images=[encoded(gradient())], record=record)


def changed(change: Change, image: Image.Image, seed: int = 0) -> np.ndarray:
    made = augment(encoded(image), [change], np.random.default_rng(seed))
    return np.asarray(open_image(made)).astype(int)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("change", CHANGES)
def test_size_stays_whatever_the_change(change: Change, mode: str) -> None:
    assert {changed(change, gradient(mode), seed).shape[:2] for seed in range(8)} == {(48, 64)}


def test_about_half_of_the_images_are_mirrored_and_the_others_stay() -> None:
    plain = np.asarray(gradient()).astype(int)
    found = [changed("flip", gradient(), seed) for seed in range(40)]
    mirrored = sum(np.array_equal(each, plain[:, ::-1]) for each in found)
    assert mirrored + sum(np.array_equal(each, plain) for each in found) == 40
    assert 10 <= mirrored <= 30


def test_mirrored_images_recur_and_no_others() -> None:
    assert recur([])
    assert recur(["flip"])
    assert [change for change in CHANGES if recur([change])] == ["flip"]
    assert (
        len({augment(encoded(gradient()), ["flip"], np.random.default_rng(n)) for n in range(9)})
        == 2
    )


def test_a_crop_shows_a_part_as_large_as_the_whole() -> None:
    """Of 255 levels over the width, a part has fewer: at least the square root of 0.6 of them."""
    spans = [int(np.ptp(changed("crop", gradient(), seed)[:, :, 0])) for seed in range(40)]
    assert 0.7 * 255 <= min(spans) < 0.85 * 255
    assert max(spans) > 0.9 * 255


def test_corners_of_a_turned_image_have_the_colour_of_its_corner() -> None:
    white = Image.new("RGB", (64, 48), "white")
    assert (changed("rotation", white) == 255).all()


def test_brightness_scales_all_levels() -> None:
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    levels = {int(changed("brightness", grey, seed)[0, 0, 0]) for seed in range(40)}
    assert min(levels) in range(80, 90)
    assert max(levels) in range(110, 121)


def test_hue_turns_colours_and_leaves_grey() -> None:
    assert (changed("hue", Image.new("RGB", (8, 8), (90, 90, 90))) == 90).all()
    reds = [
        changed("hue", Image.new("RGB", (8, 8), (200, 20, 20)), seed)[0, 0] for seed in range(9)
    ]
    assert len({tuple(each) for each in reds}) > 4


def test_jpeg_compresses_with_quality_of_its_own() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    sizes = [len(augment(encoded(noise), ["jpeg"], np.random.default_rng(s))) for s in range(9)]
    assert max(sizes) > 1.5 * min(sizes)
    made = augment(encoded(noise), ["jpeg"], np.random.default_rng(0))
    assert Image.open(io.BytesIO(made)).format == "JPEG"


def test_images_repeat_with_seed_epoch_and_sample_alone() -> None:
    def rows(seed: int = 0, epoch: int = 0) -> list[bytes]:
        made = AugmentedRows(SampleRows([sample("a"), sample("b")]), CHANGES[:4], seed=seed)
        made.epoch = epoch
        return [row[0].images[0] for row in made]

    assert rows() == rows()
    first, second = rows()
    assert first != second
    assert rows(epoch=1)[0] != first
    assert rows(seed=1)[0] != first


def test_rows_keep_their_records_and_are_the_same_in_another_process() -> None:
    import pickle

    rows = AugmentedRows(SampleRows([sample("a", title="Coat")]), ["flip", "crop"], seed=0)
    (found,) = rows[0]
    assert (found.id, found.record, len(found.images)) == ("a", {"title": "Coat"}, 1)
    assert pickle.loads(pickle.dumps(rows))[0] == rows[0]


@pytest.mark.parametrize(
    ("titles", "named"),
    [
        (["Coat (navy; red)", "Cotton Shirt", "Hat"], "title"),
        (["Wool Coat", "Cotton Shirt", "Hat"], None),
    ],
)
def test_a_field_that_names_colours_is_found(titles: list[str], named: str | None) -> None:
    samples = [sample(t, title=t, category3_code="X", full_price=1.0) for t in titles]
    assert find_coloured_field(samples, TEMPLATES["product"]) == named
    check_hue(["flip"], samples, TEMPLATES["product"])
    if named:
        with pytest.raises(ValueError, match="make the field title wrong, whose values name colo"):
            check_hue(["hue"], samples, TEMPLATES["product"])
