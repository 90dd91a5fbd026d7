"""The market: it says what can be seen, and nothing of what the sample catalog asks."""

import random
import re
from dataclasses import replace

import pytest

from phi_vision.data.template import TEMPLATES
from phi_vision.synthetic.catalog import BRAND, RANGES
from phi_vision.synthetic.drawing import (
    COLOURS,
    KINDS,
    MATERIALS,
    PATTERNS,
    Garment,
    random_garment,
)
from pretraining.market import _GROUPS, NOUNS, SHOPS, converse

# Words of a fact, and the value they give away.
VALUES = {
    "colour": {colour: colour for colour in COLOURS},
    "pattern": {pattern: pattern for pattern in PATTERNS},
    "material": {material: material for material in MATERIALS if material != "metal"},
    "length": {length: length for length in ("short", "regular", "long")},
    "hardware": {"silver": "silver", "gold": "gold"},
    "trim": {
        "contrast": "contrast",
        "contrasting": "contrast",
        "monogram": "monogram",
        "embroidery": "embroidery",
        "embroidered": "embroidery",
        "fur": "fur",
    },
}
PHRASES = {phrase: kind for kind in KINDS for phrase in (kind, *NOUNS[kind])}
GARMENT = random_garment(random.Random(0))


def said_of(garment: Garment, text: str) -> dict[str, set[str]]:
    """List the values that a text mentions, by fact: its nouns are read first and taken out.

    Input:  "a long black wool trench coat with 6 buttons"
    Output: `{"kind": {"trench coat"}, "colour": {"black"}, ..., "buttons": {"6"}}`
    """
    text = text.lower()
    for group in _GROUPS:
        text = re.sub(rf"\b{group}\b", "", text)
    said: dict[str, set[str]] = {"kind": set()}
    # The garment's own nouns first: "hooded top" is not a top, "denim pants" name no material.
    own = sorted((garment.kind, *NOUNS[garment.kind]), key=len, reverse=True)
    for phrase in [*own, *sorted(PHRASES, key=len, reverse=True)]:
        text, count = re.subn(rf"\b{re.escape(phrase)}\b", "", text)
        if count:
            said["kind"].add(PHRASES[phrase])
    words = set(re.findall(r"\w+", text))
    for fact, values in VALUES.items():
        said[fact] = {values[word] for word in words & values.keys()}
    counts = re.findall(r"(\d) buttons|buttons (\d)", text)
    said["buttons"] = {before or after for before, after in counts}
    said["hood"] = {"True"} if "hood" in words else set()
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_mentions_only_visible_attributes(kind: str) -> None:
    for seed in range(60):
        garment = random_garment(random.Random(f"{kind} {seed}"), kind)
        for question, answer in converse(garment, random.Random(seed)):
            for fact, values in said_of(garment, f"{question} {answer}").items():
                assert values <= {str(getattr(garment, fact))}, f"{fact} in {answer!r}"


def test_every_visible_fact_is_mentioned_sooner_or_later() -> None:
    coat = replace(
        random_garment(random.Random(0), "trench coat"),
        colour="camel", pattern="checked", material="wool", trim="fur", length="long",
        hardware="gold", buttons=6, hood=True,
    )  # fmt: skip
    talks = [converse(coat, random.Random(seed)) for seed in range(20)]
    said = said_of(coat, " ".join(answer for turns in talks for _, answer in turns))
    assert said == {
        "kind": {"trench coat"},
        "colour": {"camel"},
        "pattern": {"checked"},
        "material": {"wool"},
        "trim": {"fur"},
        "length": {"long"},
        "hardware": {"gold"},
        "buttons": {"6"},
        "hood": {"True"},
    }


def test_the_same_seed_gives_the_same_conversation() -> None:
    talks = [converse(GARMENT, random.Random(seed)) for seed in (3, 3, 4)]
    assert talks[0] == talks[1] != talks[2]


def test_a_conversation_holds_two_shops_entries_and_three_other_turns() -> None:
    questions = [question for question, _ in converse(GARMENT, random.Random(0))]
    assert len(set(questions)) == 5
    assert len(set(questions) & {shop.question for shop in SHOPS}) == 2


def test_a_shop_prices_visible_attributes() -> None:
    plain = replace(GARMENT, trim="none", pattern="plain")
    for shop in SHOPS:
        twin = replace(plain, fit=1.05, rgb=(0, 0, 0))
        assert shop.price(plain, random.Random(0)) == shop.price(twin, random.Random(0))
    prices = {shop.price(plain, random.Random(0)) for shop in SHOPS}
    assert len(prices) > 4, "the shops agree on the price"


# What it must not know: the sample catalog's house.


def test_no_category_of_the_sample_catalog_is_a_word_of_the_market() -> None:
    categories = {entry.category.casefold() for entry in RANGES.values()}
    departments = {entry.department.casefold() for entry in RANGES.values()}
    words = {noun.casefold() for nouns in NOUNS.values() for noun in nouns} | set(_GROUPS)
    assert not words & (categories | departments)


def test_no_shop_words_its_entries_like_the_catalog_s_template() -> None:
    labels = ("Product", "Category", "Full Price")
    assert all(f"{label}: " in TEMPLATES["product"].answer for label in labels)
    for shop in SHOPS:
        wording = f"{shop.name} {shop.question} {shop.answer}".casefold()
        assert BRAND.casefold() not in wording
        assert not [label for label in labels if label.casefold() in wording]
        assert shop.question not in {template.question for template in TEMPLATES.values()}
