"""Whether special characters stand where people write them: how a wrong encoding shows itself."""

import re
import unicodedata

SPECIAL = re.compile("[^\x00-\x7f]")
COMMON_MARKS = "’‘“”„–—…•·°®™©«»×½¼¾²\xa0"
GOOD_FIT = 0.4
"""Of 1, which only letters inside words have; in a wrong encoding it stays below 0."""


def fit(text: str) -> float:
    """Judge how much the special characters of a text look at home, on average from -3 to 1.

    Input:  "Béret £90", "BĂ©ret Ł90"
    Output: 1.0, 0.33
    """
    scores = [
        _at_home(text[match.start() - 1 : match.start()], match[0], text[match.end() :][:1])
        for match in SPECIAL.finditer(text)
    ]
    return sum(scores) / max(1, len(scores))


def _at_home(before: str, sign: str, after: str) -> float:
    """Judge one character by its neighbours: `é` is at home among letters, `£` beside a digit."""
    kind = unicodedata.category(sign)
    if sign == "\ufffd" or kind in ("Cc", "Cs"):
        return -3
    if kind == "Ll":
        return 1 if before.isalpha() or after.isalpha() else 0.5  # à
    if kind == "Lu":
        if before.islower():
            return -2
        return 0 if before.isupper() and after.islower() else 1
    if kind == "Sc":
        return 1 if before.isdigit() or after.isdigit() or " " in (before, after) else -1
    if sign != "’" and before.isalpha() and after.isalpha():
        return -1
    return 0.5 if sign in COMMON_MARKS else 0
