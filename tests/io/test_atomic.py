"""Files and folders appear whole, or what was there before stays."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_disks import MEGABYTE, mounted

from phi_vision.io import atomic
from phi_vision.io.atomic import (
    atomic_file,
    atomic_folder,
    check_folder_is_free,
    is_full_disk,
    publish_file,
    recover,
    same_content,
    temporary_folder,
    write_text,
)


@contextlib.contextmanager
def longest_file(size: int) -> Iterator[None]:
    """Forbid files longer than `size`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(folder: Path, text: str) -> None:
    with atomic_folder(folder, replace=True) as unfinished:
        (unfinished / "deep").mkdir()
        (unfinished / "deep" / "file").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_appears_and_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    (tmp_path / "out" / "stray").touch()
    fill(tmp_path / "out", "new")
    assert names(tmp_path) == ["out", "out/deep", "out/deep/file"]
    assert (tmp_path / "out" / "deep" / "file").read_text() == "new"


def test_a_folder_is_replaced_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    test_a_folder_appears_and_is_replaced(tmp_path)


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with (
        pytest.raises(FileNotFoundError),
        atomic_folder(tmp_path / "out", replace=True) as unfinished,
    ):
        unfinished.joinpath("no such folder", "half").touch()
    assert names(tmp_path) == ["out", "out/deep", "out/deep/file"]
    assert (tmp_path / "out" / "deep" / "file").read_text() == "old"


def test_an_interrupt_leaves_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with (
        contextlib.suppress(KeyboardInterrupt),
        atomic_folder(tmp_path / "out", replace=True) as unfinished,
    ):
        (unfinished / "half").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out", "out/deep", "out/deep/file"]


def test_a_removed_replacement_leaves_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with atomic_folder(tmp_path / "out", replace=True) as unfinished:
        unfinished.rmdir()
    assert (tmp_path / "out" / "deep" / "file").read_text() == "old"


def test_a_killed_writer_leaves_the_old_folder_and_no_remains(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    code = f"""
        import os, signal
        from pathlib import Path
        from phi_vision.io.atomic import atomic_folder
        with atomic_folder(Path({str(tmp_path / "out")!r}), replace=True) as unfinished:
            (unfinished / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "deep" / "file").read_text() == "old"
    recover(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_writers_cannot_fill_the_same_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        atomic_folder(out),
        pytest.raises(ValueError, match="is being written by another process"),
        atomic_folder(out),
    ):
        pass


def test_a_folder_moved_aside_by_a_dead_process_comes_back(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out-old")
    recover(tmp_path / "out")
    assert (tmp_path / "out" / "deep" / "file").read_text() == "old"


def test_a_target_that_holds_something_is_kept(tmp_path: Path) -> None:
    fill(tmp_path / "out", "mine")
    with pytest.raises(ValueError, match=r"is not empty \(it holds deep\); choose another folder"):
        check_folder_is_free(tmp_path / "out")
    with pytest.raises(ValueError, match="is not empty"), atomic_folder(tmp_path / "out"):
        pass
    with pytest.raises(ValueError, match="is a file; choose another place"):
        check_folder_is_free(tmp_path / "out" / "deep" / "file")
    assert names(tmp_path) == ["out", "out/deep", "out/deep/file"]


def test_an_empty_target_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("new")
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    def fill_up(folder: Path) -> None:
        with atomic_folder(folder) as unfinished:
            for number in range(3):
                (unfinished / str(number)).write_bytes(bytes(MEGABYTE // 2))

    with mounted(tmp_path / "small", megabytes=1) as small_disk:
        with pytest.raises(OSError, match=r"not enough disk space for .* nothing was left there"):
            fill_up(small_disk / "out")
        assert list(small_disk.iterdir()) == []


def test_a_folder_larger_than_the_disk_is_rejected_before_anything_is_written(
    tmp_path: Path,
) -> None:
    expected = r"not enough disk space for .* are free, and 1000000000.0 GB or more are needed"
    with (
        pytest.raises(OSError, match=expected),
        atomic_folder(tmp_path / "out", needed_bytes=10**18),
    ):
        pytest.fail("the block must not run")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "is_full"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", True),
        ("the builder ended: OSError: [Errno 28] No space left on device", True),
        ("[enforce fail at inline_container.cc:664] . unexpected pos 128 vs 22", True),
        ("PytorchStreamReader failed: inline_container.cc", False),
        ("Error while deserializing: header too large", False),
    ],
)
def test_a_full_disk_is_recognized_by_its_message_too(text: str, is_full: bool) -> None:
    assert is_full_disk(RuntimeError(text)) is is_full


def test_a_text_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    write_text(tmp_path / "log.jsonl", "old")
    with longest_file(100), pytest.raises(OSError, match="too large"):
        write_text(tmp_path / "log.jsonl", "x" * 1000)
    assert (tmp_path / "log.jsonl").read_text() == "old"
    assert names(tmp_path) == ["log.jsonl"]


def test_a_file_that_was_not_written_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with atomic_file(tmp_path / "file"):
        pass
    with contextlib.suppress(ZeroDivisionError), atomic_file(tmp_path / "file") as unfinished:
        unfinished.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_text() == "old"
    publish_file(tmp_path / "file", tmp_path / "other")
    assert names(tmp_path) == ["other"]


def test_a_temporary_folder_is_removed_and_so_are_abandoned_ones(tmp_path: Path) -> None:
    for name in (".unfinished-old", ".unfinished-new"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".unfinished-old", (0, 0))
    with temporary_folder(tmp_path) as folder:
        (folder / "file").touch()
    assert names(tmp_path) == [".unfinished-new"]


def test_folders_are_the_same_when_every_byte_is(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        fill(tmp_path / name, text)
    assert same_content(tmp_path / "a", tmp_path / "b")
    assert not same_content(tmp_path / "a", tmp_path / "c")
    (tmp_path / "b" / "more").touch()
    assert not same_content(tmp_path / "a", tmp_path / "b")
    assert not same_content(tmp_path / "a", tmp_path / "nothing")


@pytest.mark.parametrize(("kind", "make"), [("pipe", os.mkfifo), ("socket", None), ("file", None)])
def test_a_target_of_another_kind_is_rejected_and_stays(
    tmp_path: Path, kind: str, make: Callable[[Path], None] | None
) -> None:
    target = tmp_path / "target"
    if kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(target))
    elif make:
        make(target)
    else:
        (tmp_path / "real").touch()
        target.symlink_to("real")
    for replace in (True, False):
        expected = pytest.raises(ValueError, match=f"is a {kind}; choose another place")
        with expected, atomic_folder(target, replace=replace):
            pass
    if kind != "file":
        with pytest.raises(ValueError, match=f"is a {kind}; choose another place for the file"):
            write_text(target, "text")
    assert target.exists()


def test_a_device_is_rejected() -> None:
    with pytest.raises(ValueError, match="/dev/null is a device; choose another place"):
        atomic.check_kind(Path("/dev/null"), is_folder=True)
    with pytest.raises(ValueError, match="/dev/null is a device; choose another place"):
        atomic.check_kind(Path("/dev/null"), is_folder=False)
