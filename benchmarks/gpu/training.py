"""Parts that measure whole trainings: with workers, beside a plain Trainer, and over 4 bits."""

import itertools
import os
import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.gpu.model import RECIPE, SharedModel, decoder_layers, samples, without_ids
from benchmarks.gpu.session import Session
from benchmarks.gpu.steps import ROWS, measure_step
from phi_vision.data.samples import Sample
from phi_vision.io.process import CACHE_VARIABLE
from phi_vision.runs import RunDir, read_history
from phi_vision.training.recipes import LORA_TARGETS, Recipe
from phi_vision.training.setup import collate_rows
from phi_vision.training.trainer import train

CROPS = 4


def measure_trainer(session: Session, shared: SharedModel) -> None:
    """`phi-vision train lora` with and without workers and cached features, beside a plain one."""
    steps, rows = (2, 2) if session.is_tiny else (6, ROWS)
    workers = 1 if session.is_tiny else 8
    ways: list[dict[str, Any]] = [
        {"workers": 0, "is_mixed": False, "caches": False},
        {"workers": workers, "is_mixed": False, "caches": False},
        {"workers": workers, "is_mixed": False, "caches": True},
        {"workers": workers, "is_mixed": True, "caches": False},
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for number, way in enumerate(ways[:2] if session.is_tiny else ways):
            folder = Path(scratch) / str(number)
            with session.attempt(way="ours", **way):
                recipe = replace(
                    RECIPE,
                    data=str(
                        write_samples(folder / "data", steps * rows, is_mixed=way["is_mixed"])
                    ),
                    output_dir=folder / "run",
                    validation_fraction=0.0,
                    per_device_train_batch_size=rows,
                    num_train_epochs=1.0 + way["caches"],  # the second reads what the first wrote
                    warmup_steps=0.0,
                    report_to="none",
                    dataloader_num_workers=way["workers"],
                )
                cache = str(folder / "cache") if way["caches"] else "off"
                session.tidy()
                session.add(way="ours", **way, **_train_ours(session, shared, recipe, cache))
            shared.restore()
        with session.attempt(way="plain", rows=rows):
            seconds = _train_plain(session, shared, Path(scratch), steps, rows)
            speed = {"samples_s": rows / seconds, "peak_gib": session.peak_gib()}
            session.add(way="plain", rows=rows, **speed)
        shared.restore()


def _train_ours(
    session: Session, shared: SharedModel, recipe: Recipe, cache: str
) -> dict[str, float]:
    """Train with the model that is there, instead of one from a file."""
    loaded = (shared.model, shared.processor(CROPS))
    begun = time.perf_counter()
    with (
        patch("phi_vision.training.adapters.load_model", lambda *_, **__: loaded),
        patch.dict(os.environ, {CACHE_VARIABLE: cache}),
    ):
        run = train(recipe)
    taken = read_history(RunDir(run.folder).log_file).steps
    late = taken[len(taken) // 2 :]
    return {
        "samples_s": statistics.median(step["samples_per_second"] for step in late),
        "tokens_s": statistics.median(step["tokens_per_second"] for step in late),
        "first_step_s": taken[0]["seconds"],
        "peak_gib": session.peak_gib(),
        "whole_s": time.perf_counter() - begun,
    }


def _train_plain(
    session: Session, shared: SharedModel, scratch: Path, steps: int, rows: int
) -> float:
    """Train as a first script does: eager attention, all logits, no workers; seconds of a step."""
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            session.wait()
            ends.append(time.perf_counter())

    session.tidy()
    shape = {"r": RECIPE.r, "lora_alpha": RECIPE.lora_alpha, "lora_dropout": RECIPE.lora_dropout}
    described = LoraConfig(task_type="CAUSAL_LM", target_modules=list(LORA_TARGETS), **shape)
    model = get_peft_model(shared.model, described)
    shared.model.set_attn_implementation("eager")
    collator = shared.collator(CROPS)
    try:
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(scratch / "plain"),
                per_device_train_batch_size=rows,
                max_steps=steps,
                bf16=True,
                report_to="none",
                save_strategy="no",
                remove_unused_columns=False,
                disable_tqdm=True,
                use_cpu=not session.on_gpu,
            ),
            train_dataset=list(samples(steps * rows)),
            data_collator=lambda chosen: without_ids(collator(chosen)),
            callbacks=[Clock()],
        ).train()
    finally:
        shared.model.set_attn_implementation("sdpa")
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(ends))


def measure_pipeline(session: Session, shared: SharedModel) -> None:
    """Samples a second from JPEG to batch: without workers, with four, and with every core."""
    every = os.cpu_count() or 1
    for crops in (4,) if session.is_tiny else (4, 16):
        join = partial(collate_rows, shared.collator(crops), None)
        alone = session.seconds(lambda c=join: c([(s,) for s in samples(4)]), warm=1) / 4  # type: ignore[misc]
        session.add(crops=crops, workers=0, samples_s=1 / alone, ms=1e3 * alone)
        for workers in (1,) if session.is_tiny else (4, every):
            count = 16 if session.is_tiny else workers * (32 if crops == 4 else 12)
            distinct = samples(16)
            rows: Any = [(distinct[number % 16],) for number in range(count)]
            loader = DataLoader(
                rows,
                batch_size=4,
                collate_fn=join,
                num_workers=workers,
                pin_memory=session.on_gpu,
            )
            with session.attempt(crops=crops, workers=workers):
                batches = iter(loader)
                next(batches)  # the workers are up
                begun = time.perf_counter()
                prepared = sum(len(batch["input_ids"]) for batch in batches)
                speed = prepared / (time.perf_counter() - begun)
                session.add(crops=crops, workers=workers, samples_s=speed)


def measure_qlora(session: Session, shared: SharedModel) -> None:
    """Steps over a decoder held in 4 bits; the last part, since the shared model stays packed."""
    import bitsandbytes

    begun = time.perf_counter()
    nf4 = {"quant_type": "nf4", "compress_statistics": True}
    for layer in decoder_layers(shared.model):
        for name, linear in list(layer.named_modules()):
            if isinstance(linear, nn.Linear):
                sizes = (linear.in_features, linear.out_features)
                packed = bitsandbytes.nn.Linear4bit(
                    *sizes, bias=False, compute_dtype=torch.bfloat16, **nf4
                )
                packed.weight = bitsandbytes.nn.Params4bit(
                    linear.weight.data, requires_grad=False, module=packed, **nf4
                )
                layer.set_submodule(name, packed.to(session.device))
    shared.model.is_loaded_in_4bit = True
    session.tidy()
    session.add(packing_s=time.perf_counter() - begun, held_gib=session.peak_gib())
    with shared.adapted() as model:
        for rows in (1, 2) if session.is_tiny else (1, 4, ROWS):
            measure_step(session, shared, model, CROPS, rows, way="4 bits")


def write_samples(folder: Path, count: int, *, is_mixed: bool) -> Path:
    """Write drawn products as a dataset of one shard."""
    folder.mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist([_row(sample) for sample in samples(count, is_mixed=is_mixed)]),
        folder / "train-00000-of-00001.parquet",
    )
    return folder


def _row(sample: Sample) -> dict[str, Any]:
    image = {"bytes": sample.images[0], "path": None}
    return {"image": image, "id": sample.id, **sample.record}
