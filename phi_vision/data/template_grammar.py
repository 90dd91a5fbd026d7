r"""Template -> grammar: all the answers that its parser reads, made for writing under it.

Whatever follows the grammar is read by `Template.parse`, and whatever follows it ends. It is
narrower than what `render` writes where a record holds something odd: see `grammar_of`.
"""

from collections.abc import Mapping, Sequence

from phi_vision.data.samples import Sample, Value
from phi_vision.data.template import Kind, Template

LONGEST: dict[Kind, int] = {"text": 160, "category": 60}
"""Most characters of a field: more than any but the wordiest title, and than any code."""

DIGITS = r"(0|[1-9][0-9]{0,8})\.([0-9]|[0-9]{1,3}[1-9])"
"""What `repr(float)` writes of amounts below a thousand million, to four decimals: it gives up to
15 digits back unchanged, and resorts to exponents only below 0.0001 and from 1e16."""

UNSAFE = r"\x00-\x1f\x7f-\x9f\x{3c}\x{5c}"
"""What a text field holds nowhere: control characters, `<` and the backslash, which escapes."""

BLANKS = r"\x{20}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
"""What a text field neither begins nor ends with: all others that `str.isspace` knows are unsafe
already."""


def grammar_of(template: Template, categories: Mapping[str, Sequence[Value]] | None = None) -> str:
    r"""Describe the answers of a template, for `answer(..., grammar=...)`.

    Text is bounded (`LONGEST`) and holds no backslash, no `<`, no control character; words of the
    template inside it are escaped as `render` does, unless they overlap themselves, as " - " does:
    then they do not occur. Numbers are plain, not negative and below a thousand million. A value of
    another kind than its field, such as None, is written only where it is among the categories.

    Input:  "Category: {category3_code:category}, Full Price: {full_price:number}",
            {"category3_code": ["COATS", "HATS"]}
    Output: start: " "? F0 F1 F2
            F0: /Category\x{3a}\x{20}/
            F1: /(COATS|HATS)\x{2c}\x{20}Full\x{20}Price\x{3a}\x{20}/
            F2: /((0|[1-9][0-9]{0,8})\.([0-9]|[0-9]{1,3}[1-9]))/

    Args:
        template: The wording.
        categories: Field -> all that it may hold; other fields hold any text or number.

    Returns:
        A grammar in llguidance's dialect of Lark. A blank in front of the answer is allowed:
        SentencePiece models begin with one, and it does not count.

    Raises:
        ValueError: A field of `categories` is not in the template, or nothing is known of it.
    """
    known = dict(categories or {})
    for field, values in known.items():
        if field not in template.fields or not values:
            found = "no categories" if field in template.fields else "an unknown field"
            raise ValueError(
                f"the field {field!r} cannot be limited: found {found}; give what it may hold, "
                f"of fields of the template {template.name!r}: {', '.join(template.fields)}"
            )
    opening, *ends = _words(template)
    terminals = [f"/{_exactly(opening)}/"] if opening else []
    for (field, kind), until in zip(template.kinds.items(), ends, strict=True):
        if field in known:
            written = sorted({_written(template, field, value) for value in known[field]})
            terminals.append(f"/({'|'.join(map(_exactly, written))}){_exactly(until)}/")
        elif kind == "number":
            terminals.append(_number(until))
        else:
            terminals.append(_text(until, LONGEST[kind]))
    names = [f"F{place}" for place in range(len(terminals))]
    lines = [f"{name}: {terminal}\n" for name, terminal in zip(names, terminals, strict=True)]
    return f'start: " "? {" ".join(names)}\n' + "".join(lines)


def known_categories(samples: Sequence[Sample], template: Template) -> dict[str, list[Value]]:
    """List what the category fields of samples hold, for `grammar_of`.

    Output: {"category3_code": ["BELTS", "COATS"]}

    Raises:
        ValueError: The template has no category field, or a record lacks one.
    """
    fields = template.fields_of("category")
    if not fields:
        raise ValueError(
            f"the template {template.name!r} has no category field; write one as "
            "{category3_code:category}"
        )
    records = [template.select(sample.record) for sample in samples]
    return {field: sorted({record[field] for record in records}, key=str) for field in fields}


def _words(template: Template) -> list[str]:
    """List the words before the first field and after each: "Product: ", ", Category: ", "" """
    text = template.render(_any_record(template))
    spans = template.spans(text).values()
    starts = [*(start for start, _ in spans), len(text)]
    ends = [0, *(end for _, end in spans)]
    return [text[end:start] for end, start in zip(ends, starts, strict=True)]


def _written(template: Template, field: str, value: Value) -> str:
    """Write a value as the template does in the place of its field."""
    text = template.render(_any_record(template) | {field: value})
    start, end = template.spans(text)[field]
    return text[start:end]


def _any_record(template: Template) -> dict[str, Value]:
    return dict.fromkeys(template.fields)


def _number(until: str) -> str:
    # "390.0" before "." is written `390\u{2e}0`; no other words can begin in every number.
    digits = DIGITS.replace(r"\.", _exactly(r"\u{2e}")) if until == "." else DIGITS
    return _ended(digits, until)


def _text(until: str, longest: int) -> str:
    r"""Describe text that runs up to the words after it.

    Input:  ", "
    Output: safe characters, the first and the last no blanks, or `\u{2c}` and a blank between them
    """
    inner, outer = f"[^{UNSAFE}]", f"[^{UNSAFE}{BLANKS}]"
    first = last = outer
    if until and "\n" not in until and not _overlaps_itself(until):
        escaped = _exactly(f"\\u{{{ord(until[0]):x}}}{until[1:]}")
        inner, first = f"({inner}|{escaped})", f"({outer}|{escaped})"
        if len(until) == 1 or not until[-1].isspace():
            last = first
    return _ended(f"{last}|{first}{inner}{{0,{longest - 2}}}{last}", until)


def _ended(value: str, until: str) -> str:
    """Describe a value and the words after it, which must not be found any earlier."""
    end = _exactly(until)
    return f"/({value}){end}/" + (f" & ~/(?s:.*){end}(?s:.)+/" if until else "")


def _overlaps_itself(words: str) -> bool:
    """Whether words can begin before they have ended: " - " in " - - "."""
    return any(words.endswith(words[:length]) for length in range(1, len(words)))


def _exactly(words: str) -> str:
    r"""Write words as a regular expression: "Price: " as `Price\x{3a}\x{20}`."""
    return "".join(
        character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):x}}}"
        for character in words
    )
