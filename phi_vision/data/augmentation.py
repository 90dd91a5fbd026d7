"""Random changes of training images that leave what a record says of them as it is.

The changes depend on the seed, the pass over the data and the sample alone, so that a resumed run
shows the images that the uninterrupted one would have shown. Sizes stay, and so do token counts.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Literal, TypeAlias, get_args

import numpy as np
from PIL import Image, ImageColor, ImageEnhance, ImageOps

from phi_vision.data.samples import Sample, SampleRows, StoredImages, failure
from phi_vision.data.template import Template
from phi_vision.io.hashing import hash_bits
from phi_vision.io.image_decoding import encode_image, open_image

Change: TypeAlias = Literal["flip", "crop", "rotation", "brightness", "hue", "jpeg"]
CHANGES: tuple[Change, ...] = get_args(Change)  # in the order in which they are made

MIN_AREA = 0.6  # of the image that a crop keeps, enlarged to the size of the whole
MAX_DEGREES = 8.0
MAX_BRIGHTER = 0.2
MAX_HUE = 20  # of the 256 hues of Pillow's HSV
MIN_QUALITY, MAX_QUALITY = 50, 95  # of JPEG
MAX_SAMPLES, MIN_COLOURED = 500, 0.05  # samples looked at, and the share that makes a field one


class AugmentedRows:
    """Rows whose images are changed at random, in every pass over the data anew.

    Attributes:
        epoch: The pass; set before it begins.
    """

    def __init__(self, rows: SampleRows, changes: Iterable[str], *, seed: int) -> None:
        self.rows, self.changes, self.seed = rows, tuple(changes), seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> tuple[Sample, ...]:
        """Build one row."""
        return tuple(map(self._change, self.rows[at]))

    def _change(self, sample: Sample) -> Sample:
        key = hash_bits(f"{self.seed}/{self.epoch}/{sample.id}")
        read = partial(_augment_all, sample, self.changes, key)
        return replace(sample, images=StoredImages(len(sample.images), read))


def augment(encoded: bytes, changes: Sequence[str], rng: np.random.Generator) -> bytes:
    """Change an encoded image at random; its size stays.

    Input:  a JPEG of 640×480 pixels, ["flip", "crop"]
    Output: a BMP of 640×480 pixels, of 60 to 100 % of its area, mirrored or not
    """
    image = open_image(encoded)
    for change in CHANGES:
        if change in changes and change != "jpeg":
            image = _MAKE[change](image, rng)
    if "jpeg" in changes:
        return encode_image(image, "JPEG", quality=int(rng.integers(MIN_QUALITY, MAX_QUALITY + 1)))
    return encode_image(image, "BMP")


def recur(changes: Iterable[str]) -> bool:
    """Whether changed images come again in later epochs, as an image and its mirror image do."""
    return {*changes} <= {"flip"}


def find_coloured_field(samples: Iterable[Sample], template: Template) -> str | None:
    """Return the first field of the template that names colours; another hue would make it wrong.

    Input:  records such as {"title": "Coat", "shade": "navy"}
    Output: "shade"
    """
    records = [sample.record for sample in islice(samples, MAX_SAMPLES)]
    for field in template.fields:
        values = [str(record.get(field) or "").lower() for record in records]
        words = (re.findall("[a-z]+", text) for text in values)
        coloured = sum(any(word in ImageColor.colormap for word in each) for each in words)
        if "colo" in field.lower() or coloured > MIN_COLOURED * len(values):
            return field
    return None


def check_hue(changes: Sequence[str], samples: Iterable[Sample], template: Template) -> None:
    """Raise ValueError if hues would be changed that a field names."""
    if "hue" in changes and (field := find_coloured_field(samples, template)):
        raise failure("hue_of_a_colour", field=field)


def _augment_all(sample: Sample, changes: Sequence[str], key: int) -> tuple[bytes, ...]:
    rng = np.random.default_rng(key)
    return tuple(sample.map_images(partial(augment, changes=changes, rng=rng)))


def _flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image) if rng.random() < 0.5 else image


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    shape = np.array(image.size)
    kept = shape * np.sqrt(rng.uniform(MIN_AREA, 1))
    left, top = (shape - kept) * rng.random(2)
    box = (left, top, left + kept[0], top + kept[1])
    return image.resize(image.size, Image.Resampling.BILINEAR, box=box)


def _rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn a little; the corners get the colour of the image's own corner."""
    degrees, corner = rng.uniform(-MAX_DEGREES, MAX_DEGREES), image.getpixel((0, 0))
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=corner)


def _brighten(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = 1 + rng.uniform(-MAX_BRIGHTER, MAX_BRIGHTER)
    return ImageEnhance.Brightness(image).enhance(factor)


def _turn_hue(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    shift = int(rng.integers(-MAX_HUE, MAX_HUE + 1))
    hue, *others = image.convert("HSV").split()
    turned = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, *others)).convert("RGB")


_MAKE: Mapping[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "flip": _flip,
    "crop": _crop,
    "rotation": _rotate,
    "brightness": _brighten,
    "hue": _turn_hue,
}
