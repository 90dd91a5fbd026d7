"""Shares: only what five groups share is named."""

import json
import random
from dataclasses import asdict

from phi_vision.synthetic.shares import RARE, Shares, tally


def test_a_value_of_four_groups_is_counted_and_not_named() -> None:
    tees = [("Tees", group) for group in range(5)]
    belts = [("Belts", group) for group in range(4)]
    assert tally(tees + belts) == Shares(named=(("Tees", 5),), rest=4, rest_values=1)


def test_many_rows_of_one_group_do_not_make_a_value_common() -> None:
    assert tally([("Belts", 1)] * 100).named == ()


def test_drawing_follows_the_shares() -> None:
    shares = Shares(named=(("a", 60), (None, 30)), rest=10, rest_values=3)
    rng = random.Random(0)
    drawn = [shares.draw(rng) for _ in range(2000)]
    assert abs(drawn.count("a") / 2000 - 0.6) < 0.04
    assert abs(drawn.count(None) / 2000 - 0.3) < 0.04
    assert abs(drawn.count(RARE) / 2000 - 0.1) < 0.03


def test_what_was_used_is_not_drawn_again() -> None:
    shares = Shares(named=(("a", 60), ("b", 1)))
    assert shares.draw(random.Random(0), without=["a"]) == "b"
    assert shares.draw(random.Random(0), without=["a", "b"]) is RARE


def test_shares_can_be_saved() -> None:
    shares = Shares(named=(("a", 6), (None, 5)), rest=1, rest_values=1)
    assert Shares.load(json.loads(json.dumps(asdict(shares)))) == shares
