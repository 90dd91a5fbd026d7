"""Options as options.yaml lists them or from dataclass fields, and errors with suggestions."""

import argparse
import functools
import itertools
import math
import re
import types
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from phi_vision.io.formatting import error_texts, read_yaml, suggestion

failure = error_texts(__file__, "errors.yaml")
# Type -> description in error messages, and placeholder in the help.
KINDS = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
OPTION = re.compile(r"--|[-–—][^\W\d]")  # also with a dash of a web page, which is not known
HUB_PAGE = re.compile(r"https://huggingface\.co/(?!datasets/)([\w.-]+/[\w.-]+)(/tree/\w+)?/?$")
METAVARS = {int: "N", float: "X", str: "TEXT", Path: "DIR"}


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations and with one-line errors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self.declare: Callable[[str], bool] = lambda option: False
        """Declares an option that is expensive to look up; returns whether it exists."""

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse arguments; of an unknown option, the error suggests the nearest known one."""
        known = self._option_string_actions
        words = list(words)
        for place, word in enumerate(itertools.takewhile(lambda word: word != "--", words)):
            option, equals, value = word.partition("=") if OPTION.match(word) else ("", "", word)
            option = option.replace("_", "-")
            if not value.strip() and (equals or not option):
                where = option or (f"after {words[place - 1]}" if place else "the first")
                self.error(f"an argument is empty ({where}): is a variable of the shell not set?")
            if value.startswith("~/"):  # quoted, or after "=", where shells leave it
                with suppress(RuntimeError):  # nobody's home is known
                    value = str(Path(value).expanduser())
            if page := HUB_PAGE.match(value):
                self.error(f"{value} is a page of the hub; name the model by its id, {page[1]}")
            words[place] = option + equals + value
            if option and option not in known and not self.declare(option):
                meant = option_suggestion("--" + option.lstrip("-–—"), known)
                self.error(f"unknown option {option}{meant}")
            if equals and known[option].nargs == 0:
                self.error(f"{option} takes no value, leave ={value} out")
        options, surplus = self.parse_known_args(words)
        if surplus:
            before = words[words.index(surplus[0]) - 1]
            if before in known and known[before].nargs == 0:
                self.error(f"{before} takes no value, leave {surplus[0]} out")
            places = " ".join(str(each.metavar) for each in self._get_positional_actions())
            found = f"{surplus[0]!r} is one too many beside {places or 'the options'}"
            self.error(f"{found}; name the option that it is for")
        return options

    def error(self, message: str) -> NoReturn:
        """Raise ValueError instead of printing the usage and exiting."""
        raise ValueError(f"{message}; see `{self.prog} --help`")


def option_suggestion(option: str, known: Iterable[str]) -> str:
    """Format what to write instead of an option of other tools, else the nearest known option."""
    names = list(known)
    for habit in read_yaml(__file__, "habits.yaml").get(option, ()):
        if not habit.startswith("--"):
            return f" ({habit})"
        if habit in names:
            return f" (did you mean {habit}?)"
    return suggestion(option, names)


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """Return a parser of one of the names that suggests the nearest for a misspelling."""
    known = list(names)

    def read(text: str) -> str:
        if text not in known:
            found = f"{text!r} is unknown{suggestion(text, known)}"
            raise argparse.ArgumentTypeError(f"{found}; choose from {', '.join(known)}")
        return text

    return read


def value_of(
    kind: type, *, or_none: bool = False, minimum: float = -math.inf, maximum: float = math.inf
) -> Callable[[str], Any]:
    """Return a parser of numbers, text or paths; with `or_none`, "none" means None."""

    def read(text: str) -> Any:
        if or_none and text == "none":
            return None
        try:
            if kind is Path and "://" in text:
                raise argparse.ArgumentTypeError(f"{text!r} is a link, not a path on this machine")
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {KINDS[kind]}") from None
        if kind is int and value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is too small, it must be at least {minimum}")
        if kind is int and value > maximum:
            raise argparse.ArgumentTypeError(f"{value} is too large, it must be at most {maximum}")
        return value

    return read


def template_name(text: str) -> str:
    """Check that there is a prompt template of this name or in this file."""
    from phi_vision.data.template import find_template

    try:
        find_template(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


TYPES: dict[str, Callable[[str], Any]] = {
    "path": value_of(Path),
    "number": value_of(float),
    "whole": value_of(int, minimum=0),
    "positive": value_of(int, minimum=1),
    "crops": value_of(int, minimum=1, maximum=256),  # as recipe_rules.yaml
    "template": template_name,
}
"""`type` in options.yaml -> parser."""


@functools.cache
def listed_options() -> dict[str, Any]:
    """Read options.yaml: command, or other part -> option -> settings."""
    return dict(read_yaml(__file__, "options.yaml"))


def add_listed(parser: Parser, part: str, **names: str) -> None:
    """Declare the options that options.yaml lists for a part; `names` are put into the help."""
    from phi_vision.data.template import TEMPLATES

    names["templates"] = ", ".join(TEMPLATES)
    for option, settings in listed_options()[part].items():
        if option == "usage":
            parser.usage = settings
            continue
        choices = settings.get("one_of", ())
        text = settings["help"].format(choices=", ".join(choices), **names)
        given = {key: value for key, value in settings.items() if key != "one_of"}
        given["help"] = text + " (default: %(default)s)" * ("default" in given)
        if "action" not in given:
            given["type"] = one_of(choices) if choices else TYPES.get(given.get("type", ""), str)
        parser.add_argument(option, **given)


def add_fields(
    parser: Parser, kind: type, starts: Mapping[str, object], *, skip: Container[str] = ()
) -> None:
    """Declare an option for every field of a dataclass, with the docstring under it as help.

    The help shows defaults of `starts`, preset -> instance; the namespace, only given options.
    """
    import docstring_parser

    types_of = get_type_hints(kind)
    for field in docstring_parser.parse_from_object(kind).params:
        name, words = field.arg_name, " ".join((field.description or "").split()).rstrip(".")
        if name in skip:
            continue
        if not any(map(str.isupper, words.split(" ")[0][1:])):  # not AdamW
            words = words[:1].lower() + words[1:]
        values = {start: getattr(instance, name) for start, instance in starts.items()}
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=f"{words} {describe_starts(values)}".rstrip().replace("%", "%%"),
            **reader_of(types_of[name]),
        )


def given_fields(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Return the given options that are fields of a dataclass."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(options).items()
        if name in get_type_hints(kind)
    }


def describe_starts(values: Mapping[str, object]) -> str:
    """Format the default of each preset.

    Input:  {"full": 8, "lora": 8}    {"full": None, "lora": 16}    {"full": 1, "lora": 2, "dpo": 2}
    Output: (default: 8)              (lora: 16)                    (full: 1; lora, dpo: 2)
    """
    starts_of: dict[str, list[str]] = {}
    for start, value in values.items():
        if value is not None and value not in ("", ()):
            shown = " ".join(value) if isinstance(value, tuple) else str(value)
            starts_of.setdefault(shown, []).append(start)
    if [*starts_of.values()] == [list(values)]:
        return f"(default: {next(iter(starts_of))})"
    parts = [f"{', '.join(starts)}: {value}" for value, starts in starts_of.items()]
    return f"({'; '.join(parts)})" if parts else ""


def reader_of(kind: Any) -> dict[str, Any]:
    """Return the argparse settings for a type.

    Input:  bool                   int | None                    tuple[str, ...]
    Output: --name and --no-name   a number, or the word none    one or more words
    """
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    (plain,) = (choice for choice in choices if choice is not types.NoneType)
    if plain is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(plain) is Literal:
        return {"type": one_of(get_args(plain)), "metavar": f"{{{','.join(get_args(plain))}}}"}
    if get_origin(plain) is tuple:
        if get_origin(item := get_args(plain)[0]) is Literal:
            return {**reader_of(item), "nargs": "*", "action": "extend"}  # or none of them
        return {"nargs": "+", "action": "extend", "metavar": "NAME"}
    reader = value_of(plain, or_none=types.NoneType in choices)
    return {"type": reader, "metavar": METAVARS[plain]}
