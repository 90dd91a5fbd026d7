"""Text files that are there whole or not at all."""

from pathlib import Path


def replace_text(file: Path, text: str) -> None:
    """Write a text file so that a kill or a full disk leaves the former one."""
    unfinished = file.with_name(f".{file.name}-new")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
