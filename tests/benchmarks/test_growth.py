"""Growth: exponents, peaks in processes of their own, batches and datasets of every size."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth, speed
from benchmarks.growth import STEP_AXES, fit_exponent, long_title, write_dataset
from benchmarks.peak_memory import in_new_process, measure_memory, peak_mib, resident_mib
from benchmarks.workload import Setting
from phi_vision.data.dataset import load_samples
from pretraining.tiny import write_tiny_checkpoint

MIB = 2**20


@pytest.mark.parametrize(
    ("values", "exponent"),
    [([3, 6, 12, 24], 1.0), ([5, 5, 5, 5], 0.0), ([1, 4, 16, 64], 2.0), ([8, 4, 2, 1], -1.0)],
)
def test_an_exponent_is_that_of_the_power_law(values: list[float], exponent: float) -> None:
    assert fit_exponent([1, 2, 4, 8], values) == pytest.approx(exponent)


def peak_of_an_array(mib: int) -> float:
    np.ones(4 * mib * MIB // 8)  # a higher peak before, which does not count
    return peak_mib(lambda: np.ones(mib * MIB // 8), above=resident_mib())


def test_a_peak_is_measured_from_where_the_work_begins() -> None:
    assert in_new_process(peak_of_an_array, 64) == pytest.approx(64, abs=8)


def test_a_step_takes_less_memory_than_the_plain_one(tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    setting = Setting(hidden=64, crops=1, rows=16, bf16=False)
    figures = measure_memory(setting, checkpoint, argparse.Namespace())
    # Logits of some 60 positions of 16 rows, over a vocabulary of 2,028, and their gradients.
    assert 1 < figures["ours_mib"] < figures["plain_mib"] < 500


def test_a_title_has_so_many_words() -> None:
    (sample,) = long_title(40)
    assert len(sample.record["title"].split()) == 40


def test_sizes_of_an_axis_rise() -> None:
    assert all(list(axis.sizes) == sorted(axis.sizes) for axis in STEP_AXES.values())
    assert [len(STEP_AXES["batch"].samples(size)) for size in (1, 3)] == [1, 3]


def test_a_dataset_of_every_size_loads(tmp_path: Path) -> None:
    samples = load_samples(str(write_dataset(tmp_path / "data", 20)))
    assert len({sample.id for sample in samples}) == 20


def test_lines_of_an_axis_are_followed_by_its_exponents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"size": size, "cpu_s": 2.0 * size, "peak_mib": 7.0} for size in (1, 2, 4)]
    monkeypatch.setattr(growth, "AXES", {"batch": lambda _: lines})
    *each, exponents = growth.measure_growth(tmp_path)
    assert [line["size"] for line in each] == [1, 2, 4]
    assert exponents["cpu_s_exponent"] == pytest.approx(1.0)
    assert exponents["peak_mib_exponent"] == pytest.approx(0.0, abs=1e-9)


def test_an_unknown_part_is_an_error_that_lists_the_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["speed", "stepp"])
    with pytest.raises(SystemExit):
        speed.main()
    assert "no part 'stepp'; the parts are preprocessing, step," in capsys.readouterr().err
