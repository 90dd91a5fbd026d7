"""Dataclass fields as options: how they are read, and what the help says of their values."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from phi_vision.cli.main import COMMANDS, command_parser
from phi_vision.cli.options import TYPES, Parser, add_fields, describe_starts
from phi_vision.cli.options import __file__ as options_file
from phi_vision.io.formatting import read_yaml, suggestion
from phi_vision.training.recipes import lora


@dataclass(frozen=True, kw_only=True)
class Oven:
    """What add_fields is given here."""

    heat: float = 180.0
    """Degrees. At most 50 % more than needed."""

    minutes: int | None = None
    """How long; by default until it smells good."""

    shelf: Literal["upper", "lower"] = "upper"
    """Where it stands."""

    trays: tuple[str, ...] = ("round",)
    """Which trays."""

    book: Path = Path("cakes")
    """Where recipes are."""

    fan: bool = False
    """Blow."""


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="oven")
    add_fields(parser, Oven, {"cake": Oven(), "bread": Oven(heat=230.0, minutes=45)})
    return parser


def test_a_path_in_the_home_folder_is_found_where_the_shell_leaves_it(
    parser: Parser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/cook")
    for words in (["--book", "~/cakes"], ["--book=~/cakes"]):
        assert parser.read(words).book == Path("/home/cook/cakes")


def test_only_given_options_appear_and_have_their_types(parser: Parser) -> None:
    words = ["--heat", "200", "--minutes", "none", "--trays", "a", "b", "--no-fan", "--book", "b"]
    assert parser.read(words) == argparse.Namespace(
        heat=200.0, minutes=None, trays=["a", "b"], fan=False, book=Path("b")
    )
    assert parser.read([]) == argparse.Namespace()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--minutes", "1.5"],
            "argument --minutes: '1.5' is not a whole number; see `oven --help`",
        ),
        (["--heat", "none"], "argument --heat: 'none' is not a number; see `oven --help`"),
        (["--shelf", "uper"], "'uper' is unknown (did you mean upper?); choose from upper, lower"),
        (["--haet", "3"], "unknown option --haet (did you mean --heat?); see `oven --help`"),
        (["--hea", "3"], "unknown option --hea (did you mean --heat?); see `oven --help`"),
        (["--device", "x"], "unknown option --device (a GPU is used where PyTorch finds one, and"),
    ],
)
def test_an_error_names_what_was_found(parser: Parser, words: list[str], said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (compared in full below)
        parser.read(words)
    assert said in str(caught.value)


def test_the_help_is_the_docstring_with_the_values(parser: Parser) -> None:
    words = " ".join(parser.format_help().split())
    assert "degrees. At most 50 % more than needed (cake: 180.0; bread: 230.0)" in words
    assert "how long; by default until it smells good (bread: 45)" in words
    assert "which trays (default: round)" in words


def test_values_are_described_once_where_they_agree() -> None:
    assert describe_starts({"cake": 8, "bread": 8}) == "(default: 8)"
    assert describe_starts({"cake": 8, "bread": None}) == "(cake: 8)"
    assert describe_starts({"cake": None, "bread": ""}) == ""
    several = {"cake": 8, "bread": 9, "roll": 9}
    assert describe_starts(several) == "(cake: 8; bread, roll: 9)"


def test_a_habit_leads_to_an_option_that_some_command_has() -> None:
    known = {name: command_parser(name)._option_string_actions for name in COMMANDS}
    for habit, options in read_yaml(options_file, "habits.yaml").items():
        for option in options:
            is_some = any(option in each and habit not in each for each in known.values())
            assert is_some or not option.startswith("--"), (habit, option)


def test_a_word_far_from_all_gets_no_suggestion() -> None:
    assert suggestion("--epoch", ["--epochs", "--seed"]) == " (did you mean --epochs?)"
    assert suggestion("--zzz", ["--epochs", "--seed"]) == ""


@pytest.mark.parametrize("count", [0, 257])
def test_crops_have_the_range_of_a_recipe(count: int) -> None:
    assert TYPES["crops"]("256") == lora(num_crops=256).num_crops
    with pytest.raises(ValueError, match="from 1 to 256"):
        lora(num_crops=count)
    with pytest.raises(argparse.ArgumentTypeError, match="it must be at"):
        TYPES["crops"](str(count))
