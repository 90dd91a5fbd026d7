"""Shards, their columns, and the rejected rows, as they stand in the files."""

import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phi_vision.data.samples import Value
from phi_vision.prepare.cleaning import CleanRow, RejectedRow
from phi_vision.prepare.data_card import FieldStatistics, Statistics
from phi_vision.prepare.images import CleanImage
from phi_vision.prepare.shards import Layout, RejectedRows, Shards
from phi_vision.prepare.sources.rows import Row

SCHEMA = pa.schema([("id", pa.int64()), ("image", pa.binary())])


def write(folder: Path, rows: int, size: int, max_bytes: int) -> list[Path]:
    """Write rows of incompressible images; return the files."""
    noise = random.Random(0)
    with Shards(folder, "train", SCHEMA, max_bytes=max_bytes) as shards:
        for number in range(rows):
            shards.add({"id": number, "image": noise.randbytes(size)}, size)
    return sorted(folder.iterdir())


def layout_of(**columns: Sequence[Value]) -> Layout:
    statistics = Statistics()
    for name, values in columns.items():
        statistics.fields[name] = FieldStatistics()
        for value in values:
            statistics.fields[name].add(value)
    statistics.image_counts.update([1])
    return Layout(statistics)


def staged(images: int = 1, **record: Value) -> CleanRow:
    encoded = [b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF....WEBP"][:images]
    return CleanRow(
        raw=Row(number=0, origin="line 1", values={}),
        id=None,
        group=None,
        split=None,
        record=record,
        messages=(),
        images=tuple(
            CleanImage(encoded=each, width=1, height=1, digest="", perceptual_hash=None, changes=())
            for each in encoded
        ),
        changes=(),
    )


def test_files_are_closed_at_their_size_and_named_by_their_number(tmp_path: Path) -> None:
    files = write(tmp_path, rows=25, size=10_240, max_bytes=50_000)
    assert [file.name for file in files] == [
        f"train-{number:05d}-of-00005.parquet" for number in range(5)
    ]
    assert all(file.stat().st_size < 80_000 for file in files)
    assert [n for file in files for n in pq.read_table(file)["id"].to_pylist()] == list(range(25))


def test_small_data_is_one_file(tmp_path: Path) -> None:
    files = write(tmp_path, rows=250, size=256, max_bytes=10_000_000)
    assert [file.name for file in files] == ["train-00000-of-00001.parquet"]
    with pq.ParquetFile(files[0]) as parquet:
        groups = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    assert groups == [100, 100, 50]


def test_large_images_are_not_held_back_until_there_are_many(tmp_path: Path) -> None:
    with Shards(tmp_path, "train", SCHEMA, max_bytes=10**9) as shards:
        for number in range(3):
            shards.add({"id": number, "image": b"x"}, 40_000_000)
    (file,) = tmp_path.iterdir()
    with pq.ParquetFile(file) as parquet:
        assert parquet.num_row_groups == 3


def test_a_split_without_rows_has_no_file(tmp_path: Path) -> None:
    assert write(tmp_path, rows=0, size=256, max_bytes=100) == []


def test_an_error_leaves_no_file_that_looks_finished(tmp_path: Path) -> None:
    shards = Shards(tmp_path, "train", SCHEMA, max_bytes=1)
    shards.add({"id": 1, "image": b"x"}, 1)
    error = KeyboardInterrupt()
    shards.__exit__(KeyboardInterrupt, error, None)
    assert [file.suffix for file in tmp_path.iterdir()] == [".unfinished"]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, None, 2],     "int64"),
        ([1, 2**60],       "int64"),
        ([1, 2.5],         "float64"),
        ([2**60, 2.5],     "string"),  # a float rounds 2**60 + 1
        ([True, None],     "bool"),
        ([True, 1],        "string"),
        ([1, "A1"],        "string"),
        ([None, None],     "string"),
    ],
)  # fmt: skip
def test_a_column_has_the_type_that_holds_all_its_values(values: list[Value], dtype: str) -> None:
    assert layout_of(field=values).dtypes == {"field": dtype}


def test_values_are_written_in_the_type_of_their_column() -> None:
    layout = layout_of(size=["M", 40], weight=[1, 2.5])
    table = pa.Table.from_pylist([layout.row("A", "G", staged(size=40, weight=1))], layout.schema)
    (row,) = table.to_pylist()
    assert row == {
        "id": "A",
        "group_id": "G",
        "size": "40",
        "weight": 1.0,
        "image": {"bytes": b"\xff\xd8\xff", "path": "A.jpg"},
    }
    assert isinstance(row["weight"], float)


def test_several_images_are_a_list_with_names_by_their_content() -> None:
    layout = layout_of()
    layout.has_one_image_each = False
    row = layout.row("a/b c", "G", staged(images=3))
    named = [image["path"] for image in row["images"]]  # type: ignore[attr-defined]
    assert named == ["a_b_c.jpg", "a_b_c1.png", "a_b_c2.webp"]


def test_rejected_rows_are_counted_and_written(tmp_path: Path) -> None:
    with RejectedRows(tmp_path) as rejected:
        for number in range(150):
            rejected.add(
                RejectedRow(
                    number=number,
                    origin=f"line {number}",
                    reason="odd" if number % 2 else "even",
                    detail="",
                    values="{}",
                )
            )
    assert rejected.reasons == {"even": 75, "odd": 75}
    rows = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    assert [row["row"] for row in rows] == list(range(150))
    assert rows[1] == {"row": 1, "origin": "line 1", "reason": "odd", "detail": "", "values": "{}"}


def test_no_rejected_row_is_an_empty_table(tmp_path: Path) -> None:
    with RejectedRows(tmp_path):
        pass
    assert pq.read_table(tmp_path / "rejected.parquet").num_rows == 0
