"""Digests are the same on every machine; copies of an image have nearly the same hash."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from phi_vision.io.hashing import (
    digest,
    hash_bits,
    perceptual_hash,
    pixel_digest,
    sha256,
    sha256_of_all,
)


def test_digests_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(b"abc") == sha256("abc") == sha256(tmp_path / "file") == expected
    assert sha256_of_all(["a", "bc"]) == expected
    assert hash_bits("abc") == 0xBA7816BF8F01CFEA
    assert hash_bits("abc", 48) == 0xBA7816BF8F01
    assert sha256("\udcff") == hashlib.sha256(b"\xed\xb3\xbf").hexdigest()
    assert (
        digest({"b": 1, "a": None}) == digest({"a": None, "b": 1}) == sha256('{"a": null, "b": 1}')
    )


def test_the_digest_of_pixels_does_not_depend_on_the_file(tmp_path: Path) -> None:
    image = product("navy", 1)
    image.save(tmp_path / "image.png")
    image.save(tmp_path / "image.bmp")
    with Image.open(tmp_path / "image.png") as png, Image.open(tmp_path / "image.bmp") as bmp:
        assert pixel_digest(png) == pixel_digest(bmp) == pixel_digest(image)
    assert pixel_digest(image) != pixel_digest(image.transpose(Image.Transpose.ROTATE_90))


def product(colour: str, seed: int) -> Image.Image:
    """A drawn thing of random parts on white paper."""
    chance = np.random.default_rng(seed)
    image = Image.new("RGB", (400, 400), "white")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((100, 80, 300, 340), radius=30, fill=colour)
    for _ in range(12):
        x, y, width, height = chance.integers((90, 70, 20, 20), (260, 300, 120, 120)).tolist()
        shade = tuple(chance.integers(0, 255, 3).tolist())
        draw.ellipse((x, y, x + width, y + height), fill=shade)
    return image


def bits_apart(one: Image.Image, other: Image.Image) -> int:
    hashes = perceptual_hash(one), perceptual_hash(other)
    assert hashes[0] is not None
    assert hashes[1] is not None
    return (hashes[0] ^ hashes[1]).bit_count()


@pytest.mark.parametrize("seed", range(6))
def test_copies_differ_in_few_bits_and_other_products_in_many(seed: int) -> None:
    original, other = product("navy", seed), product("navy", seed + 100)
    jpeg = io.BytesIO()
    original.save(jpeg, "JPEG", quality=40)
    copies = [
        Image.open(jpeg),
        original.resize((150, 150), Image.Resampling.BICUBIC),
        original.resize((800, 800)),
        original.crop((4, 8, 396, 398)),
        original.crop((70, 50, 400, 400)),  # white paper cut away
    ]
    assert max(bits_apart(original, copy) for copy in copies) <= 6
    assert bits_apart(original, other) > 12


def test_two_colours_of_one_product_have_two_hashes() -> None:
    assert bits_apart(product("navy", 1), product("orange", 1)) > 12


def test_a_flat_image_has_no_perceptual_hash() -> None:
    assert perceptual_hash(Image.new("RGB", (100, 100), "red")) is None
    assert perceptual_hash(Image.effect_noise((200, 200), 4)) is None
    assert perceptual_hash(Image.new("L", (1, 1))) is None


def test_a_perceptual_hash_has_64_bits_and_is_the_same_in_grey_and_rgb() -> None:
    grey = product("navy", 1).convert("L")
    value = perceptual_hash(grey)
    assert value == perceptual_hash(grey.convert("RGB"))
    assert value is not None
    assert 0 <= value < 2**64
