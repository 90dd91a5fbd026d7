"""new_folder: an exported folder is there whole or not at all, whatever stops the export."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from phi_vision.io.atomic import check_folder_is_free, format_bytes, is_full_disk


@contextlib.contextmanager
def new_folder(folder: Path, *, needed: int = 0) -> Iterator[Path]:
    """Give a hidden folder beside the one wanted, which takes its name at the end.

    Whatever is raised inside, Ctrl-C too, removes it. What a kill left is removed by the next try.

    Args:
        folder: The one wanted; must not exist, or be empty.
        needed: Bytes that will be written, as far as they are known.

    Raises:
        ValueError: The folder holds something.
        OSError: The disk has no room for it; says how much is free, and how much is needed.
    """
    folder = folder.resolve()
    check_folder_is_free(folder)
    unfinished = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(unfinished, ignore_errors=True)
    _refuse_small_disk(folder, needed)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.replace(folder)
    except BaseException as error:
        written = _bytes_in(unfinished)
        shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, Exception) and is_full_disk(error):
            raise OSError(_describe_full_disk(folder, max(needed, written))) from error
        raise


def _refuse_small_disk(folder: Path, needed: int) -> None:
    if needed > _free(folder):
        raise OSError(_describe_full_disk(folder, needed))


def _describe_full_disk(folder: Path, needed: int) -> str:
    return (
        f"the disk has no room for {folder}: {format_bytes(_free(folder))} are free, and "
        f"{format_bytes(needed)} or more are needed; nothing was left there. Free some space, or "
        "choose a folder on another disk"
    )


def _free(folder: Path) -> int:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
