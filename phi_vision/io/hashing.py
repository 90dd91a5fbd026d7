"""How an image looks, in 64 bits that its copies share: a perceptual hash for product photos.

Holds no judgement of how many bits may differ (`duplicates.py`).
"""

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.float64]


def perceptual_hash(image: Image.Image) -> int | None:
    """Describe how an image looks in 64 bits: few of them differ between copies of one image.

    The image is cut to where its content is, so that a margin more or less does not count, and
    brought to 32×32 pixels. 52 bits say which slow waves of brightness are stronger than the middle
    one (the perceptual hash of discrete cosines), 12 say how bright, blue and red it is on
    average, so that one shirt in two colours is two looks.

    Input:  a product photo, and the same at half the size
    Output: two numbers that differ in about 0 to 4 of their 64 bits; other products in 20 to 40

    Returns:
        The bits, or None for a flat image, in which no colour channel spans 16 of its 256
        levels: all of those would look alike.
    """
    rgb = image.convert("RGB")
    small = rgb.resize((_WAVES, _WAVES), Image.Resampling.LANCZOS, box=_content_box(rgb))
    pixels = np.asarray(small, dtype=np.float64)
    if np.ptp(pixels, axis=(0, 1)).max() < 16:
        return None
    brightness, blue, red = (pixels @ np.array(weights) for weights in _YCBCR)
    spectrum = _cosines() @ brightness @ _cosines().T
    # Rounded, so that waves that are absent are equal on every machine.
    waves = np.round([spectrum[place] for place in _SLOW_WAVES], 3)
    bits = [bool(wave > np.median(waves)) for wave in waves]
    bits += [bool(brightness.mean() > level) for level in (60, 100, 140, 180)]
    bits += [bool(tone.mean() > level) for tone in (blue, red) for level in (-18, -6, 6, 18)]
    return sum(1 << place for place, bit in enumerate(bits) if bit)


def _content_box(rgb: Image.Image) -> tuple[float, float, float, float]:
    """Find where an image differs from its border's usual colour, as a box in its pixels.

    Reaches 1.7 standard deviations of the difference to each side of its middle: unlike the first
    and last pixel that differ, this hardly moves when the image is written again. An even block
    has its edges at 1.73 deviations.

    Input:  a black square of 50×50 pixels in the middle of 100×100 white ones
    Output: about (25, 25, 75, 75)
    """
    grid = 64
    pixels = np.asarray(rgb.resize((grid, grid), Image.Resampling.BOX), dtype=np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    difference = np.abs(pixels - np.median(border, axis=0)).max(axis=2)
    # Up to 16 levels are paper, shadow and compression; from 64 on it is all the same.
    weights = np.clip(difference - 16, 0, 48)
    if not weights.any():
        return (0, 0, rgb.width, rgb.height)
    spans = []
    for axis, side in ((0, rgb.width), (1, rgb.height)):
        share = weights.sum(axis=axis) / weights.sum()
        places = np.arange(grid) + 0.5
        middle = (share * places).sum()
        # At least one cell wide, or a single hair would leave an empty box.
        reach = max(1.7 * float(np.sqrt((share * (places - middle) ** 2).sum())), 0.5)
        ends = np.clip([middle - reach, middle + reach], 0, grid) * side / grid
        spans.append((float(ends[0]), float(ends[1])))
    (left, right), (top, bottom) = spans
    return (left, top, right, bottom)


@cache
def _cosines() -> Pixels:
    """The discrete cosine transform (type II) as a matrix: rows are waves, columns are places."""
    places = np.arange(_WAVES)
    waves = np.cos(np.pi * (2 * places[None, :] + 1) * places[:, None] / (2 * _WAVES))
    return np.asarray(waves, dtype=np.float64)


_WAVES = 32  # pixels a side before the transform: what a thumbnail of an icon still holds
_YCBCR = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))  # ITU-R BT.601
# By rising frequency along the diagonals, without the mean: the 52 slowest waves.
_SLOW_WAVES = sorted(
    ((row, column) for row in range(16) for column in range(16) if row + column),
    key=lambda place: (sum(place), place),
)[:52]
