"""Atomic files and folders: each appears whole, or what was there before stays.

The only module that renames, replaces or makes temporary folders. New content goes to a hidden
sibling, is flushed to the disk and renamed, so that a kill, an error or a full disk leaves the old
file or folder; the next writer removes the leftovers.
"""

import ctypes
import errno
import filecmp
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from phi_vision.io.formatting import format_bytes

if os.name == "posix":
    import fcntl

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # of the file system
_KINDS = {
    **{stat.S_IFDIR: "folder", stat.S_IFREG: "file"},
    **{stat.S_IFSOCK: "socket", stat.S_IFIFO: "pipe"},
}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2(2)
_DAY = 24 * 3600.0
_HELD_LOCKS: set[IO[str]] = set()


@contextmanager
def atomic_folder(folder: Path, *, replace: bool = False, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield an empty hidden folder to fill, and publish it as `folder` at the end.

    If the block raises or removes the hidden folder, `folder` stays as it was. With `replace`, it
    may hold something, which on Linux is replaced in one step. A symbolic link is followed. A
    folder that another process writes is a ValueError; a disk too full for the content, of which
    `needed_bytes` may be known before, an OSError with the free and the needed space.
    """
    folder = folder.resolve()
    check_kind(folder, is_folder=True)
    if not replace:
        check_folder_is_free(folder)
    if needed_bytes > _free_bytes(folder):
        raise OSError(_describe_full_disk(folder, needed_bytes))
    unfinished = _siblings(folder)[0]
    with lock(folder):
        _recover(folder)
        try:
            unfinished.mkdir()
            yield unfinished
            if unfinished.exists():
                _publish_folder(unfinished, folder)
        except Exception as error:
            needed = max(needed_bytes, folder_bytes(unfinished))
            shutil.rmtree(unfinished, ignore_errors=True)
            if is_full_disk(error):
                raise OSError(_describe_full_disk(folder, needed)) from error
            raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def recover(folder: Path) -> None:
    """Clean up after a killed writer: restore a folder it had moved aside, remove leftovers."""
    folder = folder.resolve()
    if any(sibling.exists() for sibling in _siblings(folder)):
        with lock(folder):
            _recover(folder)


@contextmanager
def atomic_file(file: Path, *, unfinished: Path | None = None) -> Iterator[Path]:
    """Yield a path to write to, and publish that file as `file` at the end.

    If the block raises or leaves no file there, `file` stays as it was. The path to write to,
    `unfinished`, is on the same disk; a hidden sibling by default.
    """
    check_kind(file, is_folder=False)
    unfinished = unfinished or file.with_name(f".{file.name}.{os.getpid()}-new")
    try:
        yield unfinished
        if unfinished.exists():
            publish_file(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def publish_file(unfinished: Path, file: Path, *, flush: bool = True) -> None:
    """Rename a complete file, replacing `file`; without `flush`, a power cut may leave it empty."""
    if flush:
        _fsync(unfinished)
    unfinished.replace(file)
    if flush:
        _fsync(file.parent)


def write_text(file: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(file, text.encode())


def write_bytes(file: Path, content: bytes | memoryview) -> None:
    """Write a file atomically."""
    with atomic_file(file) as unfinished:
        unfinished.write_bytes(content)


@contextmanager
def temporary_folder(parent: Path, *, prefix: str = ".unfinished-") -> Iterator[Path]:
    """Yield a new folder in `parent` that is removed at the end.

    Folders of this prefix that killed processes left more than a day ago are removed, too.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.glob(f"{prefix}*"):
        if folder.stat().st_mtime < time.time() - _DAY:
            shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)


def check_folder_is_free(folder: Path, option: str = "--out", instead: str = "remove it") -> None:
    """Check that a folder to write, given with an option, is none yet, or empty."""
    check_kind(folder, is_folder=True)
    if held := sorted(path.name for path in folder.glob("*")):
        advice = f"choose another folder with {option}, or {instead}"
        raise ValueError(f"{folder} is not empty (it holds {held[0]}); {advice}")


def check_kind(path: Path, *, is_folder: bool) -> None:
    """Check that a path to write is nothing yet, or a folder (else: a file).

    Renaming over a device, a socket or a pipe would remove it for all programs.
    """
    noun = "folder" if is_folder else "file"
    if path.exists() and (kind := _KINDS.get(stat.S_IFMT(path.stat().st_mode), "device")) != noun:
        raise ValueError(f"{path} is a {kind}; choose another place for the {noun}")


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or its cause, means that the disk or quota is full."""
    if error is None:
        return False
    # safetensors and onnx name the reason only in the text; torch only says that a file did not
    # grow as expected.
    text = str(error)
    codes = [int(code) for code in re.findall(r"\bos error (\d+)", text)]
    by_torch = "inline_container.cc" in text or "PytorchStreamWriter" in text
    return (
        bool({*codes, getattr(error, "errno", None)} & {*_FULL_DISK})
        or any(os.strerror(number) in text for number in _FULL_DISK)
        or (isinstance(error, RuntimeError) and by_torch and "PytorchStreamReader" not in text)
        or is_full_disk(error.__cause__)
    )


def same_content(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    names, others = (
        sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
        for folder in (one, other)
    )
    same = one.is_dir() and other.is_dir() and names == others
    return same and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names)


def folder_bytes(folder: Path) -> int:
    """Return the total size of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _siblings(folder: Path) -> tuple[Path, Path]:
    """Return where the new folder is written, and where the old one is moved aside."""
    return folder.with_name(f".{folder.name}-new"), folder.with_name(f".{folder.name}-old")


def _recover(folder: Path) -> None:
    unfinished, old = _siblings(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (unfinished, old):
        shutil.rmtree(leftover, ignore_errors=True)


def _publish_folder(unfinished: Path, folder: Path) -> None:
    for path in (*unfinished.rglob("*"), unfinished):
        _fsync(path)
    if not folder.exists() or not any(folder.iterdir()):
        unfinished.replace(folder)
    elif not _exchange(unfinished, folder):
        # Two steps where the system cannot exchange names; `recover` undoes the first.
        old = _siblings(folder)[1]
        folder.rename(old)
        unfinished.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    _fsync(folder.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _fsync(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def lock(output: Path) -> Iterator[None]:
    """Hold a lock on a folder or file to write, which the system releases when this process ends.

    A lock that another process holds is a ValueError.
    """
    output = output.resolve()
    created = [folder for folder in output.parents if not folder.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    file = output.with_name(f".{output.name}.lock")
    with file.open("w") as held:
        try:
            if os.name == "posix":
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A writer that has just ended may have removed the opened file.
                if not (file.exists() and os.path.samestat(file.stat(), os.fstat(held.fileno()))):
                    raise BlockingIOError
        except BlockingIOError:
            raise ValueError(
                f"{output} is being written by another process; wait for it, or choose another "
                "place"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        _HELD_LOCKS.add(held)
        try:
            yield
        finally:
            _HELD_LOCKS.discard(held)
            file.unlink(missing_ok=True)
            with suppress(OSError):  # The others are not empty either.
                for folder in created:
                    folder.rmdir()


def _close_locks() -> None:
    """Close the locks in a forked worker, which would hold them when its parent is killed."""
    while _HELD_LOCKS:
        _HELD_LOCKS.pop().close()


if os.name == "posix":
    os.register_at_fork(after_in_child=_close_locks)


def _free_bytes(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def _describe_full_disk(folder: Path, needed: int) -> str:
    return (
        f"not enough disk space for {folder}: {format_bytes(_free_bytes(folder))} are free, and "
        f"{format_bytes(needed)} or more are needed; nothing was left there. Free some space, or "
        "choose a folder on another disk"
    )
