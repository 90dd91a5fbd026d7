"""Files that are there whole or not at all, and disks that have no room for them."""

import errno
import os
import re
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full, the user's share of it is, or a file would be longer than is allowed."""


def write_text_atomic(file: Path, text: str) -> None:
    """Write a text file so that a kill or a full disk leaves the former one."""
    unfinished = file.with_name(f".{file.name}-new")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def check_folder_is_free(folder: Path, *, otherwise: str = "remove it") -> None:
    """Refuse a target that holds something: nothing is ever written over.

    Args:
        folder: Where something new is to be written.
        otherwise: What can be done beside choosing another folder.

    Raises:
        ValueError: It does, or is a file.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; choose another folder, or {otherwise}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another place for the folder")


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that there is no room."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    # safetensors and onnx are not written in Python, and a builder runs in a process of its own:
    # they name the reason in words only.
    number = re.search(r"\bos error (\d+)", str(error))
    named = number is not None and int(number.group(1)) in NO_ROOM
    words = any(os.strerror(reason) in str(error) for reason in NO_ROOM)
    return named or words or is_full_disk(error.__cause__)


def format_bytes(amount: float) -> str:
    """Write a number of bytes: 1234567 -> "1.2 MB"."""
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"
