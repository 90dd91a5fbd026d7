"""Samples with other images, or none: what a model that looks cannot answer well."""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from phi_vision.data.samples import IMAGE_MARK, Sample


def shuffle_images(samples: Sequence[Sample], *, seed: int) -> list[Sample]:
    """Give every sample another group's images, as far as the sizes of the groups allow.

    Samples are laid out group by group and the images moved on by the size of the largest group:
    where that group is at most half of all, everyone's images come from another group.

    Input:  samples a1 a2 b1 c1 (groups a, b, c)
    Output: a1 with the images of b1, a2 of c1, b1 of a1, c1 of a2, or another such exchange
    """
    rng = np.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(sample.group, []).append(place)
    members = [np.array(each) for each in places.values()]
    order = np.concatenate([rng.permutation(members[g]) for g in rng.permutation(len(members))])
    step = max(map(len, members))
    # With a single group, any other sample's images have to do.
    givers = np.roll(order, -(step if step < len(samples) else 1))
    images = {int(to): samples[int(giver)].images for to, giver in zip(order, givers, strict=True)}
    return [replace(sample, images=images[place]) for place, sample in enumerate(samples)]


def blank_images(samples: Sequence[Sample]) -> list[Sample]:
    """Give every sample white images of the sizes of its own, so that only their shapes tell."""
    return [
        replace(sample, images=tuple(_white(image.size) for image in sample.open_images()))
        for sample in samples
    ]


def withhold_images(samples: Sequence[Sample]) -> list[Sample]:
    """Take all images away, and the marks that show where a conversation had them."""
    return [
        replace(
            sample,
            images=(),
            messages=tuple(
                turn._replace(content=turn.content.replace(IMAGE_MARK, "").lstrip("\n"))
                for turn in sample.messages
            ),
        )
        for sample in samples
    ]


def _white(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "white").save(buffer, "PNG")
    return buffer.getvalue()
