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

from phi_vision.io.atomic import folder_bytes, is_full_disk, recover
from phi_vision.io.formatting import format_bytes

CHECKPOINTS = "checkpoints"
MODEL = "model"

STATE_FILE = "trainer_state.json"
"""How far a checkpoint got. The Trainer writes it last: a checkpoint without it is not whole."""


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
    recover(out / MODEL)
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
        if not is_full_disk(error):
            raise
        free = shutil.disk_usage(out if out.exists() else Path.cwd()).free
        _discard_half_written(out)
        # An atomic folder already wraps the error of the library that wrote into it.
        raise OSError(_describe_full_disk(out, free)) from error.__cause__ or error


def _describe_full_disk(out: Path, free: int) -> str:
    found = f"the disk is full: the run in {out} could not be saved ({format_bytes(free)} are free"
    checkpoint = last_checkpoint(out)
    if checkpoint is None:
        return f"{found}); it had no checkpoint yet, so free some space and start it with --resume"
    kept = f"{checkpoint.name} is whole"
    if (out / MODEL).exists():
        kept += f", and so are the best weights so far in {out / MODEL}"
    taken = folder_bytes(checkpoint)
    return (
        f"{found}, a checkpoint takes {format_bytes(taken)}); {kept}; "
        "free some space and go on with --resume"
    )


def _discard_half_written(out: Path) -> None:
    for folder in _checkpoints(out):
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
