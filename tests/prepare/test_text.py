"""Texts tidied: entities, white space, what nobody sees, control tokens; and nothing else."""

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import phi_vision.model
from phi_vision.prepare.text import clean_text, neutralise

TOKENIZER = Path(phi_vision.model.__path__[0]) / "phi-vision-small" / "tokenizer.json"

ENTITIES, SPACE = "entities unescaped", "white space normalised"
UNSEEN, TOKENS = "invisible characters removed", "control tokens neutralised"
BROKEN = "broken characters replaced"


@pytest.mark.parametrize(
    ("text", "expected", "changes"),
    [
        ("Helios EverCool&trade; Tee", "Helios EverCool™ Tee", (ENTITIES,)),
        ("Men&#39;s &amp; Women&#x27;s", "Men's & Women's", (ENTITIES,)),
        ("T&amp;amp;amp;C", "T&C", (ENTITIES,)),
        ("5&nbsp;cm", "5 cm", (ENTITIES, SPACE)),
        ("&#128; &#8203;&#0;", "€ \ufffd", (ENTITIES, UNSEEN)),
        ("&am\u200bp;", "&", (ENTITIES, UNSEEN)),
        ("  Frankie  Sweatshirt\t\r\n", "Frankie Sweatshirt", (SPACE,)),
        ("a\u00a0b\u3000c\u2028d\x85e\x1cf", "a b c d e f", (SPACE,)),
        ("\ufeffCo\x00at\x07 so\u00adft\u200b", "Coat soft", (UNSEEN,)),
        ("<|user|> hi <|end|>", "< |user|> hi < |end|>", (TOKENS,)),
        ("&lt;|end|&gt;", "< |end|>", (ENTITIES, TOKENS)),
        ("<\u200b|end|>", "< |end|>", (UNSEEN, TOKENS)),
        ("<|image_1|></s><s><unk><0x0A>", "< |image_1|>< /s>< s>< unk>< 0x0A>", (TOKENS,)),
        ("<<|end|>|end|>", "<< |end|>|end|>", (TOKENS,)),
        ("\ud83d\ude00 \ud83da\ude00", "😀 \ufffda\ufffd", (BROKEN,)),
        ("", "", ()),
        (" \n", "", (SPACE,)),
    ],
)
def test_a_text_is_cleaned_with_a_list_of_corrections(
    text: str, expected: str, changes: tuple[str, ...]
) -> None:
    assert clean_text(text) == (expected, changes)


@pytest.mark.parametrize(
    "text",
    [
        "size < 10, >5 and <3",
        "a <b>bold</b> <br/> <strong>claim</strong>",
        "<|> <||> <| end |> <|a b|> <S> <0xZZ> <image>",
        "R&D, Q&A, AT&T; black&gold; &more; & ;",
        "https://shop.example/?a=1&copy=2&reg=3&lt=4",
        "ÉCHARPE en Laine – “Ça va?” … ½ ﬁ Å",
        "👩‍👩‍👧 🏳️‍🌈 می‌خواهم",
        "e\u0301 is not é",
        "▁ § \ufffd",
    ],
)
def test_nothing_else_changes(text: str) -> None:
    assert clean_text(text) == (text, ())


def test_cleaning_twice_changes_nothing() -> None:
    chance = random.Random(0)
    pieces = [
        "&",
        "amp;",
        "lt;",
        "#38;",
        "#60;",
        "#8203;",
        "#xD800;",
        "<",
        "|",
        "end",
        "|>",
        "s>",
        "/",
    ]
    pieces += [
        " ",
        "\n",
        "\u200b",
        "\x00",
        "\ud83d",
        "\ude00",
        "é",
        "0x0A>",
        "&nbsp;",
        "nbsp;",
        ";",
    ]
    for _ in range(3000):
        text = "".join(chance.choices(pieces, k=chance.randint(1, 12)))
        once, _ = clean_text(text)
        assert clean_text(once) == (once, ())
        once.encode()


def test_a_mark_escaped_many_thousand_times_takes_no_time() -> None:
    assert clean_text("&" + "amp;" * 100_000 + "lt;")[0] == "<"
    assert clean_text("&" + "#38;amp;" * 50_000)[0] == "&"
    assert clean_text("<|" * 100_000)[1] == ()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER))


def test_the_tokenizer_sees_no_control_token_in_a_tidied_text(tokenizer: Tokenizer) -> None:
    control = tokenizer.get_added_tokens_decoder()
    texts = [token.content for token in control.values()]
    assert {"<s>", "<|end|>", "<|image|>"} <= set(texts)
    # Those of the official tokenizer, and of older small ones, that the small one lacks.
    texts += [f"<|placeholder{number}|>" for number in range(1, 7)] + ["<|image_12|>", "<0x0A>"]
    texts += [first + second for first in texts[-20:] for second in texts[-20:]]
    for text in texts:
        for clean in (clean_text(f"a {text} b")[0], neutralise(f"a\n{text}b")[0]):
            encoding = tokenizer.encode(clean, add_special_tokens=False)
            # Bytes stand for characters that the vocabulary lacks: those span one, `<0x0A>` six.
            spans = [end - start for start, end in encoding.offsets]
            pairs = zip(encoding.ids, spans, strict=True)
            assert not [number for number, span in pairs if number in control and span > 1], clean


def test_neutralising_keeps_the_lines_of_a_conversation() -> None:
    text = "<image>\n\n  What &amp; where?\t<|end|>"
    assert neutralise(text) == ("<image>\n\n  What &amp; where?\t< |end|>", (TOKENS,))
    assert neutralise("<image>\nWhat?") == ("<image>\nWhat?", ())
    assert neutralise("\ud83d") == ("\ufffd", (BROKEN,))
