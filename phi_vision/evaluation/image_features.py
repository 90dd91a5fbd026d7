"""Simple image features for gradient boosting: size, shape, colours and texture, no network."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phi_vision.data.samples import Sample, open_image
from phi_vision.evaluation.config import Progress
from phi_vision.io.hashing import sha256

Features = NDArray[np.float32]
Pixels = NDArray[np.float64]

SIDE = 96
"""Side in pixels to which images are resized: a multiple of every grid below."""

MIN_CONTRAST = 24
"""Levels of 256 by which a pixel of the product differs from the background: more than paper, soft
shadow and JPEG noise, less than pale cloth."""

MAX_CACHED = 50_000
"""Images whose features stay in memory, some 2 kB each."""


class Product(NamedTuple):
    """The bounding box of the product, resized to SIDE × SIDE pixels."""

    pixels: Pixels
    mask: NDArray[np.bool_]


def image_features(samples: Sequence[Sample], progress: Progress | None = None) -> Features:
    """Compute the features of the first image of every sample; a row of NaN without an image.

    Equal images are computed once, also over several calls.

    Input:  3 samples
    Output: an array of shape (3, the number of features)

    Raises:
        ValueError: An image cannot be decoded; has the id of the sample.
    """
    rows = []
    for done, sample in enumerate(samples, start=1):
        rows.append(_cached(sample) if sample.images else None)
        if progress is not None:
            progress(done, len(samples))
    width = next((row.size for row in rows if row is not None), 1)
    missing = np.full(width, np.nan, dtype=np.float32)
    return np.array([missing if row is None else row for row in rows], dtype=np.float32)


def describe(encoded: bytes) -> dict[str, Pixels]:
    """Compute the features of one image, in named parts.

    Input:  a red square of 40×40 pixels in the middle of 80×80 white ones
    Output: {"size": [...], "box": [0.5, 0.5, ...], "colour_grid": [...], ...}

    Raises:
        ValueError: It is no image.
    """
    image = _on_white(open_image(encoded))
    whole = _resize(image, (0, 0, image.width, image.height))
    border = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
    background = np.asarray(np.median(border, axis=0), dtype=np.float64)
    mask = _foreground(whole, background)
    box = _bounding_box(mask)
    left, top, right, bottom = box * np.array([image.width, image.height] * 2)
    pixels = _resize(image, (left, top, right, bottom))
    product = Product(pixels, _foreground(pixels, background))
    size = [*image.size, image.width / image.height, len(encoded) / (image.width * image.height)]
    return {
        "size": np.log(size),
        "box": _shape(box, mask.mean(), (right - left) / (bottom - top)),
        **{name: part(product) for name, part in PARTS.items()},
    }


def _cached(sample: Sample) -> Features:
    key = sha256(sample.images[0])
    if key not in _CACHE:
        try:
            parts = describe(sample.images[0])
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r}, image 1: {error}") from error
        if len(_CACHE) >= MAX_CACHED:
            _CACHE.clear()
        _CACHE[key] = np.concatenate(list(parts.values())).astype(np.float32)
    return _CACHE[key]


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


def _bounding_box(mask: NDArray[np.bool_]) -> Pixels:
    """Find left, top, right and bottom of the foreground, as shares of the image."""
    across, down = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([across[0], down[0], across[-1] + 1, down[-1] + 1]) / SIDE


def _shape(box: Pixels, covered: float, ratio: float) -> Pixels:
    """Width, height and position of the box, its filled share, and its aspect ratio."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return np.array([width, height, left, top, covered / (width * height), np.log(ratio)])


def _grid_means(pixels: Pixels, grid: int) -> Pixels:
    """Mean over the cells of a grid: (SIDE, SIDE, ...) -> (grid, grid, ...)."""
    step = SIDE // grid
    cells = pixels.reshape(grid, step, grid, step, *pixels.shape[2:])
    return np.asarray(cells.mean(axis=(1, 3)), dtype=np.float64)


def _colour_grid(product: Product) -> Pixels:
    """Brightness, red-green and yellow-blue on a grid of 6×6."""
    return _grid_means(_opponent(product.pixels), 6).ravel()


def _opponent(pixels: Pixels) -> Pixels:
    red, green, blue = np.moveaxis(pixels, 2, 0)
    return np.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], axis=2)


def _outline(product: Product) -> Pixels:
    """Covered share of each cell of 8×8."""
    return _grid_means(product.mask.astype(np.float64), 8).ravel()


def _colours(product: Product) -> Pixels:
    """Histogram of 12 hues of colourful pixels and 6 levels of grey ones; mean and standard
    deviation of brightness and chroma."""
    pixels = product.pixels[product.mask]
    light, chroma = pixels.max(axis=1), np.ptp(pixels, axis=1)
    opponent = _opponent(pixels[None])[0]
    angle = np.arctan2(opponent[:, 1] * np.sqrt(3) / 2, opponent[:, 2])
    hue = ((angle / (2 * np.pi) + 0.5) * 12).astype(int).clip(0, 11)
    grey = 12 + (light / 256 * 6).astype(int).clip(0, 5)
    bins = np.where(chroma > 0.2 * light + 8, hue, grey)
    shares = np.bincount(bins, minlength=18) / len(pixels)
    moments = [light.mean(), light.std(), chroma.mean(), chroma.std()]
    return np.concatenate([shares, moments, opponent.mean(axis=0)])


def _gradients(product: Product) -> Pixels:
    """Histograms of oriented gradients (Dalal and Triggs, 2005): 8 directions in 6×6 cells, each
    normalized by its cell; and the gradient magnitude of each cell."""
    down, across = np.gradient(product.pixels.mean(axis=2))
    strength = np.hypot(down, across)
    direction = (np.arctan2(down, across) / np.pi * 8).astype(int) % 8
    planes = np.stack([strength * (direction == each) for each in range(8)], axis=2)
    cells = _grid_means(planes, 6)
    total = cells.sum(axis=2, keepdims=True)
    return np.concatenate([(cells / (total + 1)).ravel(), total.ravel()])


def _texture(product: Product) -> Pixels:
    """Contrast lost by blurring twofold, fourfold, ... in the upper, middle and lower third."""
    light = product.pixels.mean(axis=2)
    values = []
    for grid in (48, 24, 12, 6):
        coarse = _grid_means(light, grid)
        fine = _grid_means(light, grid * 2) if grid < 48 else light
        lost = np.abs(fine - coarse.repeat(2, axis=0).repeat(2, axis=1))
        values += [part.mean() for part in np.split(lost, 3, axis=0)]
    return np.array(values)


PARTS: dict[str, Callable[[Product], Pixels]] = {
    "colour_grid": _colour_grid,
    "outline": _outline,
    "colours": _colours,
    "gradients": _gradients,
    "texture": _texture,
}
"""Name -> features of the product."""

_CACHE: dict[str, Features] = {}
