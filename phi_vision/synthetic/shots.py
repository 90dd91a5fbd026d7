"""Images: how large they are, how heavy, how often repeated; and drawing new ones like them.

The drawings are those of the sample catalog. What they show is chosen by words of the title and
the categories ("Trench Coat", "Tees", "navy"); a category of no known word always gets the same
kind of thing.
"""

import io
import itertools
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from phi_vision.io.hashing import hash_bits
from phi_vision.synthetic.amounts import Amounts, measure_amounts
from phi_vision.synthetic.code_patterns import Pattern
from phi_vision.synthetic.reading import Seen, Shot
from phi_vision.synthetic.render.drawing import (
    COLOURS,
    KINDS,
    MATERIALS,
    draw,
    random_dye,
    random_scene,
)
from phi_vision.synthetic.render.garment import CHOICES, Garment, random_garment
from phi_vision.synthetic.shares import Shares, tally

_LARGEST_DRAWING = 1000
"""Pixels on the longest side that `draw` can paint (its paper is 1024 wide); beyond, a drawing is
enlarged."""
_SMALLEST_DRAWING = 64
_QUALITIES = (25, 96)
_USUAL_DENSITY = 0.25


@dataclass(frozen=True, kw_only=True)
class Shots:
    """What the images of a column are like.

    Attributes:
        counts: images in a row.
        sizes: "413x512" -> times.
        longest: longest sides of those whose size is rare.
        aspects: width over height of those.
        density: bytes per pixel of the file.
        formats: "JPEG" -> times.
        repeated: share of rows whose image another row of the same group has too.
        borrowed: share of rows whose image a row of another group has too.
        paths: how the file names beside the bytes are composed; None without any.
    """

    counts: Shares
    sizes: Shares
    longest: Amounts | None
    aspects: Amounts | None
    density: Amounts | None
    formats: Shares
    repeated: float
    borrowed: float
    paths: Pattern | None

    @staticmethod
    def load(data: Mapping[str, Any]) -> "Shots":
        """Build from what `dataclasses.asdict` and JSON made of it."""
        parts: dict[str, Any] = dict(data)
        for name in ("counts", "sizes", "formats"):
            parts[name] = Shares.load(data[name])
        for name in ("longest", "aspects", "density"):
            parts[name] = Amounts.load(data[name]) if data[name] else None
        parts["paths"] = Pattern.load(data["paths"]) if data["paths"] else None
        return Shots(**parts)


@dataclass(frozen=True, kw_only=True)
class ShotPlan:
    """An image that is to be drawn: the same plan gives the same bytes."""

    garment: Garment
    seed: str
    width: int
    height: int
    density: float
    format: str


def measure_shots(rows: Sequence[Seen], paths: Pattern | None) -> Shots:
    """Measure the images of a dataset."""
    shots = [(shot, row.group) for row in rows for shot in row.shots]
    sizes = tally((_size(shot), group) for shot, group in shots)
    others = [(shot, group) for shot, group in shots if _size(shot) not in sizes.values]
    repeated, borrowed = _repeats(shots)
    return Shots(
        counts=tally((len(row.shots), row.group) for row in rows),
        sizes=sizes,
        longest=_measure(others, lambda shot: max(shot.width, shot.height)),
        aspects=_measure(others, lambda shot: round(shot.width / shot.height, 3)),
        density=_measure(shots, lambda shot: round(shot.size / (shot.width * shot.height), 4)),
        formats=tally((shot.format, group) for shot, group in shots),
        repeated=repeated,
        borrowed=borrowed,
        paths=paths,
    )


def plan_shot(shots: Shots, garment: Garment, seed: str) -> ShotPlan:
    """Choose the outer facts of an image that is to show a garment."""
    rng = random.Random(f"shot {seed}")
    size = shots.sizes.draw(rng)
    if isinstance(size, str):
        width, height = (int(side) for side in size.split("x"))
    else:
        aspect = shots.aspects.draw(rng) if shots.aspects else 1.0
        longest = shots.longest.draw(rng) if shots.longest else 512.0
        width = max(1, round(longest * min(1.0, aspect)))
        height = max(1, round(longest / max(1.0, aspect)))
    named = shots.formats.draw(rng)
    return ShotPlan(
        garment=garment,
        seed=seed,
        width=width,
        height=height,
        density=shots.density.draw(rng) if shots.density else _USUAL_DENSITY,
        format=named if isinstance(named, str) and named in WRITERS else "JPEG",
    )


def take_shot(plan: ShotPlan) -> bytes:
    """Draw an image and write it in about the wished number of bytes."""
    wished = (plan.width, plan.height)
    zoom = min(1.0, _LARGEST_DRAWING / max(wished))
    zoom = max(zoom, _SMALLEST_DRAWING / min(wished))
    width, height = (max(1, min(_LARGEST_DRAWING, round(side * zoom))) for side in wished)
    scene = replace(random_scene(random.Random(plan.seed)), width=width, height=height)
    image = draw(plan.garment, scene)
    if image.size != wished:
        image = image.resize(wished, Image.Resampling.LANCZOS)
    return WRITERS[plan.format](image, round(plan.density * plan.width * plan.height))


def choose_garment(texts: Iterable[str], colour: str, fallback: str, seed: str) -> Garment:
    """Choose what to draw for a product.

    Input:  texts ("Wool Trench Coat", "OUTERWEAR"), colour "Navy"
    Output: a trench coat of wool in navy

    Args:
        texts: the title and the categories, the most telling first.
        colour: what the record says of the colour, or "".
        fallback: what decides the kind where no word does; the same text gives the same kind.
        seed: of everything that the words leave open.
    """
    rng = random.Random(f"garment {seed}")
    words = [word for text in texts for word in reversed(_words(text))]
    known = next((_KINDS[word] for word in words if word in _KINDS), None)
    kind = known or KINDS[hash_bits(fallback, 256) % len(KINDS)]
    garment = random_garment(rng, kind)
    materials = [word for word in words if word in _MATERIALS_OF[kind]]
    if materials:
        garment = replace(garment, material=materials[0])
    return dye(garment, colour, rng)


def dye(garment: Garment, colour: str, rng: random.Random) -> Garment:
    """Give a garment the colour that a record names, where that is a colour we can draw."""
    named = [_COLOURS[word] for word in _words(colour) if word in _COLOURS]
    if not named:
        return garment
    return replace(garment, colour=named[0], rgb=random_dye(rng, named[0]))


def is_colour(text: str) -> bool:
    """Whether a text names a colour that can be drawn."""
    return any(word in _COLOURS for word in _words(text))


def _measure(shots: Sequence[tuple[Shot, int]], fact: Callable[[Shot], float]) -> Amounts | None:
    amounts = measure_amounts([(float(fact(shot)), group) for shot, group in shots])
    return replace(amounts, endings={}) if amounts else None


def _size(shot: Shot) -> str:
    return f"{shot.width}x{shot.height}"


def _repeats(shots: Sequence[tuple[Shot, int]]) -> tuple[float, float]:
    """Shares of images seen before in the same group, and before in another group only."""
    owners: dict[int, set[int]] = {}
    repeated = borrowed = 0
    for shot, group in shots:
        groups = owners.setdefault(shot.digest, set())
        repeated += group in groups
        borrowed += bool(groups) and group not in groups
        groups.add(group)
    count = max(1, len(shots))
    return round(repeated / count, 4), round(borrowed / count, 4)


def _write_jpeg(image: Image.Image, size: int) -> bytes:
    """Write a JPEG of the quality that comes nearest to a size in bytes, by halving."""
    low, high = _QUALITIES
    best = _encode(image, "JPEG", low)
    while high - low > 2:
        middle = (low + high) // 2
        encoded = _encode(image, "JPEG", middle)
        if abs(len(encoded) - size) < abs(len(best) - size):
            best = encoded
        low, high = (middle, high) if len(encoded) < size else (low, middle)
    return best


def _encode(image: Image.Image, name: str, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, name, quality=quality)
    return file.getvalue()


def _words(text: str) -> list[str]:
    words = re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())
    pairs = [f"{one} {other}" for one, other in itertools.pairwise(words)]
    # Pairs go last, so that they are met first from the end: "polo shirt" before "shirt".
    return [*words, *pairs]


_KIND_WORDS = {
    "trench coat": "trench trenches coat coats raincoat outerwear parka",
    "puffer jacket": "puffer down jacket jackets gilet",
    "blazer": "blazer blazers tailoring suit suits",
    "cardigan": "cardigan cardigans",
    "sweater": "sweater sweaters jumper pullover knitwear",
    "hoodie": "hoodie hoodies sweatshirt sweatshirts hooded fleece",
    "t-shirt": "t-shirt t-shirts tee tees tshirt jersey top tops",
    "polo shirt": "polo polos pique",
    "shirt": "shirt shirts shirting blouse blouses",
    "tank top": "tank tanks vest vests bra bras camisole",
    "dress": "dress dresses",
    "evening gown": "gown gowns evening",
    "skirt": "skirt skirts",
    "pleated skirt": "kilt kilts pleated",
    "jeans": "jeans denim",
    "trousers": "trousers trouser pants pant leggings tights chinos capri bottoms",
    "shorts": "shorts short",
    "scarf": "scarf scarves stole stoles shawl",
    "tie": "tie ties neckwear",
    "tote bag": "tote totes bag bags handbag",
    "crossbody bag": "crossbody shoulder clutch satchel messenger",
    "backpack": "backpack backpacks rucksack duffle",
    "sneaker": "sneaker sneakers trainers shoes athletic",
    "boot": "boot boots booties",
    "loafer": "loafer loafers moccasins",
    "heel": "heel heels pumps sandals",
    "cap": "cap caps",
    "hat": "hat hats fedora headwear",
    "sunglasses": "sunglasses eyewear glasses",
    "watch": "watch watches timepieces",
    "belt": "belt belts",
    "wallet": "wallet wallets purse leathers",
    "gloves": "gloves mittens",
    "socks": "socks",
}
_KINDS = {
    **{word: kind for kind, words in _KIND_WORDS.items() for word in words.split()},
    **{kind: kind for kind in KINDS},
}
_COLOURS = {
    **{colour: colour for colour in COLOURS},
    **{"gray": "grey", "lilac": "purple", "violet": "purple", "lavender": "purple"},
    **{"cream": "white", "ivory": "white", "silver": "grey", "charcoal": "grey"},
    **{"tan": "camel", "khaki": "olive", "gold": "yellow", "mint": "green", "teal": "green"},
    **{"peach": "orange", "coral": "orange", "rose": "pink", "wine": "burgundy"},
}
_MATERIALS_OF = {kind: set(MATERIALS) & set(CHOICES[kind].materials) for kind in KINDS}

WRITERS: dict[str, Callable[[Image.Image, int], bytes]] = {
    "JPEG": _write_jpeg,
    "PNG": lambda image, size: _encode(image, "PNG", 0),
    "WEBP": lambda image, size: _encode(image, "WEBP", 85),
}
"""Name of a file format -> what writes an image in about so many bytes; only JPEG obeys."""
