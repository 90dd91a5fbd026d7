"""Parquet and Arrow, as pyarrow, Spark and `datasets` write them, whole and damaged."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from phi_vision.prepare.sources.registry import open_source
from phi_vision.prepare.sources.rows import Row, UnreadableRow

IMAGE = b"\xff\xd8\xff not really an image"  # decoding it would fail


def write(file: Path, *skus: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"sku": list(skus)}), file)


def dataset() -> Dataset:
    features = Features(
        image=Image(),
        more=List(Image()),
        label=ClassLabel(names=["coat", "hat"]),
        title=Value("string"),
    )
    image = {"bytes": IMAGE, "path": "a.jpg"}
    columns = {
        "image": [image] * 3,
        "more": [[image], [], [image, image]],
        "label": [0, 1, -1],
        "title": ["A", "B", "C"],
    }
    return Dataset.from_dict(columns, features=features)


def test_a_parquet_file_gives_typed_and_nested_values(tmp_path: Path) -> None:
    first = {"sku": "A", "price": 1.5, "facts": {"size": [1, 2]}}
    rows = [first, {"sku": "B", "price": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    source = open_source(str(tmp_path / "p.parquet"))
    found = list(source.rows())
    assert found[0] == Row(number=0, origin="p.parquet row 1", values=first)
    assert source.folder == tmp_path


def test_splits_of_a_parquet_folder_come_from_names_and_folders(tmp_path: Path) -> None:
    write(tmp_path / "data" / "test-00000-of-00001.parquet", "C")
    write(tmp_path / "data" / "train-00001-of-00002.parquet", "B")
    write(tmp_path / "data" / "train-00000-of-00002.parquet", "A")
    write(tmp_path / "val" / "part-00000.parquet", "D")
    (tmp_path / "README.md").write_text(
        "---\nlicense: cc-by-4.0\nsize_categories: [n<1K]\n---\n# Coats\n\nPhotos of\ncoats.\n"
    )
    source = open_source(str(tmp_path))
    found = [(row.values["sku"], row.split) for row in source.rows() if isinstance(row, Row)]
    assert found == [("A", "train"), ("B", "train"), ("D", "validation"), ("C", "test")]
    assert source.notes == {"license": "cc-by-4.0", "description": "Photos of coats."}
    assert source.detected["splits"] == "train, validation, test"


def test_folders_of_hive_are_columns(tmp_path: Path) -> None:
    write(tmp_path / "category=coat" / "part-0.parquet", "A")
    row = next(open_source(str(tmp_path)).rows())
    assert isinstance(row, Row)
    assert row.values == {"category": "coat", "sku": "A"}


def test_one_damaged_file_of_several_is_one_broken_row(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", "A")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing")
    write(tmp_path / "c.parquet", "C")
    found = list(open_source(str(tmp_path)).rows())
    assert [type(row) for row in found] == [Row, UnreadableRow, Row]
    assert isinstance(found[1], UnreadableRow)
    assert found[1].reason == "cannot be read as Parquet"


def test_a_damaged_file_alone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(ValueError, match=r"cannot read .*b.parquet as parquet: .*write the file"):
        open_source(str(tmp_path / "b.parquet"))


def test_text_that_is_no_utf8_breaks_its_row_only(tmp_path: Path) -> None:
    column = pa.array([b"A", b"Caf\xe9", b"C"]).view(pa.string())
    pq.write_table(pa.table({"sku": column}), tmp_path / "p.parquet")
    found = list(open_source(str(tmp_path / "p.parquet")).rows())
    assert [type(row) for row in found] == [Row, UnreadableRow, Row]
    assert [row.number for row in found] == [0, 1, 2]


def test_parquet_of_datasets_keeps_images_encoded_and_names_labels(tmp_path: Path) -> None:
    dataset().to_parquet(tmp_path / "p.parquet")
    found = [row for row in open_source(str(tmp_path / "p.parquet")).rows() if isinstance(row, Row)]
    assert found[0].values["image"] == {"bytes": IMAGE, "path": "a.jpg"}
    assert [row.values["label"] for row in found] == ["coat", "hat", None]


def test_a_saved_dataset_is_read_without_decoding(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "saved", num_shards=2)
    source = open_source(str(tmp_path / "saved"))
    found = [row for row in source.rows() if isinstance(row, Row)]
    assert source.kind == "arrow"
    assert [row.number for row in found] == [0, 1, 2]
    assert found[2].values == {
        "image": {"bytes": IMAGE, "path": "a.jpg"},
        "more": [{"bytes": IMAGE, "path": "a.jpg"}] * 2,
        "label": None,
        "title": "C",
    }


def test_a_saved_dataset_dict_has_splits_and_notes(tmp_path: Path) -> None:
    data = dataset()
    data.info.license, data.info.homepage = "mit", "https://coats.example"
    DatasetDict(test=data.select([0]), train=data).save_to_disk(tmp_path / "saved")
    source = open_source(str(tmp_path / "saved"))
    assert [row.split for row in source.rows() if isinstance(row, Row)] == ["train"] * 3 + ["test"]
    assert source.notes == {"license": "mit", "homepage": "https://coats.example"}
    assert len(list(open_source(str(tmp_path / "saved"), split="test").rows())) == 1


def test_a_saved_dataset_that_lacks_a_file_is_an_error(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(ValueError, match=r"is incomplete: state.json names 1 files.*save it again"):
        open_source(str(tmp_path / "saved"))


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_files_and_streams_are_read_and_a_cut_one_keeps_its_rows(
    tmp_path: Path,
    new: object,
) -> None:
    table = pa.table({"sku": [f"{n:09}" for n in range(3000)]})
    file = tmp_path / "p.arrow"
    with new(str(file), table.schema) as writer:  # type: ignore[operator]
        writer.write_table(table, max_chunksize=1000)
    assert len(list(open_source(str(file)).rows())) == 3000
    if new is pa.ipc.new_stream:
        file.write_bytes(file.read_bytes()[:30_000])
        found = list(open_source(str(file)).rows())
        assert len(found) in (1001, 2001)
        assert isinstance(found[-1], UnreadableRow)


def test_damaged_offsets_break_rows_and_do_not_end_the_process(tmp_path: Path) -> None:
    table = pa.table({"sku": ["123456789"] * 4})
    file = tmp_path / "p.arrow"
    with pa.ipc.new_stream(str(file), table.schema) as writer:
        writer.write_table(table)
    offsets = np.arange(0, 37, 9, dtype=np.int32).tobytes()
    wrong = np.array([0, 9, 18, 2_000_000_000, 36], dtype=np.int32).tobytes()
    assert file.read_bytes().count(offsets) == 1
    file.write_bytes(file.read_bytes().replace(offsets, wrong))
    found = list(open_source(str(file)).rows())
    assert [type(row) for row in found] == [Row, Row, UnreadableRow, UnreadableRow]


def test_images_that_were_read_are_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "large.parquet"
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(file, schema, compression="none") as writer:
        for _ in range(40):  # row groups, 40 MB in all
            images = pa.array([os.urandom(10_000) for _ in range(100)], pa.binary())
            writer.write_table(pa.table([images], schema=schema))
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in open_source(str(file)).rows()]
    assert max(held) < 10_000_000
