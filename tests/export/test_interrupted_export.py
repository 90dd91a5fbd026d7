"""An export that is stopped, or meets a full disk, leaves nothing; the next one starts clean."""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_disks import MEGABYTE, mounted
from toy_adapters import write_adapter

from phi_vision.export import hf
from phi_vision.export.hf import export_hf
from phi_vision.model.checkpoint import load_model


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return write_adapter(tiny_checkpoint, tmp_path / "adapter")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB, for weights of 1.6."""
    with mounted(tmp_path / "small", megabytes=1) as folder:
        yield folder


def export_and_stop(adapter: Path, out: Path, sign: signal.Signals) -> None:
    """Export in a process that is sent a signal while it writes the weights."""
    torch.set_num_threads(1)  # What PyTorch's own workers do, as threads do not outlive a fork.
    # Whatever runs the tests in the background may have had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    merged_weights = hf.merged_weights

    def half(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        for place, weight in enumerate(merged_weights(model)):
            if place == 20:
                os.kill(os.getpid(), sign)
            yield weight

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hf, "merged_weights", half)
        try:
            export_hf(str(adapter), out, samples=0)
        except KeyboardInterrupt:
            sys.exit(130)


@pytest.mark.parametrize(
    ("sign", "code", "leaves"),
    [(signal.SIGINT, 130, []), (signal.SIGKILL, -signal.SIGKILL, [".out-new", ".out.lock"])],
)
def test_an_export_that_is_stopped_leaves_no_folder_and_the_next_one_cleans_up(
    adapter: Path, tmp_path: Path, sign: signal.Signals, code: int, leaves: list[str]
) -> None:
    out = tmp_path / "exports" / "out"
    out.parent.mkdir()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=export_and_stop, args=(adapter, out, sign))
    child.start()
    child.join()
    assert child.exitcode == code
    assert sorted(file.name for file in out.parent.iterdir()) == leaves
    export_hf(str(adapter), out, samples=0)
    assert [file.name for file in out.parent.iterdir()] == ["out"]
    load_model(out)


def test_a_disk_that_is_too_small_is_rejected_before_anything_is_written(
    adapter: Path, small_disk: Path
) -> None:
    with pytest.raises(OSError, match=r"disk space for .*: 1.0 MB are free, and 1.6 MB or more"):
        export_hf(str(adapter), small_disk / "out", samples=0)
    assert list(small_disk.iterdir()) == []


def test_a_file_that_may_not_grow_leaves_nothing(adapter: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE, before[1]))
    try:
        with pytest.raises(OSError, match=r"disk space for .* Free some space, or choose a folder"):
            export_hf(str(adapter), tmp_path / "out", samples=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]


def test_a_target_that_holds_something_is_never_written_over(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty \(it holds mine.txt\); choose another"):
        export_hf(str(adapter), tmp_path / "out", samples=0)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(ValueError, match="is a file; choose another place"):
        export_hf(str(adapter), tmp_path / "out" / "mine.txt", samples=0)


def test_a_failed_verification_leaves_nothing(
    adapter: Path, products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the merge had lost the adapter."""

    def lose(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(hf.base_weights(model).items())

    monkeypatch.setattr(hf, "merged_weights", lose)
    with pytest.raises(ValueError, match="the exported model does not predict as its source does"):
        export_hf(str(adapter), tmp_path / "out", data=products, samples=2)
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]
