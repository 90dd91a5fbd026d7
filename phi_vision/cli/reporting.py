"""What a command reports: text for a reader, or with `--json` one JSON object for a program.

The one owner of `--json`: `main` adds the option to every command of `REPORTING`, and prints what
its `run` returns. Meanwhile stdout is stderr, so that a library that greets does not disturb.
"""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from phi_vision.cli.options import Parser

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


def add_json(parser: Parser) -> None:
    """Declare `--json`."""
    parser.add_argument(OPTION, action="store_true", help=HELP)


@contextlib.contextmanager
def reserved_stdout(*, as_json: bool) -> Iterator[None]:
    """Keep stdout free for the JSON object."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def write_report(report: CommandReport, *, as_json: bool) -> None:
    """Print a report on stdout; of one with a problem, raise it as a ValueError afterwards."""
    if as_json:
        print(json.dumps(as_plain(report.values), ensure_ascii=False, allow_nan=False))
    else:
        for part in report.text:
            _print(part, report.max_width)
    if report.problem:
        raise ValueError(report.problem)


def as_plain(value: Any) -> Any:
    """Convert to what JSON can hold; NaN and infinity become null.

    Input:  {"folder": Path("runs/a"), "best": nan, "steps": Steps(per_epoch=3, total=9)}
    Output: {"folder": "runs/a", "best": None, "steps": {"per_epoch": 3, "total": 9}}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): as_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(part: "str | Table", max_width: int | None) -> None:
    if isinstance(part, str):
        print(part)
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    console.print(part, width=min(console.width, max_width or console.width))
