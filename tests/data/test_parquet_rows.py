"""Samples that are read on access: equal to a list, small in memory and when pickled."""

import pickle
import random
import tracemalloc
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_products import product_rows

from phi_vision.data import dataset, parquet_rows, row_groups
from phi_vision.data.dataset import as_sample, load_samples, split_by_group, spread
from phi_vision.data.parquet_rows import ParquetRows, open_parquet
from phi_vision.data.samples import (
    LazySamples,
    Sample,
    SampleRows,
    blank_images,
    join_samples,
    select,
    shuffle_images,
    withhold_images,
)
from phi_vision.io.process import CACHE_VARIABLE


def write(folder: Path, rows: list[dict[str, object]], *, files: int = 1, group: int = 7) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // files)
    for number in range(files):
        table = pa.Table.from_pylist(rows[number * size : (number + 1) * size])
        pq.write_table(table, folder / f"train-{number:05d}.parquet", row_group_size=group)
    return folder


def large(folder: Path, count: int, *, size: int = 20_000) -> Path:
    noise = random.Random(0)
    rows: list[dict[str, object]] = [
        {"id": f"p{number}", "title": f"Coat {number}", "image": {"bytes": noise.randbytes(size)}}
        for number in range(count)
    ]
    return write(folder, rows, group=50)


def in_a_list(folder: Path) -> list[Sample]:
    """Every sample built from its whole row, images and all."""
    rows = [
        row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]
    return [as_sample(row, number, folder) for number, row in enumerate(rows)]


def test_samples_on_access_are_those_of_a_list(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", product_rows(150), files=3)
    samples, whole = load_samples(folder), in_a_list(folder)
    assert samples == whole
    assert [samples[place] for place in (149, 3, 77, -1)] == [whole[p] for p in (149, 3, 77, -1)]
    assert samples[20:140:2] == whole[20:140:2]
    order = random.Random(1).sample(range(150), 150)
    assert select(samples, order) == [whole[place] for place in order]
    assert select(samples, sorted(order[:100])) == [whole[place] for place in sorted(order[:100])]
    assert join_samples(samples[:70], samples[70:]) == whole
    with pytest.raises(IndexError):
        samples[150]


def test_every_form_of_images_is_read_on_access(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"from a file")
    inside, beside = {"bytes": b"1", "path": None}, {"bytes": None, "path": "../a.jpg"}
    forms: list[tuple[str, list[object], list[tuple[bytes, ...]]]] = [
        ("struct", [inside, beside], [(b"1",), (b"from a file",)]),
        ("bytes-alone", [{"bytes": b"1"}, {"bytes": b"2"}], [(b"1",), (b"2",)]),
        ("plain", [b"1", b"2"], [(b"1",), (b"2",)]),
        ("lists", [[inside, beside], [inside]], [(b"1", b"from a file"), (b"1",)]),
        ("plain-lists", [[b"1", b"2"], [b"3"]], [(b"1", b"2"), (b"3",)]),
    ]
    for name, cells, expected in forms:
        folder = write(tmp_path / name, [{"id": n, "image": each} for n, each in enumerate(cells)])
        samples = load_samples(folder)
        assert [sample.images for sample in samples] == expected
        assert [len(sample.images) for sample in samples] == list(map(len, expected))


def test_ids_stay_unique_in_any_order_of_access(tmp_path: Path) -> None:
    image = {"bytes": b"x", "path": None}
    rows: list[dict[str, object]] = [{"id": f"A{n % 50}", "image": image} for n in range(150)]
    samples = load_samples(write(tmp_path / "data", rows, files=2))
    assert samples[149].id == "A49 (3)"
    assert [sample.id for sample in select(samples, [120, 20, 70])] == ["A20 (3)", "A20", "A20 (2)"]


def test_images_are_not_read_for_records_and_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = load_samples(write(tmp_path / "data", product_rows(100)))

    def fail(*_: object) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr(ParquetRows, "cell", fail)
    training, validation = split_by_group(samples, validation_fraction=0.2, seed=0)
    assert len({sample.record["title"] for sample in training}) > 4
    assert all(len(sample.images) == 1 for sample in validation)
    assert len(withhold_images(samples)[3].images) == 0
    assert len([*shuffle_images(samples, seed=0), *blank_images(samples)]) == 200


def test_memory_does_not_grow_with_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_rows, "HELD_BYTES", 2**22)
    peaks = []
    for count in (200, 1600):
        folder = large(tmp_path / str(count), count)
        tracemalloc.start()
        samples = load_samples(folder)
        training, _ = split_by_group(samples, validation_fraction=0.1, seed=0)
        places = random.Random(0).sample(range(len(training)), 150)
        assert sum(len(training[place].images[0]) for place in places) == 150 * 20_000
        peaks.append((tracemalloc.get_traced_memory()[1], pa.total_allocated_bytes()))
        tracemalloc.stop()
    (few, few_decoded), (many, many_decoded) = peaks
    # 28 MB of images more; in memory are ids, groups and the last few row groups of 1 MB.
    assert many - few < 1_500_000
    assert many_decoded - few_decoded < 6_000_000


def test_samples_are_pickled_by_path(tmp_path: Path) -> None:
    samples = load_samples(large(tmp_path / "data", 400))
    views = [
        samples,
        samples[:300],
        shuffle_images(samples, seed=0),
        withhold_images(samples),
        join_samples(samples[:9], samples[9:]),
        SampleRows(samples),
    ]
    for view in views:
        pickled = pickle.dumps(view)
        assert len(pickled) < 10_000  # of 8 MB
        assert pickle.loads(pickled)[7] == view[7]
    # A single sample travels with its images, also to another machine.
    sample = pickle.loads(pickle.dumps(samples[5]))
    assert isinstance(sample.images, tuple)
    assert sample == samples[5]


def _digest(samples: LazySamples, places: list[int]) -> list[tuple[str, bytes]]:
    return [(samples[place].id, samples[place].images[0][:9]) for place in places]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_same_samples(tmp_path: Path, method: str) -> None:
    samples = load_samples(large(tmp_path / "data", 120))
    places = [5, 99, 100, 3, 118]
    with get_context(method).Pool(2) as pool:
        found = pool.starmap(_digest, [(samples, places)] * 3)
    assert found == [_digest(samples, places)] * 3


def test_a_file_that_was_changed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = large(tmp_path / "data", 120)
    samples = load_samples(folder)
    large(folder, 121)
    open_parquet.cache_clear()  # as in another process, which has not mapped the file yet
    monkeypatch.setattr(parquet_rows, "_held", parquet_rows._HeldGroups())
    with pytest.raises(ValueError, match=r"train-00000\.parquet was changed or replaced"):
        samples[3]


def test_a_fault_beyond_the_checked_samples_is_named_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "MAX_CHECKED", 100)
    rows = product_rows(300)
    rows[250]["image"] = {"bytes": None, "path": "gone.png"}
    samples = load_samples(write(tmp_path / "data", rows))
    assert samples[249].images
    with pytest.raises(ValueError, match=r"sample 'p250' in .*: no image at .*gone\.png"):
        list(samples[250].images)
    monkeypatch.setattr(dataset, "MAX_CHECKED", 1000)
    with pytest.raises(ValueError, match="sample 'p250'"):
        load_samples(tmp_path / "data")


def test_checked_samples_are_spread_in_runs() -> None:
    assert list(spread(30, 100)) == list(range(30))
    chosen = spread(1_000_000, 5000)
    assert len(chosen) == 5000
    assert chosen[:100] == list(range(100))
    assert chosen[100:102] == [20_000, 20_001]


def test_the_fingerprint_is_that_of_the_files(tmp_path: Path) -> None:
    def fingerprints(folder: Path) -> Iterator[str | None]:
        samples = load_samples(folder)
        training, validation = split_by_group(samples, validation_fraction=0.2, seed=0)
        yield samples.source.fingerprint()
        yield join_samples(training, validation).source.fingerprint()
        yield withhold_images(samples).source.fingerprint()

    rows = product_rows(20)
    whole, joined, changed = fingerprints(write(tmp_path / "a", rows))
    again, *_ = fingerprints(write(tmp_path / "b", rows))
    other, *_ = fingerprints(write(tmp_path / "c", product_rows(21)[1:]))
    assert whole == again != other
    assert joined is not None
    assert changed is None, "the records are in the files, but not that the images are withheld"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.png").write_bytes(b"beside")
    rows[3]["image"] = {"bytes": None, "path": "a.png"}
    assert [*fingerprints(write(tmp_path / "d", rows))] == [None] * 3


def test_large_row_groups_are_copied_once_to_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(row_groups, "SMALL_BYTES", 0)
    monkeypatch.setattr(row_groups, "MAX_GROUP_BYTES", 100_000)
    monkeypatch.setattr(row_groups, "WRITTEN_GROUP_BYTES", 50_000)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    folder = write(tmp_path / "data", product_rows(2000), group=2000)
    (file,) = folder.glob("*.parquet")
    samples = load_samples(folder)
    assert samples == in_a_list(folder)
    (copy,) = (tmp_path / "cache" / "row-groups").glob("*")
    assert pq.read_metadata(file).num_row_groups == 1
    assert pq.read_metadata(copy).num_row_groups > 5
    # The fingerprint is that of the data, wherever they are read from.
    monkeypatch.setenv(CACHE_VARIABLE, "off")
    with caplog.at_level("WARNING", "phi_vision"):
        direct = load_samples(folder)
    assert "set PHI_VISION_CACHE to a folder with space" in caplog.text
    assert direct.source.fingerprint() == samples.source.fingerprint()
    assert direct == samples
    # Changed data replace the copy.
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    write(folder, product_rows(1500), group=2000)
    assert len(load_samples(folder)) == 1500
    assert [*(tmp_path / "cache" / "row-groups").glob("*")] != [copy]
    assert len([*(tmp_path / "cache" / "row-groups").glob("*")]) == 1
    # A folder that cannot be written only costs time.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert len(load_samples(folder)) == 1500
    assert "Not a directory" in caplog.text


def test_row_groups_of_a_small_dataset_are_decoded_once_and_of_a_large_one_few_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = load_samples(write(tmp_path, product_rows(40), group=4))
    decoded = []
    read = pq.ParquetFile.read_row_group

    def count(file: pq.ParquetFile, group: int, **settings: object) -> pa.Table:
        decoded.append(group)
        return read(file, group, **settings)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", count)
    order = random.Random(0).sample(range(40), 40)
    for number in order * 2:
        assert samples[number].images[0]
    once = len(decoded)
    assert once <= 2 * 10  # records and images of ten groups
    monkeypatch.setattr(parquet_rows, "HELD_BYTES", 1)
    for number in order:
        assert samples[number].images[0]
    assert len(decoded) > once + 10
    assert len(parquet_rows._held.tables) == parquet_rows.MIN_HELD
