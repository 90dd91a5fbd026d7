"""Rows -> rows with their images at hand: read from the source's folder, or fetched before.

Everything that needs this machine's disk and network happens here, so that cleaning needs neither.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from phi_vision.prepare.cleaning import RawRow
from phi_vision.prepare.columns import Columns, cells_of
from phi_vision.prepare.fetch import Fetched, Limits, fetch
from phi_vision.prepare.image_references import read_reference, url_of
from phi_vision.prepare.sources.rows import Row, Source, UnreadableRow

CHUNK = 32
"""Rows given to an engine at once: a tenth of a second of work, and a few megabytes."""


def prefetch(
    source: Source,
    columns: Columns,
    cache: Path,
    limits: Limits,
    progress: Callable[[Fetched], None] | None = None,
) -> dict[str, str]:
    """Fetch every image that the source names by a URL, ahead of reading the rows in earnest.

    Returns:
        URL -> why it could not be fetched; all others are in the cache.

    Raises:
        ValueError: The cache cannot be written to.
    """
    urls = (
        url
        for row in source.rows()
        if isinstance(row, Row)
        for cell in cells_of(row, columns)
        if (url := url_of(cell))
    )
    fetched = fetch(urls, cache, limits, progress)
    return {each.url: each.reason for each in fetched if each.reason is not None}


def gather(
    source: Source, columns: Columns, cache: Path, limits: Limits, failed: dict[str, str]
) -> Iterator[list[RawRow | UnreadableRow]]:
    """Yield the source's rows in chunks, each row with its images or with why it has none."""
    rows = source.rows()
    while chunk := list(itertools.islice(rows, CHUNK)):
        links = [
            url
            for row in chunk
            if isinstance(row, Row)
            for cell in cells_of(row, columns)
            if (url := url_of(cell)) and url not in failed
        ]
        # Fetched before, save where only rows far down have links.
        files = {each.url: each for each in fetch(links, cache, limits)} if links else {}
        yield [
            _find(row, columns, source.folder, files, failed) if isinstance(row, Row) else row
            for row in chunk
        ]


def _find(
    row: Row,
    columns: Columns,
    folder: Path | None,
    files: dict[str, Fetched],
    failed: dict[str, str],
) -> RawRow:
    cells: Sequence[object] = cells_of(row, columns)
    if not cells and columns.messages is None:
        return RawRow(row=row, encoded=(), problem="no image: the cell is empty")
    try:
        encoded = tuple(_read(cell, folder, files, failed) for cell in cells)
    except (ValueError, OSError) as error:
        return RawRow(row=row, encoded=(), problem=str(error))
    return RawRow(row=row, encoded=encoded)


def _read(
    cell: object, folder: Path | None, files: dict[str, Fetched], failed: dict[str, str]
) -> bytes:
    url = url_of(cell)
    if url is None:
        return read_reference(cell, folder)
    fetched = files.get(url)
    if fetched is None or fetched.file is None:
        why = failed[url] if fetched is None else fetched.reason
        raise ValueError(f"not fetched, {why}: {url}")
    return fetched.file.read_bytes()
