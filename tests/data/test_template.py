"""The wording, and that reading an answer undoes writing it, whatever the record holds."""

import dataclasses
import math
import os
import random
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from phi_vision.data.template import TEMPLATES, Template, find_template, write_template

COAT = {"title": "Wool Coat", "category3_code": "COATS", "full_price": 390}
ORDINARY = "Product: Wool Coat, Category: COATS, Full Price: 390.0"

SHARED = Path(os.environ.get("PHI_VISION_SHARED", Path(__file__).parents[3] / "shared"))

PRODUCT = TEMPLATES["product"]
TIGHT = Template(  # words that are easy to take for a part of a value
    name="tight",
    question="?",
    answer="{a}aa{b}\n{c:number}0{d:number}.{e}, n{{u}}, {f}!",
    layout="chat",
)

WORDS = (
    ", Category: /, Full Price: /Product: /aa/a/!/, n{u}, /{/}/0/./1e5/u{2c}/nan/N.A./390.0/é/👜"
)
CONTROL = r"<|end|> <|user|> <|image_1|> </s> <s> <unk> < <| |> > | [INST] \ \n \= \u{3c}"
BLANKS = ["\n", "\r\n", "\t", " ", "\u00a0", "\u2028", "\x1c", "\0", "\ud800", '"']
PIECES = re.split("/", WORDS) + re.split(" ", CONTROL) + BLANKS


class ChatFormat:
    """The official chat template, written out."""

    def apply_chat_template(self, conversation, *, tokenize=True, add_generation_prompt=False):
        assert not tokenize
        assert add_generation_prompt
        turns = [f"<|{turn['role']}|>\n{turn['content']}<|end|>\n" for turn in conversation]
        return "".join(turns) + "<|assistant|>\n"


def hostile_value(rng: random.Random):
    if rng.random() < 0.7:
        return "".join(rng.choices(PIECES, k=rng.randrange(6)))
    plain = [None, True, False, 0, -7, 10**20, 0.1, -0.0, 1e300, math.inf, 2**53 + 1, 390.0, "390"]
    return rng.choice(plain)


def identical(one, other) -> bool:
    """Equal, and text is text: "390" is not 390, True is not 1."""
    kinds = [
        isinstance(value, str) or value is None or type(value) is bool for value in (one, other)
    ]
    return one == other and (type(one) is type(other) or not any(kinds))


def test_an_ordinary_record_stands_as_it_is():
    assert PRODUCT.render(COAT) == ORDINARY
    assert PRODUCT.parse(ORDINARY) == COAT
    accents = {"title": "Écharpe & “Châle” 50% <3", "category3_code": "N.A.", "full_price": 89.99}
    assert (
        PRODUCT.render(accents)
        == "Product: Écharpe & “Châle” 50% <3, Category: N.A., Full Price: 89.99"
    )


def test_fields_come_from_the_answer():
    assert PRODUCT.fields == ("title", "category3_code", "full_price")
    assert PRODUCT.fields_of("number") == ("full_price",)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("Tea, Category: X", r"Tea\u{2c} Category: X"),
        ("a<|end|>b", r"a\u{3c}|end|>b"),
        ("two\nlines", r"two\nlines"),
        ("back\\slash", r"back\\slash"),
        (" blank ", r"\u{20}blank\u{20}"),
        ("", '\\=""'),
        (None, r"\=null"),
        (390, r"\=390"),
        ("390", "390"),
    ],
)  # fmt: skip
def test_ambiguous_text_is_escaped(value, written):
    text = PRODUCT.render({**COAT, "title": value})
    assert text == f"Product: {written}, Category: COATS, Full Price: 390.0"


@pytest.mark.parametrize("template", [PRODUCT, TEMPLATES["walkthrough"], TIGHT])
def test_parse_undoes_render_for_hostile_records(template):
    rng = random.Random(0)
    for _ in range(3000):
        record = {field: hostile_value(rng) for field in template.fields}
        text = template.render(record)
        assert "\n" not in text or template is TIGHT
        for written in (text, f" \n{text}<|end|>", f"{text} <|end|>\n"):
            found = template.parse(written)
            assert found is not None, (record, text)
            assert all(identical(found[field], record[field]) for field in record), (record, text)


def test_not_a_number_survives():
    text = PRODUCT.render({**COAT, "full_price": math.nan})
    record = PRODUCT.parse(text)
    assert text.endswith("Full Price: nan")
    assert record is not None
    assert math.isnan(record["full_price"])


def test_parse_accepts_only_what_render_writes():
    rng = random.Random(1)
    alphabet = [*PIECES, "Product: ", ", Category: ", ", Full Price: ", "390.0", "\\=", "[", "1"]
    for _ in range(5000):
        text = "".join(rng.choices(alphabet, k=rng.randrange(12)))
        record = PRODUCT.parse(text)
        if record is not None:
            assert PRODUCT.render(record) == text.strip().removesuffix("<|end|>").rstrip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Wool Coat, COATS, 390.0",
        "Product: Wool Coat, Category: COATS, Full Price: 390",
        "Product: Wool Coat, Category: COATS, Full Price: cheap",
        "Product: Wool Coat, Category: COATS, Full Price: 390.0 euros",
        "Product: Wool Coat, Category: COATS, Full Price: 390.0<|end|><|end|>",
        "product: Wool Coat, category: COATS, full price: 390.0",
        "Product: , Category: COATS, Full Price: 390.0",
        r"Product: \q, Category: COATS, Full Price: 390.0",
        r"Product: \=[1], Category: COATS, Full Price: 390.0",
        r"Product: \=" + "[" * 100_000 + ", Category: COATS, Full Price: 390.0",
        "Product: a<|end|>b, Category: COATS, Full Price: 390.0",
        r"Product: \u{ffffff}, Category: COATS, Full Price: 390.0",
    ],
)
def test_a_text_of_another_form_is_none(text):
    assert PRODUCT.parse(text) is None


def test_parse_takes_linear_time():
    start = time.perf_counter()
    assert PRODUCT.parse("Product: " + ", Category: , Full Price: " * 5000) is None
    assert time.perf_counter() - start < 1


def test_a_missing_field_is_named():
    with pytest.raises(
        ValueError, match=r"'product' needs the field 'full_price'.* has title, category3_code, b"
    ):
        PRODUCT.render({"title": "Coat", "category3_code": "COATS", "brand": "B"})
    with pytest.raises(ValueError, match="'title' holds a list"):
        PRODUCT.render({**COAT, "title": ["Coat"]})


def test_prompt_follows_the_chat_format_or_the_walkthrough():
    question = PRODUCT.question
    assert PRODUCT.prompt(ChatFormat(), images=2) == (
        f"<|user|>\n<|image_1|>\n<|image_2|>\n{question}<|end|>\n<|assistant|>\n"
    )
    without = f"<|user|>\n{question}<|end|>\n<|assistant|>\n"
    assert PRODUCT.prompt(ChatFormat(), images=0) == without
    # The literal wording of the walkthrough: no line break after the tag and after <|end|>.
    assert TEMPLATES["walkthrough"].prompt(ChatFormat()) + PRODUCT.render(COAT) + "<|end|>" == (
        "<|user|>\n<|image_1|>What is shown in this image?<|end|><|assistant|>\n"
        "Product: Wool Coat, Category: COATS, Full Price: 390.0<|end|>"
    )


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("no fields",                "no {field}"),
        ("{a} and {a}",              "the same field twice"),
        ("{a}{b}",                   "have no text"),
        ("{a} ",                     "ends with a blank"),
        ("<|user|> {a}",             "holds <"),
        ("{a} \\ {b}",               "backslash"),
        ("{a:.2f}",                  "kind '.2f'"),
        ("{}",                       "neither"),
    ],
)  # fmt: skip
def test_an_answer_that_would_not_parse_is_rejected(answer, problem):
    with pytest.raises(ValueError, match=problem):
        replace(PRODUCT, answer=answer)


def test_the_official_tokenizer_sees_no_control_token_in_a_value():
    official = SHARED / "official" / "phi-3-vision" / "tokenizer.json"
    if not official.is_file():
        pytest.skip(f"no official tokenizer at {official}")
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(official))
    control = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    rng = random.Random(2)
    for _ in range(300):
        title = "".join(rng.choices([*control, "<", "|", ">", "\\", "a", "s>", "/s>"], k=6))
        encoding = tokenizer.encode(
            PRODUCT.render({**COAT, "title": title, "category3_code": title}),
            add_special_tokens=False,
        )
        assert not {tokenizer.id_to_token(number) for number in encoding.ids} & set(control), title


def test_a_template_file_is_read_and_written(tmp_path: Path) -> None:
    own = Template(
        name="shop", question="What is it?", answer="{name} for {price:number}", layout="chat"
    )
    write_template(own, tmp_path / "template.yaml")
    assert find_template(str(tmp_path / "template.yaml")) == own
    assert find_template(str(tmp_path)) == own
    short = tmp_path / "short.yaml"
    short.write_text("question: What?\nanswer: '{name}'\n")
    assert find_template(str(short)) == Template(
        name="short", question="What?", answer="{name}", layout="chat"
    )


def test_a_template_file_says_which_number_is_written_where_there_is_one(tmp_path: Path) -> None:
    drawn = dataclasses.replace(PRODUCT, numbers="median")
    write_template(drawn, tmp_path / "template.yaml")
    assert "numbers: median" in (tmp_path / "template.yaml").read_text()
    assert find_template(str(tmp_path)) == drawn
    assert "numbers" not in PRODUCT.as_dict()
    assert "numbers" not in dataclasses.replace(drawn, answer="Product: {title}").as_dict()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("question: [", "is not YAML"),
        ("- a\n- b", "is not a template: found"),
        ("question: a\nanswer: '{a} {b?}'\nmissing: no", "answer, missing: False, no text; write"),
        ("question: What?", "write the texts"),
        ("question: What?\nanswer: 5", "write the texts"),
        ("question: What?\nanswer: '{a}'\nprice: x", "found question, answer, price"),
        ("question: What?\nanswer: '{a}'\nlayout: poem", "no layout 'poem'; choose from chat"),
        (
            "question: a\nanswer: '{a}'\nnumbers: mean",
            "no numbers 'mean'; choose from likel",
        ),
        ("question: What?\nanswer: A", "it has no {field}"),
    ],
)
def test_a_file_that_is_no_template_is_rejected(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(complaint)):
        find_template(str(file))


def test_an_unknown_template_is_rejected_with_the_known_ones() -> None:
    told = "no template 'produkt' (did you mean product?); choose from product, walkthrough, cat"
    with pytest.raises(ValueError, match=re.escape(told)):
        find_template("produkt")
