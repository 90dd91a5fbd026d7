"""Cores, threads and how they wait."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi_vision.io.process import (
    CpuTime,
    busy_elsewhere,
    fit_threads,
    map_in_threads,
    read_times,
    usable_cores,
    usable_cpus,
)

SHOWN = (
    "import os\nfrom phi_vision.io.process import importing\n"
    "with importing():\n    import torch\n"
    "print(os.environ.get('GOMP_SPINCOUNT'), torch.get_num_threads())\n"
    "print(os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"
)


def started(**variables: str) -> list[str]:
    """Import torch with these variables; the counts of spins, of threads and of kernels kept."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-c", SHOWN], capture_output=True, text=True, env=kept | variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_process_uses_the_cores_of_its_control_group(tmp_path: Path) -> None:
    here = len(usable_cpus())
    quota = tmp_path / "cpu.max"
    assert usable_cores(quota) == here
    for text, cores in (
        ("max 100000\n", here),
        ("50000 100000\n", 1),
        ("800000000 100000\n", here),
    ):
        quota.write_text(text)
        assert usable_cores(quota) == cores


@pytest.mark.parametrize(
    ("cores", "busy", "threads"), [(2, 0.1, 2), (2, 1.3, 1), (2, 5.0, 1), (16, 4.2, 12), (1, 0, 1)]
)
def test_threads_take_the_cores_that_others_leave(cores: int, busy: float, threads: int) -> None:
    assert fit_threads(cores, busy) == threads


def test_the_work_of_others_is_that_of_all_less_the_own(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  900 0 0 0 0 0 0 0\n"
        "cpu0 100 20 30 999 999 4 6 999\n"
        "cpu1 200 0 0 999 0 0 0 0\n"
        "intr 5 6\n"
    )
    ticks = os.sysconf("SC_CLK_TCK")
    assert read_times({0}, stat).all == pytest.approx(160 / ticks)
    assert read_times({0, 1}, stat).all == pytest.approx(360 / ticks)
    assert read_times({0}, tmp_path / "none").all == 0
    assert busy_elsewhere(CpuTime(10, 1, 50), CpuTime(12, 3, 55)) == pytest.approx(1.5)
    assert busy_elsewhere(CpuTime(10, 1, 0), CpuTime(12, 3, 0)) == 0.0


def test_threads_that_wait_sleep_soon_unless_the_user_decides() -> None:
    assert started(OMP_NUM_THREADS="1") == ["1000", "1", "128"]
    assert started(OMP_NUM_THREADS="2", GOMP_SPINCOUNT="7") == ["7", "2", "128"]
    assert started(OMP_NUM_THREADS="2", OMP_WAIT_POLICY="active") == ["None", "2", "128"]


def test_few_compiled_kernels_are_kept_unless_the_user_decides() -> None:
    kept = started(OMP_NUM_THREADS="1", ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024")
    assert kept == ["1000", "1", "1024"]


def test_threads_work_in_order_and_a_little_ahead() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    doubled = map_in_threads(lambda number: 2 * number, numbers(), ahead=5)
    assert next(doubled) == 0
    assert len(taken) == 6
    assert [*doubled] == [2 * number for number in range(1, 100)]
    assert [*map_in_threads(abs, [])] == []
    with pytest.raises(ZeroDivisionError):
        [*map_in_threads(lambda number: 1 // number, [1, 0, 2])]
