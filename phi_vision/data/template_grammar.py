r"""Template -> grammar for constrained decoding.

Every text of the grammar is finite and parsed by `Template.parse`. The grammar is narrower than
`render` where a record holds something unusual: see `grammar_of`.
"""

from collections.abc import Mapping, Sequence

from phi_vision.data.kinds.field_kind import as_pattern
from phi_vision.data.samples import Sample, Value, failure
from phi_vision.data.template import Template


def grammar_of(template: Template, categories: Mapping[str, Sequence[Value]] | None = None) -> str:
    r"""Build the grammar of a template's completions, for `GenerationRequest(grammar=...)`.

    It is written in llguidance's dialect of Lark. Text is bounded (160 characters) and holds no
    backslash, `<` or control character. The template's literals inside it are escaped as `render`
    does, unless they overlap themselves, as " - " does: then they do not occur. Numbers are plain,
    not negative and below a thousand million. A value of another kind than its field, such as None,
    occurs only if it is among the `categories` (field -> allowed values); a missing value wherever
    the field is optional. A leading blank is allowed: SentencePiece models begin with one, and
    `parse` ignores it.

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
    terminals = [f"/{as_pattern(opening)}/"] if opening else []
    for slot in slots:
        missing = [] if slot.missing is None else [slot.write(None)]
        if slot.field in known:
            rendered = sorted({*map(slot.write, known[slot.field]), *missing})
            terminals.append(f"/({'|'.join(map(as_pattern, rendered))}){as_pattern(slot.until)}/")
        else:
            value = [*map(as_pattern, missing), slot.owner.grammar(slot.until)]
            terminals.append(_until("|".join(value), slot.until))
    names = " ".join(f"F{place}" for place in range(len(terminals)))
    lines = (f"F{place}: {terminal}\n" for place, terminal in enumerate(terminals))
    return f'start: " "? {names}\n' + "".join(lines)


def known_categories(samples: Sequence[Sample], template: Template) -> dict[str, list[Value]]:
    """List the values of the category fields of samples, paths included, for `grammar_of`.

    Output: {"category3_code": ["BELTS", "COATS"]}
    """
    fields = template.class_fields
    if not fields:
        raise failure("no_category_field", name=template.name)
    records = [template.select(sample.record) for sample in samples]
    return {field: sorted({record[field] for record in records}, key=str) for field in fields}


def _until(value: str, until: str) -> str:
    """Append the literal after a value, which must not occur any earlier."""
    end = as_pattern(until)
    return f"/({value}){end}/" + (f" & ~/(?s:.*){end}(?s:.)+/" if until else "")
