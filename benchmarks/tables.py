"""Tables of a Markdown page; figures are text, already rounded."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Table:
    """Named columns, and rows that begin with their name."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_markdown(self) -> str:
        """Format the table as Markdown; the first column, which names the rows, has no name.

        Output: | | blind | sees |
                |---|---|---|
                | category right | 0.03 | 0.95 |
        """
        return self._head + "".join(f"| {' | '.join(row)} |\n" for row in self.rows)

    def put_into(self, page: str) -> str:
        """Replace the page's table of the same columns.

        Raises:
            ValueError: The page has none.
        """
        before, head, after = page.partition(self._head)
        if not head:
            raise ValueError(f"the page has no table with {self._head!r}; write its first lines")
        return before + self.as_markdown() + re.sub(r"\A(\|.*\n)*", "", after)

    @property
    def _head(self) -> str:
        return f"| | {' | '.join(self.columns)} |\n|---|{'---|' * len(self.columns)}\n"


def lay_out(names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> Table:
    """Build a table from the names of rows and columns of figures."""
    rows = [[name, *values] for name, *values in zip(names, *columns.values(), strict=True)]
    return Table(columns=list(columns), rows=rows)


def as_share(value: float) -> str:
    """Format a share: 0.953 as `0.95`."""
    return f"{value:.2f}"


def as_percent(value: float) -> str:
    """Format a percentage: 0.276 as `28 %`."""
    return f"{value:.0%}".replace("%", " %")
