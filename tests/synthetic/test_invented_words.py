"""Words that do not exist, in the shape of words that do."""

import random
import re

import pytest

from phi_vision.synthetic.word_lists import invent, shape_of


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
