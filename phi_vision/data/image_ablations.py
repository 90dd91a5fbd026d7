"""Image ablations: samples with other images, or none, on which a model that looks must fail."""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from phi_vision.data.samples import IMAGE_MARK, Sample


def shuffle_images(samples: Sequence[Sample], *, seed: int) -> list[Sample]:
    """Replace every sample's images by another group's, as far as the group sizes allow.

    Samples are ordered group by group and the images rolled by the size of the largest group: where
    that is at most half of all, all images come from another group.

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
    # With a single group, any other sample's images are used.
    sources = np.roll(order, -(step if step < len(samples) else 1))
    images = {int(to): samples[int(at)].images for to, at in zip(order, sources, strict=True)}
    return [replace(sample, images=images[place]) for place, sample in enumerate(samples)]


def blank_images(samples: Sequence[Sample]) -> list[Sample]:
    """Replace every image by a white one of its size, so that only the shapes remain."""
    return [
        replace(sample, images=tuple(_white(image.size) for image in sample.open_images()))
        for sample in samples
    ]


def withhold_images(samples: Sequence[Sample]) -> list[Sample]:
    """Remove all images, and the marks of their places in conversations."""
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
