"""Image ablations: samples with other images, or none, on which a model that looks must fail."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from phi_vision.data.samples import IMAGE_MARK, Sample
from phi_vision.io.image_decoding import encode_image


def shuffle_images(samples: Sequence[Sample], *, seed: int) -> list[Sample]:
    """Replace every sample's images by another group's, as far as the group sizes allow.

    Samples are ordered group by group and the images rolled by the size of the largest group: where
    that is at most half of all, all images come from another group.

    Input:  samples a1 a2 b1 c1 (groups a, b, c)
    Output: a1 with the images of b1, a2 of c1, b1 of a1, c1 of a2, or another such exchange
    """
    shown = [place for place, sample in enumerate(samples) if sample.images]
    if len(shown) < len(samples):
        changed = shuffle_images([samples[place] for place in shown], seed=seed) if shown else []
        known = dict(zip(shown, changed, strict=True))
        return [known.get(place, sample) for place, sample in enumerate(samples)]
    rng = np.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(sample.group, []).append(place)
    members = [np.array(each) for each in places.values()]
    order = np.concatenate([rng.permutation(members[g]) for g in rng.permutation(len(members))])
    step = max(map(len, members))
    # With a single group, any other sample's images are used.
    sources = np.roll(order, -(step if step < len(samples) else 1))
    source_of = dict(zip(order.tolist(), sources.tolist(), strict=True))
    exchanged = [samples[source_of[place]].images for place in range(len(samples))]
    return [
        replace(each, images=(new * len(each.images))[: len(each.images)] if each.messages else new)
        for each, new in zip(samples, exchanged, strict=True)
    ]


def blank_images(samples: Sequence[Sample]) -> list[Sample]:
    """Replace every image by a white one of its size, so that only the shapes remain."""
    sizes = [[image.size for image in sample.open_images()] for sample in samples]
    white = [[encode_image(Image.new("RGB", size, "white"), "PNG") for size in s] for s in sizes]
    return [replace(each, images=tuple(new)) for each, new in zip(samples, white, strict=True)]


def withhold_images(samples: Sequence[Sample]) -> list[Sample]:
    """Remove all images, and the marks of their places in conversations."""

    def without(text: str) -> str:
        return text.replace(IMAGE_MARK, "").lstrip("\n")

    turns = [[turn._replace(content=without(turn.content)) for turn in s.messages] for s in samples]
    pairs = zip(samples, turns, strict=True)
    return [replace(sample, images=(), messages=tuple(messages)) for sample, messages in pairs]
