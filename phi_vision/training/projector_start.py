"""How image and text meet in training: a start of the projection in closed form, and noise.

    features of the training images -> first layer: their principal directions, with both signs
      -> GELU, mean over an image's tokens -> ridge regression -> second layer: mean embedding of
    the words of the image's category, moved apart from other categories

The two signs of a direction pass GELU as its value, since gelu(x) - gelu(-x) = x, and as its
strength, gelu(x) + gelu(-x): in the mean over an image, what is shown and how much it varies. Words
of related categories, such as "Pants" and "Pants & Shorts", are too near each other to be kept
apart, so that all categories get the same distance. An image counts as it is and changed at random:
a few hundred photographs say too little of what does not matter. Takes less than a minute.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from phi_vision.data.augmentation import AugmentedRows, Change
from phi_vision.data.samples import Sample, SampleRows
from phi_vision.data.template import Template
from phi_vision.io.formatting import error_texts
from phi_vision.model.modeling_phi3_v import Phi3VImageEmbedding
from phi_vision.model.processing_phi3_v import Phi3VProcessor

logger = logging.getLogger(__name__)
failure = error_texts(__file__)

MAX_IMAGES = 4000  # of the training data, evenly spread, and changed ones
VIEWS = 3  # of each image: as it is, and changed
CHANGES_OF_A_VIEW: tuple[Change, ...] = ("flip", "crop", "brightness")
MAX_MEASURED = 256  # of them, for the directions and the length of image tokens
BATCH = 16
PENALTY = 0.1  # of the regression on standardised inputs, times the number of views


@torch.no_grad()
def start_projection(
    model: nn.Module, processor: Phi3VProcessor, samples: Sequence[Sample], template: Template
) -> None:
    """Set the projection so that image tokens are near the words of their images' categories.

    Where these have no two categories, near the words of their texts; ValueError if these do not
    differ either.
    """
    images = [
        sample for sample in samples[:: 1 + (len(samples) - 1) // MAX_IMAGES] if sample.images
    ]
    for fields in (template.class_fields, template.fields_of("text")):
        chosen = [(each, text) for each in images if (text := _text(each, fields))]
        if len({text for _, text in chosen}) > 1:
            break
    else:
        raise failure("too_few", count=len(images))
    chosen = [*chosen, *_changed(chosen)]
    words: Any = model
    embeddings = words.get_input_embeddings().weight.float().cpu()
    projection = _embedding(model).img_projection
    # Beside adapters the trained copy of a layer.
    first, second = (
        getattr(layer, "modules_to_save", {"default": layer})["default"]
        for layer in (projection[0], projection[2])
    )
    measured = chosen[:: 1 + len(chosen) // MAX_MEASURED]
    set_directions(first, torch.cat([*_tokens(model, processor, measured)]).flatten(0, 1))
    means, single = list[torch.Tensor](), list[torch.Tensor]()
    for tokens_NTD in _tokens(model, processor, chosen):
        activations_NTF = _activations(first, tokens_NTD)
        means.append(activations_NTF.mean(dim=1))
        single += [activations_NTF] * (len(single) < MAX_MEASURED // BATCH)
    ids = (processor.tokenizer(text, add_special_tokens=False).input_ids for _, text in chosen)
    targets_NH = torch.stack([embeddings[each].mean(dim=0) for each in ids]).double()
    weights_N = torch.ones(len(targets_NH), dtype=torch.double)
    if fields == template.class_fields:
        targets_NH, weights_N = separate(targets_NH, [text for _, text in chosen])
    weight_HF, bias_H = fit_ridge(torch.cat(means).double(), targets_NH, weights_N)
    # Single tokens are longer than their means.
    found = torch.cat(single).double() @ weight_HF.T + bias_H
    factor = embeddings.norm(dim=-1).mean() / found.norm(dim=-1).mean()
    second.weight.copy_(factor * weight_HF)
    second.bias.copy_(factor * bias_H)
    logger.info("the projection starts from a regression over %d views of images", len(chosen))


def set_directions(layer: nn.Linear, tokens_TD: torch.Tensor) -> None:
    """Set a layer to measure the principal directions of tokens, with unit variance, both signs.

    Its input are the features of four patches (4D); it measures their mean.
    """
    mean, std = tokens_TD.mean(dim=0), tokens_TD.std(dim=0).clamp_min(1e-6)
    scaled = (tokens_TD - mean) / std
    values, directions = torch.linalg.eigh((scaled.T @ scaled / len(scaled)).double())
    half = min(layer.out_features // 2, int((values > 1e-6 * values.max()).sum()))
    inner = (directions[:, -half:] / values[-half:].sqrt()).T.float() / std
    offset = -(inner @ mean)
    layer.weight.zero_(), layer.bias.zero_()
    for sign, start in ((1, 0), (-1, layer.out_features // 2)):
        layer.weight[start : start + half] = sign * inner.repeat(1, 4) / 4
        layer.bias[start : start + half] = sign * offset


def separate(
    words_NH: torch.Tensor, categories: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move categories to the same distance, as near to their words as possible, with equal weight.

    The distances are those of the polar decomposition of the words less their mean. Returns the
    targets (N, H), and the weights (N) of the images, on average 1.

    Input:  words of 60 images of "Pants" and of 40 of "Pants & Shorts"
    Output: targets as far apart as those of any two categories; weights 0.83 and 1.25
    """
    places = {name: place for place, name in enumerate(dict.fromkeys(categories))}
    category_N = torch.tensor([places[name] for name in categories])
    counts_C = category_N.bincount().to(words_NH.dtype)
    words_CH = torch.zeros(len(places), words_NH.shape[1], dtype=words_NH.dtype)
    words_CH[category_N] = words_NH
    mean = words_CH.mean(dim=0)
    left, lengths, right = torch.linalg.svd(words_CH - mean, full_matrices=False)
    differ = lengths > 1e-6 * mean.norm()
    distance = lengths[differ].sum() / max(int(differ.sum()), 1)
    apart_CH = mean + distance * (left[:, differ] @ right[differ])
    return apart_CH[category_N], (counts_C.mean() / counts_C)[category_N]


def fit_ridge(
    inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit targets (N, H) by standardised inputs (N, D), with a penalty: weight (H, D), bias (H).

    Input:  inputs of 1,818 views, 576 wide, targets 576 wide, weights, on average 1
    Output: (576, 576), (576,), such that inputs @ weight.T + bias is near the targets
    """
    from sklearn.linear_model import Ridge  # a second

    std = inputs.std(dim=0).clamp_min(1e-6)
    ridge = Ridge(alpha=PENALTY * len(inputs))
    ridge.fit((inputs / std).numpy(), targets.numpy(), sample_weight=weights.numpy())
    return torch.from_numpy(ridge.coef_) / std, torch.from_numpy(ridge.intercept_)


def _changed(chosen: Sequence[tuple[Sample, str]]) -> Iterator[tuple[Sample, str]]:
    """Yield the samples with changed images, as often as they fit."""
    rows = AugmentedRows(SampleRows([each for each, _ in chosen]), CHANGES_OF_A_VIEW, seed=0)
    for view in range(1, min(VIEWS, MAX_IMAGES // len(chosen))):
        rows.epoch = -view  # none of the training's
        yield from ((rows[place][0], text) for place, (_, text) in enumerate(chosen))


def _activations(first: nn.Linear, tokens_NTD: torch.Tensor) -> torch.Tensor:
    """Compute what the second layer sees of tokens, each the mean of its four patches."""
    squares = tokens_NTD.repeat(1, 1, 4).to(first.weight.device, first.weight.dtype)
    return nn.functional.gelu(first(squares)).float().cpu()


def _tokens(
    model: nn.Module, processor: Phi3VProcessor, chosen: Sequence[tuple[Sample, str]]
) -> Iterator[torch.Tensor]:
    """Encode the global view of each sample's first image, and average squares of four patches.

    Yields (N, T, D), a batch each.
    """
    embedding = _embedding(model)
    weight: Any = next(embedding.img_processor.parameters())
    for start in range(0, len(chosen), BATCH):
        images = [sample.open_images()[0] for sample, _ in chosen[start : start + BATCH]]
        # With one crop the global view equals it.
        made = processor.image_processor(images, num_crops=1)["pixel_values"][::2]
        features: torch.Tensor = embedding.img_processor(made.to(weight.device, weight.dtype))
        squares = embedding._merge_2x2(features.float().cpu()).flatten(1, 2)
        yield squares.unflatten(-1, (4, -1)).mean(dim=-2)


def _text(sample: Sample, fields: Iterable[str]) -> str:
    """Join the words of a sample as in a sentence: " Pants Trousers"."""
    values = (sample.record.get(field) for field in fields)
    return "".join(f" {value}" for value in values if value not in (None, ""))


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
