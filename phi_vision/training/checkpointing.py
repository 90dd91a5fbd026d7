"""Saving that outlives a kill and a full disk: what was whole before stays whole.

A file or folder of a run is the old one or the new one, never a half, and a checkpoint counts only
once it is complete. What is in it, the model's and the Trainer's own functions decide.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from phi_vision.io.atomic import folder_bytes, is_full_disk, recover
from phi_vision.io.formatting import format_bytes
from phi_vision.runs import RunDir, is_complete


def mend(out: Path) -> None:
    """Put right what a kill left in a run's folder; call it before the run goes on.

    Half-written checkpoints would count among those that are kept, and push a whole one out.
    """
    recover(RunDir(out).model_dir)
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
    checkpoint = RunDir(out).last_checkpoint()
    if checkpoint is None:
        return f"{found}); it had no checkpoint yet, so free some space and start it with --resume"
    kept = f"{checkpoint.name} is whole"
    if RunDir(out).model_dir.exists():
        kept += f", and so are the best weights so far in {RunDir(out).model_dir}"
    taken = folder_bytes(checkpoint)
    return (
        f"{found}, a checkpoint takes {format_bytes(taken)}); {kept}; "
        "free some space and go on with --resume"
    )


def _discard_half_written(out: Path) -> None:
    for folder in RunDir(out).checkpoints():
        if not is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
