"""Amounts: shared price points are kept, the others are only known as means of five."""

import json
import random
from dataclasses import asdict
from statistics import fmean

from phi_vision.synthetic.amounts import Amounts, decimals_of, measure_amounts
from phi_vision.synthetic.column_models import find_ratio


def test_numbers_of_few_groups_leave_only_means() -> None:
    shared = [(98.0, group) for group in range(6)]
    lone = [(21.0, 6), (25.0, 7), (27.0, 8), (30.0, 9), (31.0, 10), (34.0, 11)]
    amounts = measure_amounts(shared + lone)
    assert amounts is not None
    assert amounts.points.named == ((98.0, 6),)
    assert amounts.points.rest == 6
    assert amounts.means == (28.0,)


def test_four_groups_tell_nothing() -> None:
    assert measure_amounts([(float(group), group) for group in range(4)]) is None


def test_drawn_prices_lie_and_end_like_the_real_ones() -> None:
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


def test_a_price_in_another_currency_is_found_to_follow() -> None:
    prices = [float(10 * n) for n in range(1, 30)]
    facts = [({"price": p, "price_eur": round(p * 1.17, 2)}, n) for n, p in enumerate(prices)]
    ratio = find_ratio("price_eur", ["price"], facts)
    assert ratio is not None
    assert (ratio.of, ratio.usual, ratio.share) == ("price", 1.17, 1.0)


def test_unrelated_numbers_do_not_follow_from_each_other() -> None:
    facts = [({"price": 10.0 + n, "weight": 1.0 + (7 * n) % 31}, n) for n in range(31)]
    assert find_ratio("weight", ["price"], facts) is None


def test_digits_after_the_point_are_counted() -> None:
    assert [decimals_of(number) for number in (390.0, 12.5, 0.333333)] == [0, 1, 4]


def test_amounts_can_be_saved() -> None:
    amounts = measure_amounts([(float(group % 9), group) for group in range(60)])
    assert amounts is not None
    assert Amounts.load(json.loads(json.dumps(asdict(amounts)))) == amounts
