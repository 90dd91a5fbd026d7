"""The front door: `phi-vision COMMAND`, a file of `commands/` for each of `COMMANDS`.

The rooms are opened inside the commands, so that `--help` answers at once. Only the commands print.
A user's mistake (ValueError, OSError) becomes one line on stderr and exit code 2.
"""

import argparse
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from phi_vision import __version__
from phi_vision.cli import (
    check,
    compare,
    evaluate,
    export,
    pairs,
    plan,
    predict,
    prepare,
    sample,
    serve,
    train,
)
from phi_vision.cli.options import Parser, one_of

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130
"""What shells report for Ctrl-C: 128 + SIGINT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    Args:
        arguments: Words of the command line, without the program's name; those of this process
            by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        run(words)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (ValueError, OSError) as error:
        if words[:1] == ["--traceback"]:
            raise
        print("phi-vision: error:", *str(error).split(), file=sys.stderr)
        return EXIT_MISTAKE
    return 0


def run(words: Sequence[str]) -> None:
    """Read the command line and run the command it names."""
    flags = list(itertools.takewhile(lambda word: word.startswith("-"), words))
    name = front_parser().read(words[: len(flags) + 1]).command
    options = command_parser(name).read(words[len(flags) + 1 :])
    prepare_messages()
    COMMANDS[name].run(options)


def prepare_messages() -> None:
    """Show what the rooms log, and of the libraries only what a user can act on."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("phi_vision").setLevel(logging.INFO)
    # TRL would tell its makers which model is trained on how many devices.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Other libraries import bitsandbytes, which then misses a kernel that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)  # Told to programmers, about other libraries.
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def front_parser() -> Parser:
    """Build the parser of everything up to the command's name."""
    listing = "\n".join(f"  {name:<10}{command.run.__doc__}" for name, command in COMMANDS.items())
    parser = Parser(
        prog="phi-vision",
        usage="phi-vision [--traceback] COMMAND ...",
        description="Teach Phi-3-Vision to read a product photo and write its record.",
        epilog=f"commands:\n{listing}\n\nphi-vision COMMAND --help lists a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"phi-vision {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.add_argument("command", metavar="COMMAND", type=one_of(COMMANDS), help=argparse.SUPPRESS)
    return parser


def command_parser(name: str) -> Parser:
    """Build the parser of one command's own words."""
    parser = Parser(prog=f"phi-vision {name}", description=COMMANDS[name].run.__doc__)
    COMMANDS[name].add_options(parser)
    return parser


@dataclass(frozen=True, kw_only=True)
class Command:
    """One word after `phi-vision`."""

    add_options: Callable[[Parser], None]
    """Declares its options."""

    run: Callable[[argparse.Namespace], None]
    """Does its work; the docstring describes it in the help."""


COMMANDS = {
    "prepare": Command(add_options=prepare.add_options, run=prepare.run),
    "sample": Command(add_options=sample.add_options, run=sample.run),
    "pairs": Command(add_options=pairs.add_options, run=pairs.run),
    "plan": Command(add_options=plan.add_options, run=plan.run),
    "train": Command(add_options=train.add_options, run=train.run),
    "evaluate": Command(add_options=evaluate.add_options, run=evaluate.run),
    "compare": Command(add_options=compare.add_options, run=compare.run),
    "predict": Command(add_options=predict.add_options, run=predict.run),
    "export": Command(add_options=export.add_options, run=export.run),
    "check": Command(add_options=check.add_options, run=check.run),
    "serve": Command(add_options=serve.add_options, run=serve.run),
}
"""Name -> command."""
