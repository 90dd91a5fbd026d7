"""Draws images of a planned size, file size and format for records.

The drawings are those of the sample catalog. They show the thing that the words of the title and
the categories name ("Trench Coat", "Tees", "navy"); a category without a known word always gets
the same kind of thing.
"""

import random
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from PIL import Image

from phi_vision.data.samples import Value
from phi_vision.io.hashing import hash_bits
from phi_vision.io.image_decoding import encode_image
from phi_vision.synthetic.observation import ASPECT, DENSITY, FORMAT, LONGEST
from phi_vision.synthetic.render import garment as garments
from phi_vision.synthetic.render.drawing import draw, random_scene
from phi_vision.synthetic.render.garment import Garment

_MAX_SIDE, _MIN_SIDE = 1000, 64
"""Pixels that `draw` can paint (its noise is 1024 wide); beyond, a drawing is scaled."""
_QUALITIES = range(25, 97)
_USUAL = {LONGEST: 512, ASPECT: 1.0, DENSITY: 0.25}


class ImagePlan(NamedTuple):
    """An image to draw: the same plan gives the same bytes."""

    garment: Garment
    seed: str
    width: int
    height: int
    density: float  # bytes per pixel of the file
    format: str  # "JPEG"


def plan_image(record: Mapping[str, Value], garment: Garment, seed: str) -> ImagePlan:
    """Plan an image of a garment after the drawn facts about images in a record."""
    longest, aspect, density = (float(record.get(f) or usual) for f, usual in _USUAL.items())
    width, height = (max(1, round(longest * min(1, side))) for side in (aspect, 1 / aspect))
    name = str(record.get(FORMAT))
    return ImagePlan(garment, seed, width, height, density, name if name in WRITERS else "JPEG")


def draw_image(plan: ImagePlan) -> bytes:
    """Draw an image and write it in about the planned number of bytes."""
    wanted = (plan.width, plan.height)
    zoom = max(min(1.0, _MAX_SIDE / max(wanted)), _MIN_SIDE / min(wanted))
    width, height = (max(1, min(_MAX_SIDE, round(side * zoom))) for side in wanted)
    scene = replace(random_scene(random.Random(plan.seed)), width=width, height=height)
    image = draw(plan.garment, scene)
    if image.size != wanted:
        image = image.resize(wanted, Image.Resampling.LANCZOS)
    return WRITERS[plan.format](image, round(plan.density * plan.width * plan.height))


def choose_garment(texts: Iterable[str], colours: str, fallback: str, seed: str) -> Garment:
    """Choose a garment by words, the most informative text first; else `fallback` gives the kind.

    Input:  texts ("Wool Trench Coat", "OUTERWEAR"), colours "Navy"
    Output: a trench coat of wool in navy
    """
    rng = random.Random(f"garment {seed}")
    words = [word for text in texts for word in reversed(_words(text))]
    known = next((_KINDS[word] for word in words if word in _KINDS), None)
    kind = known or garments.KINDS[hash_bits(fallback) % len(garments.KINDS)]
    garment = garments.random_garment(rng, kind)
    materials = (word for word in words if word in garments.CHOICES[kind].materials)
    garment = replace(garment, material=next(materials, garment.material))
    colour = next((_COLOURS[word] for word in _words(colours) if word in _COLOURS), None)
    if colour:
        return replace(garment, colour=colour, rgb=garments.random_dye(rng, colour))
    return garment


def _words(text: str) -> list[str]:
    """Split into words, and pairs of words at the end: "polo shirt" is met before "shirt"."""
    words = re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())
    return [*words, *(f"{one} {other}" for one, other in pairwise(words))]


def _write_jpeg(image: Image.Image, size: int) -> bytes:
    """Write a JPEG of the lowest quality that has at least a size in bytes."""
    write = partial(encode_image, image, "JPEG")
    place = bisect_left(_QUALITIES, size, key=lambda quality: len(write(quality=quality)))
    return write(quality=_QUALITIES[min(place, len(_QUALITIES) - 1)])


_KINDS = {
    word: kind
    for kind, entry in garments.VOCABULARY["kinds"].items()
    for word in (kind, *entry["words"].split())
}
_COLOURS = {colour: colour for colour in garments.COLOURS} | {
    word: colour
    for colour, words in garments.VOCABULARY["colour_words"].items()
    for word in words.split()
}

WRITERS: dict[str, Callable[[Image.Image, int], bytes]] = {
    "JPEG": _write_jpeg,
    "PNG": lambda image, size: encode_image(image, "PNG"),
    "WEBP": lambda image, size: encode_image(image, "WEBP", quality=85),
}
"""Name of a file format -> its writer for an image and a size in bytes, which only JPEG obeys."""
