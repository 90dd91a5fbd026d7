"""Distributions: only values that five groups share are named; the others leave means."""

import random
from statistics import fmean

from phi_vision.synthetic.distributions import (
    RARE,
    Column,
    Frequencies,
    count,
    measure_amounts,
    measure_numbers,
)

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
