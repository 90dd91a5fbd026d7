"""Progress bars on stderr, hidden without a terminal, and tables on stdout."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from phi_vision.prepare.fetch import Fetched
    from phi_vision.prepare.pipeline import PrepareCallbacks

TABLE_WIDTH = 150  # columns, outside a terminal


def table_console() -> "Console":
    """Return a console on stdout for tables."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar and yield its update function, called with (done, total)."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with progress.Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def preparation_bars() -> "Iterator[PrepareCallbacks]":
    """Show the column mapping, then the progress of downloads and cleaning."""
    from rich import progress
    from rich.console import Console

    from phi_vision.prepare.pipeline import PrepareCallbacks

    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.SpinnerColumn(),
        progress.TextColumn("{task.completed}, {task.fields[rate]:.0f}/s, {task.fields[failures]}"),
        progress.TimeElapsedColumn(),
    )
    hidden = not console.is_terminal
    with progress.Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        fetching, cleaning = (
            bar.add_task(what, total=None, visible=False, rate=0.0, failures="")
            for what in ("fetching images", "cleaning rows")
        )

        def show(task: progress.TaskID, done: int, failures: str) -> None:
            seconds = bar.tasks[task].elapsed or 1.0
            bar.update(task, completed=done, rate=done / seconds, failures=failures, visible=True)

        def show_columns(columns: Mapping[str, str]) -> None:
            for part, column in columns.items():
                line = "  " + " ".join(f"{part}: {column}".split())
                console.print(
                    line, highlight=False, markup=False, no_wrap=True, overflow="ellipsis"
                )

        count = {"fetched": 0, "failed": 0}

        def count_fetched(fetched: "Fetched") -> None:
            count["fetched"] += 1
            count["failed"] += fetched.file is None
            show(fetching, count["fetched"], f"{count['failed']} failed")

        def count_cleaned(samples: int, rejected: int) -> None:
            show(cleaning, samples + rejected, f"{rejected} rejected")

        yield PrepareCallbacks(
            on_columns=show_columns, on_fetched=count_fetched, on_cleaned=count_cleaned
        )
