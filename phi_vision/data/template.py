r"""Record <-> words: the only place where the prompt is worded, and its inverse parser.

Training renders with the same Template that reads the answers later. Reading is exact:
`parse(render(record))` gives the record's fields back whatever they hold, and `parse` accepts
nothing that `render` would not write. Ordinary values stand as they are; the rest is escaped:

    \\          a backslash
    \n          a line break
    \u{2c}      one character that would be misread here: the start of the words that follow the
                field, the `<` of a control token, a blank at either end
    \="390"     a value of another kind than the field, in JSON: text in a number field, a number
                in a text field, None, the empty text
"""

import dataclasses
import difflib
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import Literal, NamedTuple, Protocol, TypeGuard, get_args

import yaml

from phi_vision.data.samples import Record, Value
from phi_vision.io.atomic import write_text

END = "<|end|>"
"""The control token that closes an answer."""

TEMPLATE_FILE = "template.yaml"
"""What a folder of samples or a run calls the template that it is worded with."""

Kind = Literal["text", "category", "number"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What a field holds: how it is written, judged and constrained."""

Layout = Literal["chat", "walkthrough"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

EXACT_INTEGERS = 2**53
"""Whole numbers up to here are floats without loss (IEEE 754 double)."""


class ChatProcessor(Protocol):
    """What a prompt needs of a processor: the model's own chat format."""

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool = ...,
        add_generation_prompt: bool = ...,
    ) -> str:
        """Write a conversation as one text with control tokens."""
        ...


class Slot(NamedTuple):
    """A field's place in the answer, and the words that follow it."""

    field: str
    kind: Kind
    until: str


@dataclass(frozen=True, kw_only=True)
class Template:
    """A question, and an answer with places for a record's fields.

    Input:  {"title": "Wool Coat", "category3_code": "COATS", "full_price": 390}
    Output: Product: Wool Coat, Category: COATS, Full Price: 390.0
    """

    name: str
    """Under which `TEMPLATES` and the command line know it."""

    question: str
    """What the user asks about the image."""

    answer: str
    """The answer's form: `{field}` holds text, `{field:category}` one of few texts that repeat,
    `{field:number}` a number."""

    layout: Layout
    """`chat`: the model's own chat format. `walkthrough`: the literal wording of the well-known
    walkthrough, which differs in its line breaks."""

    def __post_init__(self) -> None:
        """Refuse an answer that could not be read back, and a question that breaks the prompt."""
        opening, slots = self._parts
        words = [opening, *(slot.until for slot in slots)]
        problem = None
        if not slots:
            problem = "it has no {field}"
        elif len(set(self.fields)) < len(self.fields):
            problem = "it has the same field twice"
        elif not all(words[1:-1]):
            problem = "two fields follow each other without words between them"
        elif self.answer != self.answer.strip():
            problem = "it begins or ends with a blank"
        elif any(forbidden in word for word in words for forbidden in "<\\"):
            problem = "its words hold < or a backslash, which mark control tokens and escapes"
        elif "<|" in self.question:
            problem = f"its question {self.question!r} holds a control token"
        if problem:
            raise ValueError(
                f"template {self.name!r} cannot be used: {problem}; found {self.answer!r}; "
                "write it like 'Product: {title}, Full Price: {full_price:number}'"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """The record's fields that the answer names, in order."""
        return tuple(slot.field for slot in self._parts[1])

    @property
    def kinds(self) -> dict[str, Kind]:
        """What each of `fields` holds.

        Output: {"title": "text", "category3_code": "category", "full_price": "number"}
        """
        return {slot.field: slot.kind for slot in self._parts[1]}

    def fields_of(self, kind: Kind) -> tuple[str, ...]:
        """Those of `fields` that hold one kind."""
        return tuple(field for field, held in self.kinds.items() if held == kind)

    def prompt(self, processor: ChatProcessor, images: int = 1) -> str:
        r"""Write the question as the model reads it, up to where its answer begins.

        Input:  2 images
        Output: <|user|>\n<|image_1|>\n<|image_2|>\nWhat is it?<|end|>\n<|assistant|>\n      (chat)
                <|user|>\n<|image_1|><|image_2|>What is it?<|end|><|assistant|>\n     (walkthrough)
        """
        tags = [f"<|image_{number}|>" for number in range(1, images + 1)]
        if self.layout == "walkthrough":
            return f"<|user|>\n{''.join(tags)}{self.question}{END}<|assistant|>\n"
        content = "\n".join([*tags, self.question])
        return processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    def render(self, record: Record) -> str:
        """Write the record as the answer, without the closing control token.

        Raises:
            ValueError: The record lacks a field, or holds something that is no text or number.
        """
        opening, slots = self._parts
        values = self.select(record)
        return opening + "".join(_write(values[slot.field], slot) + slot.until for slot in slots)

    def select(self, record: Record) -> dict[str, Value]:
        """Pick the template's fields out of a record.

        Raises:
            ValueError: The record lacks one of them.
        """
        for field in self.fields:
            if field not in record:
                raise ValueError(
                    f"template {self.name!r} needs the field {field!r}; the record has "
                    f"{', '.join(record) or 'no fields'}; rename the column or choose another "
                    "template"
                )
        return {field: record[field] for field in self.fields}

    def parse(self, text: str) -> dict[str, Value] | None:
        """Read an answer back into a record: exactly what `render` writes, or None.

        White space around the text and a closing `<|end|>` do not count.

        Input:  Product: Wool Coat, Category: COATS, Full Price: 390.0<|end|>
        Output: {"title": "Wool Coat", "category3_code": "COATS", "full_price": 390.0}
        """
        text = text.strip().removesuffix(END).rstrip()
        match = self._pattern.fullmatch(text)
        if match is None:
            return None
        try:
            pairs = zip(self._parts[1], match.groups(), strict=True)
            record = {slot.field: _read(value, slot) for slot, value in pairs}
            # "390", "3_9.0" and needless escapes can be read, but are never written.
            return record if self.render(record) == text else None
        except (ValueError, RecursionError):  # no number, no JSON, JSON nested without end
            return None

    def spans(self, text: str) -> dict[str, tuple[int, int]]:
        """Say where each field stands in an answer, as places of characters; {} if it is none.

        Input:  Product: Wool Coat, Category: COATS, Full Price: 390.0
        Output: {"title": (9, 18), "category3_code": (30, 35), "full_price": (49, 54)}
        """
        match = self._pattern.match(text) if self.parse(text) is not None else None
        if match is None:
            return {}
        return {field: match.span(place) for place, field in enumerate(self.fields, start=1)}

    @cached_property
    def _parts(self) -> tuple[str, tuple[Slot, ...]]:
        """The words before the first field, and the fields with the words after each."""
        words, places = [""], []
        for literal, field, kind, conversion in Formatter().parse(self.answer):
            words[-1] += literal
            if field is None:
                continue
            kind = kind or "text"
            if not field.isidentifier() or kind not in KINDS or conversion:
                raise ValueError(
                    f"template {self.name!r} has a place that is neither {{field}} nor "
                    f"{{field:category}} nor {{field:number}}: found field {field!r}, kind "
                    f"{kind!r}; rewrite it"
                )
            words.append("")
            places.append((field, kind))
        slots = [Slot(*place, until) for place, until in zip(places, words[1:], strict=True)]
        return words[0], tuple(slots)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        opening, slots = self._parts
        # Escapes are matched whole, so that no words are found inside one; and a value ends where
        # its words first appear (atomic groups), so that reading takes linear time.
        value = r"((?:\\u\{[0-9a-f]+\}|\\[^u]|[^\\])*?)"
        ends = [re.escape(slot.until) or r"\Z" for slot in slots]
        return re.compile(
            re.escape(opening) + "".join(f"(?>{value}{end})" for end in ends), re.DOTALL
        )


def _write(value: object, slot: Slot) -> str:
    r"""Write one value so that it can be read back in its place.

    Input:  "Tea, Category: <|end|>" in a text field before ", Category: "
    Output: Tea\u{2c} Category: \u{3c}|end|>
    """
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError(
            f"field {slot.field!r} holds a {type(value).__name__}; text, a number, a truth value "
            "or None can be written; convert the column"
        )
    if slot.kind == "number" and _is_exact_number(value):
        return _escape(repr(float(value)), slot.until)
    if slot.kind != "number" and isinstance(value, str) and value:
        return _escape(value, slot.until)
    return r"\=" + _escape(json.dumps(value, ensure_ascii=False), slot.until)


def _read(text: str, slot: Slot) -> Value:
    """Undo `_write`. Raises ValueError where there is nothing to undo."""
    if text.startswith(r"\="):
        value: Value = json.loads(_unescape(text[2:]))
        return value
    text = _unescape(text)
    return float(text) if slot.kind == "number" else text


def _is_exact_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= EXACT_INTEGERS)


def _escape(text: str, until: str) -> str:
    last = len(text) - 1
    # A `<` that could open a control token: `<|end|>`, `<s>`, `</s>`, also across the value's end.
    misread = {match.start() for match in re.finditer(r"<(?=[|/A-Za-z]|\Z)", text)}
    misread |= {place for place in {0, last} if text[place].isspace()}
    if until:
        # The words after the value count too: "aa" before "aaa" would be found one place early.
        misread |= {at for at in range(len(text)) if (text + until).startswith(until, at)}
    plain = {"\\": r"\\", "\n": r"\n"}
    return "".join(
        plain.get(character) or (f"\\u{{{ord(character):x}}}" if place in misread else character)
        for place, character in enumerate(text)
    )


def _unescape(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        code, letter = match.groups()
        return chr(int(code, 16)) if code else {"n": "\n", "\\": "\\"}.get(letter, match.group())

    return re.sub(r"\\(?:u\{([0-9a-f]{1,6})\}|(.))", character, text, flags=re.DOTALL)


PRODUCT = Template(
    name="product",
    question="Name the product in this picture, its category and its full price.",
    answer="Product: {title}, Category: {category3_code:category}, Full Price: {full_price:number}",
    layout="chat",
)

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        PRODUCT,
        replace(
            PRODUCT,
            name="walkthrough",
            question="What is shown in this image?",
            layout="walkthrough",
        ),
    )
}
"""Name -> template. Another wording is one entry here."""


def find_template(words: str) -> Template:
    """Take a template by its name, or read it from a file.

    Input:  "walkthrough", "shop/template.yaml", or the folder "shop" that has such a file
    Output: the template of that name, or the one in the file

    Raises:
        ValueError: There is no such template, or the file is none.
    """
    if words in TEMPLATES:
        return TEMPLATES[words]
    path = Path(words) / TEMPLATE_FILE if Path(words).is_dir() else Path(words)
    if not path.is_file():
        nearest = difflib.get_close_matches(words, TEMPLATES, n=1)
        meant = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise ValueError(
            f"no template {words!r}{meant}; choose from {', '.join(TEMPLATES)}, or give a YAML "
            "file with a question and an answer like 'Product: {title}, Price: {price:number}'"
        )
    return _read_template(path)


def write_template(template: Template, file: Path) -> None:
    """Write a template so that `find_template` reads it; whole or not at all."""
    words = dataclasses.asdict(template)
    write_text(file, yaml.safe_dump(words, sort_keys=False, allow_unicode=True))


def _read_template(file: Path) -> Template:
    try:
        words = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    known = {field.name for field in dataclasses.fields(Template)}
    defaults = {"name": file.stem, "layout": "chat"}
    wrong = not isinstance(words, dict) or set(words) - known or known - set(defaults) - set(words)
    if wrong or not all(isinstance(value, str) for value in words.values()):
        found = ", ".join(map(str, words)) if isinstance(words, dict) else repr(words)
        raise ValueError(
            f"{file} is no template: found {found}; "
            "write the texts `question` and `answer`, and if you like `name` and `layout`"
        )
    layout = words.get("layout", "chat")
    if layout not in LAYOUTS:
        raise ValueError(f"{file}: no layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    return Template(**(defaults | words))
