"""Synthetic conversations about drawn garments: the pre-training text of `phi-vision-small`.

Eight shops, each with its own nouns, wording, price rule and number format. The brand, titles,
categories, price rule and wording of the sample catalog appear nowhere here.
"""

import math
import random
from dataclasses import dataclass, field
from typing import Literal

from phi_vision.synthetic.drawing import KINDS, MATERIALS, PATTERNS, Garment

Turn = tuple[str, str]
"""A question and its answer."""

# Everyday words for each kind; each shop uses one of them.
NOUNS: dict[str, tuple[str, ...]] = {
    "trench coat": ("trench coat", "trench", "belted raincoat"),
    "puffer jacket": ("puffer jacket", "padded jacket", "down jacket"),
    "blazer": ("blazer", "suit jacket", "tailored jacket"),
    "cardigan": ("cardigan", "knit jacket", "buttoned knit"),
    "sweater": ("sweater", "pullover", "jumper"),
    "hoodie": ("hoodie", "hooded sweatshirt", "hooded top"),
    "t-shirt": ("t-shirt", "tee", "crew neck tee"),
    "polo shirt": ("polo shirt", "polo", "polo top"),
    "shirt": ("shirt", "button shirt", "collared shirt"),
    "tank top": ("tank top", "vest top", "sleeveless top"),
    "dress": ("dress", "day dress", "frock"),
    "evening gown": ("evening gown", "ball gown", "gala dress"),
    "skirt": ("skirt", "straight skirt", "pencil skirt"),
    "pleated skirt": ("pleated skirt", "kilt", "plissé skirt"),
    "jeans": ("jeans", "denim pants", "five pocket jeans"),
    "trousers": ("trousers", "pants", "suit pants"),
    "shorts": ("shorts", "short pants", "bermudas"),
    "scarf": ("scarf", "shawl", "neck scarf"),
    "tie": ("tie", "necktie", "neck tie"),
    "tote bag": ("tote bag", "tote", "shopper"),
    "crossbody bag": ("crossbody bag", "shoulder bag", "flap bag"),
    "backpack": ("backpack", "rucksack", "daypack"),
    "sneaker": ("sneaker", "trainer", "sport shoe"),
    "boot": ("boot", "ankle boot", "heeled boot"),
    "loafer": ("loafer", "slip-on shoe", "moccasin"),
    "heel": ("heel", "pump", "court shoe"),
    "cap": ("cap", "baseball cap", "peaked cap"),
    "hat": ("hat", "brimmed hat", "fedora"),
    "sunglasses": ("sunglasses", "shades", "sun specs"),
    "watch": ("watch", "wristwatch", "timepiece"),
    "belt": ("belt", "waist belt", "buckled belt"),
    "wallet": ("wallet", "billfold", "card case"),
    "gloves": ("gloves", "pair of gloves", "hand wear"),
    "socks": ("socks", "pair of socks", "hosiery"),
}
# Base price of each kind; material and trim change it, and each shop scales it.
_BASE_PRICE = {
    "trench coat": 900, "puffer jacket": 700, "blazer": 600, "cardigan": 260, "sweater": 220,
    "hoodie": 180, "t-shirt": 60, "polo shirt": 90, "shirt": 120, "tank top": 45, "dress": 400,
    "evening gown": 1500, "skirt": 210, "pleated skirt": 280, "jeans": 150, "trousers": 200,
    "shorts": 110, "scarf": 130, "tie": 85, "tote bag": 650, "crossbody bag": 1000, "backpack": 550,
    "sneaker": 240, "boot": 480, "loafer": 330, "heel": 390, "cap": 70, "hat": 160,
    "sunglasses": 190, "watch": 2200, "belt": 140, "wallet": 170, "gloves": 100, "socks": 25,
}  # fmt: skip
_GROUPS = {
    "outer wear": ("trench coat", "puffer jacket", "blazer"),
    "knits": ("cardigan", "sweater"),
    "tops": ("hoodie", "t-shirt", "polo shirt", "shirt", "tank top"),
    "gowns and dresses": ("dress", "evening gown"),
    "lower half": ("skirt", "pleated skirt", "jeans", "trousers", "shorts"),
    "bags": ("tote bag", "crossbody bag", "backpack", "wallet"),
    "footwear": ("sneaker", "boot", "loafer", "heel", "socks"),
    "small things": (
        "scarf", "tie", "cap", "hat", "sunglasses", "watch", "belt", "gloves",
    ),
}  # fmt: skip
_TRIM_WORDS = {
    "none": "no trim",
    "contrast": "contrast trim",
    "monogram": "monogram",
    "embroidery": "embroidery",
    "fur": "fur trim",
}
_NOISE = 0.04


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A shop: its wording of products and its prices."""

    name: str
    seed: int
    question: str
    answer: str
    case: Literal["lower", "title", "upper", "sentence"]
    decimals: int
    taste: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        """Draw the shop's price rule from its seed."""
        rng = random.Random(self.seed)
        taste = {kind: rng.lognormvariate(0, 0.45) for kind in KINDS}
        taste |= {material: rng.lognormvariate(0, 0.35) for material in MATERIALS}
        taste |= {pattern: rng.lognormvariate(0, 0.15) for pattern in PATTERNS}
        taste |= {f"trim {trim}": rng.lognormvariate(0, 0.2) for trim in _TRIM_WORDS}
        taste |= {
            f"metal {metal}": rng.lognormvariate(0, 0.15) for metal in ("none", "silver", "gold")
        }
        taste |= {
            f"length {size}": rng.lognormvariate(0, 0.15) for size in ("short", "regular", "long")
        }
        taste |= {"button": rng.uniform(-0.03, 0.05), "hood": rng.uniform(-0.1, 0.2)}
        object.__setattr__(self, "taste", taste)

    def price(self, garment: Garment, rng: random.Random) -> float:
        """Price a garment by its visible attributes, with a little noise."""
        taste = self.taste
        value = _BASE_PRICE[garment.kind] * taste[garment.kind] * taste[garment.material]
        value *= taste[garment.pattern] * taste[f"trim {garment.trim}"]
        value *= taste[f"metal {garment.hardware}"] * taste[f"length {garment.length}"]
        value *= math.exp(taste["button"] * garment.buttons + taste["hood"] * garment.hood)
        return _price_point(value * math.exp(rng.gauss(0, _NOISE)))

    def noun(self, kind: str) -> str:
        """Return the shop's noun for a kind."""
        return NOUNS[kind][random.Random(f"{self.seed} {kind}").randrange(len(NOUNS[kind]))]

    def describe(self, garment: Garment, rng: random.Random) -> Turn:
        """Return a question for this shop's record of a garment, and its answer."""
        title = self._cased(" ".join([*_adjectives(garment, rng), self.noun(garment.kind)]))
        group = next(name for name, kinds in _GROUPS.items() if garment.kind in kinds)
        price = f"{self.price(garment, rng):.{self.decimals}f}"
        words = {"title": title, "noun": self._cased(self.noun(garment.kind)), "price": price}
        return self.question, self.answer.format(**words, group=self._cased(group))

    def _cased(self, words: str) -> str:
        if self.case == "sentence":
            return words[:1].upper() + words[1:]
        return {"lower": words.lower, "title": words.title, "upper": words.upper}[self.case]()


SHOPS = (
    Shop(name="Alder", seed=11, question="Give the Alder price tag.",
         answer="{title}: {price} dollars", case="sentence", decimals=1),
    Shop(name="Birch", seed=12, question="How does Birch list this?",
         answer="Name: {title}; Type: {noun}; Costs: {price}", case="title", decimals=1),
    Shop(name="Cedar", seed=13, question="Cedar shelf label?",
         answer="{noun} / {group} / {price}", case="upper", decimals=0),
    Shop(name="Dogwood", seed=14, question="Write the Dogwood stock line.",
         answer="{group} > {noun} > {title} @ {price}", case="lower", decimals=2),
    Shop(name="Elm", seed=15, question="What would Elm sell this for?",
         answer="Elm asks {price} for the {noun}", case="lower", decimals=1),
    Shop(name="Fir", seed=16, question="Fir inventory entry, please.",
         answer="Item {noun}, Group {group}, Value {price}, Label {title}", case="title",
         decimals=1),
    Shop(name="Gorse", seed=17, question="Fill in the Gorse form.",
         answer="WHAT: {title} | KIND: {noun} | AMOUNT: {price}", case="upper", decimals=1),
    Shop(name="Hazel", seed=18, question="Hazel catalogue text?",
         answer="{title}. From our {group}. {price}", case="sentence", decimals=0),
)  # fmt: skip


def converse(garment: Garment, rng: random.Random) -> list[Turn]:
    """Generate a conversation: a description, two shops' records and two facts, in any order."""
    turns = [_describe(garment, rng)]
    turns += [shop.describe(garment, rng) for shop in rng.sample(SHOPS, 2)]
    turns += rng.sample(facts(garment), 2)
    rng.shuffle(turns)
    return turns


def _describe(garment: Garment, rng: random.Random) -> Turn:
    if rng.random() < 0.5:
        listed = facts(garment)
        rng.shuffle(listed)
        answer = ", ".join(
            f"{question.split()[-1].rstrip('?')} {fact}" for question, fact in listed
        )
        return "List what you see.", answer
    noun = rng.choice(NOUNS[garment.kind])
    words = f"A {garment.length} {garment.colour} {garment.pattern} {garment.material} {noun}"
    extras = [_TRIM_WORDS[garment.trim]] if garment.trim != "none" else []
    extras += [f"{garment.hardware} metal"] if garment.hardware != "none" else []
    extras += [f"{garment.buttons} buttons"] if garment.buttons else []
    extras += ["a hood"] if garment.hood else []
    question = rng.choice(
        ("What is shown in this image?", "Describe the picture.", "What is this?")
    )
    return question, words + (" with " + " and ".join(extras) if extras else "") + "."


def facts(garment: Garment) -> list[Turn]:
    """Return a question and an answer for each visible attribute."""
    return [
        ("Which kind?", garment.kind),
        ("Which colour?", garment.colour),
        ("Which material?", garment.material),
        ("Which pattern?", garment.pattern),
        ("Which trim?", garment.trim),
        ("Which length?", garment.length),
        ("Which metal?", garment.hardware),
        ("How many buttons?", str(garment.buttons)),
    ]


def _adjectives(garment: Garment, rng: random.Random) -> list[str]:
    """Choose the attributes before a title's noun: two or three visible ones, in order."""
    facts = [garment.colour, garment.material]
    if garment.pattern != "plain":
        facts.insert(1, garment.pattern)
    if garment.trim != "none":
        facts.insert(
            0,
            {"contrast": "contrasting", "embroidery": "embroidered"}.get(
                garment.trim, garment.trim
            ),
        )
    dropped = rng.randrange(len(facts))
    return [fact for place, fact in enumerate(facts) if place != dropped]


def _price_point(value: float) -> float:
    """Round to a plausible step: 1 below 50, 5 below 200, 10 below 1000, 50 above."""
    step = 1 if value < 50 else 5 if value < 200 else 10 if value < 1000 else 50
    return max(step, round(value / step) * step)
