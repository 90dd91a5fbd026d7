"""`phi-vision check`: which inference engines can load a folder."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision.cli.reporting import CommandReport
from phi_vision.io.process import importing

if TYPE_CHECKING:
    from rich.table import Table

    from phi_vision.export.compatibility import Requirement

MAX_WIDTH = 100


def run(options: argparse.Namespace) -> CommandReport:
    """Check which inference engines can load this folder and what is missing."""
    with importing():
        from phi_vision.export.compatibility import check, unmet
        from phi_vision.model.checkpoint import resolve

    found = check(Path(resolve(options.folder)))
    wanted = [options.engine] if options.engine else list(found)
    tables: list[Table] = []
    shown: list[Requirement] = []
    for name in wanted:
        tables.append(_as_table(name, found[name], shown))
        shown += found[name]
    lacks = {name: len(unmet(found[name])) for name in wanted}
    engines = {
        name: {"compatible": not lacks[name], "missing": lacks[name], "requirements": found[name]}
        for name in wanted
    }
    problem = ""
    if all(lacks.values()):
        words = ", ".join(f"{name} lacks {number}" for name, number in lacks.items())
        problem = f"{options.folder}: {words} requirements; see the tables"
    values = {"folder": options.folder, "engines": engines}
    return CommandReport(values, tables, problem, MAX_WIDTH)


def _as_table(
    name: str, requirements: Collection["Requirement"], shown: Collection["Requirement"]
) -> "Table":
    """Format the requirements of one engine; those in `shown` are only counted."""
    from rich.markup import escape
    from rich.table import Column, Table

    missing = sum(not each.ok for each in requirements)
    result = f"{missing} of {len(requirements)} missing" if missing else "compatible"
    columns = Column(width=3), Column("requirement", ratio=2), Column("found", ratio=3)
    table = Table(*columns, title=f"{name}: {result}", title_justify="left", title_style="bold")
    if again := [each for each in requirements if each in shown]:
        bad = sum(not each.ok for each in again)
        found = f"as above, {bad} missing" if bad else "as above"
        table.add_row("NO" if bad else "ok", f"{len(again)} shared with other engines", found)
    for each in requirements:
        if each not in again:
            advice = "" if each.ok else f"\n→ {each.advice}"
            table.add_row("ok" if each.ok else "NO", escape(each.need), escape(each.found + advice))
    return table
