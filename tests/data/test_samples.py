"""Decoding images."""

import io
from pathlib import Path

import pytest
from PIL import Image

from phi_vision.data.samples import Sample
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
