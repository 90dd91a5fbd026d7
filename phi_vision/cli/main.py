"""The entry point: `phi-vision COMMAND`, one module per command.

Commands import packages lazily, so that `--help` answers at once; only commands print. A user's
mistake (ValueError, OSError) becomes one line on stderr and its exit code.
"""

import argparse
import atexit
import codecs
import contextlib
import errno
import functools
import gc
import importlib
import io
import itertools
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from phi_vision import __version__
from phi_vision.cli.options import Parser, add_listed, one_of
from phi_vision.cli.reporting import HELP, OPTION, write_report
from phi_vision.io.formatting import read_yaml

EXIT_DONE, EXIT_MISTAKE = 0, 2
EXIT_INTERRUPTED, EXIT_CLOSED = 130, 141  # as shells report them: 128 + SIGINT, + SIGPIPE
EXIT_CODES = {
    EXIT_DONE: "done",
    1: "a fault of the program, or too little memory: a traceback on stderr",  # of Python's own
    EXIT_MISTAKE: "a mistake in the command or its input, or a failed check: one line on stderr",
    EXIT_INTERRUPTED: "interrupted by Ctrl-C",
    EXIT_CLOSED: "the reader of the output has closed it, as `| head` does",
}
"""Exit code -> its meaning, for --help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default that of `sys.argv`, and return the exit code."""
    if arguments is None and sys.getfilesystemencoding() != "utf-8":
        # Again in UTF-8, whatever the locale: Python's strings then hold the names of all files.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        # A last collection, which Python does at its end, would look at every object.
        atexit.register(gc.freeze)
        if isinstance(sys.stdout, io.TextIOWrapper):  # not None, where it is closed
            codecs.register_error("as-in-json", _escape)
            sys.stdout.reconfigure(errors="as-in-json")
    try:
        try:
            run(words)
        finally:
            print(end="", flush=True)
    except KeyboardInterrupt as interruption:
        advice = str(interruption) or "the same command starts again"
        print("phi-vision: interrupted:", advice, file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        is_ours = isinstance(error, RuntimeError) and "Symlink loop" not in str(error)
        if isinstance(error, BrokenPipeError) and _is_closed():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python, at its end, fails again
            return EXIT_CLOSED
        if words[:1] == ["--traceback"] or is_ours:
            raise
        print("phi-vision: error:", _describe(error), file=sys.stderr)
        return EXIT_MISTAKE
    return EXIT_DONE


def _is_closed() -> bool:
    """Whether nothing reads stdout; another pipe may have broken, such as that of a tracker."""
    try:
        print(end="", flush=True)
    except BrokenPipeError:
        return True
    return False


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""Escape what a console of fewer characters lacks so that JSON stays JSON: "é" -> "\u00e9"."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _describe(error: Exception) -> str:
    """Format an error in one line, with what to do about one of the system or an odd file name."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is not None:
        advice = read_yaml(__file__, "errors.yaml")["system"].get(errno.errorcode.get(error.errno))
        place = "" if error.filename is None else f": {error.filename!r}"
        text = f"{error.strerror}{place}; {advice}" if advice else text
    if "No space left" in text or "quota exceeded" in text.lower():
        text += "; the disk is full: free some space, or write elsewhere, and repeat the command"
    if isinstance(error, ModuleNotFoundError):
        text += "; complete the installation with `pip install phi-vision`"
    if isinstance(error, RuntimeError):
        text += "; the link points to itself: remove it or choose another place"
    if isinstance(error, UnicodeEncodeError) and "surrogates" in text:
        text = f"a path is not text in UTF-8, {error.object!a:.200}: rename it"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def run(words: Sequence[str]) -> None:
    """Parse the command line and run the command."""
    flags = list(itertools.takewhile(lambda word: word.startswith("-"), words))
    name = front_parser().read(words[: len(flags) + 1]).command
    options = command_parser(name).read(words[len(flags) + 1 :])
    configure_logging()
    if name not in REPORTING:
        COMMANDS[name].run(options)
        return
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        report = COMMANDS[name].run(options)
    if report is not None:  # None in the processes of a training but the first
        write_report(report, as_json=options.json)


def configure_logging() -> None:
    """Show the package's log messages and hide library noise that users cannot act on."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("phi_vision").setLevel(logging.INFO)
    # TRL sends telemetry about the model and the devices.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Other libraries import bitsandbytes, which then misses a kernel that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)  # addressed to programmers
    if not sys.stderr.isatty():  # bars of downloads and of weights would fill a log
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")


def front_parser() -> Parser:
    """Build the parser of the global options and the command name."""
    listing = "\n".join(f"  {name:<10}{command.run.__doc__}" for name, command in COMMANDS.items())
    codes = "\n".join(f"  {code:<10}{meaning}" for code, meaning in EXIT_CODES.items())
    parser = Parser(
        prog="phi-vision",
        usage="phi-vision [--traceback] COMMAND ...",
        description="Fine-tune Phi-3-Vision to read a product photo and write its record.",
        epilog=f"commands:\n{listing}\n\nphi-vision COMMAND --help lists a command's options.\n\n"
        f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"phi-vision {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.add_argument("command", metavar="COMMAND", type=one_of(COMMANDS), help=argparse.SUPPRESS)
    return parser


def command_parser(name: str) -> Parser:
    """Build the parser of one command."""
    parser = Parser(prog=f"phi-vision {name}", description=COMMANDS[name].run.__doc__)
    listed = functools.partial(add_listed, part=name)
    getattr(COMMANDS[name], "add_options", listed)(parser)
    if name in REPORTING:
        parser.add_argument(OPTION, action="store_true", help=HELP)
    return parser


COMMANDS = {
    name: importlib.import_module(f"phi_vision.cli.{name}")
    for name in (
        *("base", "prepare", "sample", "pairs", "plan", "train", "evaluate", "compare"),
        *("predict", "explain", "export", "check", "serve"),
    )
}
"""Name -> module with its work, `run`, and `add_options` if options.yaml does not list them all."""
REPORTING = COMMANDS.keys() - {"predict", "serve"}
"""Commands whose `run` returns what they report; `predict` prints while it works, an object a line
with its own `--json`, and `serve` does not end."""
