"""What all rows of a source are measured by, found in its first rows."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from phi_vision.data.template import TEMPLATES
from phi_vision.prepare.prepare_config import PrepareConfig
from phi_vision.prepare.schema import Schema, find_schema, order_answer
from phi_vision.prepare.sources.rows import Row, Source, UnreadableRow

SHOP = {"photo": b"x", "name": "Coat", "type": "COATS", "price": "390"}


def find(
    *rows: Mapping[str, object],
    mapping: tuple[str, ...] = (),
    template: str | None = None,
    decimal: Literal["point", "comma"] | None = None,
    numbers: Literal["likeliest", "median"] | None = None,
) -> Schema:
    pieces: list[Row | UnreadableRow] = [
        UnreadableRow(number=0, origin="line 1", reason="odd", raw="?"),
        *(Row(number=n, origin=f"line {n}", values=row) for n, row in enumerate(rows, start=1)),
    ]
    source = Source(name="shop", kind="csv", rows=lambda: iter(pieces), folder=None)
    given = {"map": mapping, "template": template, "decimal": decimal, "numbers": numbers}
    return find_schema(source, PrepareConfig(out=Path("out"), **given))  # type: ignore[arg-type]


def test_the_products_template_is_taken_where_all_its_fields_are() -> None:
    assert find(SHOP).template == TEMPLATES["product"]


@pytest.mark.parametrize(
    ("missing", "question", "answer"),
    [
        (
            "price",
            "the product and its category",
            "Product: {title}, Category: {category3_code:category}",
        ),
        ("type", "the product and its full price", "Product: {title}, Full Price: "),
    ],
)
def test_else_one_over_the_fields_that_are(missing: str, question: str, answer: str) -> None:
    found = find({name: cell for name, cell in SHOP.items() if name != missing}).template
    assert found is not None
    assert found.question == f"Name {question} in this image."
    assert found.answer.startswith(answer)


def test_a_placeholder_source_is_rejected_with_its_content() -> None:
    with pytest.raises(ValueError, match=r"no column was recognised as title, .*; found zz, qq"):
        find({"photo": b"x", "zz": "Coat", "qq": "1"})


def test_a_chosen_template_must_find_its_fields() -> None:
    few = {"photo": b"x", "name": "Coat"}
    with pytest.raises(ValueError, match="needs category3_code, full_price; found name; map them"):
        find(few, template="walkthrough")
    assert find(SHOP, template="walkthrough").template == TEMPLATES["walkthrough"]


def test_the_user_wins() -> None:
    row = SHOP | {"label": "Best coat"}
    rules = find(row, mapping=("title=label", "full_price=price"))
    assert rules.columns.fields["title"] == "label"
    assert rules.columns.fields["name"] == "name"


@pytest.mark.parametrize(
    ("mapping", "complaint"),
    [
        (("title",), "--map title: write PART=COLUMN"),
        (("=name",), "--map =name: write PART=COLUMN"),
        (("title=",), "--map title=: write PART=COLUMN"),
        (("title=name", "title=type"), "--map title=type: title is 'name' already; give it once"),
        (("title=Nmae",), "there is no column 'Nmae'; found photo, name, type, price"),
        (("group_id=type",), "no field can be called 'group_id'"),
        (("images=photo",), "no field can be called 'images'"),
    ],
)
def test_mappings_without_meaning_are_rejected(mapping: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        find(SHOP, mapping=mapping)


def test_a_column_name_may_hold_an_equals_sign() -> None:
    assert find(SHOP | {"a=b": "x"}, mapping=("title=a=b",)).columns.fields["title"] == "a=b"


def test_the_decimal_mark_is_reported_by_the_other_prices() -> None:
    continental = [SHOP | {"price": price} for price in ("12,50", "8,95", "1.234")]
    assert find(*continental).decimal == ","
    assert find(*continental, decimal="point").decimal == "."


def test_other_prices_are_those_that_mostly_are_some() -> None:
    rows = [SHOP | {"sale_price": "5.00", "price_note": "from stock"} for _ in range(3)]
    assert find(*rows).prices == {"full_price", "sale_price"}


def test_conversations_need_no_template() -> None:
    assert find({"messages": [{"role": "user", "content": "Hi"}]}).template is None


NAMES = [(f"{name} Hoodie", name) for name in map("".join, itertools.product("abcd", repeat=3))]
WORDS = [
    (" ".join(words), str(words))
    for words in itertools.permutations(["red", "wool", "long", "coat"], 3)
]


def test_titles_that_are_mostly_invented_names_go_last() -> None:
    template, share = order_answer(TEMPLATES["product"], NAMES)
    assert (template, share) == (TEMPLATES["category-first"], 1.0)
    assert template.fields == ("category3_code", "full_price", "title")


def test_the_median_of_numbers_can_be_asked_for_in_any_order_of_the_answer() -> None:
    template = find(SHOP, numbers="median").template
    assert template == replace(TEMPLATES["product"], numbers="median")
    assert order_answer(template, NAMES)[0] == replace(
        TEMPLATES["category-first"], numbers="median"
    )


def test_colours_of_a_product_share_its_name() -> None:
    colours = [(f"{title}-{colour}", group) for title, group in NAMES for colour in ("Red", "Blue")]
    assert order_answer(TEMPLATES["product"], colours)[1] == 1.0


@pytest.mark.parametrize("titles", [NAMES[:49], WORDS * 10, [], [("", "1")] * 60])
def test_few_titles_and_titles_of_common_words_stay_first(titles: list[tuple[str, str]]) -> None:
    assert order_answer(TEMPLATES["product"], titles)[0] == TEMPLATES["product"]


def test_numbers_are_no_names() -> None:
    numbered = [(f"Coat {number}", str(number)) for number in range(100)]
    assert order_answer(TEMPLATES["product"], numbered) == (TEMPLATES["product"], 0.0)


@pytest.mark.parametrize(
    ("missing", "answer"),
    [
        ("price", "Category: {category3_code:category}, Product: {title}"),
        ("type", "Full Price: {full_price:number}, Product: {title}"),
    ],
)
def test_the_order_of_a_plain_template_changes_too(missing: str, answer: str) -> None:
    plain = find({name: cell for name, cell in SHOP.items() if name != missing}).template
    assert plain is not None
    assert order_answer(plain, NAMES)[0].answer == answer
