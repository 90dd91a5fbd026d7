"""Engines: the same results in the same order, wherever they are computed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from catalogs import product, products, run, tree, write_shop

from phi_vision.prepare.executors import EXECUTORS, run_locally

# Prints the processes that it computes in, and hangs with work under way.
HANGING = """
import time
import psutil
from phi_vision.prepare.executors import run_locally

if __name__ == "__main__":
    results = run_locally(time.sleep, [0.01] * 10_000, workers=2)
    next(results)
    print(*(child.pid for child in psutil.Process().children()), flush=True)
    time.sleep(60)
"""


def faulty_shop(folder: Path, count: int) -> str:
    rows = products(count)
    for number in range(0, count, 7):
        rows[number] = product(number, price="N/A")
    return write_shop(folder, rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_the_requests(workers: int) -> None:
    assert list(run_locally(str, range(30), workers=workers)) == [str(n) for n in range(30)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_executor_takes_no_more_than_it_can_hold(workers: int) -> None:
    taken = 0

    def chunks() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = run_locally(str, chunks(), workers=workers)
    assert [next(results) for _ in range(20)] == [str(n + 1) for n in range(20)]
    assert taken <= 20 + 8
    results.close()  # type: ignore[attr-defined]  # A generator, which an Iterator need not be.


def test_an_error_in_a_worker_arrives_here() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(run_locally(int, ["1"] * 9 + ["x"] + ["1"] * 9, workers=1))


def test_an_address_is_rejected_where_there_is_no_cluster() -> None:
    with pytest.raises(ValueError, match="this engine has no cluster at auto"):
        list(run_locally(str, [1], address="auto"))


def test_processes_end_with_the_one_they_work_for(tmp_path: Path) -> None:
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) >= 2
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(_is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if _is_alive(pid)]


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_two_processes_write_the_same_dataset_as_one(tmp_path: Path) -> None:
    # More than WORTH_PROCESSES chunks, or there would be no processes.
    shop = faulty_shop(tmp_path / "shop", 290)
    run(shop, tmp_path / "alone" / "out", workers=0)
    run(shop, tmp_path / "two" / "out", workers=2)
    assert tree(tmp_path / "alone") == tree(tmp_path / "two")


def test_ray_writes_the_same_dataset(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'phi-vision[ray]'")
    shop = faulty_shop(tmp_path / "shop", 70)
    run(shop, tmp_path / "local" / "out")
    run(shop, tmp_path / "ray" / "out", engine="ray", workers=1)
    assert tree(tmp_path / "local") == tree(tmp_path / "ray")
    assert not ray.is_initialized()


def test_engines_are_called_alike() -> None:
    assert list(EXECUTORS) == ["local", "ray"]
