"""Peak memory of a piece of work above what the process held before, in a process of its own."""

import argparse
import gc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Figures
from benchmarks.workload import Setting, draw_samples, train_step
from phi_vision.data.collator import CompletionCollator, select_labelled
from phi_vision.data.template import TEMPLATES
from phi_vision.model.checkpoint import load_model
from phi_vision.training.adapters import load_trainable, select_trained_parts
from phi_vision.training.recipes import lora

MIB = 2**20


def in_new_process(work: Callable[..., Any], *given: Any) -> Any:
    """Call a function of a module in a process that imports everything anew."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *given).result()


def resident_mib(name: str = "VmRSS") -> float:
    """Read the resident memory of this process, or with VmHWM its peak since `reset_peak`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def reset_peak() -> None:
    """Let the peak be the current size; where that is not allowed, it stays the highest so far."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mib(work: Callable[[], object], *, above: float) -> float:
    """Run a piece of work, and return its peak above so many MiB."""
    reset_peak()
    work()
    return resident_mib("VmHWM") - above


def resident_with_weights(model: torch.nn.Module) -> float:
    """Read all weights, of which files may be only mapped so far, then the resident memory."""
    for weight in model.parameters():
        weight.sum()
    return resident_mib()


def measure_memory(setting: Setting, checkpoint: Path, options: argparse.Namespace) -> Figures:
    """Peak memory above the weights of two training steps, beside the plain way."""
    ours, plain = (in_new_process(step_mib, setting, checkpoint, plain) for plain in (False, True))
    return {"ours_mib": ours, "plain_mib": plain, "memory_ratio": ours / plain}


def step_mib(setting: Setting, checkpoint: Path, is_plain: bool) -> float:
    """Return the peak of two steps, gradients and optimizer state included, in MiB."""
    recipe = replace(lora(), model=str(checkpoint), bf16=setting.bf16)
    if is_plain:
        model, processor = load_model(checkpoint)
        model.set_attn_implementation("eager")
        trained: torch.nn.Module = select_trained_parts(model, recipe, torch.float32)
    else:
        trained, processor, *_ = load_trainable(recipe)
    collator = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    batch = collator(draw_samples(setting.rows))
    batch = batch if is_plain else select_labelled(batch)
    step = train_step(trained.train(), batch, fused=True, bf16=setting.bf16)
    return peak_mib(lambda: (step(), step()), above=resident_with_weights(trained))
