"""Rows with their images at hand, or with why they have none."""

from pathlib import Path

from catalogs import image

from phi_vision.io.http import RetryPolicy
from phi_vision.prepare.cleaning import LoadedRow
from phi_vision.prepare.columns import Columns
from phi_vision.prepare.fetch import Limits
from phi_vision.prepare.pipeline import CHUNK, load_images, prefetch
from phi_vision.prepare.sources.rows import Row, Source, UnreadableRow

COLUMNS = Columns(
    image=("front", "back"), id=None, group=None, split=None, messages=None, fields={}
)
TALK = Columns(image=("front",), id=None, group=None, split=None, messages="talk", fields={})
NOWHERE = "http://127.0.0.1:9/a.jpg"


def gathered(
    folder: Path, *values: object, columns: Columns = COLUMNS, failed: dict[str, str] | None = None
) -> list[LoadedRow | UnreadableRow]:
    pieces: list[Row | UnreadableRow] = [
        value
        if isinstance(value, UnreadableRow)
        else Row(number=n, origin=f"line {n}", values=value)  # type: ignore[arg-type]
        for n, value in enumerate(values)
    ]
    source = Source(name="shop", kind="json", rows=lambda: iter(pieces), folder=folder)
    chunks = list(
        load_images(
            source, columns, folder / "cache", Limits(retry=RetryPolicy(retries=0)), failed or {}
        )
    )
    assert all(len(chunk) == CHUNK for chunk in chunks[:-1])
    return [piece for chunk in chunks for piece in chunk]


def one(folder: Path, value: object, columns: Columns = COLUMNS) -> LoadedRow:
    (found,) = gathered(folder, value, columns=columns)
    assert isinstance(found, LoadedRow)
    return found


def test_images_come_in_the_order_of_their_columns(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(1))
    found = one(tmp_path, {"back": [image(2), {"bytes": image(3)}], "front": "a.png"})
    assert found.images == (image(1), image(2), image(3))
    assert found.problem is None


def test_one_image_missing_is_the_rows_problem(tmp_path: Path) -> None:
    found = one(tmp_path, {"front": image(1), "back": "none.png"})
    assert found.images == ()
    assert str(found.problem).startswith("no such file: 'none.png'")


def test_an_empty_cell_is_reported_and_belongs_to_a_conversation(tmp_path: Path) -> None:
    nothings: list[dict[str, object]] = [{}, {"front": ""}, {"front": None}, {"front": []}]
    for nothing in nothings:
        assert one(tmp_path, nothing).problem == "no image: the cell is empty"
    assert one(tmp_path, {"talk": []}, columns=TALK).problem is None


def test_links_that_failed_before_are_not_tried_again(tmp_path: Path) -> None:
    (found,) = gathered(tmp_path, {"front": NOWHERE}, failed={NOWHERE: "HTTP 404"})
    assert isinstance(found, LoadedRow)
    assert found.problem == f"not fetched, HTTP 404: {NOWHERE}"
    assert not (tmp_path / "cache").exists()


def test_links_that_were_not_fetched_before_are_fetched_now(tmp_path: Path) -> None:
    found = one(tmp_path, {"front": NOWHERE})
    assert str(found.problem).startswith("not fetched, private address")


def test_broken_pieces_and_many_rows_keep_their_order(tmp_path: Path) -> None:
    broken = UnreadableRow(number=1, origin="line 1", reason="odd", raw="?")
    rows: list[object] = [{"front": image(n % 3)} for n in range(2 * CHUNK)]
    found = gathered(tmp_path, rows[0], broken, *rows[2:])
    assert found[1] == broken
    numbers = [piece.row.number for piece in found if isinstance(piece, LoadedRow)]
    assert numbers == [n for n in range(2 * CHUNK) if n != 1]


def test_prefetching_reports_failures(tmp_path: Path) -> None:
    rows = [Row(number=n, origin="", values={"front": NOWHERE}) for n in range(2)]
    source = Source(name="shop", kind="json", rows=lambda: iter(rows), folder=None)
    seen: list[object] = []
    failed = prefetch(source, COLUMNS, tmp_path, Limits(), seen.append)
    assert list(failed) == [NOWHERE]
    assert failed[NOWHERE].startswith("private address")
    assert seen
