"""What a split gives away: memory alone, asked about the test part. Nothing is trained."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import nn

from benchmarks.baseline_loop import start_full
from phi_vision.data.samples import Sample
from phi_vision.data.template import PRODUCT
from phi_vision.metrics.field_metrics import relative_error

TEST_SHARE = 0.1
RANDOM_SPLITS = 20


@dataclass(frozen=True, kw_only=True)
class Leak:
    """What is found in the training part, over all random splits."""

    known: float
    """Share of the test samples whose title and price are there."""

    price_error: float
    """Median error of the price of the image there that looks most alike."""

    category: float
    """Share of the test samples whose category that image has."""


def measure_leak(samples: Sequence[Sample], looks: torch.Tensor, *, whole: bool) -> Leak:
    """Split at random, sample by sample or in whole groups, and look the test part up."""
    known, errors, right = [], [], []
    for seed in range(RANDOM_SPLITS):
        training, test = random_split(samples, seed, whole=whole)
        styles = {_style(samples[place]) for place in training}
        nearest = training[(looks[test] @ looks[training].T).argmax(dim=1)]
        for place, twin in zip(test.tolist(), nearest.tolist(), strict=True):
            truth, guess = samples[place].record, samples[twin].record
            known.append(_style(samples[place]) in styles)
            errors.append(relative_error(guess["full_price"], truth["full_price"]))
            right.append(truth["category3_code"] == guess["category3_code"])
    return Leak(known=fmean(known), price_error=median(errors), category=fmean(right))


@torch.inference_mode()
def look_at(samples: Sequence[Sample]) -> torch.Tensor:
    """Give what the tower of phi-vision-small sees of each image, as vectors of length one."""
    setup = start_full(PRODUCT)
    tower = setup.model.model.vision_embed_tokens.img_processor
    looks = []
    for sample in samples:
        shown = setup.processor.image_processor(sample.open_images(), return_tensors="pt")
        features_NPD = tower(shown["pixel_values"])
        # The mean of the crops (the global view is the first), and the most of every feature.
        looks.append(torch.cat([features_NPD[1:].mean((0, 1)), features_NPD.amax((0, 1))]))
    looks_ND = torch.stack(looks)
    return nn.functional.normalize((looks_ND - looks_ND.mean(0)) / looks_ND.std(0), dim=1)


def random_split(
    samples: Sequence[Sample], seed: int, *, whole: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Deal a tenth to the test, sample by sample or in whole groups: places of both parts."""
    names = [sample.group if whole else str(place) for place, sample in enumerate(samples)]
    order = sorted(set(names))
    random.Random(seed).shuffle(order)
    chosen = set(order[: round(TEST_SHARE * len(order))])
    is_test = torch.tensor([name in chosen for name in names])
    return (~is_test).nonzero().flatten(), is_test.nonzero().flatten()


def _style(sample: Sample) -> tuple[object, object]:
    return sample.record["title"], sample.record["full_price"]
