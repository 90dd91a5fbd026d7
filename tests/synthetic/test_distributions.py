"""Distributions: only values that five groups share are named; the others leave means."""

import random
from statistics import fmean

from phi_vision.synthetic.distributions import (
    RARE,
    Frequencies,
    count,
    measure_amounts,
)


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
    amounts = measure_amounts(shared + lone)
    assert amounts is not None
    assert amounts.points.named == ((98.0, 6),)
    assert amounts.points.rest == 6
    assert amounts.means == (28.0,)


def test_four_groups_are_too_few_to_measure() -> None:
    assert measure_amounts([(float(group), group) for group in range(4)]) is None


def test_drawn_prices_have_the_distribution_and_endings_of_the_real_ones() -> None:
    real = [(float(10 * (group % 37) + 109), group) for group in range(300)]
    amounts = measure_amounts(real)
    assert amounts is not None
    rng = random.Random(1)
    drawn = [amounts.draw(rng) for _ in range(2000)]
    assert {price % 10 for price in drawn} == {9.0}
    assert abs(fmean(drawn) / fmean(price for price, _ in real) - 1) < 0.05


def test_no_single_large_number_can_be_drawn() -> None:
    amounts = measure_amounts([*((10.0 + group, group) for group in range(20)), (9999.0, 20)])
    assert amounts is not None
    assert max(amounts.draw(random.Random(seed)) for seed in range(300)) < 5000


def test_digits_after_the_point_are_counted() -> None:
    for number, decimals in ((390.0, 0), (12.5, 1), (0.333333, 4)):
        amounts = measure_amounts([(number, group) for group in range(5)])
        assert amounts is not None
        assert amounts.decimals == decimals
