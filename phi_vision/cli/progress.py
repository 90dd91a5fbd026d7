"""Progress bars on stderr, hidden without a terminal."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from phi_vision.prepare.fetch import Fetched
    from phi_vision.prepare.pipeline import PrepareCallbacks


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar and yield its update function, called with (done, total)."""
    from rich import progress

    columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
    with _bars(*columns) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def preparation_bars() -> "Iterator[PrepareCallbacks]":
    """Show the column mapping, then the progress of downloads and cleaning."""
    from rich import progress
    from rich.text import Text

    from phi_vision.prepare.pipeline import PrepareCallbacks

    counts = "{task.completed}, {task.fields[rate]:.0f}/s, {task.fields[failures]}"
    columns = (progress.SpinnerColumn(), progress.TextColumn(counts), progress.TimeElapsedColumn())
    with _bars(*columns) as bars:
        fetching, cleaning = (
            bars.add_task(what, total=None, visible=False, rate=0.0, failures="")
            for what in ("fetching images", "cleaning rows")
        )
        fetched = {True: 0, False: 0}  # whether it failed -> images

        def show(task: progress.TaskID, done: int, failures: str) -> None:
            rate = done / (bars.tasks[task].elapsed or 1.0)
            bars.update(task, completed=done, rate=rate, failures=failures, visible=True)

        def show_columns(columns: Mapping[str, str]) -> None:
            for part, column in columns.items():
                line = " ".join(f"{part}: {column}".split())
                bars.console.print(Text(f"  {line:.400}"), soft_wrap=True)

        def count_fetched(image: "Fetched") -> None:
            fetched[image.file is None] += 1
            show(fetching, sum(fetched.values()), f"{fetched[True]} failed")

        def count_cleaned(samples: int, rejected: int) -> None:
            show(cleaning, samples + rejected, f"{rejected} rejected")

        yield PrepareCallbacks(
            on_columns=show_columns, on_fetched=count_fetched, on_cleaned=count_cleaned
        )


@contextmanager
def _bars(*columns: "ProgressColumn") -> "Iterator[Progress]":
    from rich import progress
    from rich.console import Console

    console, task = Console(stderr=True), progress.TextColumn("{task.description}")
    hidden = not console.is_terminal
    with progress.Progress(task, *columns, console=console, transient=True, disable=hidden) as bars:
        yield bars
