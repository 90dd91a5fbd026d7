"""Sample: the noun that all packages share. Images, their record, an id and a group.

Image ablations are samples with other images, or none, on which a model that looks must fail.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from phi_vision.io.formatting import error_texts
from phi_vision.io.image_decoding import encode_image, open_image

failure = error_texts(str(Path(__file__).with_name("errors.py")))  # of this package, in errors.yaml

Value = str | int | float | bool | None  # a value of a record's field
Record = Mapping[str, Value]  # field -> value, in the order of the columns
Role = Literal["system", "user", "assistant"]
IMAGE_MARK = "<image>"  # the place of the next image in a message, as in LLaVA and TRL


class Message(NamedTuple):
    """One turn of a conversation; only the assistant's are supervised."""

    role: Role
    content: str  # `<image>` is the place of the next image


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Images and the record they belong to, or a conversation about them."""

    id: str  # the name in messages, predictions and reports
    group: str  # must not straddle a split: a style in all its colors
    images: tuple[bytes, ...]  # encoded (JPEG, PNG, ...), in the order in which prompts count them
    record: Record  # all scalar columns of the source, ordered
    messages: tuple[Message, ...] = ()  # the conversation, if there is one, instead of the template
    # For preference training: a completion that is worse than the right one, as the model would
    # generate it, without the closing control token; "" if there is none.
    rejected: str = ""

    def open_images(self) -> list[Image.Image]:
        """Read the images, in RGB or grey."""
        opened = []
        for number, encoded in enumerate(self.images, start=1):
            try:
                opened.append(open_image(encoded))
            except ValueError as error:
                raise failure("no_sample_image", id=self.id, number=number, error=error) from error
        return opened


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
