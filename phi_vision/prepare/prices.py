"""Prices as people write them: what a cell says, in which currency, and how that was understood.

Reads one price out of one cell. What cannot be read without guessing is refused; the one guess that
is made has its own form, `ambiguous`. Amounts are never converted.
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
from typing import Literal, NamedTuple

from phi_vision.prepare.currencies import (
    MINOR,
    NO_DECIMALS,
    SHARED,
    THREE_DECIMALS,
    code_of,
    one_currency,
)

DecimalMark = Literal[".", ","]

LARGEST = 1e12
"""Amounts from here on are codes or accidents, in any currency."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a cell says of a price."""

    amount: float | None
    """None where the cell says that there is none: `N/A`, `-`, nothing at all."""

    currency: str | None
    """Its ISO 4217 code; None where none is named, or one that several countries call the same
    (`kr`). `$`, `¥`, `Rs` and `Fr` alone are taken for USD, JPY, INR and CHF."""

    form: str
    """How it was written, one of `FORMS`."""


def read_price(text: object, *, decimal: DecimalMark | None = None) -> Price:
    """Read the price that a cell holds.

    Of a range the lowest price is taken, as of `from £20`; of two prices that words tell apart
    (`was`, `now`, `RRP`, `statt`) the one to be paid now, whichever stands first.

    Input:  "£1,234.50", "1.234,50 €", "Rs. 1,23,456.00", "£20 - £40", "was £50 now £30", "N/A"
    Output: 1234.5 GBP "thousands comma", 1234.5 EUR "thousands point", 123456.0 INR
            "Indian thousands", 20.0 GBP "range (lowest)", 30.0 GBP "was and now (now)", None "none"

    Args:
        text: Text, a number, or None.
        decimal: The decimal mark of the column (`guess_decimal`): `1.234` is read by it. Without
            it such a number is taken for thousands, as prices rarely have three decimals, and its
            form is `ambiguous`.

    Raises:
        ValueError: The cell cannot be understood. The message begins with a short reason that is
            the same for all of its kind, then a colon.
    """
    if text is None:
        return _NONE
    if isinstance(text, bool) or not isinstance(text, str | Real | Decimal):
        raise ValueError(
            f"not a price: found a {type(text).__name__}; give a number, or text such as £12.50"
        )
    if not isinstance(text, str):
        return _read_typed(text)
    if len(text) > _LONGEST:
        raise ValueError(
            f"not a price: found {len(text)} characters, beginning with {text[:40]!r}; name the "
            "column that holds the price"
        )
    plain = _plain(text)
    if plain.rstrip(" .!:").casefold() in _NO_PRICE:
        return _NONE
    if plain.rstrip(" .!:").casefold() in _FREE:
        return Price(amount=0.0, currency=None, form="free")
    return _read_words(plain, decimal)


def guess_decimal(texts: Iterable[object]) -> DecimalMark | None:
    """Find the decimal mark of a column from those of its prices that show it.

    Input:  ["1.234", "12,50 €", "1.234.567", "8"]
    Output: ","

    Returns:
        The mark that at least nine in ten of them use; None where none shows it, or they are of
        two minds.
    """
    votes: Counter[DecimalMark] = Counter()
    for text in texts:
        if isinstance(text, str) and len(text) <= _LONGEST:
            votes.update(_marks_of(text))
    if not votes:
        return None
    mark, count = votes.most_common(1)[0]
    return mark if count >= 0.9 * votes.total() else None


class _Number(NamedTuple):
    amount: float
    form: str
    mark: DecimalMark | None  # where the number shows which one is used


class _Skeleton(NamedTuple):
    """A price taken apart: `Was £50, now £30` is `was # now #`, 50 and 30, GBP."""

    words: str
    numbers: tuple[str, ...]
    currency: str | None
    is_minor: bool  # pence, cents


def _read_typed(value: Real | Decimal) -> Price:
    # Not a price is what spreadsheets and pandas write into an empty cell of numbers.
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
    if not amount < LARGEST:
        raise ValueError(f"price too large: found {found}; give an amount below {LARGEST:g}")


def _read_words(plain: str, decimal: DecimalMark | None) -> Price:
    skeleton = _take_apart(plain)
    reading = next((each for each in _READINGS if re.fullmatch(each.words, skeleton.words)), None)
    if reading is None:
        raise ValueError(_misunderstood(skeleton, plain))
    numbers = [_read_number(each, decimal, skeleton.currency) for each in skeleton.numbers]
    amounts = [number.amount for number in numbers]
    if reading.form == _RANGE and amounts != sorted(amounts):
        # 2024-05, 5-2: no range of prices is written so.
        raise ValueError(_misunderstood(skeleton, plain))
    amount, form = amounts[reading.counts], reading.form or numbers[reading.counts].form
    if skeleton.is_minor:
        amount, form = amount / 100, reading.form or "pence or cents"
    if any(number.form == "ambiguous" for number in numbers):
        form = "ambiguous"
    _check_size(amount, repr(plain))
    return Price(amount=amount, currency=skeleton.currency, form=form)


def _misunderstood(skeleton: _Skeleton, plain: str) -> str:
    found = f"found {plain[:80]!r}"
    if "%" in skeleton.words:
        return f"a percentage, no price: {found}; name the column that holds the price"
    if not skeleton.numbers:
        return f"no number: {found}; write the price in digits, or leave the cell empty"
    if re.fullmatch(r"- #|\( # \)", skeleton.words):
        return f"negative price: {found}; give the price without a sign"
    if len(skeleton.numbers) > 1:
        return f"several numbers: {found}; give one price, a range, or 'was … now …'"
    return f"unknown words around a number: {found}; give the number and its currency alone"


def _plain(text: str) -> str:
    r"""Write a text in the usual characters: digits, blanks, dashes, apostrophes.

    Input:  "&pound;１２.50", "1\u202f234,50\u00a0€", "£20–£40", "١٢٫٥", "£12⁹⁹", "12€50", "12,-"
    Output: "£12.50", "1 234,50 €", "£20-£40", "12.5", "£12.99", "12.50€", "12"
    """
    text = unicodedata.normalize("NFC", html.unescape(text)).translate(_USUAL)
    text = re.sub(
        r"(?<![\d.,])(\d+)([⁰¹²³⁴-⁹]{2})(?![\d⁰¹²³⁴-⁹])",
        lambda match: f"{match[1]}.{unicodedata.normalize('NFKC', match[2])}",
        text,
    )
    # Other raised digits are footnotes, ½ is a fraction: they stay, and are refused later.
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


def _take_apart(plain: str) -> _Skeleton:
    """Part a text into its numbers, its currency, and the words around them.

    Input:  "Was $50 USD, now $30"
    Output: _Skeleton("was # now #", ("50", "30"), "USD", False)
    """
    words: list[str] = []
    numbers: list[str] = []
    signs: set[str] = set()
    told: set[str] = set()
    for match in _PIECE.finditer(plain):
        piece = match.group().strip()
        name = piece.rstrip(".")
        if match["number"]:
            numbers.append(piece)
            words.append("#")
        elif match["minor"] or name in SHARED:
            signs.add(name)
        elif code := code_of(name):
            told.add(code)
        elif piece not in _SILENT:
            words.append(name.casefold() or piece)
    currency = one_currency(signs, told, plain)
    # `£1.50p` is pounds, whatever stands behind it; `50p, was £1` is both, and is refused.
    minor = signs & MINOR
    is_minor = bool(minor) and not told and signs == minor
    if minor and not is_minor and len(numbers) > 1:
        words.append(*minor)
    rest = re.sub(_TAX, "", " ".join(words)).strip()
    return _Skeleton(rest, tuple(numbers), currency, is_minor)


def _read_number(written: str, decimal: DecimalMark | None, currency: str | None) -> _Number:
    """Read one number, whichever marks it has.

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
) -> tuple[DecimalMark | None, Literal["shown", "told", "guessed"]]:
    """Say which mark stands before a number's decimals, or None, and how that is known.

    The number itself shows it, or its currency or column tell it, or it is a guess.
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
    if currency in NO_DECIMALS:
        return None, "told"
    if currency in THREE_DECIMALS and last == ".":
        return last, "told"
    if decimal:
        return (last if last == decimal else None), "told"
    return None, "guessed"


def _grouping(whole: str) -> str | None:
    """Name the thousands marks of a whole number: "" where it has none, None if they are wrong."""
    if re.fullmatch(r"\d*", whole):
        return ""
    if western := re.fullmatch(r"\d{1,3}(?:([.,' ])\d{3})(?:\1\d{3})*", whole):
        names = {".": "point", ",": "comma", "'": "apostrophe", " ": "blank"}
        return f"thousands {names[western[1]]}"
    return "Indian thousands" if re.fullmatch(r"\d{1,2}(?:,\d\d)+,\d{3}", whole) else None


def _marks_of(text: str) -> list[DecimalMark]:
    """The decimal marks that a text's numbers show; none where it cannot be read."""
    try:
        skeleton = _take_apart(_plain(text))
        numbers = [_read_number(each, None, skeleton.currency) for each in skeleton.numbers]
    except ValueError:  # reading the cell will say so, when its row comes
        return []
    return [number.mark for number in numbers if number.mark]


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
    "ambiguous": "1.234 and 1,234, taken for thousands",
    "free": "free",
    "none": "N/A",
}
"""Form -> a price that is written so."""

_NONE = Price(amount=None, currency=None, form="none")
_LONGEST = 200  # characters of a cell; `was … now …` in words, with taxes, takes half

_NO_PRICE = frozenset(
    {
        *("", "-", "--", "---", "?", "/", "n/a", "na", "n.a", "n. a", "n/d", "nd", "nc", "n.c"),
        *("#n/a", "#value", "#ref", "#div/0", "#name?", "none", "null", "nil", "nan", "<na>"),
        *("undefined", "unknown", "tbc", "tba", "tbd", "poa", "p.o.a", "por"),
        *("price on application", "price on request", "price upon request", "on request"),
        *("upon request", "on application", "request price", "request a quote", "call", "call us"),
        *("call for price", "contact us", "contact us for price", "ask", "ask for price"),
        *("not available", "unavailable", "sold out", "out of stock", "coming soon", "k.a", "k. a"),
        *("auf anfrage", "preis auf anfrage", "keine angabe", "ausverkauft", "sur demande"),
        *("prix sur demande", "su richiesta", "prezzo su richiesta", "a consultar", "consultar"),
        *("bajo consulta", "op aanvraag"),
    }
)
_FREE = frozenset(
    {"free", "gratis", "kostenlos", "gratuit", "gratuito", "for free", "free of charge"}
)

# What only looks different: dashes, apostrophes, the old British and the Arabic decimal mark.
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
_SILENT = frozenset(",:;!*\".'")

_TAX = (
    r" ?(?:\( )?(?:(?:incl|inc|including|inclusive|inkl|ex|excl|excluding|exkl|plus|zzgl|\+)"
    r" (?:of )?(?:vat|tax|taxes|mwst|ust|tva|iva|gst|btw|moms)|ttc"
    r"|(?:vat|tax|gst|iva|tva|btw) (?:included|inclusive|incl|inclusa|incluido|comprise))(?: \))?"
)
_UNIT = (
    r"(?: (?:/ |per |pro |par |por |je )?(?:each|ea|piece|pc|pair|item|unit|stück|stk|paar|pièce))?"
)
_BEFORE = (
    "(?:was|before|rrp|msrp|srp|uvp|statt|reg|regular|regular price|list price|full price"
    "|original price|originally|old price|retail price|instead of|compare at|avant|prima|antes)"
)
_NOW = (
    "(?:now|now only|sale|sale price|special|special price|only|today|our price|new price|price"
    "|nur|jetzt|nur noch|maintenant|ora|ahora)"
)
_LABEL = (
    "(?:(?:price|preis|prix|precio|prezzo|prijs|pris|cena|cost|just|rrp|msrp|uvp|list price"
    f"|regular price|full price|retail price|unit price|{_NOW}) )?"
)
_FROM = (
    "(?:from|starting from|starting at|starts at|as low as|ab|à partir de|a partir de"
    "|a partire da|desde|dès|vanaf|från|fra|od|da)"
)


class _Reading(NamedTuple):
    words: str  # a pattern for all of the skeleton's
    counts: int  # which number is the price
    form: str = ""  # where it is not the number's own


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
"""What the words of a price can be."""
