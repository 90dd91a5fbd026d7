"""Baselines: constant predictions, nearest neighbours, gradient boosting on simple features."""

import statistics
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.neighbors import NearestNeighbors

from phi_vision.data.samples import Record, Sample, Value
from phi_vision.data.template import Template
from phi_vision.evaluation.config import EvaluationConfig, Progress, ProgressBar
from phi_vision.evaluation.image_features import Features, image_features
from phi_vision.metrics.constant_baselines import (
    category_median,
    constant,
    median,
    most_frequent_texts,
)
from phi_vision.metrics.field_metrics import Predicted, as_number

NEIGHBOURS = 5
"""Neighbours whose median number is predicted."""

MAX_SAMPLES = 20_000
"""Larger training sets are sampled down for boosting, as its time grows in proportion."""

MAX_CATEGORIES = 100
"""Only the most frequent categories are classes: each costs a tree per iteration."""

# Chosen on validation samples of drawn products and on folds of photos, not on test samples. Each
# split of a tree sees a tenth of the features, which keeps classes apart: with all of them, and a
# learning rate of 0.2, the accuracy over 29 categories was 0.16 instead of 0.90.
BOOSTING = {"learning_rate": 0.1, "max_features": 0.1, "early_stopping": False}
CATEGORIES = {**BOOSTING, "max_iter": 60, "max_leaf_nodes": 8, "l2_regularization": 1.0}
NUMBERS = {**BOOSTING, "max_iter": 150, "loss": "absolute_error"}


def predict_baselines(
    samples: Sequence[Sample],
    training: Sequence[Sample],
    template: Template,
    config: EvaluationConfig,
    *,
    predicted: Predicted,
    bar: ProgressBar,
) -> dict[str, Predicted]:
    """Predict with the baselines that need no model; one uses the categories `predicted` by it."""
    baselines: dict[str, Predicted] = {}
    if "constant" not in config.skip:
        baselines["constant"] = constant(training, template, len(samples))
    has_both = {"category", "number"} <= set(template.kinds.values())
    if "category_median" not in config.skip and has_both:
        baselines["category_median"] = category_median(predicted, training, template)
    if "boosting" not in config.skip:
        with bar("boosting") as progress:
            baselines["boosting"] = boost(samples, training, template, config.seed, progress)
    return baselines


def nearest(
    features: NDArray[np.float32],
    training_features: NDArray[np.float32],
    training: Sequence[Sample],
    template: Template,
) -> list[Record]:
    """Predict the record of the training sample with the nearest image, by cosine distance.

    Texts and categories are those of that one sample, so that they fit together. Numbers are the
    median of the five nearest, as a single price is noisy. (On held-out samples the median price
    error fell from 0.20 to 0.17 for drawn products and from 0.28 to 0.23 for photos; a vote on the
    category gained nothing, nor did counting each group once.)

    Input:  an image nearest to (Coat, COATS, 300); the next four cost 310, 500, 320 and 290
    Output: {"title": "Coat", "category3_code": "COATS", "full_price": 310.0}

    Args:
        features: Of the samples' images by a vision tower, of shape (samples, width).
        training_features: The same of the training samples.
    """
    if not len(features):
        return []
    search = NearestNeighbors(
        n_neighbors=min(NEIGHBOURS, len(training)), metric="cosine", algorithm="brute"
    )
    places = search.fit(training_features).kneighbors(features, return_distance=False)
    records = [template.select(sample.record) for sample in training]
    numbers = template.fields_of("number")
    return [
        {**records[row[0]], **{name: median(records[at][name] for at in row) for name in numbers}}
        for row in places
    ]


def boost(
    samples: Sequence[Sample],
    training: Sequence[Sample],
    template: Template,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> list[Record]:
    """Predict records with boosted trees on simple features of the first images.

    A classifier for each category field. For each number field a regressor of its distance to the
    median of the predicted category (of the first category field): on held-out samples a better
    price than from the image alone (median error 0.18 instead of 0.25 on drawn products, 0.19
    instead of 0.24 on photos). Texts are the most frequent ones of that category. Deterministic
    for a seed. On one core some 30 s for 2,400 training images.

    Input:  2 samples, training samples, the template "Product: {title}, Category: {category} ..."
    Output: [{"title": "Coat", "category": "COATS", "price": 412.3}, {"title": "Belt", ...}]

    Args:
        samples: Only their images are used.
        progress: Counts one step per image, and as many again per fitted field.

    Raises:
        ValueError: An image cannot be decoded; has the id of the sample.
    """
    if len(training) > MAX_SAMPLES:
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(training), MAX_SAMPLES, replace=False)
        training = [training[place] for place in np.sort(drawn)]
    records = [template.select(sample.record) for sample in training]
    categories, numbers = template.fields_of("category"), template.fields_of("number")
    images = len(training) + len(samples)
    steps = images * (1 + len(categories) + len(numbers))
    features = image_features([*training, *samples], lambda done, _: progress(done, steps))
    known, new = features[: len(training)], features[len(training) :]
    if np.isnan(known).all():  # without any training image
        known, new = np.zeros_like(known), np.zeros_like(new)
    first = next(iter(categories), None)
    groups = [record[first] if first else None for record in records]
    new_groups: list[Value] = [None] * len(samples)
    predicted: dict[str, list[Value]] = {}
    for done, field in enumerate([*categories, *numbers], start=2):
        values = [record[field] for record in records]
        if not samples:
            predicted[field] = []
        elif field in categories:
            predicted[field] = _predict_category(known, values, new, seed)
        else:
            predicted[field] = _predict_number(known, groups, values, new, new_groups, seed)
        if field == first:
            new_groups = predicted[field]
        progress(images * done, steps)
    texts = most_frequent_texts(training, template)
    return [
        {
            field: predicted[field][place] if field in predicted else texts[category][field]
            for field in template.fields
        }
        for place, category in enumerate(new_groups)
    ]


def _predict_category(
    known: Features, values: Sequence[Value], new: Features, seed: int
) -> list[Value]:
    names = [name for name, _ in Counter(values).most_common(MAX_CATEGORIES)]
    if len(names) == 1:
        return [names[0]] * len(new)
    labels = {name: label for label, name in enumerate(names)}
    rows = [row for row, value in enumerate(values) if value in labels]
    model = HistGradientBoostingClassifier(**CATEGORIES, random_state=seed)
    model.fit(known[rows], [labels[values[row]] for row in rows])
    return [names[label] for label in model.predict(new)]


def _predict_number(
    known: Features,
    groups: Sequence[Value],
    values: Sequence[Value],
    new: Features,
    new_groups: Sequence[Value],
    seed: int,
) -> list[Value]:
    """Predict a number as the median of its group, the category, plus a regressed difference.

    The scale is the inverse hyperbolic sine: the logarithm for numbers above about 3, as suits
    prices, but defined for zero and negative numbers. The absolute error fits the median, which is
    the same on any monotonic scale.
    """
    numbers = {row: as_number(value) for row, value in enumerate(values)}
    rows = [row for row, number in numbers.items() if number is not None]
    if not rows:
        return [None] * len(new)
    scaled = np.arcsinh(np.array([numbers[row] for row in rows]))
    members: dict[Value, list[float]] = {}
    for row, number in zip(rows, scaled.tolist(), strict=True):
        members.setdefault(groups[row], []).append(number)
    medians = {group: statistics.median(each) for group, each in members.items()}
    model = HistGradientBoostingRegressor(**NUMBERS, random_state=seed)
    model.fit(known[rows], scaled - np.array([medians[groups[row]] for row in rows]))
    overall = float(np.median(scaled))
    predicted = np.array([medians.get(group, overall) for group in new_groups])
    predicted += model.predict(new)
    # Sums of trees can leave the range of the training data, and sinh would amplify that.
    return [float(number) for number in np.sinh(predicted.clip(scaled.min(), scaled.max()))]
