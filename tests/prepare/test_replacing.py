"""A folder appears complete, or replaces another in one step."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from phi_vision.prepare.replacing import is_same, replacement, restore


def fill(folder: Path, words: str) -> None:
    with replacement(folder) as unfinished:
        (unfinished / "deep").mkdir()
        (unfinished / "deep" / "file").write_text(words)


def test_a_folder_appears_and_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    (tmp_path / "out" / "stray").touch()
    fill(tmp_path / "out", "new")
    assert [str(f.relative_to(tmp_path)) for f in sorted(tmp_path.rglob("*"))] == [
        "out",
        "out/deep",
        "out/deep/file",
    ]
    assert (tmp_path / "out" / "deep" / "file").read_text() == "new"


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with pytest.raises(FileNotFoundError), replacement(tmp_path / "out") as unfinished:
        unfinished.joinpath("no such folder", "half").touch()
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "deep" / "file").read_text() == "old"


def test_a_removed_replacement_leaves_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with replacement(tmp_path / "out") as unfinished:
        unfinished.rmdir()
    assert (tmp_path / "out" / "deep" / "file").read_text() == "old"


def test_a_killed_run_leaves_the_old_folder_and_nothing_that_stays(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    code = f"""
        import os, signal
        from pathlib import Path
        from phi_vision.prepare.replacing import replacement
        with replacement(Path({str(tmp_path / "out")!r})) as unfinished:
            (unfinished / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "deep" / "file").read_text() == "old"
    fill(tmp_path / "out", "new")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_two_runs_cannot_fill_the_same_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        replacement(out),
        pytest.raises(ValueError, match="is being written by another process"),
        replacement(out),
    ):
        pass


def test_a_folder_put_aside_by_a_dead_process_comes_back(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out-before")
    restore(tmp_path / "out")
    assert (tmp_path / "out" / "deep" / "file").read_text() == "old"


def test_folders_are_the_same_when_every_byte_is(tmp_path: Path) -> None:
    for name, words in (("a", "x"), ("b", "x"), ("c", "y")):
        fill(tmp_path / name, words)
    assert is_same(tmp_path / "a", tmp_path / "b")
    assert not is_same(tmp_path / "a", tmp_path / "c")
    (tmp_path / "b" / "more").touch()
    assert not is_same(tmp_path / "a", tmp_path / "b")
    assert not is_same(tmp_path / "a", tmp_path / "nothing")
