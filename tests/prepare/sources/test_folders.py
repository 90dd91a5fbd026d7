"""Folders of images: categories, metadata, splits, and files that do not belong."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phi_vision.prepare.sources.registry import open_source
from phi_vision.prepare.sources.rows import Row, Source, UnreadableRow


def plant(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"an image")


def values(source: Source) -> list[dict[str, object]]:
    return [dict(row.values) for row in source.rows() if isinstance(row, Row)]


def test_the_folder_of_an_image_is_its_category(tmp_path: Path) -> None:
    plant(tmp_path, "coats/b.JPG", "coats/a.png", "hats/c.webp", "d.jpg", "women/bags/e.jpg")
    plant(tmp_path, "README.md", "coats/Thumbs.db", "coats/.hidden.jpg")
    source = open_source(str(tmp_path))
    assert (source.kind, source.folder) == ("folder", tmp_path)
    assert values(source) == [
        {"image": "coats/a.png", "category": "coats"},
        {"image": "coats/b.JPG", "category": "coats"},
        {"image": "d.jpg"},
        {"image": "hats/c.webp", "category": "hats"},
        {"image": "women/bags/e.jpg", "category": "bags", "folder": "women/bags"},
    ]


def test_a_file_that_is_no_image_is_reported(tmp_path: Path) -> None:
    plant(tmp_path, "coats/a.jpg", "coats/film.mp4")
    broken = list(open_source(str(tmp_path)).rows())[1]
    assert broken == UnreadableRow(
        number=1, origin="coats/film.mp4", reason="not an image by its name", raw="coats/film.mp4"
    )


def test_folders_that_are_all_splits_are_splits(tmp_path: Path) -> None:
    plant(tmp_path, "test/hats/b.jpg", "train/coats/a.jpg")
    rows = [row for row in open_source(str(tmp_path)).rows() if isinstance(row, Row)]
    assert sorted((row.split, row.values["category"]) for row in rows) == [
        ("test", "hats"),
        ("train", "coats"),
    ]
    assert values(open_source(str(tmp_path), split="train")) == [
        {"image": "train/coats/a.jpg", "category": "coats"}
    ]
    with pytest.raises(ValueError, match="no split 'validation' in"):
        open_source(str(tmp_path), split="validation")


def test_a_category_called_test_is_a_category(tmp_path: Path) -> None:
    plant(tmp_path, "test/a.jpg", "coats/b.jpg")
    assert {row["category"] for row in values(open_source(str(tmp_path)))} == {"test", "coats"}


def test_metadata_csv_gives_the_rows(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "more/b.jpg", "c.jpg")
    (tmp_path / "metadata.csv").write_bytes(
        "file_name;title\na.jpg;Béret\nmore\\b.jpg;Coat\n;Hat\ngone.jpg;Bag\n".encode("cp1252")
    )
    source = open_source(str(tmp_path))
    assert source.detected["metadata"] == "metadata.csv"
    assert values(source) == [
        {"image": "a.jpg", "title": "Béret"},
        {"image": "more/b.jpg", "title": "Coat"},
        {"image": "gone.jpg", "title": "Bag"},  # for the cleaning to judge
    ]
    broken = [(row.origin, row.reason) for row in source.rows() if isinstance(row, UnreadableRow)]
    assert broken == [
        ("metadata.csv line 4", "names no image"),
        ("c.jpg", "an image that the metadata does not name"),
    ]


def test_splits_may_be_folders_below_the_categories(tmp_path: Path) -> None:
    plant(tmp_path, "coats/Train/a.jpg", "coats/val/b.jpg", "hats/Train/c.jpg", "d.jpg")
    source = open_source(str(tmp_path))
    assert source.detected["splits"] == "train, validation"
    assert [row.split for row in source.rows() if isinstance(row, Row)] == [
        *("train", "validation", None, "train")
    ]
    assert [row.get("category") for row in values(source)] == ["coats", "coats", None, "hats"]
    assert len(values(open_source(str(tmp_path), split="val"))) == 1


def test_metadata_of_each_split_begins_at_its_folder(tmp_path: Path) -> None:
    plant(tmp_path, "train/a.jpg", "val/b.jpg", "val/c.jpg")
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "a.jpg", "title": "Coat"}\n')
    (tmp_path / "val" / "metadata.jsonl").write_text('{"file_names": ["b.jpg", "c.jpg"]}\n')
    rows = [row for row in open_source(str(tmp_path)).rows() if isinstance(row, Row)]
    assert [(row.split, dict(row.values)) for row in rows] == [
        ("train", {"image": "train/a.jpg", "title": "Coat"}),
        ("validation", {"images": ["val/b.jpg", "val/c.jpg"]}),
    ]


def test_metadata_parquet_names_several_images_by_column(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg", "b.jpg")
    table = pa.table({"front_file_name": ["a.jpg"], "back_file_name": ["b.jpg"], "n": [1]})
    pq.write_table(table, tmp_path / "metadata.parquet")
    source = open_source(str(tmp_path))
    assert list(source.rows()) == [
        Row(
            number=0,
            origin="metadata.parquet row 1",
            values={"front": "a.jpg", "back": "b.jpg", "n": 1},
        )
    ]


def test_urls_and_other_folders_are_left_to_the_cleaning(tmp_path: Path) -> None:
    plant(tmp_path, "train/a.jpg")
    (tmp_path / "train" / "metadata.csv").write_text(
        "file_name,n\nhttps://x.example/a.jpg,1\n../../b.jpg,2\n/etc/c.jpg,3\n"
    )
    assert [row["image"] for row in values(open_source(str(tmp_path)))] == [
        "https://x.example/a.jpg",
        "train/../../b.jpg",
        "/etc/c.jpg",
    ]


def test_metadata_without_file_names_is_an_error(tmp_path: Path) -> None:
    plant(tmp_path, "a.jpg")
    (tmp_path / "metadata.csv").write_text("sku,title\nA,Coat\n")
    with pytest.raises(ValueError, match=r"columns sku, title; give it a column 'file_name'"):
        open_source(str(tmp_path))


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    plant(tmp_path, "notes.docx")
    with pytest.raises(ValueError, match=r"holds no images: found no file ending in \.jpg"):
        open_source(str(tmp_path), kind="folder")
    with pytest.raises(ValueError, match="no folder of images at"):
        open_source(str(tmp_path / "no"), kind="folder")


def test_a_text_beside_an_image_is_its_caption(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"\xff\xd8\xff")
        (tmp_path / f"{number}.txt").write_text(f"Größe {number}", encoding="utf-8")
    rows = list(open_source(str(tmp_path)).rows())
    assert [row.values for row in rows if isinstance(row, Row)] == [
        {"image": f"{number}.jpg", "caption": f"Größe {number}"} for number in range(3)
    ]
    assert len(rows) == 3
