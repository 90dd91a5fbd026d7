"""Clean texts of entities, white space, invisible characters and control tokens, no more."""

import ast
import html
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from html.entities import html5

from phi_vision.io.formatting import read_yaml

_PLACEHOLDERS = frozenset(read_yaml(__file__, "placeholders.yaml"))
_LANGUAGE = re.compile("[a-z]{2}([-_][A-Za-z]{2})?")
MAX_LITERAL = 100_000  # characters of a list or object written as text
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# An escaped & in front of another one: `&amp;amp;`, `&#38;amp;`.
_LAYERS = re.compile(r"&(?:(?:amp|#0{0,4}38|#x0{0,4}26);)+(?=(?:amp|#0{0,4}38|#x0{0,4}26);)", re.I)

# The control characters that are no white space; soft hyphen, zero-width space, word joiner, byte
# order mark, non-characters. Joiners and direction marks stay: emoji and Arabic need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ufdd0-\ufdef\ufffe\uffff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")

# `<|user|>` and the like, and LLaMA's vocabulary: `<s>`, `<unk>`, `<pad>`, the bytes `<0x0A>`.
_CONTROL_TOKEN = re.compile(r"<(?=\|\w+\|>|/?s>|(?:unk|pad|mask)>|0x[0-9A-Fa-f]{2}>)")


def clean_text(text: str) -> tuple[str, tuple[str, ...]]:
    """Clean one text, and list what was changed; cleaning it again changes nothing.

    Entities are unescaped until none is left; runs of white space become one space.

    Input:  "  Men&#39;s\\tT&amp;amp;C  Tee <|end|>"
    Output: "Men's T&C Tee < |end|>", ("entities unescaped", …)
    """
    unescaped = removed = False
    # One can hide the other: `&#8203;` is invisible, and an invisible one can stand in `&amp;`.
    while True:
        visible = _INVISIBLE.sub("", text)
        # All layers of a mark escaped a thousand times at once, rather than in a thousand rounds.
        plain = _ENTITY.sub(_character, _LAYERS.sub("&", visible))
        unescaped |= plain != visible
        removed |= visible != text
        if plain == text:
            break
        text = plain
    spaced = " ".join(plain.split())
    safe, neutralised = neutralise(spaced)
    steps = {
        "entities unescaped": unescaped,
        "invisible characters removed": removed,
        "white space normalised": spaced != plain,
    }
    return safe, (*(step for step, done in steps.items() if done), *neutralised)


def is_placeholder(text: str) -> bool:
    """Return whether a text stands for nothing: `NaN`, `NULL`, `N/A`, `None`, `-`, blanks."""
    return re.sub(r"""[\s\-–—_.?#/()\[\]<>"']+""", "", text).casefold() in _PLACEHOLDERS


def parse_literal(text: str) -> object:
    """Parse a list or object written as JSON or by Python; None for any other text."""
    value: object = None
    if len(text) <= MAX_LITERAL and text[:1] + text[-1:] in ("[]", "{}"):
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                value = value or parse(text)
    value = sorted(value, key=str) if isinstance(value, set) else value
    return value if isinstance(value, dict | list) else None


def object_name(value: object) -> object:
    """Return the name of an object, of a list of them all names, also of one written as text."""
    if isinstance(value, str):
        found = parse_literal(value.strip())
        return value if found is None else object_name(found)
    if isinstance(value, Mapping):
        # {"en": "Coat", "de": "Mantel"} is a name in languages.
        is_named = all(isinstance(n, str) and _LANGUAGE.fullmatch(str(k)) for k, n in value.items())
        languages = sorted(value, key=lambda key: not key.startswith("en")) if is_named else ()
        keys = ("name", "title", "label", *languages)
        return next((value[key] for key in keys if value.get(key)), value)
    if not isinstance(value, list | tuple):
        return value
    names = [object_name(each) for each in value if each is not None]
    return names[0] if len(names) == 1 else ", ".join(map(str, names)) or None


def neutralise(text: str) -> tuple[str, tuple[str, ...]]:
    """Put a space behind the `<` of everything the tokenizer takes for a control token.

    `<image>` is no token of this model and stays. Lone surrogates are joined or replaced.
    """
    paired = text
    if _SURROGATE.search(text):  # JSON escapes of careless writers: they do not exist in UTF-8
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    safe = _CONTROL_TOKEN.sub("< ", paired)
    broken = ("broken characters replaced",) if paired != text else ()
    return safe, (*broken, *(("control tokens neutralised",) if safe != paired else ()))


def _character(entity: re.Match[str]) -> str:
    """Unescape an entity with its semicolon; browsers also read `&copy=1` in a URL as ©=1."""
    name = entity.group()
    return html.unescape(name) if name.startswith("&#") or name[1:] in html5 else name
