"""Batch prediction: one row for each row, in order, whatever fails; interrupted, it resumes."""

import errno
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_predictors import Painter, spec_of
from toy_products import draw_product, product_rows

from phi_vision.data.acceptance import RECORD, Acceptance, AcceptanceRule, PlattScaler
from phi_vision.data.template import CONVERSATION, PRODUCT, Template
from phi_vision.inference.batch import BatchSummary, predict_catalog
from phi_vision.inference.batch_catalog import BatchConfig
from phi_vision.io.atomic import lock

ROWS = 20
WHOLE = draw_product("red", "HATS", (60, 40))


def write_shop(folder: Path, rows: list[dict[str, object]], split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / f"{split}-00000-of-00001.parquet", row_group_size=7)
    return folder


def shown(image: bytes | None, name: str) -> dict[str, object]:
    cell = None if image is None else {"bytes": image, "path": None}
    return {"image": cell, "id": name, "title": "Coat", "full_price": 1.0}


def predict(source: Path, out: Path, painter: Painter, **job: Any) -> BatchSummary:
    return predict_catalog(
        source, spec_of(painter), BatchConfig(out=out, **({"rows_per_part": 3} | job))
    )


def read(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows


def hidden(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name.startswith("."))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_shop(tmp_path / "shop", product_rows(ROWS))


def test_rows_come_in_the_order_of_the_source_with_typed_columns(
    shop: Path, tmp_path: Path
) -> None:
    summary = predict(shop, tmp_path / "out.parquet", Painter())
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == [f"p{number}" for number in range(ROWS)]
    assert {field.name: str(field.type) for field in table.schema} == {
        "id": "string",
        "split": "string",
        "title": "string",
        "category3_code": "string",
        "full_price": "double",
        "confidence_title": "double",
        "confidence_category3_code": "double",
        "confidence_full_price": "double",
        "readable": "bool",
        "text": "string",
        "error": "string",
        "error_detail": "string",
    }
    assert table.slice(0, 1).to_pylist() == [
        {
            "id": "p0",
            "split": "train",
            "title": "(255, 0, 0)",
            "category3_code": "HATS",
            "full_price": 4.5,
            "confidence_title": 0.5,
            "confidence_category3_code": None,
            "confidence_full_price": None,
            "readable": True,
            "text": "Product: (255, 0, 0), Category: HATS, Full Price: 4.5",
            "error": None,
            "error_detail": None,
        }
    ]
    assert (summary.rows, summary.predicted, summary.errors) == (ROWS, ROWS, {})
    assert hidden(tmp_path) == []


def test_all_splits_follow_each_other_or_one_is_chosen(shop: Path, tmp_path: Path) -> None:
    write_shop(shop, product_rows(5), "test")
    predict(shop, tmp_path / "all.parquet", Painter())
    splits = [row["split"] for row in read(tmp_path / "all.parquet")]
    assert splits == ["train"] * ROWS + ["test"] * 5
    predict(shop, tmp_path / "test.parquet", Painter(), split="test")
    assert [row["id"] for row in read(tmp_path / "test.parquet")] == ["p0", "p1", "p2", "p3", "p4"]


def test_a_file_and_a_folder_of_images_are_catalogs_too(shop: Path, tmp_path: Path) -> None:
    (file,) = shop.glob("*.parquet")
    predict(file, tmp_path / "file.parquet", Painter())
    assert "split" not in pq.read_schema(tmp_path / "file.parquet").names
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("b.png", "a.jpg", "notes.txt"):
        (photos / name).write_bytes(WHOLE)
    (photos / "c.png").mkdir()  # a subfolder, whatever its name
    (photos / "c.png" / "e.webp").write_bytes(WHOLE)
    (photos / "d.png").symlink_to("nowhere.png")
    summary = predict(photos, tmp_path / "photos.parquet", Painter())
    found = [(row["id"], row["error"]) for row in read(tmp_path / "photos.parquet")]
    assert found == [
        ("a.jpg", None),
        ("b.png", None),
        ("c.png/e.webp", None),
        ("d.png", "no image"),
    ]
    assert summary.errors == {"no image": 1}


def test_links_and_folders_that_cannot_be_read_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    (photos / "sub" / "deep").mkdir(parents=True)
    (photos / "a.png").write_bytes(WHOLE)
    (photos / "sub" / "loop").symlink_to(photos)
    (photos / "self.png").symlink_to("self.png")
    (photos / "zero.jpg").touch()
    predict(photos, tmp_path / "out.parquet", Painter())
    found = [(row["id"], row["error"]) for row in read(tmp_path / "out.parquet")]
    expected = [("a.png", None), ("self.png", "no image"), ("zero.jpg", "unreadable image")]
    assert found == expected
    scan = os.scandir

    def forbid(place: str) -> Any:
        if str(place).endswith("deep"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", forbid)
    with pytest.raises(ValueError, match=r"cannot list .*sub/deep: Permission denied; allow"):
        predict(photos, tmp_path / "other.parquet", Painter())


def test_a_row_without_a_prediction_has_a_reason(tmp_path: Path) -> None:
    images = [shown(WHOLE, f"good{number}") for number in range(6)]
    images[1] = shown(None, "missing")
    images[2] = shown(WHOLE[:60], "cut")
    images[4] = shown(WHOLE, "heavy")
    images[5]["image"] = {"bytes": None, "path": "gone.png"}
    source = write_shop(tmp_path / "shop", images)
    painter = Painter(fails_on=["heavy"], error=MemoryError())
    summary = predict(source, tmp_path / "out.parquet", painter, rows_per_part=6)
    rows = read(tmp_path / "out.parquet")
    assert [(row["id"], row["error"], row["text"] is None) for row in rows] == [
        ("good0", None, False),
        ("missing", "no image", True),
        ("cut", "unreadable image", True),
        ("good3", None, False),
        ("heavy", "no prediction", True),
        ("good5", "no image", True),
    ]
    assert "sample 'cut', image 1: truncated image" in rows[2]["error_detail"]
    assert rows[4]["error_detail"] == "MemoryError"
    assert "no image at" in rows[5]["error_detail"]
    assert rows[2]["readable"] is None
    assert summary.errors == {"no image": 2, "unreadable image": 1, "no prediction": 1}
    assert summary.predicted == 6


def test_unparsed_texts_and_values_of_other_kinds_are_kept_as_text(
    shop: Path, tmp_path: Path
) -> None:
    said = {
        "p0": "A red hat.",
        "p1": r'Product: \=390, Category: \=null, Full Price: \="on request"',
        "p2": "Product: \ud83d, Category: HATS, Full Price: \\=1" + "0" * 400,
    }
    summary = predict(shop, tmp_path / "out.parquet", Painter(says=said))
    first, second, third = read(tmp_path / "out.parquet")[:3]
    assert (first["readable"], first["title"], first["text"]) == (False, None, "A red hat.")
    assert (second["readable"], second["title"], second["full_price"]) == (True, "390", None)
    assert second["category3_code"] is None
    assert second["text"] == said["p1"]
    assert (third["title"], third["full_price"]) == (r"\ud83d", None)
    assert (summary.unparsed, summary.errors) == (1, {})


def test_conversations_under_another_template_are_mentioned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turns = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A"}]
    rows = [{**shown(WHOLE, "one"), "messages": turns}]
    source = write_shop(tmp_path / "talks", rows)
    predict(source, tmp_path / "out.parquet", Painter())
    assert "parsed by the template 'product'; for texts alone add --template conv" in caplog.text
    caplog.clear()
    predict(source, tmp_path / "own.parquet", Painter(template=CONVERSATION))
    assert "template" not in caplog.text


def test_columns_are_kept_under_their_names_or_others(shop: Path, tmp_path: Path) -> None:
    keep = ("group_id", "full_price=true_price")
    predict(shop, tmp_path / "out.parquet", Painter(), keep=keep)
    rows = read(tmp_path / "out.parquet")
    assert [row["group_id"] for row in rows[:4]] == ["g0", "g0", "g1", "g1"]
    assert [row["true_price"] for row in rows[:4]] == [100.0, 250.0, 390.0, 45.5]
    assert {row["full_price"] for row in rows} == {4.5}


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"keep": ("full_price",)}, "such as --keep full_price=true_full_price"),
        ({"keep": ("group_id", "title=group_id")}, "cannot keep 'title' as 'group_id'"),
        ({"keep": ("brand",)}, "it has id, group_id, title, category3_code, full_price"),
        ({"split": "tset"}, "no split 'tset' in"),
        ({"workers": 2}, "--workers 2 has no effect"),
        ({"rows_per_part": 0}, "rows_per_part is 0; give at least 1"),
    ],
)
def test_invalid_options_are_rejected_before_any_prediction(
    shop: Path, tmp_path: Path, job: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        predict(shop, tmp_path / "out.parquet", Painter(tmp_path / "notes"), **job)
    assert not (tmp_path / "notes").exists()


def test_ambiguous_outputs_and_field_names_are_rejected(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out.* must be a \.parquet file"):
        predict(shop, tmp_path / "out", Painter())
    with pytest.raises(ValueError, match="would be read as one of them"):
        predict(shop, shop / "out.parquet", Painter())
    form = "{text}, {full_price:number}"
    template = Template(name="t", question="What?", answer=form, layout="chat")
    with pytest.raises(ValueError, match=r"has a field 'text'.*such as text_read"):
        predict(shop, tmp_path / "out.parquet", Painter(template=template))
    with pytest.raises(ValueError, match="no data at"):
        predict(tmp_path / "none", tmp_path / "out.parquet", Painter())
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "words.parquet")
    with pytest.raises(ValueError, match="no image column in"):
        predict(tmp_path / "words.parquet", tmp_path / "out.parquet", Painter())


def test_a_model_that_always_fails_is_an_error_and_not_a_table_of_errors(
    shop: Path, tmp_path: Path
) -> None:
    names = [f"p{number}" for number in range(10, ROWS)]
    with pytest.raises(ValueError, match="all 10 predictions for the rows 10 to 19 failed"):
        predict(shop, tmp_path / "out.parquet", Painter(fails_on=names), rows_per_part=10)
    notes = tmp_path / "notes"
    predict(shop, tmp_path / "out.parquet", Painter(notes), rows_per_part=10)
    assert sorted(notes.read_text().split()) == sorted(names)


def test_the_table_does_not_depend_on_the_size_of_the_parts(shop: Path, tmp_path: Path) -> None:
    for size in (1, 3, 64):
        predict(shop, tmp_path / f"{size}.parquet", Painter(), rows_per_part=size)
    contents = {(tmp_path / f"{size}.parquet").read_bytes() for size in (1, 3, 64)}
    assert len(contents) == 1


# What needs no review


def rules(target: float | None = 0.9, **thresholds: float) -> Acceptance:
    """Rules whose calibrated confidence is the raw one."""
    names, scaler = (*PRODUCT.fields, RECORD), PlattScaler(1.0, 0.0)
    held = {name: AcceptanceRule(scaler, thresholds.get(name)) for name in names}
    return Acceptance(rules=held, target=target)


SURE = {"title": 0.5, "category3_code": 0.9, "full_price": 0.8}


def accept(shop: Path, out: Path, acceptance: Acceptance | None, **given: Any) -> BatchSummary:
    job = {"rows_per_part": given.pop("rows_per_part", 3), "keep": given.pop("keep", ())}
    spec = spec_of(Painter(confidence=SURE, **given), acceptance)
    return predict_catalog(shop, spec, BatchConfig(out=out, **job))


def test_each_field_is_calibrated_and_accepted_beside_its_raw_confidence(
    shop: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "out.parquet", {"p1": "A red hat."}
    acceptance = rules(category3_code=0.9 - 1e-9, full_price=0.81)
    summary = accept(shop, out, acceptance, says=said, fails_on=["p2"], keep=("title=true_title",))
    first, unparsed, failed = read(out)[:3]
    names = ("title", "category3_code", "full_price", "whole_record")
    assert [*first][8:15] == [
        *(f"calibrated_{name}" for name in names),
        *(f"accept_{name}" for name in names[:3]),
    ]
    assert first["calibrated_title"] == pytest.approx(first["confidence_title"])
    assert first["calibrated_whole_record"] == pytest.approx(0.5 * 0.9 * 0.8)
    assert [first[f"accept_{name}"] for name in names] == [False, True, False, False]
    for row in (unparsed, failed):
        assert [row[f"accept_{name}"] for name in names] == [False] * 4
        assert [row[f"calibrated_{name}"] for name in names] == [None] * 4
    assert summary.coverage == {
        "title": 0.0,
        "category3_code": (ROWS - 2) / ROWS,
        "full_price": 0.0,
        RECORD: 0.0,
    }


def test_a_path_has_a_confidence_by_level_and_is_cut_to_what_is_accepted(
    shop: Path, tmp_path: Path
) -> None:
    template = Template(name="t", question="?", answer="{title:path}, {full_price}", layout="chat")
    out, said = tmp_path / "out.parquet", {"p0": "Hats > Caps > Berets, 4.5", "p1": "Hats, 4.5"}
    levels = template.levels["title"]
    sure = {"title": 0.3, "full_price": 0.9, **dict(zip(levels, (0.95, 0.9, 0.3), strict=True))}
    rule = AcceptanceRule(PlattScaler(1.0, 0.0), 0.8)
    rules = dict.fromkeys((*template.fields, *levels, RECORD), rule)
    acceptance = Acceptance(rules=rules, target=0.9, levels=template.levels)
    painter = Painter(confidence=sure, says=said, template=template)
    spec = spec_of(painter, acceptance)
    summary = predict_catalog(shop, spec, BatchConfig(out=out))
    first, second = read(out)[:2]
    assert first["confidence_title_level_2"] == pytest.approx(0.9)
    assert [first["accept_title"], first["accepted_title"]] == [False, "Hats > Caps"]
    assert second["accepted_title"] == "Hats"
    assert summary.coverage["title level 2"] == 1.0
    assert summary.coverage["title"] == 0.0


def test_without_a_target_the_table_is_calibrated_alone(shop: Path, tmp_path: Path) -> None:
    summary = accept(shop, tmp_path / "out.parquet", rules(target=None))
    names = pq.read_schema(tmp_path / "out.parquet").names
    assert "calibrated_title" in names
    assert not [name for name in names if name.startswith("accept_")]
    assert summary.coverage == {}


def test_a_finished_table_gets_another_target_without_a_prediction(
    shop: Path, tmp_path: Path
) -> None:
    out, notes = tmp_path / "out.parquet", tmp_path / "notes"
    accept(shop, out, None, keep=("id=name",))
    for number, acceptance in enumerate([rules(title=0.4), rules(0.95, title=0.6), None]):
        summary = accept(shop, out, acceptance, notes=notes, keep=("id=name",))
        alone = tmp_path / f"alone{number}.parquet"
        accept(shop, alone, acceptance, keep=("id=name",))
        assert (summary.predicted, notes.exists()) == (0, False)
        assert out.read_bytes() == alone.read_bytes()
    with pytest.raises(ValueError, match="holds other predictions"):
        accept(shop, out, rules(title=0.4), keep=())


def test_a_half_finished_job_ends_with_one_target(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    spec = spec_of(Painter(confidence=SURE), rules(title=0.6))
    with pytest.raises(KeyboardInterrupt):
        predict_catalog(shop, spec, BatchConfig(out=out, rows_per_part=3), stop)
    summary = accept(shop, out, rules(0.8, title=0.4))
    assert summary.predicted == ROWS - 3
    accept(shop, tmp_path / "alone.parquet", rules(0.8, title=0.4))
    assert out.read_bytes() == (tmp_path / "alone.parquet").read_bytes()


def test_parts_of_another_job_beside_a_table_to_accept_anew_are_kept(
    shop: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    accept(shop, out, None)
    whole = out.read_bytes()
    out.unlink()
    interrupt(shop, out)
    out.write_bytes(whole)
    named = Painter(confidence=SURE)
    named.name = "sculptor"
    with pytest.raises(ValueError, match="another model;"):
        predict_catalog(shop, spec_of(named, rules(title=0.4)), BatchConfig(out=out))


def test_a_field_with_the_name_of_an_added_column_is_rejected(shop: Path, tmp_path: Path) -> None:
    form = "{title}, {calibrated_title:number}"
    template = Template(name="t", question="What?", answer=form, layout="chat")
    rule = AcceptanceRule(PlattScaler(1.0, 0.0), None)
    acceptance = Acceptance(rules=dict.fromkeys((*template.fields, RECORD), rule), target=0.9)
    with pytest.raises(ValueError, match="has a field 'title', which is also"):
        accept(shop, tmp_path / "out.parquet", acceptance, template=template)


# Resuming


CHILD = """
import os, signal, sys
from pathlib import Path
from toy_predictors import Painter, spec_of
from phi_vision.inference.batch_catalog import BatchConfig
from phi_vision.inference.batch import predict_catalog

def kill_at_half(done, total):
    if done >= total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

source, out, notes = map(Path, sys.argv[1:])
config = BatchConfig(out=out, rows_per_part=3)
predict_catalog(source, spec_of(Painter(notes)), config, kill_at_half)
"""


def test_a_killed_job_resumes_and_ends_with_identical_bytes(shop: Path, tmp_path: Path) -> None:
    out, notes = tmp_path / "out.parquet", tmp_path / "notes"
    tests = Path(__file__).parents[1]
    words = [sys.executable, "-c", CHILD, str(shop), str(out), str(notes)]
    killed = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": f"{tests.parent}:{tests}"}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert hidden(tmp_path) == [".out.parquet.lock", ".out.parquet.parts"]
    predicted = len(notes.read_text().split())
    assert predicted < ROWS
    summary = predict(shop, out, Painter(notes))
    assert summary.predicted == ROWS - predicted
    assert sorted(notes.read_text().split()) == sorted(row["id"] for row in read(out))
    predict(shop, tmp_path / "alone.parquet", Painter())
    assert out.read_bytes() == (tmp_path / "alone.parquet").read_bytes()


def interrupt(shop: Path, out: Path, **job: Any) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_catalog(
            shop, spec_of(Painter()), BatchConfig(out=out, rows_per_part=3, **job), stop
        )


def test_parts_of_another_job_are_rejected_unless_discarded(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    interrupt(shop, out)
    other = replace(Painter().template, question="What?")
    with pytest.raises(ValueError, match="another template; run the former job again"):
        predict(shop, out, Painter(template=other))
    named = Painter()
    named.name = "sculptor"
    with pytest.raises(ValueError, match="another model;"):
        predict(shop, out, named)
    write_shop(shop, product_rows(5), "test")
    with pytest.raises(ValueError, match=r"another data;.*--restart"):
        predict(shop, out, Painter())
    assert predict(shop, out, Painter(), restart=True).predicted == ROWS + 5


def test_a_part_that_a_power_cut_emptied_is_predicted_again(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    interrupt(shop, out)
    (part,) = (tmp_path / ".out.parquet.parts").glob("*.parquet")
    part.write_bytes(b"")
    assert predict(shop, out, Painter()).predicted == ROWS


def test_parts_that_a_killed_removal_left_are_still_used(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    predict_catalog(shop, spec_of(Painter()), BatchConfig(out=out, rows_per_part=3))
    whole = out.read_bytes()
    out.unlink()
    interrupt(shop, out)
    (tmp_path / ".out.parquet.parts" / "joined").write_bytes(whole[:100])
    assert predict(shop, out, Painter()).predicted == ROWS - 3
    assert out.read_bytes() == whole


def test_two_jobs_do_not_write_one_table(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.parquet"
    for restart in (False, True):
        with lock(out), pytest.raises(ValueError, match="is being written by another process"):
            predict(shop, out, Painter(), restart=restart)


def test_a_finished_table_is_neither_recomputed_nor_overwritten(shop: Path, tmp_path: Path) -> None:
    out, notes = tmp_path / "out.parquet", tmp_path / "notes"
    first = predict(shop, out, Painter())
    again = predict(shop, out, Painter(notes))
    assert (again.predicted, again.rows, notes.exists()) == (0, first.rows, False)
    with pytest.raises(ValueError, match="holds other predictions"):
        predict(shop, out, Painter(), keep=("group_id",))
    predict(shop, out, Painter(), keep=("id=name",), restart=True)
    with pytest.raises(ValueError, match="or --keep"):
        predict(shop, out, Painter(), keep=("title=name",))
    pq.write_table(pa.table({"a": [1]}), out)
    with pytest.raises(ValueError, match="holds something else"):
        predict(shop, out, Painter())
    assert predict(shop, out, Painter(notes), restart=True).predicted == ROWS


def test_a_full_disk_costs_no_finished_part(shop: Path, tmp_path: Path) -> None:
    out, notes = tmp_path / "out.parquet", tmp_path / "notes"
    long = {f"p{number}": os.urandom(20_000).hex() for number in (9, 10)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"the disk is full .*the same command resumes"):
            predict(shop, out, Painter(notes, says=long))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not out.exists()
    summary = predict(shop, out, Painter(notes, says=long))
    assert summary.predicted == ROWS - 9
    assert not [name for name in hidden(tmp_path) if name != ".out.parquet.parts"]


def test_only_a_full_disk_is_called_one(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match=os.strerror(errno.EEXIST)):
        predict(shop, tmp_path / "file" / "out.parquet", Painter())


# Memory


def test_memory_does_not_grow_with_the_catalog(tmp_path: Path) -> None:
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary())])), ("id", pa.string())])
    file, process, held = tmp_path / "shop.parquet", psutil.Process(), list[int]()
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, 2000, 50):
            cells = [{"bytes": WHOLE + os.urandom(100_000)} for _ in range(50)]
            names = [f"p{start + place}" for place in range(50)]
            writer.write_batch(pa.record_batch([cells, names], schema=schema))
    predict_catalog(
        file,
        spec_of(Painter()),
        BatchConfig(out=tmp_path / "out.parquet", rows_per_part=20),
        lambda done, total: held.append(process.memory_info().rss // 1_000_000),
    )
    # 200 MB of images, of which a row group of 5 MB, a portion and what is read ahead are held.
    assert max(held) - held[0] < 60, held
