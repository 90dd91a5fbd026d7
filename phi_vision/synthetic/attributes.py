"""Attributes of drawn products as real catalogs have them, and the best that a model can tell.

A record gets a type in a taxonomy of three levels, a list of colours, whether the product is
embroidered, its lining, its weight and a price with its currency. All follow from the image, but
for noise of known size: in prices, weights and titles, and in which cells are empty. A lining
exists where the product is drawn open, an answer about embroidery where the kind comes with any;
a cell is empty at random, alone or with all attributes of its style. A market has its currency,
its units, and a background that shows which it is.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from phi_vision.data.kinds import list_kind, path_kind
from phi_vision.data.kinds.marked_number import format_amount
from phi_vision.data.samples import Value
from phi_vision.data.template import Template
from phi_vision.io.formatting import read_yaml
from phi_vision.metrics.field_metrics import metrics_for
from phi_vision.synthetic import drawing
from phi_vision.synthetic.drawing import COLOURS, Garment, Scene

_SETTINGS: Mapping[str, Any] = read_yaml(__file__)
TEMPLATE = Template(
    name="attributes", question=_SETTINGS["question"], answer=_SETTINGS["answer"], layout="chat"
)
WEIGHT_NOISE = 0.08  # standard deviation of the logarithm of a style's weight
_EMPTY_CELL, _EMPTY_STYLE = 0.05, 0.08  # fraction of cells, and of styles without any attribute
_OPEN = 0.6  # fraction of the styles with a lining that are drawn open
_CONTRAST = 110  # RGB distance that a second colour has at least from the dye
_GRAMS_PER_OUNCE = 28.349523
_OPTIONAL = TEMPLATE.optional


class _Type(NamedTuple):
    path: str
    grams: float  # of one in cotton


_TYPES = {
    kind: _Type(path_kind.SEPARATOR.join((top, middle, name)), grams)
    for top, below in _SETTINGS["taxonomy"].items()
    for middle, kinds in below.items()
    for kind, (name, grams) in kinds.items()
}


@dataclass(frozen=True, kw_only=True)
class Market:
    """Where a style is sold, and how it is photographed there."""

    country: str
    currency: str
    rate: float  # of a pound in the currency
    share: float  # of the styles
    backgrounds: Sequence[str]

    def photograph(self, scene: Scene) -> Scene:
        """Put a scene before the background of the market."""
        return replace(scene, background=random.Random(scene.seed).choice(self.backgrounds))


MARKETS = [Market(country=name, **each) for name, each in _SETTINGS["markets"].items()]


class StyleAttributes:
    """The attributes that all colours of a style share."""

    def __init__(self, style: str, seed: int) -> None:
        self._rng = rng = random.Random(f"attributes {seed} {style}")
        self.market = rng.choices(MARKETS, [market.share for market in MARKETS])[0]
        self._is_open, self._lining = rng.random() < _OPEN, rng.choice(_SETTINGS["linings"])
        self._noise = WEIGHT_NOISE * rng.gauss(0, 1)
        self._is_empty = rng.random() < _EMPTY_STYLE

    def dress(self, garment: Garment) -> Garment:
        """Add the second colour of a garment and, where it is shown open, its lining."""
        far = partial(math.dist, garment.rgb)
        if {garment.pattern, garment.trim} & {*_SETTINGS["accented"]}:
            seconds = [name for name, rgb in COLOURS.items() if far(rgb) >= _CONTRAST]
            garment = replace(garment, accent=self._rng.choice(seconds))
        if self._is_open and "inside" in drawing.VOCABULARY["kinds"][garment.kind]:
            others = (name for name in _SETTINGS["linings"] if far(COLOURS[name]) >= _CONTRAST)
            is_clear = far(COLOURS[self._lining]) >= _CONTRAST
            garment = replace(garment, lining=self._lining if is_clear else next(others))
        return garment

    def cells(self, garment: Garment, price: float) -> dict[str, Value]:
        """Return the cells of a dressed garment at a price in the market's currency."""
        weight = _write_weight(_weigh(garment) * math.exp(self._noise), self.market)
        cells = visible_attributes(garment, self.market, price) | {"weight": weight}
        empty = {name for name in _OPTIONAL if self._rng.random() < _EMPTY_CELL or self._is_empty}
        return {name: None if name in empty else value for name, value in cells.items()}


def visible_attributes(garment: Garment, market: Market, price: float) -> dict[str, Value]:
    """Read from the facts of an image all attributes; None where nothing can be told.

    Input:  a striped t-shirt in white and red, sold in the United States for 310
    Output: {"product_type": "Apparel > Tops > T-Shirts", "colours": "white; red",
             "embroidered": False, "lining": None, "weight": "6 oz", "list_price": "310 USD"}
    """
    own = [_SETTINGS["colours"].get(fact, ()) for fact in (garment.pattern, garment.trim)]
    colours = [garment.colour, garment.accent, *own[0], *own[1]]
    can_be_embroidered = "embroidery" in drawing.CHOICES[garment.kind].trims
    return {
        "product_type": _TYPES[garment.kind].path,
        "colours": list_kind.SEPARATOR.join(filter(None, dict.fromkeys(colours))),
        "embroidered": garment.trim == "embroidery" if can_be_embroidered else None,
        "lining": garment.lining or None,
        "weight": _write_weight(_weigh(garment), market),
        "list_price": f"{format_amount(price)} {market.currency}",
    }


def ceilings(pairs: Sequence[tuple[Mapping[str, Value], Mapping[str, Value]]]) -> dict[str, float]:
    """Score the best prediction of each record: metric -> its value, where it is the best one.

    `missing_f1` of a field of which something can always be told is left out: which of its cells
    are empty is chance, and a model gains more by guessing.

    Args:
        pairs: What can be told from the image, and the record, of each product.
    """
    told, true = ([TEMPLATE.select(each) for each in side] for side in zip(*pairs, strict=True))
    chance = {f"{name}_missing_f1" for name in _OPTIONAL if all(e[name] is not None for e in told)}
    metrics = metrics_for(TEMPLATE).items()
    found = {name: metric(told, true) for name, metric in metrics if name not in chance}
    return {name: round(value, 6) for name, value in found.items() if math.isfinite(value)}


def count_empty(records: Sequence[Mapping[str, Value]]) -> dict[str, int]:
    """Count the records without a value, by optional field."""
    return {name: sum(record[name] is None for record in records) for name in _OPTIONAL}


def _weigh(garment: Garment) -> float:
    """Return the weight of a garment by its visible facts, in grams."""
    material = _SETTINGS["weights"].get(garment.material, 1.0)
    length = _SETTINGS["lengths"].get(garment.length, 1.0)
    return float(_TYPES[garment.kind].grams * material * length)


def _write_weight(grams: float, market: Market) -> str:
    """Write a weight as the market does: 1240.0 -> "1.24 kg", 172.0 -> "170 g" or "6 oz"."""
    if market.currency == "USD":
        return f"{format_amount(max(0.5, round(2 * grams / _GRAMS_PER_OUNCE) / 2))} oz"
    if grams >= 1000:
        return f"{format_amount(round(grams / 1000, 2))} kg"
    return f"{format_amount(5 * max(1, round(grams / 5)))} g"
