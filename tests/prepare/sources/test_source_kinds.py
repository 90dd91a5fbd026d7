"""How the kind of a source is told, the hub, and the errors for what is no source."""

import json
import pickle
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from phi_vision.prepare.sources.registry import SOURCES, detect_kind, open_source
from phi_vision.prepare.sources.rows import Row, UnreadableRow


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets"))
    )


def test_every_kind_has_a_function() -> None:
    kinds = "csv json jsonl parquet arrow hub folder llava webdataset"
    assert sorted(SOURCES) == sorted(kinds.split())


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("a.xlsx", b"PK\x03\x04....", "an Excel workbook; save the sheet as CSV"),
        ("a.csv", b"PK\x03\x04....", "an Excel workbook; save the sheet as CSV"),
        ("a.csv", b"\n<!DOCTYPE html><p>Sign in", "a web page.*; fetch the file itself"),
        ("a.pdf", b"%PDF-1.4", "a PDF"),
        ("a.jpg", b"\xff\xd8\xff", "an image; give its folder"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.docx", b"hello", r"found a \.docx file; give one ending in \.csv, "),
        ("a", b"hello", "found a nameless kind of file; give one"),
        ("a.csv", b"", "is empty: found 0 bytes"),
    ],
)
def test_a_file_without_a_table_is_an_error(
    tmp_path: Path, name: str, head: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(head)
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path / name))


def test_the_content_counts_more_than_the_ending(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sku": ["A"]}), tmp_path / "export.dat")
    assert detect_kind(str(tmp_path / "export.dat")) == "parquet"


def test_unknown_names_are_errors_that_help(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("sku,title\nA,Coat\n")
    with pytest.raises(ValueError, match=r"no such file or folder; did you mean .*products.csv"):
        open_source(str(tmp_path / "produts.csv"))
    with pytest.raises(ValueError, match=r"no kind of source 'cvs' \(did you mean csv\?\)"):
        open_source(str(tmp_path / "products.csv"), kind="cvs")
    with pytest.raises(ValueError, match="download it with `curl -LO"):
        open_source("https://x.example/products.csv")


def test_a_slip_in_a_path_is_not_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="no data at data/photos"):
        detect_kind("data/photos")
    assert detect_kind("owner/photos") == "hub"
    assert detect_kind("owner/photos:small") == "hub"


def test_settings_of_the_hub_do_not_pass_for_files(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("sku,title\nA,Coat\n")
    with pytest.raises(ValueError, match="a revision has no effect"):
        open_source(str(tmp_path / "products.csv"), revision="main")
    with pytest.raises(ValueError, match="streaming has no effect"):
        open_source(str(tmp_path / "products.csv"), streaming=True)
    with pytest.raises(ValueError, match="it is not divided into splits"):
        open_source(str(tmp_path / "products.csv"), split="train")


def test_an_ambiguous_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sku,title\nA,Coat\n")
    (tmp_path / "b.json").write_text('[{"sku": "A"}]')
    with pytest.raises(ValueError, match=r"cannot tell what to read in .*a.csv, b.json"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path), kind="json").kind == "json"


def test_a_table_beside_its_images_is_the_source(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("sku,photo\nA,photos/a.jpg\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"an image")
    source = open_source(str(tmp_path))
    assert (source.kind, source.folder) == ("csv", tmp_path)


@pytest.mark.parametrize("pattern", ["{train,val}.csv", "*.csv", "[tv]*.csv"])
def test_a_pattern_names_files_of_any_kind(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "val.csv").write_text("sku,title\nB,Hat\n")
    (tmp_path / "train.csv").write_text("sku,title\nA,Coat\n")
    (tmp_path / "notes.txt").write_text("Not a table.")
    source = open_source(str(tmp_path / pattern))
    assert (source.kind, source.folder, source.detected["files"]) == ("csv", tmp_path, "2")
    rows = [row for row in source.rows() if isinstance(row, Row)]
    assert [(row.origin, row.split) for row in rows] == [
        ("train.csv line 2", "train"),
        ("val.csv line 2", "validation"),
    ]


def test_json_files_of_a_folder_may_hold_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"sku": "A"}\n{"sku": "B"}\n{"sku": \n')
    (tmp_path / "b.json").write_text('[{"sku": "C"}]')
    found = list(open_source(str(tmp_path)).rows())
    assert [row.origin for row in found] == [
        *("a.json line 1", "a.json line 2", "a.json line 3"),
        "b.json record 1",
    ]
    assert isinstance(found[2], UnreadableRow)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found nothing; give a folder"):
        open_source(str(tmp_path))


def test_a_source_travels_to_other_processes(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("sku,title\nA,Coat\n")
    source = open_source(str(tmp_path / "products.csv"))
    assert list(pickle.loads(pickle.dumps(source)).rows()) == list(source.rows())


def test_the_limit_of_columns_holds_for_all_kinds(tmp_path: Path) -> None:
    row = {f"c{n}": [n] for n in range(2001)}
    pq.write_table(pa.table(row), tmp_path / "p.parquet")
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    (tmp_path / "p.json").write_text(json.dumps([row]))
    for name in ("p.parquet", "p.jsonl", "p.json"):
        with pytest.raises(ValueError, match="found 2,001 columns, more than 2,000"):
            open_source(str(tmp_path / name))


def test_memory_stays_bounded_while_rows_stream(tmp_path: Path) -> None:
    text = "x" * 8000
    (tmp_path / "p.csv").write_text("sku,text\n" + f"A,{text}\n" * 1_000)
    (tmp_path / "p.jsonl").write_text(f'{{"text": "{text}"}}\n' * 1_000)
    (tmp_path / "p.json").write_text("[" + ",".join([f'{{"text": "{text}"}}'] * 1_000) + "]")
    pq.write_table(pa.table({"text": [f"{n}{text}" for n in range(1_000)]}), tmp_path / "p.parquet")
    for name in ("p.csv", "p.jsonl", "p.json", "p.parquet"):
        source = open_source(str(tmp_path / name))
        tracemalloc.start()
        assert sum(1 for _ in source.rows()) == 1_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6e6, name  # of files of 8 MB, which are read in pieces of 1 MB


def test_a_hub_id_without_a_network_is_reported() -> None:
    pattern = r"cannot load 'nobody-here/nothing' .*: .*; check the id and the network"
    with pytest.raises(ValueError, match=pattern):
        open_source("nobody-here/nothing")


@pytest.mark.parametrize("streaming", [False, True])
def test_the_hub_kind_loads_a_local_folder(tmp_path: Path, streaming: bool) -> None:
    for split, color in (("train", "red"), ("test", "blue")):
        for category in ("coat", "hat"):
            folder = tmp_path / split / category
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), color).save(folder / f"{color}.png")
    source = open_source(str(tmp_path), kind="hub", streaming=streaming)
    rows = [row for row in source.rows() if isinstance(row, Row)]
    assert [(row.split, row.values["label"]) for row in rows] == [
        ("train", "coat"),
        ("train", "hat"),
        ("test", "coat"),
        ("test", "hat"),
    ]
    image = rows[0].values["image"]
    assert isinstance(image, dict)
    assert image["bytes"] == (tmp_path / "train" / "coat" / "red.png").read_bytes()
    assert len(list(open_source(str(tmp_path), kind="hub", split="test").rows())) == 2
