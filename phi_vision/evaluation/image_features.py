"""Simple image features for gradient boosting: size, shape, colours and texture, no network."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phi_vision.data.samples import Sample, open_image
from phi_vision.evaluation.config import Progress

Features = NDArray[np.float32]
Pixels = NDArray[np.float64]

SIDE = 96
"""Side in pixels to which images are resized: a multiple of every grid below."""

MIN_CONTRAST = 24
"""Levels of 256 by which a pixel of the product differs from the background: more than paper, soft
shadow and JPEG noise, less than pale cloth."""


def image_features(
    samples: Sequence[Sample], progress: Progress = lambda done, total: None
) -> Features:
    """Compute the features of the first image of every sample; a row of NaN without an image.

    Input:  3 samples
    Output: an array of shape (3, the number of features); equal images are computed once

    Raises:
        ValueError: An image cannot be decoded; has the id of the sample.
    """
    known: dict[bytes, Pixels] = {}
    for done, sample in enumerate(samples, start=1):
        for image in {*sample.images[:1]} - known.keys():
            try:
                known[image] = np.concatenate([*describe(image).values()])
            except ValueError as error:
                raise ValueError(f"sample {sample.id!r}, image 1: {error}") from error
        progress(done, len(samples))
    missing = np.full_like(next(iter(known.values()), np.zeros(1)), np.nan)
    rows = [known[sample.images[0]] if sample.images else missing for sample in samples]
    return np.array(rows, dtype=np.float32)


def describe(encoded: bytes) -> dict[str, Pixels]:
    """Compute the features of one image, in named parts.

    Input:  a red square of 40×40 pixels in the middle of 80×80 white ones
    Output: {"size": [...], "box": [0.5, 0.5, ...], "colour_grid": [...], ...}

    Raises:
        ValueError: It is no image.
    """
    image = _on_white(open_image(encoded))
    width, height = image.size
    whole = _resize(image, (0, 0, width, height))
    border = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
    background = np.median(border, axis=0)
    mask = _foreground(whole, background)
    across, down = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    left, top, right, bottom = np.array([across[0], down[0], across[-1] + 1, down[-1] + 1]) / SIDE
    product = _resize(image, (left * width, top * height, right * width, bottom * height))
    mask_of_product = _foreground(product, background)
    light = product.mean(axis=2)
    filled = mask.mean() / ((right - left) * (bottom - top))
    ratio = (right * width - left * width) / (bottom * height - top * height)
    return {
        "size": np.log([width, height, width / height, len(encoded) / (width * height)]),
        "box": np.array([right - left, bottom - top, left, top, filled, np.log(ratio)]),
        "colour_grid": _grid_means(_opponent(product), 6).ravel(),
        "outline": _grid_means(mask_of_product.astype(np.float64), 8).ravel(),
        "colours": _colours(product[mask_of_product]),
        "gradients": _gradients(light),
        "texture": _texture(light),
    }


def _on_white(image: Image.Image) -> Image.Image:
    """Convert to RGB; transparent pixels show the white page of a shop."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    page = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")


def _resize(image: Image.Image, box: tuple[float, float, float, float]) -> Pixels:
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, box=box)
    return np.asarray(small, dtype=np.float64)


def _foreground(pixels: Pixels, background: Pixels) -> NDArray[np.bool_]:
    """Mark pixels unlike the background; all of them where none is."""
    differs = np.abs(pixels - background).max(axis=2) > MIN_CONTRAST
    return differs if differs.any() else np.ones_like(differs)


def _grid_means(pixels: Pixels, grid: int) -> Pixels:
    """Mean over the cells of a grid: (SIDE, SIDE, ...) -> (grid, grid, ...)."""
    step = SIDE // grid
    cells = pixels.reshape(grid, step, grid, step, *pixels.shape[2:])
    return np.asarray(cells.mean(axis=(1, 3)), dtype=np.float64)


def _opponent(pixels: Pixels) -> Pixels:
    """Convert RGB to brightness, red-green and yellow-blue."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return np.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], axis=-1)


def _colours(pixels: Pixels) -> Pixels:
    """Histogram of 12 hues of colourful pixels and 6 levels of grey ones; mean and standard
    deviation of brightness and chroma."""
    light, chroma, opponent = pixels.max(axis=1), np.ptp(pixels, axis=1), _opponent(pixels)
    angle = np.arctan2(opponent[:, 1] * np.sqrt(3) / 2, opponent[:, 2])
    hue = ((angle / (2 * np.pi) + 0.5) * 12).astype(int).clip(0, 11)
    grey = 12 + (light / 256 * 6).astype(int).clip(0, 5)
    bins = np.where(chroma > 0.2 * light + 8, hue, grey)
    shares = np.bincount(bins, minlength=18) / len(pixels)
    moments = [light.mean(), light.std(), chroma.mean(), chroma.std()]
    return np.concatenate([shares, moments, opponent.mean(axis=0)])


def _gradients(light: Pixels) -> Pixels:
    """Histograms of oriented gradients (Dalal and Triggs, 2005): 8 directions in 6×6 cells, each
    normalized by its cell; and the gradient magnitude of each cell."""
    down, across = np.gradient(light)
    strength = np.hypot(down, across)
    direction = (np.arctan2(down, across) / np.pi * 8).astype(int) % 8
    cells = _grid_means(strength[..., None] * (direction[..., None] == np.arange(8)), 6)
    total = cells.sum(axis=2, keepdims=True)
    return np.concatenate([(cells / (total + 1)).ravel(), total.ravel()])


def _texture(light: Pixels) -> Pixels:
    """Contrast lost by blurring twofold, fourfold, ... in the upper, middle and lower third."""
    means = {grid: _grid_means(light, grid) for grid in (SIDE, 48, 24, 12, 6)}
    lost = [
        np.abs(means[min(2 * grid, SIDE)] - np.kron(means[grid], np.ones((2, 2))))
        for grid in (48, 24, 12, 6)
    ]
    return np.array([part.mean() for each in lost for part in np.split(each, 3)])
