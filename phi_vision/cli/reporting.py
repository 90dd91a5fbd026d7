"""What a command reports: text for a reader, or with `--json` one JSON object for a program.

The one owner of `--json`: `main` adds the option to every command of `REPORTING`, and prints what
its `run` returns. Meanwhile stdout is stderr, so that a library that greets does not disturb.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from phi_vision.io.formatting import as_plain

if TYPE_CHECKING:
    from rich.table import Table

OPTION = "--json"
HELP = "print one JSON object instead of text; progress and messages are on stderr"
TABLE_WIDTH = 150  # columns, outside a terminal


class CommandReport(NamedTuple):
    """The result of a command, for both readers."""

    values: Mapping[str, Any]  # of `--json`: keys that do not change, and the numbers of the text
    text: "Sequence[str | Table]"  # lines and tables
    problem: str = ""  # why the command fails in spite of its report
    max_width: int | None = None  # of the tables, on wide terminals


def write_report(report: CommandReport, *, as_json: bool) -> None:
    """Print a report on stdout; of one with a problem, raise it as a ValueError afterwards."""
    if as_json:
        print(json.dumps(as_plain(report.values), ensure_ascii=False, allow_nan=False))
    else:
        for part in report.text:
            _print(part, report.max_width)
    if report.problem:
        raise ValueError(report.problem)


def _print(part: "str | Table", max_width: int | None) -> None:
    if isinstance(part, str):
        print(part, flush=True)
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    with console.capture() as lines:  # rich itself would end the program where stdout is closed
        console.print(part, width=min(console.width, max_width or console.width))
    print(lines.get(), end="", flush=True)
