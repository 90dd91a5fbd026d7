"""Optional fields: a missing value is a phrase that is written, constrained and read as nothing."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_template_grammar import follows, of

from phi_vision.data.template import TEMPLATES, Template, find_template, write_template
from phi_vision.data.template_grammar import grammar_of

ANSWER = "Product: {title}, Colour: {colour:category?}, Care: {care?}, Price: {price:number?}."
SHOP = of(ANSWER)
COAT = {"title": "Coat", "colour": "red", "care": "dry clean", "price": 390.0}
NOTHING = {"title": "Coat", "colour": None, "care": None, "price": None}


def test_a_missing_value_is_the_phrase_and_read_as_nothing():
    text = SHOP.render(NOTHING)
    assert text == ("Product: Coat, Colour: not visible, Care: not visible, Price: not visible.")
    assert SHOP.parse(text) == NOTHING
    assert SHOP.parse(SHOP.render(COAT)) == COAT
    assert SHOP.optional == ("colour", "care", "price")
    assert SHOP.kinds == {"title": "text", "colour": "category", "care": "text", "price": "number"}
    assert {field: text[slice(*span)] for field, span in SHOP.spans(text).items()}["price"] == (
        "not visible"
    )


def test_an_empty_number_of_a_table_is_missing():
    text = SHOP.render({**COAT, "price": math.nan})
    assert text.endswith("Price: not visible.")


def test_a_required_field_keeps_its_form_of_nothing():
    template = of("Product: {title}, Colour: {colour?}")
    assert template.render({"title": None, "colour": None}) == (
        r"Product: \=null, Colour: not visible"
    )
    assert template.parse(r"Product: \=null, Colour: \=null") is None


def test_a_value_that_equals_the_phrase_is_escaped():
    text = SHOP.render({**COAT, "care": "not visible"})
    assert r'Care: \="not visible"' in text
    assert SHOP.parse(text) == {**COAT, "care": "not visible"}


values = st.one_of(
    st.none(),
    st.text(),
    st.sampled_from(["not visible", "not visible ", r"\=null", ", Care: ", ".", "<|end|>", "nan"]),
    st.floats(allow_nan=False),
    st.booleans(),
)


@settings(max_examples=500, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(COAT, values)))
def test_parse_undoes_render_whatever_the_record_holds(record):
    found = SHOP.parse(SHOP.render(record))
    assert found == SHOP.select(record)
    assert [type(value) for value in found.values()] == [
        type(value) for value in SHOP.select(record).values()
    ]


def test_an_empty_text_of_a_table_is_missing():
    assert SHOP.select({**COAT, "care": ""})["care"] is None
    assert SHOP.select({**COAT, "title": ""})["title"] == ""


def test_constrained_decoding_allows_the_phrase_in_optional_fields_alone():
    grammar = grammar_of(SHOP, {"colour": ["red", "blue"]})
    for record in (COAT, NOTHING, {**COAT, "price": None}):
        assert follows(SHOP.render(record), grammar)
    assert not follows(SHOP.render({**COAT, "colour": "green"}), grammar)
    required = of("Price: {price:number}, Care: {care?}")
    assert not follows("Price: not visible, Care: dry", grammar_of(required))


@pytest.mark.parametrize(
    ("answer", "phrase", "problem"),
    [
        ("{a?}", "not visible", "all of its fields are optional"),
        ("{a:number?} {b?}", "not visible", "all of its fields are optional"),
        ("{a} {b?}", "", "missing value cannot be written as ''"),
        ("{a} {b?}", " none", "missing value cannot be written as ' none'"),
        ("{a} {b:number?}", "0", "missing value cannot be written as '0'"),
        ("{a} {b:number?}", "nan", "missing value cannot be written as 'nan'"),
        ("{a} {b?}", "<|end|>", "missing value cannot be written as"),
        ("{a} {b?}", "a\nb", "missing value cannot be written as"),
        ("{a} {b?}", "x" * 61, "missing value cannot be written as"),
        ("{a} {b??}", "none", "has a slot that is neither"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(answer, phrase, problem):
    with pytest.raises(ValueError, match=problem) as error:
        Template(name="t", question="?", answer=answer, layout="chat", missing=phrase)
    assert "\n" not in str(error.value)


def test_a_phrase_that_holds_the_literal_after_it_is_escaped():
    template = of("{colour?} {title}")
    assert template.render({"colour": None, "title": "Coat"}) == r"not\u{20}visible Coat"
    assert template.parse(r"not\u{20}visible Coat") == {"colour": None, "title": "Coat"}
    assert follows(r"not\u{20}visible Coat", grammar_of(template))


def test_a_template_file_holds_its_own_phrase(tmp_path: Path) -> None:
    own = Template(name="shop", question="?", answer="{a} {b?}", layout="chat", missing="none")
    write_template(own, tmp_path / "shop.yaml")
    assert find_template(str(tmp_path / "shop.yaml")) == own
    assert own.render({"a": "x", "b": None}) == "x none"


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_templates_without_optional_fields_are_written_as_before(template: Template) -> None:
    assert "missing" not in template.as_dict()
    assert list(template.as_dict()) == ["name", "question", "answer", "layout"]
