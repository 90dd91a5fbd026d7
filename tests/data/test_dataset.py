"""Loading samples, and parting them by group."""

import datetime
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phi_vision.data.dataset import available_splits, load_samples, split_by_group
from phi_vision.data.samples import Sample

SHARED = Path(os.environ.get("PHI_VISION_SHARED", Path(__file__).parents[3] / "shared"))
STOREFRONT = SHARED / "data" / "storefront-fashion"

IMAGE = {"bytes": b"jpeg", "path": "a.jpg"}
COAT = {"image": IMAGE, "product_code": 7, "title": "Coat", "full_price": 390.0}


def write(file: Path, *rows: dict) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file


def test_a_row_becomes_a_sample(tmp_path: Path):
    assert load_samples(write(tmp_path / "one.parquet", COAT)) == [
        Sample(
            id="7",
            group="Coat",
            images=(b"jpeg",),
            record={"product_code": 7, "title": "Coat", "full_price": 390.0},
        )
    ]


def test_the_group_is_the_named_column_or_group_id_or_title_or_the_id(tmp_path: Path):
    rows = [COAT | {"group_id": "g"}, COAT | {"group_id": ""}, COAT | {"group_id": "", "title": ""}]
    file = write(tmp_path / "one.parquet", *rows)
    assert [sample.group for sample in load_samples(file)] == ["g", "Coat", "7"]
    chosen = load_samples(file, group_column="full_price")
    assert [sample.group for sample in chosen] == ["390.0"] * 3


def test_without_an_id_column_the_row_number_is_the_id(tmp_path: Path):
    file = write(tmp_path / "one.parquet", {"image": IMAGE}, {"image": IMAGE})
    assert [(sample.id, sample.group) for sample in load_samples(file)] == [("0", "0"), ("1", "1")]


def test_only_plain_values_enter_the_record(tmp_path: Path):
    row = {"day": datetime.date(2026, 1, 2), "sizes": ["S", "M"], "vector": b"\0", "note": None}
    file = write(tmp_path / "one.parquet", COAT | row, COAT | dict.fromkeys(row))
    sample, without = load_samples(file)
    assert list(without.record) == list(sample.record)
    assert list(sample.record) == ["product_code", "title", "full_price", "day", "note"]
    assert sample.record["day"] == "2026-01-02"


def test_several_images_and_images_in_files(tmp_path: Path):
    (tmp_path / "b.jpg").write_bytes(b"from a file")
    images = [IMAGE, {"bytes": None, "path": "b.jpg"}]
    (sample,) = load_samples(write(tmp_path / "one.parquet", {"images": images, "n": 1}))
    assert sample.images == (b"jpeg", b"from a file")


@pytest.mark.parametrize("inside", ["data", "."])
def test_a_folder_has_splits(tmp_path: Path, inside):
    for name in ("validation-00000-of-00001", "train-00001-of-00002", "train-00000-of-00002"):
        write(tmp_path / inside / f"{name}.parquet", COAT | {"product_code": name})
    assert available_splits(tmp_path) == ["train", "validation"]
    assert len(load_samples(tmp_path)) == 3
    train = [sample.id for sample in load_samples(str(tmp_path), split="train")]
    assert train == ["train-00000-of-00002", "train-00001-of-00002"]
    with pytest.raises(ValueError, match=r"no split 'test' in .*; it has train, validation"):
        load_samples(tmp_path, split="test")


def test_a_model_that_cannot_be_loaded_is_reported(tmp_path: Path):
    coat = write(tmp_path / "coat.parquet", COAT)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 cut off")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "nothing").mkdir()
    empty = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"image": [], "title": []}), empty)
    no_image, null_image = {"imageurl": "u"}, COAT | {"image": None}
    lost_image = COAT | {"image": {"path": "no.jpg"}}
    cases = [
        (tmp_path / "gone", {}, "no data at .*gone"),
        (tmp_path / "nothing", {}, "no data/<split>-"),
        (tmp_path / "notes.txt", {}, "prepare"),
        (broken, {}, "cannot read .*broken"),
        (empty, {}, "holds no samples"),
        (coat, {"split": "train"}, "without splits"),
        (coat, {"group_column": "style"}, "has product_code, ti"),
        (write(tmp_path / "x.parquet", no_image), {}, "no image column.*imageurl"),
        (write(tmp_path / "y.parquet", null_image), {}, "sample '7' .*no image"),
        (write(tmp_path / "z.parquet", lost_image), {}, "no image at .*no.jpg"),
    ]
    for source, options, message in cases:
        with pytest.raises(ValueError, match=message):
            load_samples(source, **options)


def grouped(*groups: str) -> list[Sample]:
    return [
        Sample(id=str(number), group=group, images=(), record={})
        for number, group in enumerate(groups)
    ]


def test_no_group_is_on_both_sides():
    samples = grouped(*(f"style {number % 40}" for number in range(100)))
    training, validation = split_by_group(samples, validation_fraction=0.2, seed=0)
    assert 20 <= len(validation) <= 22
    assert len(training) + len(validation) == 100
    assert not {s.group for s in training} & {s.group for s in validation}


def test_the_split_depends_on_groups_and_seed_alone():
    samples = grouped(*"aabbccddeeffgg")
    first = split_by_group(samples, validation_fraction=0.3, seed=0)[1]
    again = split_by_group(samples[::-1], validation_fraction=0.3, seed=0)[1]
    assert {s.id for s in first} == {s.id for s in again}
    assert len({tuple(s.id for s in split_by_group(samples, validation_fraction=0.3, seed=n)[1])
                for n in range(9)}) > 1  # fmt: skip


def test_a_split_always_leaves_both_sides_something():
    training, validation = split_by_group(grouped("a", "b"), validation_fraction=0.01, seed=0)
    assert (len(training), len(validation)) == (1, 1)
    assert split_by_group(grouped("a"), validation_fraction=0, seed=0)[1] == []
    with pytest.raises(ValueError, match="all 2 samples are in the group 'a'"):
        split_by_group(grouped("a", "a"), validation_fraction=0.5, seed=0)
    with pytest.raises(ValueError, match=r"validation_fraction is 1\.5"):
        split_by_group(grouped("a", "b"), validation_fraction=1.5, seed=0)


def test_real_photos_load():
    if not STOREFRONT.is_dir():
        pytest.skip(f"no real photos at {STOREFRONT}")
    assert available_splits(STOREFRONT) == ["train", "validation", "test"]
    samples = load_samples(STOREFRONT, split="validation")
    assert len(samples) == 61
    assert len({sample.group for sample in samples}) == 23
    assert samples[0].id == "24-WG02"
    assert max(samples[0].open_images()[0].size) <= 512


def test_conversations_are_loaded_with_their_images_or_without(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A hat."}]
    images = [{"bytes": b"1", "path": None}, {"bytes": b"2", "path": None}]
    rows = [
        {"id": "a", "images": images, "messages": said},
        {"id": "b", "images": [], "messages": said[1:]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    first, second = load_samples(tmp_path / "train.parquet")
    assert first.images == (b"1", b"2")
    assert first.messages == (("user", "<image>What?"), ("assistant", "A hat."))
    assert (second.images, second.messages) == ((), (("assistant", "A hat."),))
    assert first.record == {"id": "a", "completion": "A hat."}


def test_samples_of_one_id_are_distinguished(tmp_path):
    image = {"bytes": b"x", "path": None}
    rows = [{"image": image, "id": id} for id in ("A", "B", "A", "A (2)", "A")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000.parquet")
    assert [s.id for s in load_samples(tmp_path)] == ["A", "B", "A (2)", "A (2) (2)", "A (3)"]
