"""The visible facts of a drawn product; `vocabulary.yaml` lists their values.

`drawing.py` turns these facts into an image; titles and prices follow from them in `products.py`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Rgb = tuple[int, int, int]

VOCABULARY: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[1] / "vocabulary.yaml").read_text(encoding="utf-8")
)
COLOURS: dict[str, Rgb] = {name: tuple(rgb) for name, rgb in VOCABULARY["colours"].items()}
PATTERNS, MATERIALS = tuple(VOCABULARY["patterns"]), tuple(VOCABULARY["materials"])

# These have a surface of their own that a woven or printed pattern would hide.
_UNPATTERNED = {"denim", "tweed", "nylon", "leather", "patent", "acetate", "metal"}
_PLAIN_FRACTION = 0.45
_UNTRIMMED_FRACTION = 0.5
_COLOUR_JITTER = 9


@dataclass(frozen=True, kw_only=True)
class Garment:
    """The visible facts of one product in one colour."""

    kind: str  # such as "trench coat"
    colour: str
    rgb: Rgb  # the dye, near the colour's own value; no two batches are alike
    pattern: str
    material: str  # visible as texture and sheen
    trim: str  # "none", "contrast", "monogram", "embroidery" or "fur"
    length: str  # of the hem, the shaft or the brim: "short", "regular" or "long"
    hardware: str  # buckles, chains, zips and watch cases: "none", "silver" or "gold"
    buttons: int  # how many are visible; 0 where the kind has none
    hood: bool
    fit: float  # width over height relative to the kind's own, 0.93 to 1.07


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The values a kind comes in; by default a fact does not vary."""

    materials: tuple[str, ...]
    patterns: tuple[str, ...] = ("plain",)
    trims: tuple[str, ...] = ("none",)
    lengths: tuple[str, ...] = ("regular",)
    hardware: tuple[str, ...] = ("none",)
    buttons: tuple[int, ...] = (0,)
    hoods: tuple[bool, ...] = (False,)
    colours: tuple[str, ...] = tuple(COLOURS)


def _values(words: Any) -> Any:
    return tuple(words.split() if isinstance(words, str) else words)


CHOICES = {
    kind: Choices(**{fact: _values(words) for fact, words in entry["choices"].items()})
    for kind, entry in VOCABULARY["kinds"].items()
}
KINDS = tuple(CHOICES)


def random_garment(rng: random.Random, kind: str | None = None) -> Garment:
    """Choose a garment of any kind, or of the given one, among the values it comes in."""
    kind = kind or rng.choice(KINDS)
    choices = CHOICES[kind]
    material = rng.choice(choices.materials)
    patterns: Sequence[str] = choices.patterns
    if material in _UNPATTERNED:
        patterns = [each for each in patterns if each in ("plain", "quilted")] or ["plain"]
    pattern = _choose(rng, patterns, "plain", _PLAIN_FRACTION)
    trims = [trim for trim in choices.trims if pattern == "plain" or trim != "monogram"]
    colour = rng.choice(choices.colours)
    return Garment(
        kind=kind,
        colour=colour,
        rgb=random_dye(rng, colour),
        pattern=pattern,
        material=material,
        trim=_choose(rng, trims, "none", _UNTRIMMED_FRACTION),
        length=rng.choice(choices.lengths),
        hardware=rng.choice(choices.hardware),
        buttons=rng.choice(choices.buttons),
        hood=rng.choice(choices.hoods),
        fit=round(rng.uniform(0.93, 1.07), 3),
    )


def random_dye(rng: random.Random, colour: str) -> Rgb:
    """Return a value near that of a named colour."""
    jitter = (-_COLOUR_JITTER, _COLOUR_JITTER)
    red, green, blue = (min(255, max(0, v + rng.randint(*jitter))) for v in COLOURS[colour])
    return red, green, blue


def _choose(rng: random.Random, choices: Sequence[str], usual: str, fraction: float) -> str:
    return usual if usual in choices and rng.random() < fraction else rng.choice(choices)
