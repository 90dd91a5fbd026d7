"""The profile: dependencies between columns, and what is saved of them."""

import random

from phi_vision.data.samples import Value
from phi_vision.synthetic.distributions import RARE
from phi_vision.synthetic.profile import build_network, find_leaf, find_ratio

COLUMNS = ["department", "category", "season"]


def toy_facts() -> list[tuple[dict[str, Value], int]]:
    """20 groups each of dresses and skirts (women), ties (men); seasons by chance."""
    kinds = [("Dresses", "WOMEN"), ("Skirts", "WOMEN"), ("Ties", "MEN")]
    rng = random.Random(0)
    return [
        (
            {
                "department": department,
                "category": category,
                "season": rng.choice(["Winter", "Summer"]),
            },
            20 * place + number,
        )
        for place, (category, department) in enumerate(kinds)
        for number in range(20)
    ]


def test_the_finest_category_column_is_the_leaf() -> None:
    assert find_leaf(COLUMNS, toy_facts()) == "category"


def test_a_column_depends_on_the_most_informative_one() -> None:
    nodes = build_network(["category", "department", "season"], toy_facts())
    parents = {node.column: node.parent for node in nodes}
    assert parents == {"category": None, "department": "category", "season": None}


def test_drawn_categories_keep_the_tree() -> None:
    nodes = build_network(["category", "department", "season"], toy_facts())
    rng = random.Random(0)
    for _ in range(100):
        drawn: dict[str, Value] = {}
        for node in nodes:
            value = node.draw(rng, drawn)
            assert value is not RARE
            drawn[node.column] = value
        women = drawn["category"] in ("Dresses", "Skirts")
        assert drawn["department"] == ("WOMEN" if women else "MEN")


def test_a_price_in_another_currency_is_found_to_follow() -> None:
    prices = [float(10 * n) for n in range(1, 30)]
    facts = [({"price": p, "price_eur": round(p * 1.17, 2)}, n) for n, p in enumerate(prices)]
    ratio = find_ratio("price_eur", ["price"], facts)
    assert ratio is not None
    assert (ratio.of, ratio.usual, ratio.share) == ("price", 1.17, 1.0)


def test_unrelated_numbers_do_not_follow_from_each_other() -> None:
    facts = [({"price": 10.0 + n, "weight": 1.0 + (7 * n) % 31}, n) for n in range(31)]
    assert find_ratio("weight", ["price"], facts) is None
