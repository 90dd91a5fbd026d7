"""One row: clean, or set aside with a reason and all that it held."""

import datetime
import decimal
import json
from collections.abc import Mapping

import pytest
from catalogs import image

from phi_vision.data.samples import Message, Value
from phi_vision.data.template import TEMPLATES
from phi_vision.prepare.cleaning import (
    CleanRow,
    LoadedRow,
    RejectedRow,
    clean,
    clean_chunk,
    values_as_json,
)
from phi_vision.prepare.columns import Columns
from phi_vision.prepare.images import ImageRules
from phi_vision.prepare.schema import Schema
from phi_vision.prepare.sources.rows import Row, UnreadableRow

PRODUCT = {"title": "Coat", "category3_code": "COATS", "full_price": "390"}
COLUMNS = Columns(
    image=("photo",),
    id="sku",
    group="style",
    split="part",
    messages=None,
    fields={name: name for name in (*PRODUCT, "note", "sale_price")},
)
RULES = Schema(
    columns=COLUMNS,
    template=TEMPLATES["product"],
    images=ImageRules(),
    decimal=".",
    prices=frozenset({"sale_price"}),
)
TALK = Schema(
    columns=Columns(
        image=("images",), id=None, group=None, split=None, messages="messages", fields={}
    ),
    template=None,
    images=ImageRules(),
    decimal=None,
)


def gathered(values: Mapping[str, object], images: int = 1, **more: str) -> LoadedRow:
    row = Row(number=7, origin="a.csv line 9", values=values)
    return LoadedRow(row=row, images=tuple(image(n) for n in range(images)), **more)


def cleaned(**values: object) -> CleanRow:
    found = clean(gathered(PRODUCT | values), RULES)
    assert isinstance(found, CleanRow), found
    return found


def refused(found: LoadedRow, rules: Schema = RULES) -> tuple[str, str]:
    row = clean(found, rules)
    assert isinstance(row, RejectedRow), row
    return row.reason, row.detail


def talked(*turns: object, images: int = 1) -> CleanRow | RejectedRow:
    return clean(gathered({"messages": list(turns)}, images), TALK)


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_texts_are_cleaned_and_prices_parsed() -> None:
    found = cleaned(title="Gobi&trade;  Tee ", full_price="£1,234.50", sku=" S1 ", part="val")
    assert found.record["title"] == "Gobi™ Tee"
    assert found.record["full_price"] == 1234.5
    assert (found.id, found.group, found.split) == ("S1", None, "validation")
    assert "entities unescaped" in found.changes
    assert "full_price as thousands comma" in found.changes


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (5,                                          5),
        (True,                                       True),
        (2**63 - 1,                                  2**63 - 1),
        (2**63,                                      "9223372036854775808"),
        (-(2**70),                                   "-1180591620717411303424"),
        (float("nan"),                               None),
        (decimal.Decimal("5.10"),                    5.1),
        (decimal.Decimal("NaN"),                     None),
        (datetime.date(2026, 1, 31),                 "2026-01-31"),
        (datetime.datetime(2026, 1, 31, 12, 30),     "2026-01-31T12:30:00"),
        (datetime.timedelta(hours=1),                "1:00:00"),
        ([1, "a", None],                             '[1, "a", null]'),
        ({"a": {"b": datetime.date(2026, 1, 1)}},    '{"a": {"b": "2026-01-01"}}'),
        (["<|end|>"],                                '["< |end|>"]'),
        (b"\xff",                                    None),
        ({"bytes": b"\xff", "path": None},           None),
        ("  ",                                       None),
        ("half \ud83d",                              "half \ufffd"),
        ("/etc/passwd",                              "/etc/passwd"),
    ],
)  # fmt: skip
def test_every_kind_of_value_becomes_one_that_a_record_holds(given: object, kept: Value) -> None:
    found = cleaned(note=given).record["note"]
    assert found == kept
    assert type(found) is type(kept)


def test_of_a_name_in_languages_the_english_one_is_taken() -> None:
    found = cleaned(title={"de": "Mantel", "en": "Coat"}, category3_code={"fr": "Bonnets"})
    assert (found.record["title"], found.record["category3_code"]) == ("Coat", "Bonnets")


def test_the_price_of_variants_is_the_lowest() -> None:
    variants = [{"title": "S", "price": "25.00"}, {"title": "M", "price": "20.00"}]
    assert cleaned(full_price=variants).record["full_price"] == 20.0


def test_a_price_beside_the_templates_is_read_or_left_empty() -> None:
    assert cleaned(sale_price="€ 12").record["sale_price"] == 12.0
    odd = cleaned(sale_price="ask us")
    assert odd.record["sale_price"] is None
    assert "sale_price not parsed, left empty" in odd.changes


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"title": " "}, "title is empty"),
        ({"full_price": None}, "full_price is empty"),
        ({"full_price": "N/A"}, "full_price has no value"),
        ({"full_price": "cheap"}, "full_price is not a number"),
        ({"category3_code": float("nan")}, "category3_code is empty"),
        ({"title": "NULL"}, "title is empty"),
        ({"category3_code": "N/A"}, "category3_code is empty"),
        ({"title": "x" * 10_500}, "title is too long"),
    ],
)
def test_a_record_lacks_nothing_that_the_template_names(
    values: Mapping[str, object], reason: str
) -> None:
    assert refused(gathered({**PRODUCT, **values}))[0] == reason


def test_an_image_that_is_not_available_is_the_reason() -> None:
    found = gathered(PRODUCT, images=0, problem="not fetched, HTTP 404: http://a.b/c")
    assert refused(found) == ("not fetched, HTTP 404", "http://a.b/c")
    assert refused(gathered(PRODUCT, images=0)) == ("no image", "")


@pytest.mark.parametrize("nothing", ["nan", "NULL", "n/a", "None", " - ", "<NA>", r"\N", "&nbsp;?"])
def test_a_placeholder_is_no_value_and_is_counted(nothing: str) -> None:
    found = cleaned(note=nothing)
    assert found.record["note"] is None
    assert "placeholder left empty" in found.changes


@pytest.mark.parametrize("text", ["Nan bread", "Pan-Am", "No", "0", "N", "none of these", "🙂"])
def test_a_text_that_is_no_placeholder_stays(text: str) -> None:
    assert cleaned(note=text).record["note"] == text


def test_a_text_up_to_the_limit_stays_and_one_outside_the_template_may_be_longer() -> None:
    found = cleaned(title="x" * 2000, note="y" * 10_500)
    assert len(str(found.record["title"])) == 2000
    assert len(str(found.record["note"])) == 10_500


def test_the_currency_of_a_price_is_counted() -> None:
    assert "full_price in EUR" in cleaned(full_price="12 €").changes
    assert not [c for c in cleaned(full_price="12").changes if " in " in c]


@pytest.mark.parametrize("nothing", [None, "", "  ", float("nan")])
def test_an_id_that_is_a_placeholder_is_none(nothing: object) -> None:
    assert cleaned(sku=nothing, style=nothing).id is None
    assert cleaned(sku=nothing, style=nothing).group is None


def test_ids_of_any_kind_are_text_that_a_file_can_hold() -> None:
    assert cleaned(sku=12).id == "12"
    assert cleaned(sku="half \ud83d").id == "half \\ud83d"


def test_conversations_keep_their_lines_and_lose_control_tokens() -> None:
    found = talked(
        said("system", "Be brief."), said("user", "<image>\nWhat?"), said("assistant", "A <|end|>")
    )
    assert isinstance(found, CleanRow)
    assert found.messages == (
        Message("system", "Be brief."),
        Message("user", "<image>\nWhat?"),
        Message("assistant", "A < |end|>"),
    )
    assert found.changes == ("control tokens neutralised",)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "the conversation does not end with an assistant message"),
        ([said("user", "Hi")], "the conversation does not end with an assistant message"),
        (
            [said("user", "<image> <image>"), said("assistant", "A")],
            "image marks do not match images",
        ),
        ([said("robot", "Hi")], "not a conversation"),
        (["Hi", "Hello"], "not a conversation"),
        ([{"role": ["user"], "content": "Hi"}], "not a conversation"),
        ([{"role": "user", "content": None}], "not a conversation"),
    ],
)
def test_unusable_conversations_are_rejected(turns: list[object], reason: str) -> None:
    found = talked(*turns)
    assert isinstance(found, RejectedRow)
    assert found.reason == reason


def test_a_conversation_needs_no_image() -> None:
    found = talked(said("user", "Hi"), said("assistant", "Hello"), images=0)
    assert isinstance(found, CleanRow)
    assert found.images == ()


def test_original_values_are_kept_whatever_they_are() -> None:
    values = {
        "photo": b"\xff\xd8",
        "deep": {"bytes": b"\xff", "on": datetime.date(2026, 1, 1)},
        "list": [float("nan"), float("inf"), 2**70, None, True],
        "half": "\ud83d",
        "both": "\ud83d\ude00",
    }
    text = values_as_json(values)
    text.encode("utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {
        "photo": {"base64": "/9g="},
        "deep": {"bytes": {"base64": "/w=="}, "on": "2026-01-01"},
        "list": ["nan", "inf", 2**70, None, True],
        "half": "\ud83d",
        "both": "😀",
    }


def test_a_chunk_keeps_the_order_of_readable_and_unreadable_rows() -> None:
    broken = UnreadableRow(number=8, origin="a.csv line 10", reason="found more cells", raw="a;b;c")
    first, second = clean_chunk([gathered(PRODUCT), broken], RULES)
    assert isinstance(first, CleanRow)
    assert second == RejectedRow(
        number=8,
        origin="a.csv line 10",
        reason="found more cells",
        detail="",
        values='{"raw": "a;b;c"}',
    )
