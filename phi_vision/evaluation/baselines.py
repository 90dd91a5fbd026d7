"""Baselines that use images: nearest neighbours and a linear probe by the model's own vision tower,
and gradient boosting on simple features."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from phi_vision.data.kinds.field_kind import Scale, has_value
from phi_vision.data.samples import Record, Sample, Value, join_samples, select
from phi_vision.data.template import KINDS, Template
from phi_vision.evaluation.config import Progress
from phi_vision.io.image_decoding import open_image
from phi_vision.io.process import map_in_threads
from phi_vision.metrics.constant_baselines import most_frequent_texts, typical_value

Features = NDArray[np.float32]
Pixels = NDArray[np.float64]

NEIGHBOURS = 5  # neighbours whose median number is predicted
SIDE = 96  # side in pixels to which images are resized: a multiple of every grid below
MIN_CONTRAST = 24
"""Levels of 256 by which a pixel of the product differs from the background: more than paper, soft
shadow and JPEG noise, less than pale cloth."""

MAX_SAMPLES, MAX_CATEGORIES = 20_000, 100
"""Of boosting, as time grows with both: larger training sets are sampled down, and only the most
frequent categories are classes."""

# Chosen on validation samples of drawn products and on folds of photos, not on test samples. Each
# split of a tree sees a tenth of the features, which keeps classes apart: with all of them, and a
# learning rate of 0.2, the accuracy over 29 categories was 0.16 instead of 0.90.
BOOSTING = {"learning_rate": 0.1, "max_features": 0.1, "early_stopping": False}
CATEGORIES = {**BOOSTING, "max_iter": 60, "max_leaf_nodes": 8, "l2_regularization": 1.0}
NUMBERS = {**BOOSTING, "max_iter": 150, "loss": "absolute_error"}


PROBE_ALPHA = 300.0  # of its ridge regression; on validation samples 30 to 3000 are alike


class Estimators(NamedTuple):
    """What predicts the categories and the numbers of a baseline, in the form of scikit-learn."""

    category: Any
    number: Any


def nearest(
    features: Features, training_features: Features, training: Sequence[Sample], template: Template
) -> list[Record]:
    """Predict the record of the training sample with the nearest image.

    By cosine distance of the features of a vision tower, (samples, width).
    Texts and categories are those of that one sample, so that they fit together; numbers the median
    of the five nearest: on held-out samples the median price error fell from 0.20 to 0.17 (drawn
    products) and from 0.28 to 0.23 (photos). A vote on the category gained nothing.

    Input:  an image nearest to (Coat, COATS, 300); the next four cost 310, 500, 320 and 290
    Output: {"title": "Coat", "category3_code": "COATS", "full_price": 310.0}
    """
    if not len(features):
        return []
    search = NearestNeighbors(
        n_neighbors=min(NEIGHBOURS, len(training)), metric="cosine", algorithm="brute"
    )
    places = search.fit(training_features).kneighbors(features, return_distance=False)
    records = [template.select(sample.record) for sample in training]
    found = list[Record]()
    for row in places:
        numbers = {n: [records[at][n] for at in row] for n in template.scaled_fields}
        medians = {name: typical_value(template, name, each) for name, each in numbers.items()}
        found.append({**records[row[0]], **medians})
    return found


def boost(
    samples: Sequence[Sample],
    training: Sequence[Sample],
    template: Template,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> list[Record]:
    """Predict records with boosted trees on simple features of the first images.

    Deterministic for a seed; some 30 s for 2,400 training images on one core. `progress` counts a
    step per image, and as many again per fitted field.
    """
    if not samples:
        return []
    if len(training) > MAX_SAMPLES:
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(training), MAX_SAMPLES, replace=False)
        training = select(training, np.sort(drawn))
    images = len(training) + len(samples)
    steps = images * (1 + len(template.fields) - len(template.fields_of("text")))
    everything = join_samples(training, samples)
    features = image_features(everything, lambda done, _: progress(done, steps))
    known, new = features[: len(training)], features[len(training) :]
    if np.isnan(known).all():  # without any training image
        known, new = np.zeros_like(known), np.zeros_like(new)
    estimators = Estimators(
        HistGradientBoostingClassifier(**CATEGORIES, random_state=seed),
        HistGradientBoostingRegressor(**NUMBERS, random_state=seed),
    )
    fitted = lambda fields: progress(images * (1 + fields), steps)  # noqa: E731
    return predict_fields(known, new, training, template, estimators, fitted)


def probe(
    features: Features, training_features: Features, training: Sequence[Sample], template: Template
) -> list[Record]:
    """Predict records with linear models on the features of a vision tower, (samples, width)."""
    if not len(features):
        return []
    estimators = Estimators(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        make_pipeline(StandardScaler(), Ridge(alpha=PROBE_ALPHA)),
    )
    return predict_fields(training_features, features, training, template, estimators)


def predict_fields(
    known: Features,
    new: Features,
    training: Sequence[Sample],
    template: Template,
    estimators: Estimators,
    fitted: Callable[[int], None] = lambda fields: None,
) -> list[Record]:
    """Predict records from features of the training samples, `known`, and of others, `new`.

    A classifier for each category field; for each number field a regressor of its distance to the
    median of the first predicted category: on held-out samples boosting's median price error is
    0.18 instead of 0.25 from the image alone (drawn products), 0.19 instead of 0.24 (photos). Texts
    are the most frequent of that category.
    """
    records = [template.select(sample.record) for sample in training]
    numbers, first = template.scaled_fields, next(iter(template.class_fields), None)
    classes = [field for field, kind in template.kinds.items() if kind != "text"]
    groups: list[Value] = [record[first] if first else None for record in records]
    new_groups: list[Value] = [None] * len(new)
    predicted: dict[str, list[Value]] = {}
    # The categories first, as numbers are predicted within one.
    for done, field in enumerate(sorted(classes, key=lambda each: each in numbers), start=1):
        values = [record[field] for record in records]
        if field in numbers:
            scale = KINDS[template.kinds[field]].scale
            assert scale is not None
            given, wanted = (known, groups), (new, new_groups)
            predicted[field] = _predict_number(given, scale(values), wanted, estimators.number)
            if field in template.optional:
                held: list[Value] = list(map(has_value, values))
                visible = _predict_category(known, held, new, estimators.category)
                pairs = zip(predicted[field], visible, strict=True)
                predicted[field] = [value if is_there else None for value, is_there in pairs]
        else:
            predicted[field] = _predict_category(known, values, new, estimators.category)
        if field == first:
            new_groups = predicted[field]
        fitted(done)
    texts = most_frequent_texts(training, template)
    rows = [
        texts[group] | {name: predicted[name][at] for name in predicted}
        for at, group in enumerate(new_groups)
    ]
    return [{field: row[field] for field in template.fields} for row in rows]


def _predict_category(
    known: Features, values: Sequence[Value], new: Features, model: Any
) -> list[Value]:
    names = [name for name, _ in Counter(values).most_common(MAX_CATEGORIES)]
    if len(names) == 1:
        return [names[0]] * len(new)
    labels = {name: label for label, name in enumerate(names)}
    rows = [row for row, value in enumerate(values) if value in labels]
    model.fit(known[rows], [labels[values[row]] for row in rows])
    return [names[label] for label in model.predict(new)]


def _predict_number(
    known: tuple[Features, Sequence[Value]],
    scale: Scale,
    new: tuple[Features, Sequence[Value]],
    model: Any,
) -> list[Value]:
    """Predict a number as the median of its group, the category, plus a regressed difference, on
    the scale of the inverse hyperbolic sine: the logarithm for numbers above about 3, but defined
    for all. The absolute error fits the median, the same on any such scale."""
    numbers = scale.numbers
    rows = [row for row, number in enumerate(numbers) if number is not None]
    if not rows:
        return [None] * len(new[0])
    scaled = np.arcsinh(np.array([numbers[row] for row in rows]))
    members: dict[Value, list[float]] = {}
    for row, number in zip(rows, scaled.tolist(), strict=True):
        members.setdefault(known[1][row], []).append(number)
    medians = {group: statistics.median(each) for group, each in members.items()}
    model.fit(known[0][rows], scaled - np.array([medians[known[1][row]] for row in rows]))
    overall = float(np.median(scaled))
    predicted = np.array([medians.get(group, overall) for group in new[1]])
    predicted += model.predict(new[0])
    # Sums of trees can leave the range of the training data, and sinh would amplify that.
    clipped = np.sinh(predicted.clip(scaled.min(), scaled.max()))
    return [scale.value(float(number)) for number in clipped]


def image_features(
    samples: Sequence[Sample], progress: Progress = lambda done, total: None
) -> Features:
    """Compute the features of the first image of every sample, of shape (samples, features); a row
    of NaN without an image."""

    def describe(sample: Sample) -> list[Pixels]:
        first = replace(sample, images=sample.images[:1])
        return first.map_images(lambda image: np.concatenate([*describe_image(image).values()]))

    rows = list[list[Pixels]]()
    for row in map_in_threads(describe, samples):
        rows.append(row)
        progress(len(rows), len(samples))
    missing = np.full_like(next(chain(*rows), np.zeros(1)), np.nan)
    return np.array([*chain(*(row or [missing] for row in rows))], dtype=np.float32)


def describe_image(encoded: bytes) -> dict[str, Pixels]:
    """Compute the features of one image, in named parts: "size", "box", "colour_grid", …"""
    image = open_image(encoded).convert("RGB")
    width, height = image.size
    whole = _resize(image, (0, 0, width, height))
    border = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
    background = np.median(border, axis=0)
    mask = _foreground(whole, background)
    across, down = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    left, top, right, bottom = np.array([across[0], down[0], across[-1] + 1, down[-1] + 1]) / SIDE
    product = _resize(image, (left * width, top * height, right * width, bottom * height))
    shown, light = _foreground(product, background), product.mean(axis=2)
    filled = mask.mean() / ((right - left) * (bottom - top))
    ratio = (right * width - left * width) / (bottom * height - top * height)
    return {
        "size": np.log([width, height, width / height, len(encoded) / (width * height)]),
        "box": np.array([right - left, bottom - top, left, top, filled, np.log(ratio)]),
        "colour_grid": _grid_means(_opponent(product), 6).ravel(),
        "outline": _grid_means(shown.astype(np.float64), 8).ravel(),
        "colours": _colours(product[shown]),
        "gradients": _gradients(light),
        "texture": _texture(light),
    }


def _resize(image: Image.Image, box: tuple[float, float, float, float]) -> Pixels:
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, box=box)
    return np.asarray(small, dtype=np.float64)


def _foreground(pixels: Pixels, background: Pixels) -> NDArray[np.bool_]:
    """Mark pixels unlike the background; all of them where none is."""
    # Channel by channel: `max(axis=2)` takes several times as long.
    red, green, blue = np.moveaxis(np.abs(pixels - background), -1, 0)
    differs = np.maximum(np.maximum(red, green), blue) > MIN_CONTRAST
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
