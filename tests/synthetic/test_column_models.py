"""Columns: only values that five groups share are named; texts are composed like the real ones."""

import random
import re
from statistics import fmean

import pytest

from phi_vision.data.samples import Value
from phi_vision.synthetic.column_models import (
    RARE,
    Column,
    Frequencies,
    count,
    draw_text,
    invent,
    measure_amounts,
    measure_codes,
    measure_numbers,
    measure_wording,
    shape_of,
)

NAMES = ("Abelone", "Brunhild", "Cosima", "Dorothea", "Eulalia", "Friderike")
PRICE = Column(name="price", role="number", level="group")


def drawn(column: Column, times: int) -> list[float]:
    rng = random.Random(1)
    numbers = [column.draw_number(rng, {}) for _ in range(times)]
    return [number for number in numbers if number is not None]


def test_a_value_of_four_groups_is_counted_without_its_name() -> None:
    tees = [("Tees", group) for group in range(5)]
    belts = [("Belts", group) for group in range(4)]
    assert count(tees + belts) == Frequencies(named=(("Tees", 5),), rest=4, rest_values=1)


def test_many_rows_of_one_group_do_not_make_a_value_common() -> None:
    assert count([("Belts", 1)] * 100).named == ()


def test_drawing_follows_the_frequencies() -> None:
    frequencies = Frequencies(named=(("a", 60), (None, 30)), rest=10, rest_values=3)
    rng = random.Random(0)
    drawn = [frequencies.draw(rng) for _ in range(2000)]
    assert abs(drawn.count("a") / 2000 - 0.6) < 0.04
    assert abs(drawn.count(None) / 2000 - 0.3) < 0.04
    assert abs(drawn.count(RARE) / 2000 - 0.1) < 0.03


def test_an_excluded_value_is_not_drawn() -> None:
    frequencies = Frequencies(named=(("a", 60), ("b", 1)))
    assert frequencies.draw(random.Random(0), without=["a"]) == "b"
    assert frequencies.draw(random.Random(0), without=["a", "b"]) is RARE


def test_numbers_of_few_groups_leave_only_means() -> None:
    shared = [(98.0, group) for group in range(6)]
    lone = [(21.0, 6), (25.0, 7), (27.0, 8), (30.0, 9), (31.0, 10), (34.0, 11)]
    assert measure_amounts(shared + lone).named == ((98.0, 6), ("~28", 6))


def test_four_groups_are_too_few_to_measure() -> None:
    assert measure_amounts([(float(group), group) for group in range(4)]).named == ()


def test_drawn_prices_have_the_distribution_and_endings_of_the_real_ones() -> None:
    real = [float(10 * (group % 37) + 109) for group in range(300)]
    prices = measure_numbers(PRICE, [({"price": n}, group) for group, n in enumerate(real)])
    assert {price % 10 for price in drawn(prices, 2000)} == {9.0}
    assert abs(fmean(drawn(prices, 2000)) / fmean(real) - 1) < 0.05


def test_no_single_large_number_can_be_drawn() -> None:
    real = [*range(10, 30), 9999]
    prices = measure_numbers(PRICE, [({"price": n}, group) for group, n in enumerate(real)])
    assert max(drawn(prices, 300)) < 5000


def test_digits_after_the_point_are_counted() -> None:
    for number, decimals in ((390.0, 0), (12.5, 1), (0.333333, 4)):
        prices = measure_numbers(PRICE, [({"price": number}, group) for group in range(5)])
        assert prices.decimals == decimals


def test_a_price_in_another_currency_is_found_to_follow() -> None:
    prices = [float(10 * n) for n in range(1, 30)]
    facts = [({"price": p, "price_eur": round(p * 1.17, 2)}, n) for n, p in enumerate(prices)]
    column = Column(name="price_eur", role="number", level="group")
    euros = measure_numbers(column, facts, ["price"])
    assert (euros.of, euros.overall.named) == (("price",), ((1.17, 29),))
    assert euros.draw_number(random.Random(0), {"price": 50.0}) == 58.5
    assert euros.draw_number(random.Random(0), {"price": None}) is None


def test_unrelated_numbers_do_not_follow_from_each_other() -> None:
    facts = [({"price": 10.0 + n, "weight": 1.0 + (7 * n) % 31}, n) for n in range(31)]
    column = Column(name="weight", role="number", level="group")
    assert measure_numbers(column, facts, ["price"]).of == ()


def wording(titles: list[tuple[str, str, int]]) -> Column:
    column = Column(name="title", role="text", level="group", parent="category")
    facts = [({"title": title, "category": category}, n) for title, category, n in titles]
    return measure_wording(column, facts)


def drawn_text(column: Column, category: str, seed: int) -> str:
    return draw_text(column, {"category": category}, random.Random(seed))


def toy_titles() -> list[tuple[str, str, int]]:
    coats = [(f"{NAMES[n % 6]}{n} Wool Coat", "Coats", n) for n in range(12)]
    tees = [(f"{NAMES[n % 6]}{n} Tee", "Tees", n) for n in range(12, 24)]
    return [*coats, *tees]


def test_titles_have_the_words_of_their_category() -> None:
    titles = wording(toy_titles())
    for seed in range(50):
        assert drawn_text(titles, "Coats", seed).split()[1:] == ["Wool", "Coat"]
        assert drawn_text(titles, "Tees", seed).split()[1:] == ["Tee"]


def test_a_rare_word_never_leaves_the_dataset() -> None:
    assert not [name for name in NAMES if name in str(wording(toy_titles()))]


def test_a_category_of_few_groups_gets_no_noun_of_another() -> None:
    few = [(f"{NAMES[n % 4]} Hood", "Falconry", n) for n in range(30, 34)]
    titles = wording([*toy_titles(), *few])
    lasts = {drawn_text(titles, "Falconry", seed).split()[-1] for seed in range(50)}
    assert not lasts & {"Coat", "Tee", "Hood"}


def test_double_and_trailing_blanks_are_reproduced() -> None:
    titles = wording([(f"Plain  Coat{' ' if n % 2 else ''}", "Coats", n) for n in range(40)])
    assert {drawn_text(titles, "Coats", seed) for seed in range(40)} == {
        "Plain  Coat",
        "Plain  Coat ",
    }


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
