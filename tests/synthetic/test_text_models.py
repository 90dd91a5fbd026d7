"""Titles, codes and links are composed like the real ones, of shared words and invented ones."""

import random
import re

import pytest

from phi_vision.data.samples import Value
from phi_vision.synthetic.distributions import Column
from phi_vision.synthetic.text_models import (
    draw_text,
    invent,
    measure_codes,
    measure_wording,
    shape_of,
)

NAMES = ("Abelone", "Brunhild", "Cosima", "Dorothea", "Eulalia", "Friderike")


def wording(titles: list[tuple[str, str, int]]) -> Column:
    column = Column(name="title", role="text", level="group", parent="category")
    facts = [({"title": title, "category": category}, n) for title, category, n in titles]
    return measure_wording(column, facts)


def drawn(column: Column, category: str, seed: int) -> str:
    return draw_text(column, {"category": category}, random.Random(seed))


def toy_titles() -> list[tuple[str, str, int]]:
    coats = [(f"{NAMES[n % 6]}{n} Wool Coat", "Coats", n) for n in range(12)]
    tees = [(f"{NAMES[n % 6]}{n} Tee", "Tees", n) for n in range(12, 24)]
    return [*coats, *tees]


def test_titles_have_the_words_of_their_category() -> None:
    titles = wording(toy_titles())
    for seed in range(50):
        assert drawn(titles, "Coats", seed).split()[1:] == ["Wool", "Coat"]
        assert drawn(titles, "Tees", seed).split()[1:] == ["Tee"]


def test_a_rare_word_never_leaves_the_dataset() -> None:
    assert not [name for name in NAMES if name in str(wording(toy_titles()))]


def test_a_category_of_few_groups_gets_no_noun_of_another() -> None:
    few = [(f"{NAMES[n % 4]} Hood", "Falconry", n) for n in range(30, 34)]
    titles = wording([*toy_titles(), *few])
    lasts = {drawn(titles, "Falconry", seed).split()[-1] for seed in range(50)}
    assert not lasts & {"Coat", "Tee", "Hood"}


def test_double_and_trailing_blanks_are_reproduced() -> None:
    titles = wording([(f"Plain  Coat{' ' if n % 2 else ''}", "Coats", n) for n in range(40)])
    assert {drawn(titles, "Coats", seed) for seed in range(40)} == {"Plain  Coat", "Plain  Coat "}


@pytest.mark.parametrize(
    ("word", "shape"),
    [
        ("EverCool&trade;", "AaaaAaaa&trade;"),
        ("MP08", "AA99"),
        ("Crew-Neck", "Aaaa-Aaaa"),
        ("Bouclé", "Aaaaaa"),
        ("&#233;t&#233;", "&#233;a&#233;"),
    ],
)
def test_a_shape_keeps_length_capitals_and_marks(word: str, shape: str) -> None:
    assert shape_of(word) == shape


@pytest.mark.parametrize("shape", ["AaaaAaaa&trade;", "AA99", "Aaaa-Aaaa", "a9/A"])
def test_an_invented_word_has_the_shape_it_was_made_in(shape: str) -> None:
    assert shape_of(invent(shape, random.Random(3))) == shape


def test_long_words_can_be_spoken() -> None:
    words = [invent("Aaaaaaa", random.Random(seed)) for seed in range(30)]
    assert not [word for word in words if re.search("[^aeiouAEIOU]{2}", word)]


def composed(codes: list[str], records: list[dict[str, Value]], references: list[str]) -> Column:
    column = Column(name="text", role="code", level="group")
    facts = [
        (record | {"text": c}, n) for n, (c, record) in enumerate(zip(codes, records, strict=True))
    ]
    return measure_codes(column, facts, references)


def test_a_file_name_that_repeats_the_code_is_recognised() -> None:
    codes = [f"WSH{10 + n}-White" for n in range(10)]
    files = [f"shop/{code.lower()}_main.jpg" for code in codes]
    column = composed(files, [{"code": code} for code in codes], ["code"])
    assert column.overall.named == (("shop/{code|lower}_main.jpg", 10),)


def test_a_link_repeats_title_and_code_and_has_a_reserved_host() -> None:
    records: list[dict[str, Value]] = [
        {"title": f"Bouclé Coat {n}", "code": 8001000 + n} for n in range(9)
    ]
    links = [f"https://www.burberry.com/boucle-coat-{n}-p{8001000 + n}" for n in range(9)]
    column = composed(links, records, ["code", "title"])
    assert column.overall.named == (("https://shop.example.com/{title|slug}-p{code|as}", 9),)


def test_codes_are_drawn_in_their_shape() -> None:
    codes = [f"{'QRSTUVWX'[n % 8]}K{n:02}" for n in range(20)]
    column = composed(codes, [{}] * 20, [])
    assert column.overall.named == (("[AA99]", 20),)
    assert column.repeats == 0


def test_digits_that_all_codes_begin_with_are_kept() -> None:
    codes = [str(80_000_000 + 1371 * n) for n in range(20)]
    assert composed(codes, [{}] * 20, []).overall.named == (("800[99999]", 20),)


def test_a_placeholder_without_a_value_is_not_filled() -> None:
    titles = [f"{NAMES[n % 6]} Coat {n}" for n in range(9)]
    links = [f"{title.lower().replace(' ', '-')}-{n:02}" for n, title in enumerate(titles)]
    column = composed(links, [{"title": title} for title in titles], ["title"])
    assert column.overall.named == (("{title|slug}-[99]", 9),)
    rng = random.Random(0)
    assert re.fullmatch(r"wool-coat-\d\d", draw_text(column, {"title": "Wool Coat"}, rng))
    assert re.fullmatch(r"[A-Z]{4}\d{4}", draw_text(column, {"title": None}, rng))


def test_a_pattern_of_few_groups_is_not_kept() -> None:
    lone = composed(["SECRET/1", "a-b", "c_d", "Zz.9"], [{}] * 4, [])
    assert (lone.overall.named, lone.given) == ((), {})
