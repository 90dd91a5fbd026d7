"""Titles are made like the real ones, of shared words and made-up ones."""

import random

from phi_vision.synthetic.shares import RARE
from phi_vision.synthetic.text_grammar import measure_grammar

NAMES = ("Abelone", "Brunhild", "Cosima", "Dorothea", "Eulalia", "Friderike")


def toy_titles() -> list[tuple[str, str, int]]:
    coats = [(f"{NAMES[n % 6]}{n} Wool Coat", "Coats", n) for n in range(12)]
    tees = [(f"{NAMES[n % 6]}{n} Tee", "Tees", n) for n in range(12, 24)]
    return [*coats, *tees]


def test_titles_have_the_words_of_their_category() -> None:
    grammar = measure_grammar(toy_titles())
    rng = random.Random(0)
    for _ in range(50):
        coat, tee = grammar.draw(rng, "Coats").split(), grammar.draw(rng, "Tees").split()
        assert coat[1:] == ["Wool", "Coat"]
        assert tee[1:] == ["Tee"]


def test_a_rare_word_never_leaves_the_dataset() -> None:
    assert not [name for name in NAMES if name in str(measure_grammar(toy_titles()))]


def test_a_category_of_few_groups_gets_no_noun_of_another() -> None:
    few = [(f"{NAMES[n % 4]} Hood", "Falconry", n) for n in range(30, 34)]
    grammar = measure_grammar([*toy_titles(), *few])
    rng = random.Random(0)
    lasts = {grammar.draw(rng, "Falconry").split()[-1] for _ in range(50)}
    assert not lasts & {"Coat", "Tee", "Hood"}


def test_double_and_trailing_blanks_are_imitated() -> None:
    titles = [(f"Plain  Coat{' ' if n % 2 else ''}", "Coats", n) for n in range(40)]
    grammar = measure_grammar(titles)
    drawn = {grammar.draw(random.Random(seed), RARE) for seed in range(40)}
    assert drawn == {"Plain  Coat", "Plain  Coat "}
