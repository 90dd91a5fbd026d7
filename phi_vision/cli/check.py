"""`phi-vision check`: which engines a folder can be used with, and what the others lack."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision.cli.options import Parser, one_of
from phi_vision.cli.progress import table_console

if TYPE_CHECKING:
    from rich.table import Table

    from phi_vision.export.checkpoint_folder import Requirement

ENGINES = ("transformers", "transformers-alone", "vllm", "onnxruntime-genai")
"""As `export.engines` has them, which takes seconds to open; a test compares."""

WIDEST = 100
"""Columns of a table, so that it can be read where it does not go to a terminal."""


def add_options(parser: Parser) -> None:
    """Declare what `phi-vision check` takes."""
    folder = "folder that phi-vision export wrote, another checkpoint, or a run"
    parser.add_argument("folder", metavar="FOLDER", help=folder)
    engine = (
        f"only this one, which must have all it needs: {', '.join(ENGINES)} "
        "(default: all, of which one must)"
    )
    parser.add_argument("--engine", type=one_of(ENGINES), metavar="NAME", help=engine)


def run(options: argparse.Namespace) -> None:
    """Say for each engine what it needs, what is there, and what to do where that is not enough."""
    from phi_vision.export.checkpoint_folder import unmet
    from phi_vision.export.compatibility import check
    from phi_vision.model.checkpoint import resolve

    found = check(Path(resolve(options.folder)))
    wanted = [options.engine] if options.engine else list(found)
    console = table_console()
    shown: list[Requirement] = []
    for name in wanted:
        console.print(as_table(name, found[name], shown, min(console.width, WIDEST)))
        shown += found[name]
    lacks = {name: len(unmet(found[name])) for name in wanted}
    if all(lacks.values()):
        words = ", ".join(f"{name} lacks {number}" for name, number in lacks.items())
        raise ValueError(f"{options.folder}: {words} of what it needs; the tables say what to do")


def as_table(
    name: str, requirements: Sequence["Requirement"], shown: Sequence["Requirement"], width: int
) -> "Table":
    """Lay out what was found for one engine, advice under what is not enough.

    Args:
        name: The engine.
        requirements: What was found for it.
        shown: What other tables have said already; it is only counted.
        width: Columns of the table.
    """
    from rich.markup import escape
    from rich.table import Table

    missing = sum(not requirement.ok for requirement in requirements)
    verdict = f"lacks {missing} of {len(requirements)}" if missing else "has all it needs"
    title = f"{name}: {verdict}"
    table = Table(title=title, title_justify="left", title_style="bold", width=width)
    table.add_column("", width=3)
    table.add_column("needs", ratio=2)
    table.add_column("found", ratio=3)
    again = [requirement for requirement in requirements if requirement in shown]
    if again:
        bad = sum(not requirement.ok for requirement in again)
        said = f"as above, {bad} of them not enough" if bad else "as above"
        table.add_row("NO" if bad else "ok", f"{len(again)} that others need too", said)
    for requirement in requirements:
        if requirement not in again:
            advice = "" if requirement.ok else f"\n→ {escape(requirement.advice)}"
            mark = "ok" if requirement.ok else "NO"
            table.add_row(mark, escape(requirement.need), escape(requirement.found) + advice)
    return table
