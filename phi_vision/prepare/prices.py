"""Parse prices in the notations of shop exports: amount, currency, and how they were written.

What cannot be parsed without guessing is an error; the one guess has the form `ambiguous`. Of the
planted prices in the tests `price-parser` reads 66 of 81, and 32 of 38 cells that are no price.
"""

import html
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np

from phi_vision.io.formatting import error_texts, read_yaml
from phi_vision.prepare.text import parse_literal

_failure = error_texts(__file__)
DecimalMark = Literal[".", ","]

_WORDS: dict[str, Any] = read_yaml(__file__, "price_words.yaml")
FORMS: dict[str, str] = _WORDS["forms"]  # form -> an example
MAX_AMOUNT = 1e12  # amounts from here on are codes or accidents, in any currency


class Price(NamedTuple):
    """A parsed price."""

    amount: float | None  # None where the cell has no price: `N/A`, `-`, empty
    currency: str | None  # ISO 4217; None for a sign of several countries (`kr`); `$` is USD
    form: str  # one of `FORMS`


def parse_price(text: object, *, decimal: DecimalMark | None = None) -> Price:
    """Parse the price in a cell: text, a number, an object, or None.

    Of an old and a new price (`was`, `RRP`, `statt`) the new one is returned. `decimal` is the mark
    of the column, for `1.234`: without it that is thousands, with the form `ambiguous`.

    Input:  "£1,234.50",                     "£20 - £40",               "N/A"
    Output: 1234.5 GBP "thousands comma",    20.0 GBP "range (lowest)", None None "none"

    Raises ValueError with a reason that is the same for all of its kind, a colon and a detail.
    """
    text = amount_of(text)
    if isinstance(text, str):
        return _parse_text(text, decimal)
    if text is None:
        return _NONE
    if isinstance(text, bool) or not isinstance(text, Real | Decimal):
        raise _failure("other_type", found=type(text).__name__)
    if math.isnan(text):  # the empty cell of spreadsheets and pandas
        return _NONE
    return Price(_check_amount(float(text), str(text)), None, "number")


def amount_of(value: object) -> object:
    """Return the price inside an object or a list, also as text, with its currency; the lowest."""
    value = parse_literal(value.strip()) or value if isinstance(value, str) else value
    if isinstance(value, list) and value:
        return min(map(amount_of, value), key=lambda each: parse_price(each).amount or MAX_AMOUNT)
    if not isinstance(value, Mapping):
        return value
    code = next((value[key] for key in _WORDS["currencies"] if value.get(key)), "")
    keys = [key for key in (*_WORDS["amounts"], *_WORDS["cents"]) if value.get(key) is not None]
    inner = amount_of(value[keys[0]]) if keys else str(value)
    is_minor = keys[:1] in [[key] for key in _WORDS["cents"]] and code not in _WORDS["no_decimals"]
    divisor = value.get("divisor") or (10 ** value.get("fractionDigits", 2) if is_minor else 1)
    if divisor != 1 and isinstance(inner, int | float):
        inner /= divisor
    return f"{inner} {code}" if code else inner


def guess_decimal(texts: Iterable[object]) -> DecimalMark | None:
    """Guess the decimal mark of a column: that of nine in ten unambiguous prices, or None."""
    votes: Counter[DecimalMark] = Counter()
    for text in texts:
        if isinstance(text, str) and len(text) <= _MAX_LENGTH:
            with suppress(ValueError):  # reported when its row is cleaned
                _, numbers, currency, _ = _split(_plain(text))
                parsed = [_parse_number(each, None, currency) for each in numbers]
                votes.update(mark for _, _, mark in parsed if mark)
    return next((m for m, count in votes.most_common(1) if count >= 0.9 * votes.total()), None)


def _check_amount(amount: float, found: str) -> float:
    """Return an amount without the noise of sums and 32 bits: 89.99000000000001 -> 89.99."""
    if amount < 0:
        raise _failure("negative", found=found)
    if not amount < MAX_AMOUNT:
        raise _failure("too_large", found=found, limit=MAX_AMOUNT)
    if float(f"{amount:.12g}") == amount:
        return amount
    single = np.float32(amount)
    is_single = float(single) == amount  # NumPy compares 32 bits with 32 bits
    return float(str(single)) if is_single else float(f"{amount:.15g}")


def _parse_text(text: str, decimal: DecimalMark | None) -> Price:
    if len(text) > _MAX_LENGTH:
        raise _failure("too_long", count=len(text), start=text[:40])
    plain = _plain(text)
    bare = plain.rstrip(" .!:").casefold()
    if bare in _WORDS["no_price"]:
        return _NONE
    if bare in _WORDS["free"]:
        return Price(0.0, None, "free")
    words, numbers, currency, is_minor = _split(plain)
    readings = ((place, form) for pattern, place, form in _READINGS if pattern.fullmatch(words))
    place, form = next(readings, (None, None))
    parsed = [_parse_number(each, decimal, currency) for each in numbers if place is not None]
    amounts = [amount for amount, _, _ in parsed]
    # 2024-05 and 5-2 are no ranges of prices.
    if place is None or (form == "range (lowest)" and amounts != sorted(amounts)):
        problem = next(text for pattern, text in _WORDS["problems"] if re.search(pattern, words))
        raise ValueError(problem.format(found=f"found {plain[:80]!r}"))
    amount = amounts[place] / 100 if is_minor else amounts[place]
    form = form or ("pence or cents" if is_minor else parsed[place][1])
    if any(own == "ambiguous" for _, own, _ in parsed):
        form = "ambiguous"
    return Price(_check_amount(amount, repr(plain)), currency, form)


def _plain(text: str) -> str:
    """Normalise digits, spaces, dashes, apostrophes: "&pound;１２.50", "£12⁹⁹", "12€50", "12,-"."""
    text = re.sub("<[^<>]*>", " ", html.unescape(text))  # HTML around it
    text = unicodedata.normalize("NFC", text).translate(_USUAL)
    text = re.sub(
        r"(?<![\d.,])(\d+)([⁰¹²³⁴-⁹]{2})(?![\d⁰¹²³⁴-⁹])",
        lambda match: f"{match[1]}.{unicodedata.normalize('NFKC', match[2])}",
        text,
    )
    # Other raised digits are footnotes, ½ is a fraction: they stay, and are rejected later.
    text = "".join(
        letter if unicodedata.category(letter) == "No" else unicodedata.normalize("NFKC", letter)
        for letter in text
    )
    text = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), text)
    text = re.sub(r"(?<![\d.,€])(\d+)€(\d\d)(?!\d)", r"\1.\2€", text)
    text = re.sub(r"(?<=\d) ?[.,:/] ?[-_=]{1,2}(?!\d)", "", text)
    text = re.sub(r"\b(US|CA?|AU?|NZ|HK|SG|NT|MX) (?=\$)", r"\1", text)
    text = re.sub(r"\bM\.?R\.?P\b\.?", "MRP", re.sub(_WORDS["discount"], " ", text))
    # Themes of shops write the price twice, once for screen readers.
    return _DOUBLED.sub(r"\1", " ".join(text.split()))


def _split(plain: str) -> tuple[str, list[str], str | None, bool]:
    """Split into words such as "was # now #", numbers, currency, and whether it is in pence."""
    words, numbers = list[str](), list[str]()
    signs, codes = set[str](), set[str]()
    for match in _PIECE.finditer(plain.replace("#", "№")):
        piece = match.group().strip()
        name = piece.rstrip(".")
        if match["number"]:
            numbers.append(piece)
            words.append("#")
        elif match["minor"] or name in _WORDS["shared"]:
            signs.add(name)
        elif code := _CURRENCIES.get(name) or _WORDS["names"].get(name.casefold()):
            codes.add(code)
        elif piece not in ",:;!*\".'":
            words.append(name.casefold() or piece)
    candidates = codes or {_WORDS["shared"][sign][0] for sign in signs}
    if len(candidates) > 1 or not all(codes <= {*_WORDS["shared"][sign]} for sign in signs):
        raise _failure("several_currencies", found=plain[:80])
    # `£1.50p` is pounds; `50p, was £1` is both, and is rejected.
    minor = signs.intersection(_WORDS["minor"])
    is_minor = bool(minor) and not codes and signs == minor
    if not is_minor and len(numbers) > 1:
        words += minor
    bare = re.sub(_WORDS["tax"], "", " ".join(words)).strip()
    return bare, numbers, next(iter(candidates), None), is_minor


def _parse_number(
    written: str, decimal: DecimalMark | None, currency: str | None
) -> tuple[float, str, DecimalMark | None]:
    """Return the amount of a number, its form, and its decimal mark if it shows that itself."""
    if re.fullmatch(r"\d+(?:\.\d+)?[eE][+-]?\d+", written):
        return float(written), "exponent", None
    marks = re.findall("[.,]", written)
    # One mark, or the last of two kinds; a mark that is repeated stands between thousands.
    mark = marks[-1] if len(marks) == 1 or len(set(marks)) == 2 else None
    is_open = re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", written) is not None
    if is_open and (currency not in _WORDS["three_decimals"] or mark != "."):
        is_settled = decimal is None and currency in _WORDS["thousands"][mark]
        if is_settled or currency in _WORDS["no_decimals"] or (decimal and mark != decimal):
            mark = None
        elif decimal is None:
            return float(re.sub("[.,]", "", written)), "ambiguous", None
    whole, _, decimals = written.rpartition(mark) if mark else (written, "", "")
    grouped = _GROUPED.fullmatch(whole)
    if grouped is None:
        raise _failure("misplaced_marks", found=written)
    amount = float(f"{re.sub('[^0-9]', '', whole) or 0}.{decimals or 0}")
    if grouped["indian"]:
        form, mark = "Indian thousands", "."
    elif between := grouped["mark"]:
        form, mark = f"thousands {_MARK_NAMES[between]}", mark or _OTHER_MARK.get(between)
    else:
        form = f"decimal {_MARK_NAMES[mark]}" if mark else "plain"
    return amount, form, None if is_open else mark


_NONE = Price(None, None, "none")
_MAX_LENGTH = 200  # characters of a cell; `was … now …` in words, with taxes, takes half

CURRENCY_WORDS = frozenset(_WORDS["names"])  # in lower case: `usd`, `euro`
_CURRENCIES: dict[str, str] = _WORDS["signs"] | {code: code for code in _WORDS["codes"]}

# Dashes, apostrophes, the old British and the Arabic decimal mark.
_USUAL = str.maketrans(
    {**dict.fromkeys("‐‑‒–—―−﹣－", "-"), **dict.fromkeys("’‘ʼ′`´＇٬", "'"), "·": ".", "٫": "."}
)
_MARK_NAMES = {".": "point", ",": "comma", "'": "apostrophe", " ": "blank"}
_OTHER_MARK = {".": ",", ",": "."}
_GROUPED = re.compile(
    r"\d*|\d{1,3}(?P<mark>[.,' ])\d{3}(?:(?P=mark)\d{3})*|(?P<indian>\d{1,2}(?:,\d\d)+,\d{3})"
)
_DOUBLED = re.compile(r"(?<![\d.,])([^\d\s]+ ?\d[\d.,]*|\d[\d.,]* ?[^\d\s.,]+) ?\1(?![\d.,])")
_PIECE = re.compile(
    r"(?P<number>(?:\d{1,3}(?:[ ']\d{3})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,]\d+)*"
    r"|(?<![^\W_])[.,]\d+)(?:[eE][+-]?\d{1,3}(?![^\W_]))?)"
    r"|(?P<minor>(?<=\d) ?(?:p|¢|pence)(?![^\W_]))"
    r"|(?P<sign>(?<![^\W\d_])(?:US|R|AU?|CA?|NZ|HK|SG?|NT|MX)\$|(?:CN|JP)¥|S/(?=\.? ?\d))\.?"
    r"|(?P<word>[^\W\d_]+\.?)|(?P<mark>\S)"
)

_LISTS = {name: f"(?:{'|'.join(_WORDS[name])})" for name in ("label", "from", "before", "now")}
_LISTS |= {"label": f"(?:(?:{_LISTS['label']}|{_LISTS['now']}) )?", "unit": _WORDS["unit"]}
_READINGS: list[tuple[re.Pattern[str], int, str | None]] = [
    (re.compile(words.format(**_LISTS)), place, form) for words, place, form in _WORDS["readings"]
]
