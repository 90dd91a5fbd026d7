"""Parse prices in the notations of shop exports: amount, currency, and how they were written.

One price per cell. What cannot be parsed without guessing is an error; the one guess has its own
form, `ambiguous`. Amounts are never converted. `price-parser` is no replacement: of the planted
prices in the tests it reads 66 of 81 amounts, and accepts 32 of 38 cells that are no price.
"""

import html
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

DecimalMark = Literal[".", ","]

_WORDS: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("price_words.yaml").read_text(encoding="utf-8")
)
_CURRENCIES: dict[str, str] = _WORDS["signs"] | {code: code for code in _WORDS["codes"]}
# Lower case only for the usual ones: `top`, `all` and `cup` are codes, too.
_USUAL_CURRENCIES: dict[str, str] = _WORDS["names"] | {
    code.casefold(): code for code in _WORDS["usual_codes"]
}

MAX_AMOUNT = 1e12
"""Amounts from here on are codes or accidents, in any currency."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """A parsed price."""

    amount: float | None
    """None where the cell has no price: `N/A`, `-`, empty."""

    currency: str | None
    """ISO 4217 code; None where there is none, or a sign that several countries share (`kr`). `$`,
    `¥`, `Rs` and `Fr` alone are taken for USD, JPY, INR and CHF."""

    form: str
    """One of `FORMS`."""


def parse_price(text: object, *, decimal: DecimalMark | None = None) -> Price:
    """Parse the price in a cell.

    Of a range the lowest price is returned, as of `from £20`; of an old and a new price (`was`,
    `now`, `RRP`, `statt`) the new one, whichever comes first.

    Input:  "£1,234.50", "1.234,50 €", "Rs. 1,23,456.00", "£20 - £40", "was £50 now £30", "N/A"
    Output: 1234.5 GBP "thousands comma", 1234.5 EUR "thousands point", 123456.0 INR
            "Indian thousands", 20.0 GBP "range (lowest)", 30.0 GBP "was and now (now)", None "none"

    Args:
        text: Text, a number, or None.
        decimal: The decimal mark of the column (`guess_decimal`), for `1.234`. Without it such a
            number is read as thousands, as prices rarely have three decimals, and its form is
            `ambiguous`.

    Raises:
        ValueError: The cell cannot be parsed. The message begins with a short reason that is the
            same for all of its kind, then a colon.
    """
    if text is None:
        return _NONE
    if isinstance(text, bool) or not isinstance(text, str | Real | Decimal):
        raise ValueError(
            f"not a price: found a {type(text).__name__}; give a number, or text such as £12.50"
        )
    if not isinstance(text, str):
        return _parse_number(text)
    if len(text) > _MAX_LENGTH:
        raise ValueError(
            f"not a price: found {len(text)} characters, beginning with {text[:40]!r}; choose the "
            "column that holds the price"
        )
    plain = _plain(text)
    if plain.rstrip(" .!:").casefold() in _WORDS["no_price"]:
        return _NONE
    if plain.rstrip(" .!:").casefold() in _WORDS["free"]:
        return Price(amount=0.0, currency=None, form="free")
    return _parse_text(plain, decimal)


def guess_decimal(texts: Iterable[object]) -> DecimalMark | None:
    """Guess the decimal mark of a column from its unambiguous prices.

    Input:  ["1.234", "12,50 €", "1.234.567", "8"]
    Output: ","

    Returns:
        The mark that at least nine in ten of them use, else None.
    """
    votes: Counter[DecimalMark] = Counter()
    for text in texts:
        if isinstance(text, str) and len(text) <= _MAX_LENGTH:
            votes.update(_marks_of(text))
    if not votes:
        return None
    mark, count = votes.most_common(1)[0]
    return mark if count >= 0.9 * votes.total() else None


class _Number(NamedTuple):
    amount: float
    form: str
    mark: DecimalMark | None  # if unambiguous


class _Skeleton(NamedTuple):
    """Parts of a price: `Was £50, now £30` is `was # now #`, 50 and 30, GBP."""

    words: str
    numbers: tuple[str, ...]
    currency: str | None
    is_minor: bool  # pence, cents


def _parse_number(value: Real | Decimal) -> Price:
    # NaN is the empty cell of spreadsheets and pandas.
    if isinstance(value, Decimal) and value.is_nan():
        return _NONE
    amount = float(value)
    if math.isnan(amount):
        return _NONE
    _check_size(amount, str(value))
    return Price(amount=amount, currency=None, form="number")


def _check_size(amount: float, found: str) -> None:
    if amount < 0:
        raise ValueError(f"negative price: found {found}; give the price without a sign")
    if not amount < MAX_AMOUNT:
        raise ValueError(f"price too large: found {found}; give an amount below {MAX_AMOUNT:g}")


def _parse_text(plain: str, decimal: DecimalMark | None) -> Price:
    skeleton = _split(plain)
    reading = next((each for each in _READINGS if re.fullmatch(each.words, skeleton.words)), None)
    if reading is None:
        raise ValueError(_error_message(skeleton, plain))
    numbers = [_parse_digits(each, decimal, skeleton.currency) for each in skeleton.numbers]
    amounts = [number.amount for number in numbers]
    if reading.form == _RANGE and amounts != sorted(amounts):
        # 2024-05 and 5-2 are no ranges of prices.
        raise ValueError(_error_message(skeleton, plain))
    amount, form = amounts[reading.number], reading.form or numbers[reading.number].form
    if skeleton.is_minor:
        amount, form = amount / 100, reading.form or "pence or cents"
    if any(number.form == "ambiguous" for number in numbers):
        form = "ambiguous"
    _check_size(amount, repr(plain))
    return Price(amount=amount, currency=skeleton.currency, form=form)


def _error_message(skeleton: _Skeleton, plain: str) -> str:
    found = f"found {plain[:80]!r}"
    if "%" in skeleton.words:
        return f"a percentage, no price: {found}; choose the column that holds the price"
    if not skeleton.numbers:
        return f"no number: {found}; write the price in digits, or leave the cell empty"
    if re.fullmatch(r"- #|\( # \)", skeleton.words):
        return f"negative price: {found}; give the price without a sign"
    if len(skeleton.numbers) > 1:
        return f"several numbers: {found}; give one price, a range, or 'was … now …'"
    return f"unknown words around a number: {found}; give the number and its currency alone"


def _plain(text: str) -> str:
    r"""Normalise digits, spaces, dashes and apostrophes.

    Input:  "&pound;１２.50", "1\u202f234,50\u00a0€", "£20–£40", "١٢٫٥", "£12⁹⁹", "12€50", "12,-"
    Output: "£12.50", "1 234,50 €", "£20-£40", "12.5", "£12.99", "12.50€", "12"
    """
    text = unicodedata.normalize("NFC", html.unescape(text)).translate(_USUAL)
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
    text = "".join(
        str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in text
    )
    text = re.sub(r"(?<![\d.,€])(\d+)€(\d\d)(?!\d)", r"\1.\2€", text)
    text = re.sub(r"(?<=\d) ?[.,:] ?[-_=]{1,2}(?!\d)", "", text)
    return " ".join(text.split())


def _split(plain: str) -> _Skeleton:
    """Split a text into its numbers, its currency, and the words around them.

    Input:  "Was $50 USD, now $30"
    Output: _Skeleton("was # now #", ("50", "30"), "USD", False)
    """
    words: list[str] = []
    numbers: list[str] = []
    signs: set[str] = set()
    codes: set[str] = set()
    for match in _PIECE.finditer(plain):
        piece = match.group().strip()
        name = piece.rstrip(".")
        if match["number"]:
            numbers.append(piece)
            words.append("#")
        elif match["minor"] or name in _WORDS["shared"]:
            signs.add(name)
        elif code := currency_code(name):
            codes.add(code)
        elif piece not in _IGNORED:
            words.append(name.casefold() or piece)
    currency = _one_currency(signs, codes, plain)
    # `£1.50p` is pounds; `50p, was £1` is both, and is rejected.
    minor = signs & {*_WORDS["minor"]}
    is_minor = bool(minor) and not codes and signs == minor
    if minor and not is_minor and len(numbers) > 1:
        words.append(*minor)
    rest = re.sub(_TAX, "", " ".join(words)).strip()
    return _Skeleton(rest, tuple(numbers), currency, is_minor)


def _parse_digits(written: str, decimal: DecimalMark | None, currency: str | None) -> _Number:
    """Parse one number.

    Input:  "1,234.50", "1.234,50", "1 234,50", "1'234.50", "1,23,456.00", "1.234"
    Output: 1234.5 ".", 1234.5 ",", 1234.5 ",", 1234.5 ".", 123456.0 ".", 1234.0 ambiguous
    """
    if re.fullmatch(r"\d+(?:\.\d+)?[eE][+-]?\d+", written):
        return _Number(float(written), "exponent", None)
    mark, source = _decimal_mark(written, decimal, currency)
    whole, _, decimals = written.rpartition(mark) if mark else (written, "", "")
    grouping = _grouping(whole)
    if grouping is None:
        raise ValueError(
            f"misplaced marks: found {written!r}; write it like 1234.50, 1,234.50 or 1.234,50"
        )
    amount = float(f"{re.sub('[^0-9]', '', whole) or 0}.{decimals or 0}")
    if source == "guessed":
        return _Number(amount, "ambiguous", None)
    usual = {".": "decimal point", ",": "decimal comma", None: "plain"}[mark]
    shows = mark or _OTHER_MARK.get(grouping)
    return _Number(amount, grouping or usual, shows if source == "shown" else None)


def _decimal_mark(
    written: str, decimal: DecimalMark | None, currency: str | None
) -> tuple[DecimalMark | None, Literal["shown", "implied", "guessed"]]:
    """Return the decimal mark of a number, or None, and where that is known from.

    The number itself shows it, its currency or column implies it, or it is guessed.
    """
    marks: list[DecimalMark] = ["." if mark == "." else "," for mark in re.findall("[.,]", written)]
    if not marks:
        return None, "shown"
    last = marks[-1]
    if len(marks) > 1:
        return (last if len(set(marks)) == 2 else None), "shown"
    whole, decimals = written.split(last)
    if len(decimals) != 3 or not re.fullmatch(r"[1-9]\d{0,2}", whole):
        return last, "shown"
    if currency in _WORDS["no_decimals"]:
        return None, "implied"
    if currency in _WORDS["three_decimals"] and last == ".":
        return last, "implied"
    if decimal:
        return (last if last == decimal else None), "implied"
    return None, "guessed"


def _grouping(whole: str) -> str | None:
    """Describe the thousands marks of an integer: "" without any, None if they are misplaced."""
    if re.fullmatch(r"\d*", whole):
        return ""
    if western := re.fullmatch(r"\d{1,3}(?:([.,' ])\d{3})(?:\1\d{3})*", whole):
        names = {".": "point", ",": "comma", "'": "apostrophe", " ": "blank"}
        return f"thousands {names[western[1]]}"
    return "Indian thousands" if re.fullmatch(r"\d{1,2}(?:,\d\d)+,\d{3}", whole) else None


def _marks_of(text: str) -> list[DecimalMark]:
    """List the unambiguous decimal marks of a text; none where it cannot be parsed."""
    try:
        skeleton = _split(_plain(text))
        numbers = [_parse_digits(each, None, skeleton.currency) for each in skeleton.numbers]
    except ValueError:  # reported when its row is cleaned
        return []
    return [number.mark for number in numbers if number.mark]


def currency_code(name: str) -> str | None:
    """Return the currency of an unambiguous sign, code or name, else None.

    Input:  "£", "zł", "SEK", "euros", "$", "all"
    Output: GBP, PLN, SEK, EUR, None (it is shared), None (ALL would be one)
    """
    return _CURRENCIES.get(name) or _USUAL_CURRENCIES.get(name.casefold())


def _one_currency(signs: set[str], codes: set[str], text: str) -> str | None:
    """Return the currency that all signs and names of a text can mean.

    Input:  {"$"} and {"CAD"}, {"$"} and {}, {"kr"} and {}, {"$"} and {"GBP"}
    Output: CAD, USD, None, a ValueError
    """
    defaults = {_WORDS["shared"][sign][0] for sign in signs}
    if len(codes) > 1 or (not codes and len(defaults) > 1):
        fits = False
    else:
        fits = all(codes <= set(_WORDS["shared"][sign]) for sign in signs)
    if not fits:
        raise ValueError(
            f"several currencies: found {text[:80]!r}; give each currency a column of its own"
        )
    return next(iter(codes or defaults), None)


FORMS: dict[str, str] = {
    "number": "a number of the source's own, not text",
    "plain": "£12",
    "decimal point": "12.50",
    "decimal comma": "12,50 €",
    "thousands comma": "£1,234.50",
    "thousands point": "1.234,50 €",
    "thousands blank": "1 234,50 €",
    "thousands apostrophe": "CHF 1'234.50",
    "Indian thousands": "₹1,23,456.00",
    "exponent": "1.2E+03",
    "pence or cents": "99p",
    "range (lowest)": "£20 - £40 and from £20",
    "was and now (now)": "was £50 now £30",
    "ambiguous": "1.234 and 1,234, read as thousands",
    "free": "free",
    "none": "N/A",
}
"""Form -> an example."""

_NONE = Price(amount=None, currency=None, form="none")
_MAX_LENGTH = 200  # characters of a cell; `was … now …` in words, with taxes, takes half

# Dashes, apostrophes, the old British and the Arabic decimal mark.
_USUAL = str.maketrans(
    {**dict.fromkeys("‐‑‒–—―−﹣－", "-"), **dict.fromkeys("’‘ʼ′`´＇٬", "'"), "·": ".", "٫": "."}
)

_LETTERS = r"[^\W\d_]+"
_PIECE = re.compile(
    r"(?P<number>(?:\d{1,3}(?:[ ']\d{3})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,]\d+)*"
    rf"|(?<![^\W_])[.,]\d+)(?:[eE][+-]?\d{{1,3}}(?![^\W_]))?)"
    r"|(?P<minor>(?<=\d) ?(?:p|¢|pence)(?![^\W_]))"
    r"|(?P<sign>(?<![^\W\d_])(?:US|R|AU?|CA?|NZ|HK|SG?|NT|MX)\$|(?:CN|JP)¥|S/(?=\.? ?\d))\.?"
    rf"|(?P<word>{_LETTERS}\.?)|(?P<mark>\S)"
)
_OTHER_MARK: dict[str, DecimalMark] = {
    **{"thousands point": ",", "thousands comma": ".", "Indian thousands": "."}
}
_IGNORED = frozenset(",:;!*\".'")

_TAX = (
    r" ?(?:\( )?(?:(?:incl|inc|including|inclusive|inkl|ex|excl|excluding|exkl|plus|zzgl|\+)"
    r" (?:of )?(?:vat|tax|taxes|mwst|ust|tva|iva|gst|btw|moms)|ttc"
    r"|(?:vat|tax|gst|iva|tva|btw) (?:included|inclusive|incl|inclusa|incluido|comprise))(?: \))?"
)
_UNIT = (
    r"(?: (?:/ |per |pro |par |por |je )?(?:each|ea|piece|pc|pair|item|unit|stück|stk|paar|pièce))?"
)
_BEFORE, _NOW, _FROM, _BARE_LABEL = (
    f"(?:{'|'.join(_WORDS[name])})" for name in ("before", "now", "from", "label")
)
_LABEL = rf"(?:(?:{_BARE_LABEL}|{_NOW}) )?"


class _Reading(NamedTuple):
    words: str  # a pattern for all words of the skeleton
    number: int  # index of the number that is the price
    form: str = ""  # unless it is the number's own


_RANGE = "range (lowest)"
_WAS_NOW = "was and now (now)"
_READINGS = (
    _Reading(rf"{_LABEL}#{_UNIT}", 0),
    _Reading(rf"{_LABEL}{_FROM} #{_UNIT}|{_LABEL}# (?:\+|and up|or more|onwards)", 0, _RANGE),
    _Reading(rf"{_LABEL}# (?:-|~|to|bis|à|a|until) #{_UNIT}", 0, _RANGE),
    _Reading(r"(?:from|von|de|da) # (?:-|to|bis|à|a) #", 0, _RANGE),
    _Reading(r"(?:between|zwischen|entre) # (?:and|und|et|y) #", 0, _RANGE),
    _Reading(rf"(?:{_BEFORE} )?# (?:\( )?{_NOW} #(?: \))?", 1, _WAS_NOW),
    _Reading(rf"(?:{_NOW} )?# (?:\( )?{_BEFORE} #(?: \))?", 0, _WAS_NOW),
)
"""Patterns of words -> which number is the price."""
