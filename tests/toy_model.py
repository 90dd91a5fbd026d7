"""Fixtures of a tiny model that says something, its processor and images, for two packages."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy_rows import NONE, ONE, TWO, Inputs

from phi_vision import Phi3VForCausalLM, Phi3VProcessor
from phi_vision.model.checkpoint import load_model


@pytest.fixture(scope="session")
def _loaded(tiny_checkpoint: Path) -> tuple[Phi3VForCausalLM, Phi3VProcessor]:
    model, processor = load_model(tiny_checkpoint)
    # Freshly drawn weights give almost the same logits whatever is shown; larger ones do not.
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)
    processor.image_processor.num_crops = 4
    return model, processor


@pytest.fixture
def model(_loaded: tuple[Phi3VForCausalLM, Phi3VProcessor]) -> Phi3VForCausalLM:
    """A model of crops of 56 pixels, the test's own to change."""
    return copy.deepcopy(_loaded[0])


@pytest.fixture
def processor(_loaded: tuple[Phi3VForCausalLM, Phi3VProcessor]) -> Phi3VProcessor:
    """The processor of `model`: up to 4 crops of 56 pixels, 4 image tokens each."""
    return _loaded[1]


@pytest.fixture
def short_context(model: Phi3VForCausalLM) -> Phi3VForCausalLM:
    """The same weights with other rotations beyond 96 positions."""
    fields = model.config.to_dict()
    half_head = len(fields["rope_scaling"]["long_factor"])
    fields["original_max_position_embeddings"] = 96
    fields["max_position_embeddings"] = 96 * 32
    fields["rope_scaling"]["long_factor"] = [4.0 + place for place in range(half_head)]
    changed = Phi3VForCausalLM(type(model.config).from_dict(fields)).eval()
    changed.load_state_dict(model.state_dict())
    return changed


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Three images of different content and shape: 2 x 2, 2 x 1 and 1 x 1 crops of up to 4."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(60, 50), (30, 100), (40, 40)]
    noises = [
        torch.randint(0, 256, (h // 5, w // 5, 3), generator=generator, dtype=torch.uint8)
        for w, h in sizes
    ]
    return [
        Image.fromarray(noise.numpy()).resize(size, Image.Resampling.NEAREST)
        for noise, size in zip(noises, sizes, strict=True)
    ]


@pytest.fixture
def rows(processor: Phi3VProcessor, images: list[Image.Image]) -> list[Inputs]:
    """Three rows of a batch, each made alone: with one, two and no images."""
    a, b, c = images
    asked = [(ONE, [a]), (TWO, [b, c]), (NONE, None)]
    return [dict(processor(text=text, images=shown, return_tensors="pt")) for text, shown in asked]


@pytest.fixture
def batch_of_rows(processor: Phi3VProcessor, images: list[Image.Image]) -> Callable[[str], Inputs]:
    """The same three rows made together, padded on the given side."""

    def make(side: str) -> Inputs:
        a, b, c = images
        return dict(
            processor(
                text=[ONE, TWO, NONE],
                images=[[a], [b, c], []],
                padding_side=side,
                return_tensors="pt",
            )
        )

    return make
