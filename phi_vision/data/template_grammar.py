r"""Template -> grammar for constrained decoding.

Every text of the grammar is finite and parsed by `Template.parse`. The grammar is narrower than
`render` where a record holds something unusual: see `grammar_of`.
"""

from collections.abc import Mapping, Sequence

from phi_vision.data.samples import Sample, Value, failure
from phi_vision.data.template import Kind, Template

# Length limits of fields: more than any but the longest titles, and than any code.
MAX_CHARACTERS: dict[Kind, int] = {"text": 160, "category": 60}
# `repr(float)` of amounts below a thousand million, to four decimals: up to 15 digits are exact,
# and exponents occur only below 0.0001 and from 1e16.
DIGITS = r"(0|[1-9][0-9]{0,8})\.([0-9]|[0-9]{1,3}[1-9])"
# Excluded from text fields: control characters, `<` and the backslash, which begins escapes.
UNSAFE = r"\x00-\x1f\x7f-\x9f\x{3c}\x{5c}"
# Excluded from both ends of a text field: all other characters of `str.isspace` are unsafe.
BLANKS = r"\x{20}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"


def grammar_of(template: Template, categories: Mapping[str, Sequence[Value]] | None = None) -> str:
    r"""Build the grammar of a template's completions, for `GenerationRequest(grammar=...)`.

    It is written in llguidance's dialect of Lark. Text is bounded (`MAX_CHARACTERS`) and holds no
    backslash, `<` or control character. The template's literals inside it are escaped as `render`
    does, unless they overlap themselves, as " - " does: then they do not occur. Numbers are plain,
    not negative and below a thousand million. A value of another kind than its field, such as None,
    occurs only if it is among the `categories` (field -> allowed values). A leading blank is
    allowed: SentencePiece models begin with one, and `parse` ignores it.

    Input:  "Category: {category3_code:category}, Full Price: {full_price:number}",
            {"category3_code": ["COATS", "HATS"]}
    Output: start: " "? F0 F1 F2
            F0: /Category\x{3a}\x{20}/
            F1: /(COATS|HATS)\x{2c}\x{20}Full\x{20}Price\x{3a}\x{20}/
            F2: /((0|[1-9][0-9]{0,8})\.([0-9]|[0-9]{1,3}[1-9]))/
    """
    if template.is_conversation:
        raise failure("no_grammar", name=template.name)
    known = dict(categories or {})
    for field, values in known.items():
        if field not in template.fields or not values:
            found = "no categories" if field in template.fields else "an unknown field"
            names = ", ".join(template.fields)
            raise failure(
                "no_categories", field=field, found=found, name=template.name, fields=names
            )
    opening, slots = template.parts
    terminals = [f"/{_escape(opening)}/"] if opening else []
    for slot in slots:
        if slot.field in known:
            rendered = sorted({slot.write(value) for value in known[slot.field]})
            terminals.append(f"/({'|'.join(map(_escape, rendered))}){_escape(slot.until)}/")
        elif slot.kind == "number":
            # "390.0" before "." is rendered `390\u{2e}0`; no other literal can begin in a number.
            dot = _escape(r"\u{2e}") if slot.until == "." else r"\."
            terminals.append(_until(DIGITS.replace(r"\.", dot), slot.until))
        else:
            terminals.append(_text(slot.until, MAX_CHARACTERS[slot.kind]))
    names = " ".join(f"F{place}" for place in range(len(terminals)))
    lines = (f"F{place}: {terminal}\n" for place, terminal in enumerate(terminals))
    return f'start: " "? {names}\n' + "".join(lines)


def known_categories(samples: Sequence[Sample], template: Template) -> dict[str, list[Value]]:
    """List the values of the category fields of samples, for `grammar_of`.

    Output: {"category3_code": ["BELTS", "COATS"]}
    """
    fields = template.fields_of("category")
    if not fields:
        raise failure("no_category_field", name=template.name)
    records = [template.select(sample.record) for sample in samples]
    return {field: sorted({record[field] for record in records}, key=str) for field in fields}


def _text(until: str, longest: int) -> str:
    r"""Build the expression of a text up to the literal after it.

    Input:  ", "
    Output: safe characters, the first and the last no blanks, or `\u{2c}` and a blank between them
    """
    inner, outer = f"[^{UNSAFE}]", f"[^{UNSAFE}{BLANKS}]"
    first = last = outer
    # " - " overlaps itself in " - - ".
    overlaps = any(until.endswith(until[:length]) for length in range(1, len(until)))
    if until and "\n" not in until and not overlaps:
        escaped = _escape(f"\\u{{{ord(until[0]):x}}}{until[1:]}")
        inner, first = f"({inner}|{escaped})", f"({outer}|{escaped})"
        if len(until) == 1 or not until[-1].isspace():
            last = first
    return _until(f"{last}|{first}{inner}{{0,{longest - 2}}}{last}", until)


def _until(value: str, until: str) -> str:
    """Append the literal after a value, which must not occur any earlier."""
    end = _escape(until)
    return f"/({value}){end}/" + (f" & ~/(?s:.*){end}(?s:.)+/" if until else "")


def _escape(literal: str) -> str:
    r"""Escape a literal as a regular expression: "Price: " as `Price\x{3a}\x{20}`."""
    return "".join(
        character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):x}}}"
        for character in literal
    )
