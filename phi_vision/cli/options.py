"""Options from dataclass fields, and one-line errors that suggest the nearest option."""

import argparse
import difflib
import itertools
import types
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

# Type -> description in error messages, and placeholder in the help.
KINDS = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
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
            option, equals, value = word.partition("=")
            if not option.startswith("--"):
                continue
            option = option.replace("_", "-")
            words[place] = option + equals + value
            if option not in known and not self.declare(option):
                self.error(f"unknown option {option}{suggestion(option, known)}")
        return self.parse_args(words)

    def error(self, message: str) -> NoReturn:
        """Raise ValueError instead of printing the usage and exiting."""
        raise ValueError(f"{message}; see {self.prog} --help")


def suggestion(word: str, known: Iterable[str]) -> str:
    """Format a suggestion of the nearest known word, if any is close.

    Input:  "--epochs", ["--num-train-epochs", "--seed"]
    Output:  (did you mean --num-train-epochs?)
    """
    names = list(known)
    nearest = difflib.get_close_matches(word, names, n=1)
    nearest = nearest or [name for name in names if word.strip("-") in name]
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """Return a parser of one of the names that suggests the nearest for a misspelling."""
    known = list(names)

    def read(text: str) -> str:
        if text not in known:
            found = f"{text!r} is unknown{suggestion(text, known)}"
            raise argparse.ArgumentTypeError(f"{found}; choose from {', '.join(known)}")
        return text

    return read


def accepted_by(check: Callable[[str], object]) -> Callable[[str], str]:
    """Return a parser of values for which a function raises no ValueError."""

    def read(text: str) -> str:
        try:
            check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return read


def at_least(minimum: int) -> Callable[[str], int]:
    """Return a parser of whole numbers of at least the minimum."""

    def read(text: str) -> int:
        number: int = value_of(int)(text)
        if number < minimum:
            problem = f"{number} is too small, it must be at least {minimum}"
            raise argparse.ArgumentTypeError(problem)
        return number

    return read


def value_of(kind: type, *, or_none: bool = False) -> Callable[[str], Any]:
    """Return a parser of numbers, text or paths; with `or_none`, "none" means None."""

    def read(text: str) -> Any:
        if or_none and text == "none":
            return None
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {KINDS[kind]}") from None

    return read


def add_fields(
    parser: Parser, kind: type, starts: Mapping[str, object], *, skip: Container[str] = ()
) -> None:
    """Declare an option for every field of a dataclass, with the docstring under it as help.

    The help shows the values of `starts` (preset name -> instance) as defaults. The parsed
    namespace holds only options that were given.
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
    shown = {
        start: " ".join(value) if isinstance(value, tuple) else str(value)
        for start, value in values.items()
        if value is not None and value not in ("", ())
    }
    if len(shown) == len(values) and len(set(shown.values())) == 1:
        return f"(default: {next(iter(shown.values()))})"
    starts_of: dict[str, list[str]] = {}
    for start, value in shown.items():
        starts_of.setdefault(value, []).append(start)
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
        return {"nargs": "+", "action": "extend", "metavar": "NAME"}
    read = value_of(plain, or_none=types.NoneType in choices)
    return {"type": read, "metavar": METAVARS[plain]}
