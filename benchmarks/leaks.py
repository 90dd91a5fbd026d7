"""Leakage of a random split: predictions by the nearest training image, without a model."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import nn

from benchmarks.baseline_loop import start_full
from phi_vision.data.kinds.number_kind import relative_error
from phi_vision.data.samples import Sample
from phi_vision.data.template import PRODUCT

TEST_SHARE = 0.1
RANDOM_SPLITS = 20


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Test samples that the training part gives away, over all random splits."""

    known: float
    """Share of the test samples whose title and price occur in training."""

    price_error: float
    """Median error of the price of the nearest training image."""

    category: float
    """Accuracy of the category of that image."""


def measure_leak(samples: Sequence[Sample], features: torch.Tensor, *, whole: bool) -> Leak:
    """Split at random, by sample or by group, and predict the test part from the training part."""
    known, errors, right = [], [], []
    for seed in range(RANDOM_SPLITS):
        training, test = random_split(samples, seed, whole=whole)
        styles = {_style(samples[place]) for place in training}
        nearest = training[(features[test] @ features[training].T).argmax(dim=1)]
        for place, twin in zip(test.tolist(), nearest.tolist(), strict=True):
            truth, guess = samples[place].record, samples[twin].record
            known.append(_style(samples[place]) in styles)
            errors.append(relative_error(guess["full_price"], truth["full_price"]))
            right.append(truth["category3_code"] == guess["category3_code"])
    return Leak(known=fmean(known), price_error=median(errors), category=fmean(right))


@torch.inference_mode()
def image_features(samples: Sequence[Sample]) -> torch.Tensor:
    """Compute image features of phi-vision-small's CLIP encoder, as vectors of length one."""
    setup = start_full(PRODUCT)
    tower = setup.model.model.vision_embed_tokens.img_processor
    features = []
    for sample in samples:
        shown = setup.processor.image_processor(sample.open_images(), return_tensors="pt")
        features_NPD = tower(shown["pixel_values"])
        # The mean of the crops (the first is the global view), and the maximum of each feature.
        features.append(torch.cat([features_NPD[1:].mean((0, 1)), features_NPD.amax((0, 1))]))
    features_ND = torch.stack(features)
    return nn.functional.normalize((features_ND - features_ND.mean(0)) / features_ND.std(0), dim=1)


def random_split(
    samples: Sequence[Sample], seed: int, *, whole: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Assign a tenth to the test, by sample or by group; return the positions of both parts."""
    names = [sample.group if whole else str(place) for place, sample in enumerate(samples)]
    order = sorted(set(names))
    random.Random(seed).shuffle(order)
    chosen = set(order[: round(TEST_SHARE * len(order))])
    is_test = torch.tensor([name in chosen for name in names])
    return (~is_test).nonzero().flatten(), is_test.nonzero().flatten()


def _style(sample: Sample) -> tuple[object, object]:
    return sample.record["title"], sample.record["full_price"]
