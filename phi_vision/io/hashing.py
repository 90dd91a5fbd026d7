"""Digests of bytes, texts, files, values and pixels, and the perceptual hash of product photos.

The only module that imports hashlib. How many bits of two perceptual hashes may differ is decided
where they are compared (`prepare/dedup.py`).
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def sha256(content: bytes | memoryview | str | Path) -> str:
    """Hash bytes, a text (lone surrogates too) or the content of a file to 64 hex digits."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if isinstance(content, str):
        content = content.encode(errors="surrogatepass")
    return hashlib.sha256(content).hexdigest()


def sha256_of_all(pieces: Iterable[str]) -> str:
    """Hash the concatenation of texts without joining them."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece.encode())
    return total.hexdigest()


def hash_bits(content: bytes | str, bits: int = 64) -> int:
    """Hash to an integer; of ten million texts, two share 64 bits with a probability of 3e-6."""
    return int(sha256(content), 16) >> (256 - bits)


def digest(value: object) -> str:
    """Hash a value that JSON can hold; the order of the keys does not matter."""
    return sha256(json.dumps(value, sort_keys=True))


def pixel_digest(image: Image.Image) -> str:
    """Hash the size and RGB pixels of an image, whatever file format held them."""
    size = f"{image.width}x{image.height}:".encode()
    return sha256(size + image.convert("RGB").tobytes())


def perceptual_hash(image: Image.Image) -> int | None:
    """Hash the appearance of an image to 64 bits, few of which differ between copies.

    The image is cropped to its content, so that the width of the margin does not matter, and scaled
    to 32×32 pixels. 52 bits compare the slowest waves of brightness with their median (pHash, a
    discrete cosine transform), 12 bits hold the average brightness, blue and red, so that one
    shirt in two colours has two hashes. Copies differ in 0 to 4 bits, other products in 20 to 40.

    A flat image, in which no channel spans 16 of 256 levels, has none: all these would be alike.

    `imagehash.phash` is faster (1.0 ms an image, not 1.7), but has no colour and no crop: of the
    copies cropped by 6 % it finds 39 %, not 69 % (benchmarks/duplicates.py).
    """
    rgb = image.convert("RGB")
    small = rgb.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, box=_content_box(rgb))
    pixels = np.asarray(small, dtype=np.float64)
    if np.ptp(pixels, axis=(0, 1)).max() < 16:
        return None
    brightness, blue, red = (pixels @ np.array(weights) for weights in _YCBCR)
    spectrum = _COSINES @ brightness @ _COSINES.T
    # Rounded, so that absent waves are equal on every machine.
    waves = np.round([spectrum[place] for place in _SLOW_WAVES], 3)
    bits: list[bool] = (waves > np.median(waves)).tolist()
    bits += [bool(brightness.mean() > level) for level in (60, 100, 140, 180)]
    bits += [bool(tone.mean() > level) for tone in (blue, red) for level in (-18, -6, 6, 18)]
    return sum(1 << place for place, bit in enumerate(bits) if bit)


def _content_box(rgb: Image.Image) -> tuple[float, float, float, float]:
    """Return the box, in pixels, in which an image differs from the usual colour of its border.

    Reaches 1.7 standard deviations of the difference to each side of its mean: unlike the first
    and last pixel that differ, this hardly moves when the image is encoded again. An even block
    has its edges at 1.73 deviations.

    Input:  a black square of 50×50 pixels in the middle of 100×100 white ones
    Output: about (25, 25, 75, 75)
    """
    grid = 64  # cells a side
    pixels = np.asarray(rgb.resize((grid, grid), Image.Resampling.BOX), dtype=np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    difference = np.abs(pixels - np.median(border, axis=0)).max(axis=2)
    # Up to 16 levels are paper, shadow and compression; from 64 on all differences count alike.
    weights = np.clip(difference - 16, 0, 48)
    if not weights.any():
        return (0, 0, rgb.width, rgb.height)
    spans = []
    for axis, side in ((0, rgb.width), (1, rgb.height)):
        share = weights.sum(axis=axis) / weights.sum()
        places = np.arange(grid) + 0.5
        mean = (share * places).sum()
        # At least one cell wide, or a single hair would leave an empty box.
        reach = max(1.7 * float(np.sqrt((share * (places - mean) ** 2).sum())), 0.5)
        spans.append((np.clip([mean - reach, mean + reach], 0, grid) * side / grid).tolist())
    (left, right), (top, bottom) = spans
    return (left, top, right, bottom)


_SIDE = 32  # pixels before the transform: an icon's thumbnail still has as many
_PLACES = np.arange(_SIDE)
# The discrete cosine transform (type II), one wave a row.
_COSINES = np.cos(np.pi * (2 * _PLACES[None, :] + 1) * _PLACES[:, None] / (2 * _SIDE))
_YCBCR = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))  # ITU-R BT.601
# By rising frequency along the diagonals, without the mean: the 52 slowest waves.
_SLOW_WAVES = sorted(
    ((row, column) for row in range(16) for column in range(16) if row + column),
    key=lambda place: (sum(place), place),
)[:52]
