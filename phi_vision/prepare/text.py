"""Texts of a row, tidied: entities, white space, invisible characters, the model's control tokens.

Nothing else changes: spelling, case, accents, markup and emoji stay as the source has them.
"""

import html
import re
from html.entities import html5


def tidy(text: str) -> tuple[str, tuple[str, ...]]:
    """Tidy one text, and name what was done to it.

    Entities are unescaped until none is left, so that tidying a tidied text changes nothing; runs
    of white space, line breaks too, become one blank; control characters and those that nobody can
    see are removed; what the model would take for a control token gets a blank behind its `<`.

    Input:  "  Men&#39;s\\tT&amp;amp;C  Tee <|end|>"
    Output: "Men's T&C Tee < |end|>", ("entities unescaped", "white space tidied",
            "control tokens neutralised")
    """
    visible, changes = _unescape(text)
    spaced = " ".join(visible.split())
    if spaced != visible:
        changes.append("white space tidied")
    safe, neutralised = neutralise(spaced)
    return safe, (*changes, *neutralised)


def neutralise(text: str) -> tuple[str, tuple[str, ...]]:
    """Put a blank behind the `<` of all that the model's tokenizer takes for a control token.

    For texts whose line breaks count, such as conversations; `tidy` does it too. A conversation's
    `<image>` is no token of this model and stays. Halves of characters, which no file can hold, are
    joined or replaced on the way.

    Input:  "5 < 6 <3 <b> <|end|> </s> <|image_1|> <image>"
    Output: "5 < 6 <3 <b> < |end|> < /s> < |image_1|> <image>", ("control tokens neutralised",)
    """
    paired = _pair_surrogates(text)
    safe = _CONTROL_TOKEN.sub("< ", paired)
    steps = {
        "broken characters replaced": paired != text,
        "control tokens neutralised": safe != paired,
    }
    return safe, tuple(step for step, done in steps.items() if done)


def _pair_surrogates(text: str) -> str:
    r"""Join the halves of characters, and replace the halves that are alone with U+FFFD.

    JSON of careless writers has them, and no file can: they do not exist in UTF-8.

    Input:  "\ud83d\ude00 \ud83d"
    Output: "😀 \ufffd"
    """
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _unescape(text: str) -> tuple[str, list[str]]:
    """Unescape entities and remove invisible characters, until there are none.

    One can hide the other: `&#8203;` is an invisible character, and one can stand inside `&amp;`.
    """
    steps = {"entities unescaped": False, "invisible characters removed": False}
    while True:
        visible = _INVISIBLE.sub("", text)
        # All layers of a mark escaped a thousand times at once, rather than in a thousand rounds.
        plain = _ENTITY.sub(_character, _LAYERS.sub("&", visible))
        steps["entities unescaped"] |= plain != visible
        steps["invisible characters removed"] |= visible != text
        if plain == text:
            return plain, [step for step, done in steps.items() if done]
        text = plain


def _character(entity: re.Match[str]) -> str:
    """What an entity stands for; itself where it is none, such as `&more;`.

    Only with its semicolon: browsers also read `&copy=1` in an address as ©=1.
    """
    name = entity.group()
    known = name.startswith("&#") or name[1:] in html5
    return html.unescape(name) if known else name


_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# An escaped & in front of another one: `&amp;amp;`, `&#38;amp;`.
_LAYERS = re.compile(r"&(?:(?:amp|#0{0,4}38|#x0{0,4}26);)+(?=(?:amp|#0{0,4}38|#x0{0,4}26);)", re.I)

# The control characters that are no white space; soft hyphen, zero-width blank, word joiner, byte
# order mark, non-characters. Joiners and direction marks stay: emoji and Arabic need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ufdd0-\ufdef\ufffe\uffff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")

# `<|user|>` and its kind, and what LLaMA's vocabulary has: `<s>`, `</s>`, `<unk>`, `<pad>`, and the
# bytes `<0x0A>`.
_CONTROL_TOKEN = re.compile(r"<(?=\|\w+\|>|/?s>|(?:unk|pad|mask)>|0x[0-9A-Fa-f]{2}>)")
