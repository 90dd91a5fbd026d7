"""Words that do not exist, in the shape of words that do.

A shape keeps of a word what any word could have: its length, its capitals, its punctuation.
"""

import random
import re

_PIECE = re.compile(r"&#?\w+;|[^\W\d_]|\d|.", re.DOTALL)
_VOWELS = "aeiou"
_CONSONANTS = "bcdfghklmnprstvwz"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LONGEST_ABBREVIATION = 3
"""Letters of `XL` or `MSH`, which need no vowels."""


def shape_of(word: str) -> str:
    """Tell a word's shape: A for a capital, a for another letter, 9 for a digit, marks as they are.

    HTML entities stand as they are: they are marks too.

    Input:  "EverCool&trade;"   "MP08"   "Crew-Neck"
    Output: "AaaaAaaa&trade;"   "AA99"   "Aaaa-Aaaa"
    """
    return "".join(_class_of(piece) for piece in _PIECE.findall(word))


def invent(shape: str, rng: random.Random) -> str:
    """Make up a word of a shape; longer runs of letters can be spoken.

    Input:  "AaaaAaaa&trade;"   "AA99"
    Output: "VetoLuka&trade;"   "RB41", or others
    """
    pieces = re.findall(r"&#?\w+;|[Aa]+|9|[^Aa9]", shape)
    return "".join(_fill(piece, rng) for piece in pieces)


def _class_of(piece: str) -> str:
    if len(piece) > 1:
        return piece
    if piece.isalpha():
        # Scripts without capitals are written with the small letters that `invent` knows.
        return "A" if piece.isupper() else "a"
    return "9" if piece.isdigit() else piece


def _fill(piece: str, rng: random.Random) -> str:
    if piece == "9":
        return rng.choice("0123456789")
    if set(piece) <= {"A", "a"}:
        is_short = len(piece) <= _LONGEST_ABBREVIATION and len(set(piece)) == 1
        letters = [rng.choice(_LETTERS) for _ in piece] if is_short else _spoken(len(piece), rng)
        pairs = zip(piece, letters, strict=True)
        return "".join(letter.upper() if case == "A" else letter for case, letter in pairs)
    return piece


def _spoken(length: int, rng: random.Random) -> list[str]:
    start = rng.random() < 0.5  # begins with a vowel or with a consonant
    return [
        rng.choice(_VOWELS if (place % 2 == 0) == start else _CONSONANTS) for place in range(length)
    ]
