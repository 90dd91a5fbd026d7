"""Prices in every common notation, and what is no price."""

from decimal import Decimal

import numpy as np
import pytest

from phi_vision.prepare.prices import (
    FORMS,
    DecimalMark,
    guess_decimal,
    parse_price,
)

READ = [
    # written                     amount       currency  form
    ("12",                        12.0,        None,     "plain"),
    (" 12\n",                     12.0,        None,     "plain"),
    ("£12",                       12.0,        "GBP",    "plain"),
    ("12.",                       12.0,        None,     "plain"),
    ("12.50",                     12.5,        None,     "decimal point"),
    ("£.99",                      0.99,        "GBP",    "decimal point"),
    ("0.500",                     0.5,         None,     "decimal point"),
    ("12.3400000001",             12.3400000001, None,   "decimal point"),
    ("1234.567",                  1234.567,    None,     "decimal point"),
    ("£1·50",                     1.5,         "GBP",    "decimal point"),
    ("£12⁹⁹",                     12.99,       "GBP",    "decimal point"),
    ("12€50",                     12.5,        "EUR",    "decimal point"),
    ("12,50 €",                   12.5,        "EUR",    "decimal comma"),
    ("R$ 10,50",                  10.5,        "BRL",    "decimal comma"),
    ("12,5 zł",                   12.5,        "PLN",    "decimal comma"),
    ("£1,234.50",                 1234.5,      "GBP",    "thousands comma"),
    ("¥1,980",                    1980.0,      "JPY",    "thousands comma"),
    ("₩12.000",                   12000.0,     "KRW",    "thousands point"),
    ("1,234,567",                 1234567.0,   None,     "thousands comma"),
    ("1.234,50 €",                1234.5,      "EUR",    "thousands point"),
    ("1.234.567",                 1234567.0,   None,     "thousands point"),
    ("EUR 1 234,50",              1234.5,      "EUR",    "thousands blank"),
    ("1\u202f234,50\u00a0€",      1234.5,      "EUR",    "thousands blank"),
    ("1\u2009234 567 Ft",         1234567.0,   "HUF",    "thousands blank"),
    ("1'234.50 CHF",              1234.5,      "CHF",    "thousands apostrophe"),
    ("SFr. 1’234.50",             1234.5,      "CHF",    "thousands apostrophe"),
    ("Rs. 1,23,456.00",           123456.0,    "INR",    "Indian thousands"),
    ("₹12,34,567",                1234567.0,   "INR",    "Indian thousands"),
    ("Rs.500",                    500.0,       "INR",    "plain"),
    ("US$ 12",                    12.0,        "USD",    "plain"),
    ("$12 CAD",                   12.0,        "CAD",    "plain"),
    ("CAD$12",                    12.0,        "CAD",    "plain"),
    ("AU$1,299.00",               1299.0,      "AUD",    "thousands comma"),
    ("12 kr",                     12.0,        None,     "plain"),
    ("12 kr SEK",                 12.0,        "SEK",    "plain"),
    ("kr. 12,-",                  12.0,        None,     "plain"),
    ("EUR 12,–",                  12.0,        "EUR",    "plain"),
    ("1 299:-",                   1299.0,      None,     "thousands blank"),
    ("12 euros",                  12.0,        "EUR",    "plain"),
    ("12 gbp",                    12.0,        "GBP",    "plain"),
    ("12円",                      12.0,        "JPY",    "plain"),
    ("100 руб.",                  100.0,       "RUB",    "plain"),
    ("S/. 12.50",                 12.5,        "PEN",    "decimal point"),
    ("R100",                      100.0,       "ZAR",    "plain"),
    ("KWD 1.250",                 1.25,        "KWD",    "decimal point"),
    ("99p",                       0.99,        "GBP",    "pence or cents"),
    ("99¢",                       0.99,        "USD",    "pence or cents"),
    ("£1.50p",                    1.5,         "GBP",    "decimal point"),
    ("１２.５０",                   12.5,        None,     "decimal point"),
    ("￥１２",                     12.0,        "JPY",    "plain"),
    ("١٢٫٥",                      12.5,        None,     "decimal point"),
    ("&pound;12.50",              12.5,        "GBP",    "decimal point"),
    ("1e3",                       1000.0,      None,     "exponent"),
    ("1.2E+03",                   1200.0,      None,     "exponent"),
    ("Price: £12.50",             12.5,        "GBP",    "decimal point"),
    ("RRP £50",                   50.0,        "GBP",    "plain"),
    ("only$12!",                  12.0,        "USD",    "plain"),
    ("£12 (incl. VAT)",           12.0,        "GBP",    "plain"),
    ("12 € TTC",                  12.0,        "EUR",    "plain"),
    ("12,5 €/Stück",              12.5,        "EUR",    "decimal comma"),
    ("£12 each *",                12.0,        "GBP",    "plain"),
    ("from £20",                  20.0,        "GBP",    "range (lowest)"),
    ("ab 20 €",                   20.0,        "EUR",    "range (lowest)"),
    ("à partir de 20 €",          20.0,        "EUR",    "range (lowest)"),
    ("£20+",                      20.0,        "GBP",    "range (lowest)"),
    ("£20 - £40",                 20.0,        "GBP",    "range (lowest)"),
    ("20–40",                     20.0,        None,     "range (lowest)"),
    ("20 bis 40 EUR",             20.0,        "EUR",    "range (lowest)"),
    ("between £20 and £40",       20.0,        "GBP",    "range (lowest)"),
    ("1 234,50 - 2 000,00 €",     1234.5,      "EUR",    "range (lowest)"),
    ("was £50 now £30",           30.0,        "GBP",    "was and now (now)"),
    ("Was: £50.00, Now: £30.00",  30.0,        "GBP",    "was and now (now)"),
    ("now £30 (was £50)",         30.0,        "GBP",    "was and now (now)"),
    ("£30 (RRP £50)",             30.0,        "GBP",    "was and now (now)"),
    ("statt 50 € nur 30 €",       30.0,        "EUR",    "was and now (now)"),
    ("Rs. 499/-",                 499.0,       "INR",    "plain"),
    ("150.000đ",                  150000.0,    "VND",    "thousands point"),
    ("150.000 VNĐ",               150000.0,    "VND",    "thousands point"),
    ("US $12.50",                 12.5,        "USD",    "decimal point"),
    ("C $12.50",                  12.5,        "CAD",    "decimal point"),
    ("$29.99$29.99",              29.99,       "USD",    "decimal point"),
    ("12,50 € 12,50 €",           12.5,        "EUR",    "decimal comma"),
    ("MRP ₹1,299.00",             1299.0,      "INR",    "thousands comma"),
    ("M.R.P.: ₹499",              499.0,       "INR",    "plain"),
    ("$20.00 (10% off)",          20.0,        "USD",    "decimal point"),
    ("20 € (-15 %)",              20.0,        "EUR",    "plain"),
    ("¥20,800(税込)",              20800.0,     "JPY",    "thousands comma"),
    ("<span>&pound;240.00</span>", 240.0,      "GBP",    "decimal point"),
    ("Original price was: $25.00. Current price is: $20.00.", 20.0, "USD", "was and now (now)"),
    ("Sale price $20 Regular price $25", 20.0, "USD",    "was and now (now)"),
    ("₹399 M.R.P.: ₹499",         399.0,       "INR",    "was and now (now)"),
    ({"value": "240.00", "currency": "USD"}, 240.0, "USD", "decimal point"),
    ('{"minVariantPrice": {"amount": 9.5, "currencyCode": "GBP"}}', 9.5, "GBP", "decimal point"),
    ("[{'price': '12,50'}]",      12.5,        None,     "decimal comma"),
    ([{"price": "25.50"}, {"price": "20.50"}], 20.5, None, "decimal point"),
    ({"amount": 2059, "divisor": 100, "currency_code": "USD"}, 20.59, "USD", "decimal point"),
    ({"centAmount": 20500, "fractionDigits": 3, "currencyCode": "KWD"}, 20.5, "KWD",
     "decimal point"),
    ({"unit_amount": 500, "currency": "JPY"}, 500.0, "JPY",  "plain"),
    ({"sale_price": 10, "regular_price": 20.5}, 20.5, None, "number"),
    ("₹24,000",                   24000.0,     "INR",    "thousands comma"),
    ("£1,234",                    1234.0,      "GBP",    "thousands comma"),
    ("1.234 zł",                  1234.0,      "PLN",    "thousands point"),
    ("£1.234",                    1234.0,      "GBP",    "ambiguous"),
    ("$29.99$29.99",              29.99,       "USD",    "decimal point"),
    ("1.234",                     1234.0,      None,     "ambiguous"),
    ("$1,234",                    1234.0,      "USD",    "ambiguous"),
    ("1.000 - 2.500 €",           1000.0,      "EUR",    "ambiguous"),
    ("0",                         0.0,         None,     "plain"),
    ("Free!",                     0.0,         None,     "free"),
    ("gratis",                    0.0,         None,     "free"),
    (5,                           5.0,         None,     "number"),
    (5.25,                        5.25,        None,     "number"),
    (Decimal("3.10"),             3.1,         None,     "number"),
    (np.int64(7),                 7.0,         None,     "number"),
    (np.float32(0.5),             0.5,         None,     "number"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "amount", "currency", "form"), READ)
def test_a_price_is_read_as_people_mean_it(
    written: object, amount: float, currency: str | None, form: str
) -> None:
    price = parse_price(written)
    assert (price.amount, price.currency, price.form) == (amount, currency, form)
    assert form in FORMS


NONE = [
    "",
    "  ",
    "-",
    "–",
    "N/A",
    "n.a.",
    "#N/A",
    "POA",
    "P.O.A.",
    "Price on request",
    "TBC",
    "null",
]
NONE += ["Preis auf Anfrage", "sur demande", "Sold out", "nan", "?", "#REF!"]


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ("89.99000000000001", 89.99),
        (251.99999999999997, 252.0),
        (0.1 + 0.2, 0.3),
        (float(np.float32(89.99)), 89.99),  # a column of 32 bits
        (1234567.25, 1234567.25),
        (999_999_999_999.0, 999_999_999_999.0),
        (123_456_792.0, 123_456_792.0),
        ("33.333333333333336", 33.3333333333333),
        ("1234567890.1234", 1234567890.1234),
    ],
)
def test_an_amount_has_no_noise_behind_its_digits(written: object, amount: float) -> None:
    assert repr(parse_price(written).amount) == repr(amount)


@pytest.mark.parametrize("written", [*NONE, None, float("nan"), Decimal("NaN"), np.nan])
def test_a_cell_can_contain_no_price(written: object) -> None:
    price = parse_price(written)
    assert (price.amount, price.currency, price.form) == (None, None, "none")


REFUSED = [
    ("-5",                "negative price"),
    ("£-5",               "negative price"),
    ("−5 €",              "negative price"),
    ("(12.00)",           "negative price"),
    (-5,                  "negative price"),
    (Decimal("-0.01"),    "negative price"),
    ("20%",               "a percentage, no price"),
    ("£20, 50% off",      "a percentage, no price"),
    ("12 14",             "several numbers"),
    ("$15.00 $12.00",     "several numbers"),
    ("2 for £10",         "several numbers"),
    ("19,99 € 9,99 €",    "several numbers"),
    ("1.299 € 299 €",     "several numbers"),
    ("29.99 USD 9.99 USD", "several numbers"),
    ("$5$50",             "several numbers"),
    ("¥1,980¥1,9800",     "several numbers"),
    ("2024-05-01",        "several numbers"),
    ("2024-05",           "several numbers"),
    ("£40 - £20",         "several numbers"),
    ("10:30",             "several numbers"),
    ("12/06",             "several numbers"),
    ("50p was £1",        "several numbers"),
    ("50p 20 pence £1",   "several numbers"),
    ("£20 / $25",         "several currencies"),
    ("£20 - $25",         "several currencies"),
    ("12 EUR USD",        "several currencies"),
    ("12.05.2024",        "misplaced marks"),
    ("1.2.3",             "misplaced marks"),
    ("1,23,4",            "misplaced marks"),
    ("12,34.56",          "misplaced marks"),
    ("1.234,567,890",     "misplaced marks"),
    ("was £50",           "unknown words around a number"),
    ("save £20",          "unknown words around a number"),
    ("up to £40",         "unknown words around a number"),
    ("£20 per kg",        "unknown words around a number"),
    ("£1.2m",             "unknown words around a number"),
    ("top 20",            "unknown words around a number"),
    ("SKU123",            "unknown words around a number"),
    ("12½",               "unknown words around a number"),
    ("£12.50¹",           "unknown words around a number"),
    ("wool",              "no number"),
    ("£",                 "no number"),
    ("#",                 "no number"),
    ("1e300",             "price too large"),
    ("4006381333931",     "price too large"),
    (float("inf"),        "price too large"),
    (True,                "not a price"),
    (b"12",               "not a price"),
    ("12 " + "x" * 300,   "not a price"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "reason"), REFUSED)
def test_other_cells_are_rejected_with_a_reason(written: object, reason: str) -> None:
    with pytest.raises(ValueError, match=": ") as caught:
        parse_price(written)
    assert str(caught.value).partition(": ")[0] == reason


@pytest.mark.parametrize(
    ("written", "decimal", "amount", "form"),
    [
        ("1.234", ".", 1.234, "decimal point"),
        ("1.234", ",", 1234.0, "thousands point"),
        ("1,234", ",", 1.234, "decimal comma"),
        ("1,234", ".", 1234.0, "thousands comma"),
        # What a number shows itself weighs more than its column.
        ("1,234.50", ",", 1234.5, "thousands comma"),
        ("12.5", ",", 12.5, "decimal point"),
    ],
)
def test_the_column_decides_ambiguous_numbers(
    written: str, decimal: DecimalMark, amount: float, form: str
) -> None:
    price = parse_price(written, decimal=decimal)
    assert (price.amount, price.form) == (amount, form)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["1.234", "12,50 €", "1.234.567", "8"], ","),
        (["1,234", "£12.50", "N/A"], "."),
        (["1 234,50"], ","),
        (["12,34,567"], "."),
        (["was 50,00 now 30,00"], ","),
        (["1.234", "1,234", "12", "₩12.000", "12.05.2024", "x", "£1 $1"], None),
        (["1,50", "1.50"], None),
        (["1.50"] * 9 + ["1,50"], "."),
        ([1.5, None, b"1,5", "1,5" * 100], None),
        ([], None),
    ],
)
def test_the_decimal_mark_of_a_column_is_found(column: list[object], expected: str | None) -> None:
    assert guess_decimal(iter(column)) == expected


@pytest.mark.parametrize("form", FORMS)
def test_the_example_of_every_form_is_read_so(form: str) -> None:
    example = FORMS[form]
    written: object = 12.5 if form == "number" else example.partition(" and ")[0]
    assert parse_price(written).form == form


@pytest.mark.parametrize(
    ("written", "currency"),
    [("12 SEK", "SEK"), ("12 sek", "SEK"), ("12 ALL", "ALL"), ("12 euros", "EUR"), ("$12", "USD")],
)
def test_codes_are_read_in_capitals_and_the_usual_ones_in_any_case(
    written: str, currency: str
) -> None:
    assert parse_price(written).currency == currency


@pytest.mark.parametrize("written", ["12 all", "12 Top", "12 cup"])
def test_unusual_codes_in_lower_case_are_words(written: str) -> None:
    with pytest.raises(ValueError, match="unknown words around a number"):
        parse_price(written)
