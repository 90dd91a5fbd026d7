r"""Prompt templates: record -> prompt and completion, and the exact inverse.

`parse(render(record))` returns the record's fields whatever they hold, and `parse` accepts nothing
that `render` would not write. Ordinary values are written verbatim; the rest is escaped:

    \\          a backslash
    \n          a line break
    \u{2c}      one character that would be misread here: the start of the literal after the field,
                the `<` of a control token, whitespace at either end
    \="390"     a value of another kind than the field, in JSON: text in a number field, a number
                in a text field, None, the empty text; in an optional field a text that equals the
                phrase of a missing value

A missing value, None, of an optional field is written as that phrase, such as `not visible`.
"""

import dataclasses
import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import Any, Literal, NamedTuple, get_args

import yaml

from phi_vision.data.kinds.boolean_kind import BOOLEAN
from phi_vision.data.kinds.category_kind import CATEGORY
from phi_vision.data.kinds.field_kind import FieldKind, escape, has_value, unescape
from phi_vision.data.kinds.list_kind import LIST
from phi_vision.data.kinds.money_kind import MONEY
from phi_vision.data.kinds.number_kind import NUMBER
from phi_vision.data.kinds.path_kind import MEASURED_LEVELS, PATH, level_ends
from phi_vision.data.kinds.quantity_kind import QUANTITY
from phi_vision.data.kinds.text_kind import TEXT
from phi_vision.data.samples import IMAGE_MARK, Record, Value, failure
from phi_vision.io.atomic import write_text
from phi_vision.io.formatting import suggestion, yaml_fault

END = "<|end|>"  # the control token that ends a completion
TEMPLATE_FILE = "template.yaml"  # in a dataset or run folder

Kind = Literal["text", "category", "number", "list", "quantity", "money", "boolean", "path"]
KINDS: dict[Kind, FieldKind] = {
    "text": TEXT,
    "category": CATEGORY,
    "number": NUMBER,
    "list": LIST,
    "quantity": QUANTITY,
    "money": MONEY,
    "boolean": BOOLEAN,
    "path": PATH,
}
"""Name of a kind of field -> how its values are written, parsed, scored and guessed."""

Layout = Literal["chat", "walkthrough", "conversation"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Numbers = Literal["likeliest", "median"]
NUMBERS: tuple[Numbers, ...] = get_args(Numbers)

OPTIONAL = "?"  # ends the slot of an optional field: `{colour:category?}`
NOT_VISIBLE = "not visible"  # the phrase of a missing value, unless a template has its own
MAX_PHRASE = 60  # characters of it; it is generated where there is no value


class Slot(NamedTuple):
    """A field of the completion, and the literal text after it."""

    field: str
    kind: Kind
    until: str
    missing: str | None = None  # the phrase of a missing value; None of a required field
    unit: str = ""  # that the values of a quantity must fit

    @property
    def owner(self) -> FieldKind:
        """The kind, of its unit if there is one."""
        kind = KINDS[self.kind]
        return kind.of_unit(self.unit) if self.unit and kind.of_unit else kind

    def write(self, value: object) -> str:
        r"""Format one value so that it can be parsed in this slot.

        Input:  "Tea, Category: <|end|>" in a text field before ", Category: "
        Output: Tea\u{2c} Category: \u{3c}|end|>
        """
        if not isinstance(value, str | int | float | bool | None):
            raise failure("no_value", field=self.field, kind=type(value).__name__)
        if value is None and self.missing is not None:
            return escape(self.missing, self.until)
        try:
            plain = self.owner.write(value)
        except ValueError as error:
            raise failure("malformed", field=self.field, error=error) from error
        if plain is not None and plain != self.missing:
            return escape(plain, self.until)
        return r"\=" + escape(json.dumps(value, ensure_ascii=False), self.until)

    def read(self, text: str) -> Value:
        """Invert `write`; raise a ValueError if it could not have written the text."""
        if text.startswith(r"\="):
            value: Value = json.loads(unescape(text[2:]))
            return value
        plain = unescape(text)
        return None if plain == self.missing else self.owner.read(plain)


@dataclass(frozen=True, kw_only=True)
class Template:
    """A question about images, and a completion with slots for the fields of a record.

    Input:  {"title": "Wool Coat", "category3_code": "COATS", "full_price": 390}
    Output: Product: Wool Coat, Category: COATS, Full Price: 390.0
    """

    name: str  # the key in `TEMPLATES`
    question: str  # the user's text about the images
    # The completion: `{field}` is text, `{field:category}` one of a few texts, and so on for each
    # of KINDS; `{weight:quantity kg}` is a quantity that a unit fits; `?` at the end of the slot
    # makes the field optional: `{colour:category?}`.
    answer: str
    # `chat`: the model's chat format. `walkthrough`: the literal prompt of the well-known
    # walkthrough, which differs in its line breaks. `conversation`: the model's chat format with
    # the completion verbatim in one text field; samples bring their own prompts.
    layout: Layout
    turn: str = ""  # of a conversation: the question with `<image>` marks, where they stood
    system: str = ""  # of a conversation: the system message before it
    missing: str = NOT_VISIBLE  # the phrase of a missing value of an optional field
    # What is written of the numbers that a model finds possible: the digits that it finds likeliest
    # one after the other, or the median of draws.
    numbers: Numbers = "likeliest"

    def __post_init__(self) -> None:
        """Check that the completion can be parsed and the question cannot break the prompt."""
        opening, slots = self.parts
        literals = [opening, *(slot.until for slot in slots)]
        assert all(slot.owner for slot in slots)  # an unknown unit is an error
        problems = {
            "it has no {field}": not slots,
            "it has the same field twice": len(set(self.fields)) < len(slots),
            "two fields have no text between them": not all(literals[1:-1]),
            "it begins or ends with a blank": self.answer != self.answer.strip(),
            "its text holds < or a backslash, which begin control tokens and escapes": any(
                character in literal for literal in literals for character in "<\\"
            ),
            f"its question {self.question!r} holds a control token": "<|" in self.question,
            "all of its fields are optional, so that a sample may have no value at all": bool(slots)
            and len(self.optional) == len(slots),
            f"a missing value cannot be written as {self.missing!r}, but as plain text of up to "
            f"{MAX_PHRASE} characters that is no value of its kind": bool(self.optional)
            and not self._can_be_missing(),
            "a conversation has one text field alone": self.is_conversation
            and (len(slots) != 1 or self.answer != f"{{{slots[0].field}}}"),
        }
        for problem in (text for text, is_present in problems.items() if is_present):
            raise failure("no_template_answer", name=self.name, problem=problem, answer=self.answer)

    def _can_be_missing(self) -> bool:
        """Whether the phrase of a missing value is short plain text, and no value of its slots."""
        phrase = self.missing
        if (
            not 0 < len(phrase) <= MAX_PHRASE
            or not phrase.isprintable()
            or phrase.strip() != phrase
        ):
            return False
        for kind in {slot.kind for slot in self.parts[1] if slot.missing is not None}:
            with suppress(ValueError):
                if not isinstance(KINDS[kind].read(phrase), str):
                    return False
        return not {*"<\\"} & {*phrase}

    @property
    def is_conversation(self) -> bool:
        """Whether completions are texts in no particular form."""
        return self.layout == "conversation"

    @property
    def fields(self) -> tuple[str, ...]:
        """The record's fields in the completion, in order."""
        return tuple(slot.field for slot in self.parts[1])

    @property
    def kinds(self) -> dict[str, Kind]:
        """Field -> kind: {"title": "text", "category3_code": "category"}."""
        return {slot.field: slot.kind for slot in self.parts[1]}

    @cached_property
    def optional(self) -> tuple[str, ...]:
        """The fields of which a record may have no value."""
        return tuple(slot.field for slot in self.parts[1] if slot.missing is not None)

    @cached_property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """The names of the levels of each path, from the top, by which confidence is kept.

        Output: {"shelf": ("shelf level 1", "shelf level 2", "shelf level 3")}
        """
        depths = range(1, MEASURED_LEVELS + 1)
        return {
            field: tuple(f"{field} level {depth}" for depth in depths)
            for field in self.fields_of("path")
        }

    def fields_of(self, kind: Kind) -> tuple[str, ...]:
        """List the fields of one kind."""
        return tuple(field for field, held in self.kinds.items() if held == kind)

    @property
    def class_fields(self) -> tuple[str, ...]:
        """The fields that hold categories, alone or as paths; records are grouped by the first."""
        return tuple(field for field, kind in self.kinds.items() if kind in ("category", "path"))

    @property
    def scaled_fields(self) -> tuple[str, ...]:
        """The fields whose values are numbers, with a unit or without."""
        return tuple(field for field, kind in self.kinds.items() if KINDS[kind].scale)

    def prompt(self, processor: Any, images: int = 1) -> str:
        r"""Format the prompt, up to where the completion begins.

        Input:  2 images, and a processor with the model's `apply_chat_template`
        Output: <|user|>\n<|image_1|>\n<|image_2|>\nWhat is it?<|end|>\n<|assistant|>\n      (chat)
                <|user|>\n<|image_1|><|image_2|>What is it?<|end|><|assistant|>\n     (walkthrough)
        """
        tags = [f"<|image_{number}|>" for number in range(1, images + 1)]
        if self.layout == "walkthrough":
            return f"<|user|>\n{''.join(tags)}{self.question}{END}<|assistant|>\n"
        content = "\n".join([*tags, self.question])
        if self.turn and self.turn.count(IMAGE_MARK) == images:
            between = self.turn.split(IMAGE_MARK)
            content = "".join(map("".join, zip(between, [*tags, ""], strict=True)))
        turns = [{"role": "system", "content": self.system}] if self.system else []
        turns.append({"role": "user", "content": content})
        return str(processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def render(self, record: Record) -> str:
        """Format the record as the completion, without the closing control token."""
        opening, slots = self.parts
        values = self.select(record)
        if self.is_conversation:
            return str(values[self.fields[0]])
        return opening + "".join(slot.write(values[slot.field]) + slot.until for slot in slots)

    def select(self, record: Record) -> dict[str, Value]:
        """Select the template's fields of a record; a field that it lacks is an error.

        Of an optional field an empty text and NaN, as tables have them, are a missing value, too.
        """
        for field in self.fields:
            if field not in record:
                fields = ", ".join(record) or "no fields"
                raise failure("no_field", name=self.name, field=field, fields=fields)
        values = {field: record[field] for field in self.fields}
        return values | {name: None for name in self.optional if not has_value(values[name])}

    def parse(self, text: str) -> dict[str, Value] | None:
        """Parse a completion: the inverse of `render`, or None.

        Surrounding whitespace and a closing `<|end|>` are ignored.

        Input:  Product: Wool Coat, Category: COATS, Full Price: 390.0<|end|>
        Output: {"title": "Wool Coat", "category3_code": "COATS", "full_price": 390.0}
        """
        text = text.strip().removesuffix(END).rstrip()
        if self.is_conversation:
            return {self.fields[0]: text}
        if (match := self._pattern.fullmatch(text)) is None:
            return None
        try:
            pairs = zip(self.parts[1], match.groups(), strict=True)
            record = {slot.field: slot.read(value) for slot, value in pairs}
            # "390", "3_9.0" and needless escapes could be parsed, but are never rendered.
            return record if self.render(record) == text else None
        except (ValueError, RecursionError):  # not a number, not JSON, JSON nested too deep
            return None

    def spans(self, text: str) -> dict[str, tuple[int, int]]:
        """Return the character span of each field, and of a path down to each level that it has.

        {} if the text does not parse.

        Input:  Product: Wool Coat, Category: COATS, Full Price: 390.0
        Output: {"title": (9, 18), "category3_code": (30, 35), "full_price": (49, 54)}
        """
        if self.is_conversation:
            return {self.fields[0]: (0, len(text))}
        record = self.parse(text)
        match = self._pattern.match(text) if record is not None else None
        if record is None or match is None:
            return {}
        spans = {field: match.span(number) for number, field in enumerate(self.fields, 1)}
        for slot in self.parts[1]:
            if slot.field in self.levels and record[slot.field] is not None:
                start, end = spans[slot.field]
                ends = level_ends(text[start:end], slot.until)
                pairs = zip(self.levels[slot.field], ends, strict=False)
                spans |= {name: (start, start + at) for name, at in pairs}
        return spans

    def as_dict(self) -> dict[str, str]:
        """Return the settings, without those that have no effect."""
        settings: dict[str, str] = dataclasses.asdict(self)
        unused = {n for n in ("turn", "system") if not settings[n]}
        unused |= set() if self.optional else {"missing"}
        unused |= set() if self.numbers == "median" and self.scaled_fields else {"numbers"}
        return {name: each for name, each in settings.items() if name not in unused}

    @cached_property
    def parts(self) -> tuple[str, tuple[Slot, ...]]:
        """The literal before the first field, and the fields with the literal after each."""
        literals, slots = [""], list[tuple[str, Kind, str | None, str]]()
        for literal, name, kind, conversion in Formatter().parse(self.answer):
            literals[-1] += literal
            if name is None:
                continue
            slot = f"{name}:{kind}" if kind else name
            is_optional = slot.endswith(OPTIONAL)
            field, _, kind = slot.removesuffix(OPTIONAL).rstrip().partition(":")
            kind, _, unit = kind.partition(" ")
            known = next((known for known in KINDS if known == (kind or "text")), None)
            has_unit = not unit or (known and KINDS[known].of_unit)
            if not field.isidentifier() or known is None or conversion or not has_unit:
                kinds = ", ".join(f"{{field:{known}}}" for known in KINDS)
                values = {"name": self.name, "field": field, "kind": f"{kind} {unit}".strip()}
                raise failure("no_slot", **values, kinds=kinds)
            literals.append("")
            slots.append((field, known, self.missing if is_optional else None, unit))
        ends = zip(slots, literals[1:], strict=True)
        return literals[0], tuple(Slot(*slot[:2], until, *slot[2:]) for slot, until in ends)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        opening, slots = self.parts
        # Escapes are matched whole, so that no literal is found inside one; and a value ends where
        # its literal first occurs (atomic groups), so that parsing takes linear time.
        value = r"((?:\\u\{[0-9a-f]+\}|\\[^u]|[^\\])*?)"
        ends = (re.escape(slot.until) or r"\Z" for slot in slots)
        slots_pattern = "".join(f"(?>{value}{end})" for end in ends)
        return re.compile(re.escape(opening) + slots_pattern, re.DOTALL)


PRODUCT = Template(
    name="product",
    question="Name the product in this picture, its category and its full price.",
    answer="Product: {title}, Category: {category3_code:category}, Full Price: {full_price:number}",
    layout="chat",
)
_WALKTHROUGH = replace(
    PRODUCT, name="walkthrough", question="What is shown in this image?", layout="walkthrough"
)
# What the image shows first: a title that only a catalog knows cannot mislead what follows it.
CATEGORY_FIRST = replace(
    PRODUCT,
    name="category-first",
    answer="Category: {category3_code:category}, Full Price: {full_price:number}, Product: {title}",
)
CONVERSATION = Template(
    name="conversation",
    question="Describe this image.",
    answer="{completion}",
    layout="conversation",
)
TEMPLATES = {each.name: each for each in (PRODUCT, _WALKTHROUGH, CATEGORY_FIRST, CONVERSATION)}
"""Name -> template. Another one is one entry here."""


def find_template(name: str) -> Template:
    """Return a template by its name, or from a file.

    Input:  "walkthrough", "shop/template.yaml", or the folder "shop" that has such a file
    Output: the template of that name, or the one in the file
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    file = Path(name) / TEMPLATE_FILE if Path(name).is_dir() else Path(name)
    if not file.is_file():
        meant, names = suggestion(name, TEMPLATES), ", ".join(TEMPLATES)
        raise failure("no_template", name=name, meant=meant, names=names)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise failure("no_yaml", file=file, fault=yaml_fault(error)) from error
    known = {field.name for field in dataclasses.fields(Template)}
    is_invalid = not isinstance(values, dict) or not {"question", "answer"} <= set(values) <= known
    if is_invalid or not all(isinstance(value, str) for value in values.values()):
        entries = values.items() if isinstance(values, dict) else ()
        named = (f"{n}" if isinstance(v, str) else f"{n}: {v!r}, no text" for n, v in entries)
        found = ", ".join(named) or type(values).__name__.replace("NoneType", "nothing")
        raise failure("no_template_file", file=file, found=found)
    template = {"name": file.stem, "layout": "chat", "numbers": "likeliest"} | values
    for key, choices in (("layout", LAYOUTS), ("numbers", NUMBERS)):
        if (found := template[key]) not in choices:
            listed = ", ".join(choices)
            raise failure("no_choice", file=file, key=key, found=found, choices=listed)
    return Template(**template)


def write_template(template: Template, file: Path) -> None:
    """Write a template to a file for `find_template`, atomically."""
    write_text(file, yaml.safe_dump(template.as_dict(), sort_keys=False, allow_unicode=True))
