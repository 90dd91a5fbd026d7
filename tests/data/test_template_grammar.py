"""Grammars of templates: what follows one is read by its template, and what is usual follows it."""

import random
import re
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from phi_vision.data import template_grammar as grammar
from phi_vision.data.kinds import category_kind, text_kind
from phi_vision.data.kinds.text_kind import BLANKS, UNSAFE
from phi_vision.data.samples import Sample, Value
from phi_vision.data.template import KINDS, PRODUCT, Template
from phi_vision.data.template_grammar import grammar_of, known_categories

END = 256


class Bytes:
    """A vocabulary of single bytes, so that every way through a grammar is a way of tokens."""

    eos_token_id = END
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (END,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


VOCABULARY = LLTokenizer(TokenizerWrapper(Bytes()), n_vocab=END + 1, eos_token=END)


def begin(words: str) -> LLMatcher:
    fuel = 10**9
    limits = LLParserLimits(
        initial_lexer_fuel=fuel, step_lexer_fuel=fuel, step_max_items=fuel, max_lexer_states=fuel
    )
    matcher = LLMatcher(VOCABULARY, words, limits=limits)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def follows(text: str, words: str) -> bool:
    matcher = begin(words)
    return bool(matcher.consume_tokens(list(text.encode()))) and matcher.is_accepting()


def wander(start: LLMatcher, chance: random.Random, favourites: bytes) -> str:
    """Write something that follows a grammar, with a liking for some bytes and for ending."""
    matcher, written = start.deep_copy(), b""
    while True:
        bits = allocate_token_bitmask(1, END + 1)
        fill_next_token_bitmask(matcher, bits)
        allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")[: END + 1])
        liked = [token for token in allowed if token in {*favourites, END}]
        token = int(chance.choice(liked if liked and chance.random() < 0.8 else allowed))
        if token == END:
            return written.decode()
        assert matcher.consume_token(token)
        written += bytes([token])


def of(answer: str) -> Template:
    return Template(name="test", question="What is it?", answer=answer, layout="chat")


@pytest.mark.parametrize(
    "answer",
    [
        PRODUCT.answer,
        "{title}",
        "{title}, {code:category}, {price:number}",
        "{title} {code:category} {price:number}.",
        "{title} - {code:category}",  # words that overlap themselves
        "A: {title}aa{code:category}ab{price:number}0",
        "{price:number}.0{title}\nCode: {code:category}; \n{other:number} EUR",
        "{title}u{code:category}/",
        "{price:number}5{other:number}.",
    ],
)
def test_whatever_follows_a_grammar_is_read_by_its_template(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(KINDS["text"], grammar=partial(text_kind.grammar, longest=12))
    monkeypatch.setitem(KINDS, "text", short)  # What goes wrong does so at the ends.
    template = of(answer)
    start = begin(grammar_of(template))
    chance = random.Random(0)
    for _ in range(50):
        text = wander(start, chance, (answer + " ,\\u{2c}.0<").encode())
        record = template.parse(text)
        assert record is not None, text
        kinds = {field: type(value) for field, value in record.items()}
        expected = {
            field: float if kind == "number" else str for field, kind in template.kinds.items()
        }
        assert kinds == expected, text


@pytest.mark.parametrize(
    ("answer", "record"),
    [
        (PRODUCT.answer, {"title": "Wool Coat", "category3_code": "COATS", "full_price": 390.0}),
        (PRODUCT.answer, {"title": "é", "category3_code": "N.A.", "full_price": 0.0}),
        ("{title}, Price: {price:number}", {"title": "“Zoë”, 50 % – I/II 茶 🙂", "price": 12.345}),
        ("{title}, Price: {price:number}", {"title": "Tea, Price: x", "price": 123456789.1234}),
        ("{title}, {price:number}", {"title": "Shirt, Blue, XL", "price": 4.5}),
        ("{title} {price:number}", {"title": "Wool Coat", "price": 4.5}),
        ("{title} for {price:number}.", {"title": "Wool Coat", "price": 4.5}),
    ],
)  # fmt: skip
def test_usual_answers_of_a_template_follow_its_grammar(
    answer: str, record: dict[str, Value]
) -> None:
    template = of(answer)
    assert follows(template.render(record), grammar_of(template))
    assert follows(" " + template.render(record), grammar_of(template)), "SentencePiece's blank"


@pytest.mark.parametrize(
    "answer",
    [
        "Full Price: 390",  # not as it is written
        "Full Price: 390.00",
        "Full Price: 0390.0",
        "Full Price: -1.0",
        "Full Price: 1e+16",
        "Full Price: inf",
        'Full Price: \\="390"',
        "Full Price: 0.00001",
        "Full Price: 1234567890.0",
        "Full Price: 390.0 ",
        "Full Price: 390.0, Full Price: 1.0",
    ],
)
def test_a_number_is_a_plain_amount(answer: str) -> None:
    assert not follows(answer, grammar_of(of("Full Price: {price:number}")))


@pytest.mark.parametrize(
    "title", ["", " Tea", "Tea ", "Tea\u00a0", "a\nb", "a\tb", "</s>", "<|end|>", "a\\b", "a" * 161]
)  # fmt: skip
def test_text_that_would_have_to_be_escaped_or_is_long_does_not_follow(title: str) -> None:
    assert not follows(f"Title: {title}", grammar_of(of("Title: {title}")))


def test_text_is_bounded() -> None:
    for kind, owner in {"text": text_kind, "category": category_kind}.items():
        longest = owner.MAX_CHARACTERS
        words = grammar_of(of(f"{{field:{kind}}}, {{price:number}}"))
        assert follows("茶" * longest + ", 1.0", words)
        assert not follows("茶" * (longest + 1) + ", 1.0", words)


def test_a_field_of_known_categories_holds_nothing_else() -> None:
    codes: list[Value] = [
        "COATS",
        "COATS & CAPES",
        "N.A.",
        "A, Full Price: 1.0",
        "<|end|>",
        "",
        None,
    ]
    words = grammar_of(PRODUCT, {"category3_code": codes})
    for code in codes:
        record = {"title": "Tea", "category3_code": code, "full_price": 1.0}
        assert follows(PRODUCT.render(record), words), code
    for code in ["COAT", "COATS ", "HATS", "NxA.", "null"]:
        record = {"title": "Tea", "category3_code": code, "full_price": 1.0}
        assert not follows(PRODUCT.render(record), words), code


def test_the_grammar_is_the_one_of_the_docstring() -> None:
    template = of("Category: {category3_code:category}, Full Price: {full_price:number}")
    written = grammar_of(template, {"category3_code": ["HATS", "COATS"]})
    shown = grammar.grammar_of.__doc__
    assert shown is not None
    for line in written.splitlines():
        assert line in shown


@pytest.mark.parametrize(
    ("categories", "found"),
    [({"colour": ["red"]}, "an unknown field"), ({"category3_code": []}, "no categories")],
)
def test_categories_that_limit_nothing_are_rejected(
    categories: dict[str, list[str]], found: str
) -> None:
    with pytest.raises(ValueError, match=f"cannot be constrained: found {found}.*category3_code"):
        grammar_of(PRODUCT, categories)


def test_every_whitespace_character_of_python_is_covered() -> None:
    """`render` escapes blanks by `str.isspace`; the grammar names them."""
    excluded = re.sub(
        r"\\x\{([0-9a-f]+)\}", lambda code: f"\\U{int(code[1], 16):08x}", UNSAFE + BLANKS
    )
    is_excluded = re.compile(f"[{excluded}]")
    blanks = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    assert all(is_excluded.match(blank) for blank in blanks)


def test_known_categories_are_those_of_the_samples():
    records = [
        {"title": "x", "category3_code": code, "full_price": 1.0}
        for code in ("HATS", None, "BELTS", "HATS")
    ]
    samples = [Sample(id="", group="", images=(), record=record) for record in records]
    assert known_categories(samples, PRODUCT) == {"category3_code": ["BELTS", "HATS", None]}
    plain = Template(name="t", question="?", answer="It is {title}", layout="chat")
    with pytest.raises(ValueError, match="no category field"):
        known_categories(samples, plain)
