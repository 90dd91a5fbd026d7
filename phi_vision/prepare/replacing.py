"""A folder appears complete, or replaces another in one step: a kill leaves the old or the new."""

import ctypes
import errno
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if os.name == "posix":
    import fcntl

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Of Linux's renameat2(2)."""


@contextmanager
def replacement(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill; at the end it takes the place of `folder`.

    What an interrupted run left behind is removed first. If the block raises or removes the folder
    it was given, or the process dies, `folder` is what it was before.

    Raises:
        ValueError: Another process is filling it.
    """
    # Where a link leads to is replaced, not the link.
    folder = folder.resolve()
    unfinished = folder.with_name(f".{folder.name}-unfinished")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(unfinished, folder):
        for rest in (unfinished, _aside(folder)):
            shutil.rmtree(rest, ignore_errors=True)
        unfinished.mkdir()
        try:
            yield unfinished
            if unfinished.exists():
                _put(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def is_same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    if not (one.is_dir() and other.is_dir()):
        return False
    names = [
        sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        for folder in (one, other)
    ]
    if names[0] != names[1]:
        return False
    return all(filecmp.cmp(one / name, other / name, shallow=False) for name in names[0])


def _put(unfinished: Path, folder: Path) -> None:
    """Move a folder to its place; what was there is removed afterwards."""
    if not folder.exists():
        unfinished.rename(folder)
    elif not _exchange(unfinished, folder):
        # Two steps, for systems that cannot exchange names: between them only the second name is
        # there, and `restore` puts it back.
        folder.rename(_aside(folder))
        unfinished.rename(folder)
        shutil.rmtree(_aside(folder), ignore_errors=True)


def restore(folder: Path) -> None:
    """Undo the first of two steps, if a process died between them."""
    folder = folder.resolve()
    if not folder.exists() and _aside(folder).exists():
        _aside(folder).rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-before")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    problem = ctypes.get_errno()
    if problem in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(problem, os.strerror(problem), str(other))


@contextmanager
def _only_one(unfinished: Path, folder: Path) -> Iterator[None]:
    """Hold a lock that the system releases when this process ends, however it ends."""
    if os.name != "posix":
        yield
        return
    lock = unfinished.with_suffix(".lock")
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder} is being written by another process; wait for it or choose another --out"
            ) from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
