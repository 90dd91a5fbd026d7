"""Saving that outlives a kill and a full disk: what was whole before stays whole.

A file or folder of a run is the old one or the new one, never a half, and a checkpoint counts only
once it is complete. What is in it, the model's and the Trainer's own functions decide.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from phi_vision.io.atomic import format_bytes, is_full_disk

CHECKPOINTS = "checkpoints"
MODEL = "model"

STATE_FILE = "trainer_state.json"
"""How far a checkpoint got. The Trainer writes it last: a checkpoint without it is not whole."""


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a place to write a folder to, and put that in the place of the former one at the end.

    A folder cannot be exchanged in one act. Whoever is killed between the two renames leaves none,
    but the former one beside it: `mend` puts it back.
    """
    unfinished, former = _beside(folder)
    _put_back(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(former)
    unfinished.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def last_checkpoint(out: Path) -> Path | None:
    """Find the last whole checkpoint in a run's folder; None if there is none.

    Input:  checkpoint-4 and checkpoint-6 with, checkpoint-8 without a readable trainer_state.json
    Output: checkpoint-6
    """
    whole = [folder for folder in _checkpoints(out) if _is_whole(folder)]
    return max(whole, key=_step, default=None)


def mend(out: Path) -> None:
    """Put right what a kill left in a run's folder; call it before the run goes on.

    Half-written checkpoints would count among those that are kept, and push a whole one out.
    """
    _put_back(out / MODEL)
    _discard_half_written(out)


@contextlib.contextmanager
def explain_full_disk(out: Path) -> Iterator[None]:
    """Turn what a full disk raises in PyTorch, safetensors and Python into one clear error.

    What was half-written is removed; the last checkpoint and the best model stay as they are.

    Raises:
        OSError: There is no room; says what is left of the run and how to go on.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_full_disk(error):
            raise
        free = shutil.disk_usage(out if out.exists() else Path.cwd()).free
        _discard_half_written(out)
        raise OSError(_describe_full_disk(out, free)) from error


def _describe_full_disk(out: Path, free: int) -> str:
    found = f"the disk is full: the run in {out} could not be saved ({format_bytes(free)} are free"
    checkpoint = last_checkpoint(out)
    if checkpoint is None:
        return f"{found}); it had no checkpoint yet, so free some space and start it with --resume"
    kept = f"{checkpoint.name} is whole"
    if (out / MODEL).exists():
        kept += f", and so are the best weights so far in {out / MODEL}"
    taken = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    return (
        f"{found}, a checkpoint takes {format_bytes(taken)}); {kept}; "
        "free some space and go on with --resume"
    )


def _is_full_disk(error: Exception) -> bool:
    # torch.save's writer in C++ drops the reason: its file just did not grow as it should.
    writer = "inline_container.cc" in str(error) or "PytorchStreamWriter" in str(error)
    reader = "PytorchStreamReader" in str(error)
    cut = isinstance(error, RuntimeError) and writer and not reader
    return cut or is_full_disk(error)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where the new folder is written, and where the former one waits: hidden, on the same disk."""
    return folder.with_name(f".{folder.name}-new"), folder.with_name(f".{folder.name}-old")


def _put_back(folder: Path) -> None:
    _, former = _beside(folder)
    if former.exists() and not folder.exists():
        former.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def _discard_half_written(out: Path) -> None:
    for folder in [*_checkpoints(out), *_beside(out / MODEL)[:1]]:
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _checkpoints(out: Path) -> list[Path]:
    return [folder for folder in (out / CHECKPOINTS).glob("checkpoint-*") if folder.is_dir()]


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not yet written, or not to its end
        return False
    return True


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
