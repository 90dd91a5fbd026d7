"""Categories that belong together stay together."""

import random

from phi_vision.data.samples import Value
from phi_vision.synthetic.bayes_network import build_network, finest

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


def test_the_finest_column_of_categories_is_the_leaf() -> None:
    assert finest(COLUMNS, toy_facts()) == "category"


def test_a_column_hangs_on_the_one_that_says_most_about_it() -> None:
    nodes = build_network(["category", "department", "season"], toy_facts(), differing=())
    parents = {node.column: node.parent for node in nodes}
    assert parents == {"category": None, "department": "category", "season": None}
    assert {node.column: node.nests_in for node in nodes}["category"] == "department"


def test_drawn_categories_keep_the_tree() -> None:
    nodes = build_network(["category", "department", "season"], toy_facts(), differing=())
    rng = random.Random(0)
    for _ in range(100):
        drawn: dict[str, object] = {}
        for node in nodes:
            drawn[node.column] = node.draw(rng, drawn)  # type: ignore[arg-type]
        women = drawn["category"] in ("Dresses", "Skirts")
        assert drawn["department"] == ("WOMEN" if women else "MEN")
