"""How image and text meet in training: a start of the projection in closed form, and noise.

    mean features of each training image -> ridge regression -> mean embedding of its answer's texts

The regression is linear, and becomes the two layers of the projection without any loss, since
gelu(x) - gelu(-x) = x: half of the first layer's outputs are a projection P, the others its
negative, and the second layer takes their difference through Q. Takes seconds.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.io.formatting import error_texts
from phi_vision.model.modeling_phi3_v import Phi3VImageEmbedding
from phi_vision.model.processing_phi3_v import Phi3VProcessor

logger = logging.getLogger(__name__)
failure = error_texts(__file__)

MAX_IMAGES = 4000  # of the training data, evenly spread
MAX_MEASURED = 64  # of them, by which the length of image tokens is chosen
BATCH = 16


@torch.no_grad()
def start_projection(
    model: nn.Module,
    processor: Phi3VProcessor,
    samples: Sequence[Sample],
    template: Template,
) -> None:
    """Set the projection so that image tokens are near the words of their answers.

    Raises ValueError if fewer than two samples have an image and a text in their answer.
    """
    fields = [*template.fields_of("category"), *template.fields_of("text")]
    chosen = [
        (sample, text)
        for sample in samples[:: 1 + len(samples) // MAX_IMAGES]
        if sample.images and (text := _text(sample, fields))
    ]
    if len(chosen) < 2:
        raise failure("too_few", count=len(chosen))
    words: Any = model
    embeddings = words.get_input_embeddings().weight.float().cpu()
    means, patches = [], []
    for start in range(0, len(chosen), BATCH):
        features_NPD = _features(model, processor, chosen[start : start + BATCH])
        means.append(features_NPD.mean(dim=1))
        patches += [features_NPD.flatten(0, 1)] * (start < MAX_MEASURED)
    ids = (processor.tokenizer(text, add_special_tokens=False).input_ids for _, text in chosen)
    targets_NH = torch.stack([embeddings[each].mean(dim=0) for each in ids])
    weight_HD, bias_H = fit_ridge(torch.cat(means).double(), targets_NH.double())
    # Single patches vary more than means, and single tokens are longer than their means.
    found = torch.cat(patches).double() @ weight_HD.T + bias_H
    factor = embeddings.norm(dim=-1).mean() / found.norm(dim=-1).mean()
    set_projection(_embedding(model).img_projection, factor * weight_HD, factor * bias_H)
    logger.info("the projection starts from a regression over %d images", len(chosen))


def fit_ridge(inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit targets (N, H) by standardised inputs (N, D), with a penalty of N: weight (H, D), bias.

    Input:  inputs of 606 images, 384 wide, targets 576 wide
    Output: (576, 384), (576,), such that inputs @ weight.T + bias is near the targets
    """
    mean, std = inputs.mean(dim=0), inputs.std(dim=0).clamp_min(1e-6)
    scaled, offset = (inputs - mean) / std, targets.mean(dim=0)
    gram = scaled.T @ scaled + len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    weight = torch.linalg.solve(gram, scaled.T @ (targets - offset)).T / std
    return weight, offset - weight @ mean


def set_projection(projection: nn.Sequential, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Write a linear map of a patch (H, D) into the two layers, over the mean of four patches.

    Of the map only the largest H / 2 singular values fit.
    """
    # Beside adapters the trained copy of a layer.
    first, second = (
        getattr(layer, "modules_to_save", {"default": layer})["default"]
        for layer in (projection[0], projection[2])
    )
    half = first.out_features // 2
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    rank = min(half, len(values))
    root = values[:rank].sqrt()
    inner = (root[:, None] * right[:rank]).repeat(1, 4) / 4  # of the mean of 2 x 2 patches
    outer = left[:, :rank] * root
    for layer in (first, second):
        layer.weight.zero_(), layer.bias.zero_()
    first.weight[:rank], first.weight[half : half + rank] = inner, -inner
    second.weight[:, :rank], second.weight[:, half : half + rank] = outer, -outer
    second.bias.copy_(bias)


def _text(sample: Sample, fields: Iterable[str]) -> str:
    """Join the texts of an answer as in a sentence: " Pants Chaz Hoodie"."""
    values = (sample.record.get(field) for field in fields)
    return "".join(f" {value}" for value in values if value not in (None, ""))


def _features(
    model: nn.Module, processor: Phi3VProcessor, batch: Sequence[tuple[Sample, str]]
) -> torch.Tensor:
    """Encode the global view of each sample's first image: (N, P*P, D)."""
    images = [sample.open_images()[0] for sample, _ in batch]
    # With one crop the global view equals it.
    made = processor.image_processor(images, num_crops=1)["pixel_values"][::2]
    tower = _embedding(model).img_processor
    weight: Any = next(tower.parameters())
    features: torch.Tensor = tower(made.to(weight.device, weight.dtype))
    return features.float().cpu()


def add_noise(model: nn.Module, *, feature_noise: float, token_dropout: float) -> None:
    """Disturb what the decoder sees of an image, in training mode alone.

    Args:
        feature_noise: Deviation of Gaussian noise on the tower's features, in their own deviations.
        token_dropout: Fraction of the image tokens that become zero, others as they are.
    """

    def disturb(module: nn.Module, _: object, features: torch.Tensor) -> torch.Tensor | None:
        if not embedding.training:
            return None
        deviation = features.std(dim=(0, 1), keepdim=True) if len(features) else 1.0
        return features + feature_noise * deviation * torch.randn_like(features)

    def drop(module: nn.Module, _: object, tokens: torch.Tensor) -> torch.Tensor | None:
        if not embedding.training:
            return None
        return tokens * (torch.rand(len(tokens), 1, device=tokens.device) >= token_dropout)

    embedding = _embedding(model)
    if feature_noise:
        embedding.img_processor.register_forward_hook(disturb)
    if token_dropout:
        embedding.img_projection.register_forward_hook(drop)


def _embedding(model: nn.Module) -> Phi3VImageEmbedding:
    return next(each for each in model.modules() if isinstance(each, Phi3VImageEmbedding))
