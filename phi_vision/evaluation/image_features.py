"""Simple image features, as a buyer's data scientist writes them in an afternoon: no network.

Numbers that say how large, what shape, what colours and what texture; for gradient boosting
(`boosting.py`). The frozen tower's own features are another thing and come from the checkpoint.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phi_vision.data.samples import Sample, open_image
from phi_vision.io.hashing import sha256

Features = NDArray[np.float32]
Pixels = NDArray[np.float64]
Progress = Callable[[int, int], None]

SIDE = 96
"""Pixels a side at which an image is looked at: a multiple of every grid below."""

MARGIN = 24
"""By how many of 256 levels a pixel differs from the border's usual colour to belong to the
product: more than paper, soft shadow and JPEG noise, less than pale cloth."""

REMEMBERED = 50_000
"""How many images' features are kept in memory, some 2 kB each."""


class Near(NamedTuple):
    """The product's own rectangle, brought to SIDE × SIDE pixels."""

    pixels: Pixels
    mask: NDArray[np.bool_]


def image_features(samples: Sequence[Sample], progress: Progress | None = None) -> Features:
    """Describe the first image of every sample; a row of NaN where a sample has none.

    Each different image is looked at once, also over several calls.

    Input:  3 samples
    Output: an array of shape (3, the number of features)

    Args:
        samples: The samples.
        progress: Told how many are done, and of how many.

    Raises:
        ValueError: An image cannot be decoded; names the sample.
    """
    rows = []
    for done, sample in enumerate(samples, start=1):
        rows.append(_remembered(sample) if sample.images else None)
        if progress is not None:
            progress(done, len(samples))
    width = next((row.size for row in rows if row is not None), 1)
    nothing = np.full(width, np.nan, dtype=np.float32)
    return np.array([nothing if row is None else row for row in rows], dtype=np.float32)


def describe(encoded: bytes) -> dict[str, Pixels]:
    """Describe one image, in named parts.

    Input:  a red square of 40×40 pixels in the middle of 80×80 white ones
    Output: {"size": [...], "box": [0.5, 0.5, ...], "colour_grid": [...], ...}

    Raises:
        ValueError: It is no image.
    """
    image = _on_white(open_image(encoded))
    whole = _pixels(image, (0, 0, image.width, image.height))
    paper = _paper(whole)
    mask = _differs(whole, paper)
    box = _box(mask)
    left, top, right, bottom = box * np.array([image.width, image.height] * 2)
    pixels = _pixels(image, (left, top, right, bottom))
    near = Near(pixels, _differs(pixels, paper))
    return {
        "size": _size(image, encoded),
        "box": _shape(box, mask.mean(), (right - left) / (bottom - top)),
        **{name: part(near) for name, part in PARTS.items()},
    }


def _remembered(sample: Sample) -> Features:
    encoded = sample.images[0]
    key = sha256(encoded)
    if key not in _SEEN:
        try:
            parts = describe(encoded)
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r}, image 1: {error}") from error
        if len(_SEEN) >= REMEMBERED:
            _SEEN.clear()
        _SEEN[key] = np.concatenate(list(parts.values())).astype(np.float32)
    return _SEEN[key]


def _on_white(image: Image.Image) -> Image.Image:
    """Take the colours of an image; what is transparent shows the white page of a shop."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")


def _pixels(image: Image.Image, box: tuple[float, float, float, float]) -> Pixels:
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, box=box)
    return np.asarray(small, dtype=np.float64)


def _paper(whole: Pixels) -> Pixels:
    """Take the usual colour of an image's border."""
    border = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
    return np.asarray(np.median(border, axis=0), dtype=np.float64)


def _differs(pixels: Pixels, paper: Pixels) -> NDArray[np.bool_]:
    """Mark what is not paper; everything where all of it looks like paper."""
    differs = np.abs(pixels - paper).max(axis=2) > MARGIN
    return differs if differs.any() else np.ones_like(differs)


def _box(mask: NDArray[np.bool_]) -> Pixels:
    """Find the edges of what is marked: left, top, right, bottom, as shares of the image."""
    across, down = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([across[0], down[0], across[-1] + 1, down[-1] + 1]) / SIDE


def _size(image: Image.Image, encoded: bytes) -> Pixels:
    """Logarithms of width, height and their ratio, and of bytes for each pixel: how busy it is."""
    width, height = image.size
    return np.log([width, height, width / height, len(encoded) / (width * height)])


def _shape(box: Pixels, covered: float, ratio: float) -> Pixels:
    """Width, height and place of the product, how much of its box it fills, and its proportions."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return np.array([width, height, left, top, covered / (width * height), np.log(ratio)])


def _cells(pixels: Pixels, grid: int) -> Pixels:
    """Mean over the cells of a grid: (SIDE, SIDE, ...) -> (grid, grid, ...)."""
    step = SIDE // grid
    cells = pixels.reshape(grid, step, grid, step, *pixels.shape[2:])
    return np.asarray(cells.mean(axis=(1, 3)), dtype=np.float64)


def _colour_grid(near: Near) -> Pixels:
    """Brightness, red-green and yellow-blue on a grid of 6×6."""
    return _cells(_opponent(near.pixels), 6).ravel()


def _opponent(pixels: Pixels) -> Pixels:
    red, green, blue = np.moveaxis(pixels, 2, 0)
    return np.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], axis=2)


def _outline(near: Near) -> Pixels:
    """How much of the product covers each cell of 8×8."""
    return _cells(near.mask.astype(np.float64), 8).ravel()


def _colours(near: Near) -> Pixels:
    """Shares of the product's pixels: 12 hues of colourful ones, 6 levels of grey ones; and their
    mean and spread of brightness and colourfulness."""
    pixels = near.pixels[near.mask]
    light, chroma = pixels.max(axis=1), np.ptp(pixels, axis=1)
    colourful = chroma > 0.2 * light + 8
    opponent = _opponent(pixels[None])[0]
    angle = np.arctan2(opponent[:, 1] * np.sqrt(3) / 2, opponent[:, 2])
    hue = ((angle / (2 * np.pi) + 0.5) * 12).astype(int).clip(0, 11)
    grey = 12 + (light / 256 * 6).astype(int).clip(0, 5)
    shares = np.bincount(np.where(colourful, hue, grey), minlength=18) / len(pixels)
    return np.concatenate(
        [shares, [light.mean(), light.std(), chroma.mean(), chroma.std()], opponent.mean(axis=0)]
    )


def _gradients(near: Near) -> Pixels:
    """Histograms of oriented gradients (Dalal and Triggs, 2005): 6×6 cells of 8 directions, each
    cell's share of its own; and how strong the edges of each cell are."""
    down, across = np.gradient(near.pixels.mean(axis=2))
    strength = np.hypot(down, across)
    direction = (np.arctan2(down, across) / np.pi * 8).astype(int) % 8
    planes = np.stack([strength * (direction == each) for each in range(8)], axis=2)
    cells = _cells(planes, 6)
    total = cells.sum(axis=2, keepdims=True)
    return np.concatenate([(cells / (total + 1)).ravel(), total.ravel()])


def _texture(near: Near) -> Pixels:
    """Contrast left after blurring twofold, fourfold, ... in the whole, the middle and the ends."""
    light = near.pixels.mean(axis=2)
    values = []
    for grid in (48, 24, 12, 6):
        coarse = _cells(light, grid)
        fine = _cells(light, grid * 2) if grid < 48 else light
        lost = np.abs(fine - coarse.repeat(2, axis=0).repeat(2, axis=1))
        values += [part.mean() for part in np.split(lost, 3, axis=0)]
    return np.array(values)


PARTS: dict[str, Callable[[Near], Pixels]] = {
    "colour_grid": _colour_grid,
    "outline": _outline,
    "colours": _colours,
    "gradients": _gradients,
    "texture": _texture,
}
"""Name -> what is measured of the product's own rectangle, brought to SIDE × SIDE pixels."""

_SEEN: dict[str, Features] = {}
