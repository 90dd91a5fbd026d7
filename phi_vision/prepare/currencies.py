"""Currencies: what their signs, codes and names are, and what they tell of a number's marks.

Holds no reading of prices (`prices.py`) and no rates: nothing is converted.
"""

NO_DECIMALS = frozenset(
    {"CLP", "IDR", "ISK", "JPY", "KRW", "PYG", "UGX", "VND", "XAF", "XOF", "XPF"}
)
"""Currencies whose `1.234` can only be thousands."""

THREE_DECIMALS = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})
"""Currencies of which `1.234` is an ordinary amount."""


def code_of(name: str) -> str | None:
    """Find the one currency that a sign, code or name stands for, else None.

    Input:  "£", "zł", "SEK", "euros", "$", "all"
    Output: GBP, PLN, SEK, EUR, None (it is in `SHARED`), None (ALL would be one)
    """
    if name in _SIGNS:
        return _SIGNS[name]
    # Small letters only for the usual ones: `top`, `all` and `cup` are codes too.
    return name if name in _CODES else _NAMES.get(name.casefold())


def one_currency(signs: set[str], told: set[str], text: str) -> str | None:
    """Settle on the currency that all signs and names of a text can mean.

    Input:  {"$"} and {"CAD"}, {"$"} and {}, {"kr"} and {}, {"$"} and {"GBP"}
    Output: CAD, USD, None, a ValueError
    """
    supposed = {SHARED[sign][0] for sign in signs}
    if len(told) > 1 or (not told and len(supposed) > 1):
        fits = False
    else:
        fits = all(told <= set(SHARED[sign]) for sign in signs)
    if not fits:
        raise ValueError(
            f"several currencies: found {text[:80]!r}; give each currency a column of its own"
        )
    return next(iter(told or supposed), None)


_DOLLARS = (
    *("USD", "AUD", "CAD", "NZD", "HKD", "SGD", "TWD", "MXN"),
    *("ARS", "CLP", "COP", "UYU", "DOP", "JMD", "BBD", "TTD", "FJD", "XCD"),
)
SHARED: dict[str, tuple[str | None, ...]] = {
    **dict.fromkeys(("$", "¢"), _DOLLARS),
    **dict.fromkeys(("p", "pence"), ("GBP",)),
    **dict.fromkeys(("kr", "Kr", "KR"), (None, "SEK", "NOK", "DKK", "ISK")),
    **dict.fromkeys(("Rs", "RS"), ("INR", "PKR", "LKR", "NPR", "MUR")),
    "¥": ("JPY", "CNY"),
    "Fr": ("CHF", "XAF", "XOF"),
}
"""Sign -> the currencies that it can mean, the one it is taken for if nothing is told first."""
MINOR = frozenset({"p", "pence", "¢"})
"""Those that count hundredths."""

_SIGNS = {
    **{"£": "GBP", "€": "EUR", "₹": "INR", "₩": "KRW", "₺": "TRY", "₽": "RUB", "₪": "ILS"},
    **{"฿": "THB", "₫": "VND", "₴": "UAH", "₦": "NGN", "₱": "PHP", "₡": "CRC", "₲": "PYG"},
    **{"₵": "GHS", "₸": "KZT", "₼": "AZN", "₾": "GEL", "₮": "MNT", "₭": "LAK", "៛": "KHR"},
    **{"US$": "USD", "R$": "BRL", "A$": "AUD", "AU$": "AUD", "C$": "CAD", "CA$": "CAD"},
    **{"NZ$": "NZD", "HK$": "HKD", "S$": "SGD", "SG$": "SGD", "NT$": "TWD", "MX$": "MXN"},
    **{"CN¥": "CNY", "JP¥": "JPY", "S/": "PEN", "zł": "PLN", "ZŁ": "PLN", "Kč": "CZK"},
    **{"KČ": "CZK", "Ft": "HUF", "лв": "BGN", "руб": "RUB", "р": "RUB", "грн": "UAH"},
    **{"R": "ZAR", "RM": "MYR", "Rp": "IDR", "SFr": "CHF", "sFr": "CHF", "TL": "TRY"},
    **{"Dhs": "AED", "Dh": "AED", "円": "JPY", "元": "CNY", "원": "KRW", "RMB": "CNY"},
}

# ISO 4217, without metals and units of account.
_CODES = frozenset(
    """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN
    BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS
    GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW
    KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD
    NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD
    SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES
    VND VUV WST XAF XCD XOF XPF YER ZAR ZMW
    """.split()  # noqa: SIM905 - a list of 151 quoted codes is no easier to read
)
_USUAL_CODES = (
    *("EUR", "USD", "GBP", "CHF", "JPY", "CNY", "AUD", "CAD", "INR", "SEK", "NOK", "DKK"),
    *("PLN", "CZK", "HUF", "BRL", "ZAR", "MXN", "SGD", "HKD", "NZD", "KRW", "AED", "RUB"),
)
_NAMES = {
    **{code.casefold(): code for code in _USUAL_CODES},
    **{"euro": "EUR", "euros": "EUR", "dollar": "USD", "dollars": "USD", "pound": "GBP"},
    **{"pounds": "GBP", "sterling": "GBP", "yen": "JPY", "yuan": "CNY", "won": "KRW"},
    **{"rupee": "INR", "rupees": "INR", "kronor": "SEK", "zloty": "PLN", "złoty": "PLN"},
    **{"złotych": "PLN", "lei": "RON", "rubles": "RUB", "baht": "THB", "reais": "BRL"},
}
