"""Style of the images of a dataset (sizes, file sizes, formats, repetitions), and images in it.

The drawings are those of the sample catalog. They show the thing that the words of the title and
the categories name ("Trench Coat", "Tees", "navy"); a category without a known word always gets
the same kind of thing.
"""

import io
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from PIL import Image

from phi_vision.io.hashing import hash_bits
from phi_vision.synthetic.distributions import Amounts, Frequencies, count, measure_amounts
from phi_vision.synthetic.observation import ImageFacts, ObservedRow
from phi_vision.synthetic.render.drawing import draw, random_scene
from phi_vision.synthetic.render.garment import (
    CHOICES,
    COLOURS,
    KINDS,
    VOCABULARY,
    Garment,
    random_dye,
    random_garment,
)
from phi_vision.synthetic.text_models import CodePattern, Mention, measure_pattern

_MAX_SIDE, _MIN_SIDE = 1000, 64
"""Pixels that `draw` can paint (its noise is 1024 wide); beyond, a drawing is scaled."""
_QUALITIES = (25, 96)
_USUAL_DENSITY = 0.25


@dataclass(frozen=True, kw_only=True)
class ImageStyle:
    """Outer properties of the images of a dataset."""

    counts: Frequencies  # images in a row
    sizes: Frequencies  # "413x512"
    longest: Amounts | None  # longest sides of those whose size is rare
    aspects: Amounts | None  # width over height of those
    density: Amounts | None  # bytes per pixel of the file
    formats: Frequencies  # "JPEG"
    repeated: float  # fraction of images that another row of the same group has, too
    borrowed: float  # fraction of images that a row of another group has, too
    paths: CodePattern | None  # file names beside the bytes


@dataclass(frozen=True, kw_only=True)
class ImagePlan:
    """An image to draw: the same plan gives the same bytes."""

    garment: Garment
    seed: str
    width: int
    height: int
    density: float
    format: str


def measure_images(rows: Sequence[ObservedRow], references: Sequence[str]) -> ImageStyle | None:
    """Measure the images of a dataset; `references` are columns that file names may repeat."""
    images = [(image, row.group) for row in rows for image in row.images]
    if not images:
        return None
    sizes = count((_size(image), group) for image, group in images)
    others = [pair for pair in images if _size(pair[0]) not in sizes.values]
    first = [(row.images[0].path, row) for row in rows if row.images]
    mentions = [Mention(path, row.record, row.group) for path, row in first if path]
    repeated, borrowed = _repetitions(images)
    return ImageStyle(
        counts=count((len(row.images), row.group) for row in rows),
        sizes=sizes,
        longest=_measure(others, lambda image: max(image.width, image.height)),
        aspects=_measure(others, lambda image: round(image.width / image.height, 3)),
        density=_measure(images, lambda image: round(image.size / image.width / image.height, 4)),
        formats=count((image.format, group) for image, group in images),
        repeated=repeated,
        borrowed=borrowed,
        paths=measure_pattern(mentions, references) if mentions else None,
    )


def plan_image(style: ImageStyle, garment: Garment, seed: str) -> ImagePlan:
    """Choose the outer properties of an image of a garment."""
    rng = random.Random(f"image {seed}")
    size = style.sizes.draw(rng)
    if isinstance(size, str):
        width, height = map(int, size.split("x"))
    else:
        aspect = style.aspects.draw(rng) if style.aspects else 1.0
        longest = style.longest.draw(rng) if style.longest else 512.0
        width = max(1, round(longest * min(1.0, aspect)))
        height = max(1, round(longest / max(1.0, aspect)))
    name = style.formats.draw(rng)
    return ImagePlan(
        garment=garment,
        seed=seed,
        width=width,
        height=height,
        density=style.density.draw(rng) if style.density else _USUAL_DENSITY,
        format=name if isinstance(name, str) and name in WRITERS else "JPEG",
    )


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


def choose_garment(texts: Iterable[str], colour: str, fallback: str, seed: str) -> Garment:
    """Choose a garment for a product.

    Input:  texts ("Wool Trench Coat", "OUTERWEAR"), colour "Navy"
    Output: a trench coat of wool in navy

    Args:
        texts: the title and the categories, the most informative first.
        colour: the record's colour, or "".
        fallback: decides on the kind where no word does; the same text gives the same kind.
        seed: of everything that the words leave open.
    """
    rng = random.Random(f"garment {seed}")
    words = [word for text in texts for word in reversed(_words(text))]
    known = next((_KINDS[word] for word in words if word in _KINDS), None)
    kind = known or KINDS[hash_bits(fallback) % len(KINDS)]
    garment = random_garment(rng, kind)
    material = next((word for word in words if word in CHOICES[kind].materials), garment.material)
    return dye(replace(garment, material=material), colour, rng)


def dye(garment: Garment, colour: str, rng: random.Random) -> Garment:
    """Change a garment's colour to the one that a text names, where that can be drawn."""
    named = find_colour(colour)
    return replace(garment, colour=named, rgb=random_dye(rng, named)) if named else garment


def find_colour(text: str) -> str | None:
    """Return the first colour in a text that can be drawn."""
    return next((_COLOURS[word] for word in _words(text) if word in _COLOURS), None)


def _measure(
    images: Sequence[tuple[ImageFacts, int]], fact: Callable[[ImageFacts], float]
) -> Amounts | None:
    return measure_amounts([(float(fact(image)), group) for image, group in images], endings=False)


def _size(image: ImageFacts) -> str:
    return f"{image.width}x{image.height}"


def _repetitions(images: Sequence[tuple[ImageFacts, int]]) -> tuple[float, float]:
    """Return the fractions of images met before in the same group, and in another group only."""
    owners: dict[int, set[int]] = {}
    repeated = borrowed = 0
    for image, group in images:
        groups = owners.setdefault(image.digest, set())
        repeated += group in groups
        borrowed += bool(groups) and group not in groups
        groups.add(group)
    return round(repeated / len(images), 4), round(borrowed / len(images), 4)


def _write_jpeg(image: Image.Image, size: int) -> bytes:
    """Write a JPEG of the quality that comes nearest to a size in bytes, by bisection."""
    low, high = _QUALITIES
    best = _encode(image, "JPEG", low)
    while high - low > 2:
        middle = (low + high) // 2
        encoded = _encode(image, "JPEG", middle)
        best = min(best, encoded, key=lambda each: abs(len(each) - size))
        low, high = (middle, high) if len(encoded) < size else (low, middle)
    return best


def _encode(image: Image.Image, name: str, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, name, quality=quality)
    return file.getvalue()


def _words(text: str) -> list[str]:
    """Split into words, and pairs of words at the end: "polo shirt" is met before "shirt"."""
    words = re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())
    return [*words, *(f"{one} {other}" for one, other in pairwise(words))]


_KINDS = {
    word: kind
    for kind, entry in VOCABULARY["kinds"].items()
    for word in (kind, *entry["words"].split())
}
_COLOURS = {colour: colour for colour in COLOURS} | {
    word: colour for colour, words in VOCABULARY["colour_words"].items() for word in words.split()
}

WRITERS: dict[str, Callable[[Image.Image, int], bytes]] = {
    "JPEG": _write_jpeg,
    "PNG": lambda image, size: _encode(image, "PNG", 0),
    "WEBP": lambda image, size: _encode(image, "WEBP", 85),
}
"""Name of a file format -> its writer for an image and a size in bytes, which only JPEG obeys."""
