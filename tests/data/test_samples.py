"""Decoding images; images exchanged between groups, made white, taken away."""

import io
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from phi_vision.data.samples import (
    Message,
    Sample,
    blank_images,
    shuffle_images,
    withhold_images,
)
from phi_vision.io.image_decoding import open_image


def encoded(size=(6, 4), *, format="PNG", mode="RGB", orientation=None) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new(mode, size, "white").save(buffer, format, exif=exif)
    return buffer.getvalue()


def sample_of(*images: bytes) -> Sample:
    return Sample(id="A-red", group="A", images=images, record={})


def test_images_come_in_order_and_grey_stays_grey():
    first, second = sample_of(encoded((6, 4)), encoded((3, 9), mode="L")).open_images()
    assert (first.size, first.mode) == ((6, 4), "RGB")
    assert (second.size, second.mode) == ((3, 9), "L")


def test_exif_orientation_is_applied():
    assert open_image(encoded((6, 4), format="JPEG")).size == (6, 4)
    assert open_image(encoded((6, 4), format="JPEG", orientation=6)).size == (4, 6)


def test_an_image_of_one_by_5000_pixels_opens(tmp_path: Path):
    (tmp_path / "thin.png").write_bytes(encoded((1, 5000)))
    assert open_image(tmp_path / "thin.png").size == (1, 5000)


@pytest.mark.parametrize("broken", [b"", b"<html>not found</html>", encoded((200, 200))[:60]])
def test_an_unreadable_image_names_the_sample(broken):
    with pytest.raises(ValueError, match=r"'A-red', image 2: (empty|not an|truncated) image"):
        sample_of(encoded(), broken).open_images()


def test_a_missing_file_and_a_folder_are_reported(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no image at .*gone\.png: No such file"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"no image at .*: Is a directory"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    "sizes", [[1] * 9, [3, 2, 1], [4, 4], [5, 1, 1, 1, 2], [2, 2, 3], [6, 1, 1]]
)
@pytest.mark.parametrize("seed", range(5))
def test_no_sample_keeps_its_groups_images(sizes: list[int], seed: int) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    samples = [
        Sample(
            id=str(n), group=str(group), images=(str(group).encode(), str(n).encode()), record={}
        )
        for n, group in enumerate(groups)
    ]
    shuffled = shuffle_images(samples, seed=seed)
    kept = sum(each.images[0].decode() == each.group for each in shuffled)
    assert kept == max(0, 2 * max(sizes) - len(samples))  # fewer is impossible
    assert all(each.images[1].decode() != each.id for each in shuffled)
    assert Counter(each.images for each in shuffled) == Counter(each.images for each in samples)
    assert [each.id for each in shuffled] == [each.id for each in samples]


def test_one_group_exchanges_among_itself() -> None:
    samples = [Sample(id=str(n), group="g", images=(str(n).encode(),), record={}) for n in range(3)]
    assert all(s.images != (s.id.encode(),) for s in shuffle_images(samples, seed=0))


def test_blank_images_have_the_shapes_of_the_real_ones() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "navy").save(buffer, "JPEG")
    sample = Sample(id="1", group="g", images=(buffer.getvalue(),) * 2, record={"title": "Coat"})
    (blank,) = blank_images([sample])
    images = blank.open_images()
    assert [image.size for image in images] == [(40, 30), (40, 30)]
    assert {image.convert("RGB").getextrema() for image in images} == {((255, 255),) * 3}
    assert blank.record == sample.record


def test_withheld_images_leave_no_marks() -> None:
    turns = (Message("user", "<image>\nWhat is it?"), Message("assistant", "A coat"))
    sample = Sample(id="1", group="g", images=(b"x",), record={}, messages=turns)
    (withheld,) = withhold_images([sample])
    assert withheld.images == ()
    assert [turn.content for turn in withheld.messages] == ["What is it?", "A coat"]
