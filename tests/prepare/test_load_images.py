"""Rows with their images at hand, or with why they have none."""

from pathlib import Path

from catalogs import image

from phi_vision.io.http import RetryPolicy
from phi_vision.prepare.cleaning import LoadedRow
from phi_vision.prepare.columns import Columns
from phi_vision.prepare.fetch import Fetched, Limits
from phi_vision.prepare.pipeline import CHUNK, load_images
from phi_vision.prepare.sources.rows import Row, Source, UnreadableRow

COLUMNS = Columns(
    image=("front", "back"), id=None, group=None, split=None, messages=None, fields={}
)
TALK = Columns(image=("front",), id=None, group=None, split=None, messages="talk", fields={})
NOWHERE, OTHER = "http://127.0.0.1:9/a.jpg", "http://127.0.0.1:9/b.jpg"


def gathered(
    folder: Path, *values: object, columns: Columns = COLUMNS
) -> list[LoadedRow | UnreadableRow]:
    pieces: list[Row | UnreadableRow] = [
        value
        if isinstance(value, UnreadableRow)
        else Row(number=n, origin=f"line {n}", values=value)  # type: ignore[arg-type]
        for n, value in enumerate(values)
    ]
    source = Source(name="shop", kind="json", rows=lambda: iter(pieces), folder=folder)
    limits = Limits(retry=RetryPolicy(retries=0))
    chunks = list(load_images(source, columns, folder / "cache", limits))
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


def test_a_link_that_fails_is_its_rows_problem_and_each_row_has_its_own_images(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").write_bytes(image(1))
    rows = [{"front": "none.png", "back": NOWHERE}, {"front": OTHER}, {"front": "a.png"}]
    found = gathered(tmp_path, *rows, {"front": NOWHERE, "back": NOWHERE}, {"front": OTHER})
    problems = [one.problem for one in found if isinstance(one, LoadedRow)]
    assert str(problems[0]).startswith("no such file: 'none.png'")
    assert str(problems[1]).startswith("not fetched, private address")
    assert [str(problem).rpartition(": ")[2] for problem in problems[1:]] == [
        *(OTHER, "None", NOWHERE, OTHER)
    ]


def test_without_links_nothing_is_cached(tmp_path: Path) -> None:
    gathered(tmp_path, {"front": image(1)}, {"front": "none.png"})
    assert not (tmp_path / "cache").exists()


def test_broken_pieces_and_many_rows_keep_their_order(tmp_path: Path) -> None:
    broken = UnreadableRow(number=1, origin="line 1", reason="odd", raw="?")
    rows: list[object] = [{"front": image(n % 3)} for n in range(2 * CHUNK)]
    found = gathered(tmp_path, rows[0], broken, *rows[2:])
    assert found[1] == broken
    numbers = [piece.row.number for piece in found if isinstance(piece, LoadedRow)]
    assert numbers == [n for n in range(2 * CHUNK) if n != 1]


def test_downloads_are_reported_once_for_each_cell(tmp_path: Path) -> None:
    rows = [Row(number=n, origin="", values={"front": NOWHERE}) for n in range(2)]
    source = Source(name="shop", kind="json", rows=lambda: iter(rows), folder=None)
    seen: list[Fetched] = []
    assert list(load_images(source, COLUMNS, tmp_path, Limits(), seen.append))
    assert [each.url for each in seen] == [NOWHERE, NOWHERE]
    assert all(str(each.reason).startswith("private address") for each in seen)
