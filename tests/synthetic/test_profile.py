"""The profile: dependencies between columns, and what is saved of them."""

import random

from phi_vision.data.samples import Value
from phi_vision.synthetic.column_models import RARE, Column
from phi_vision.synthetic.profile import build_network, find_leaf

COLUMNS = [
    Column(name=name, role="category", level="group")
    for name in ("category", "department", "season")
]


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
    nodes = build_network(COLUMNS, {"group": toy_facts(), "row": []})
    parents = {node.name: node.parent for node in nodes}
    assert parents == {"category": None, "department": "category", "season": None}


def test_drawn_categories_keep_the_tree() -> None:
    nodes = build_network(COLUMNS, {"group": toy_facts(), "row": []})
    rng = random.Random(0)
    for _ in range(100):
        drawn: dict[str, Value] = {}
        for node in nodes:
            value = node.draw(rng, drawn)
            assert value != RARE
            drawn[node.name] = value
        women = drawn["category"] in ("Dresses", "Skirts")
        assert drawn["department"] == ("WOMEN" if women else "MEN")
