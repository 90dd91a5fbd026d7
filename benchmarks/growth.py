"""How time and memory grow with tokens, crops, batch, samples and clients, with the exponents.

`python -m benchmarks.speed growth` runs it. An exponent is the slope of a line through the
logarithms: 1 where twice the size takes twice as long, 0 where it takes as long. Each axis has a
process of its own, in which sizes rise, so that a peak is that of the size measured last.
"""

import asyncio
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.peak_memory import (
    MIB,
    in_new_process,
    peak_mib,
    resident_mib,
    resident_with_weights,
)
from benchmarks.timing import Figures, measure
from benchmarks.workload import TITLE, draw_image, draw_samples, train_step, write_checkpoint
from phi_vision.data.collator import Batch, CompletionCollator, select_labelled
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.model.checkpoint import SMALL
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.training.adapters import load_trainable
from phi_vision.training.recipes import lora
from phi_vision.training.setup import prepare
from tests.load.serve_process import Server, serving

REPEATS = 2
DISTINCT_IMAGES = 8
HIDDEN = 256


class StepAxis(NamedTuple):
    """Sizes of a batch, how it is made, and what its size is counted in."""

    sizes: tuple[int, ...]
    samples: Callable[[int], list[Sample]]
    count: Callable[[Batch], int]


def long_title(words: int) -> list[Sample]:
    """Draw one sample whose title has so many words."""
    (sample,) = draw_samples(1)
    title = " ".join((TITLE.split() * words)[:words])
    return [replace(sample, record={**sample.record, "title": title})]


STEP_AXES = {
    "tokens": StepAxis((128, 256, 512, 1024), long_title, lambda b: b["input_ids"].shape[1]),
    "crops": StepAxis((1, 4, 16), lambda _: draw_samples(1), lambda b: len(b["pixel_values"])),
    "batch": StepAxis((1, 2, 4, 8), draw_samples, lambda b: len(b["input_ids"])),
}
"""Axis -> batches of a training step; the size on `crops` is the limit of an image's crops."""

SAMPLES = (500, 1000, 2000, 4000)
CLIENTS = (1, 2, 4, 8, 16)
SECONDS_PER_CLIENTS = 4.0


def measure_growth(folder: Path) -> Iterator[Figures]:
    """Yield a line for each size of each axis, then its exponents."""
    checkpoint = write_checkpoint(folder / "growth", HIDDEN, max(STEP_AXES["crops"].sizes))
    for axis in AXES:
        lines = AXES[axis](checkpoint)
        yield from ({"part": "growth", "axis": axis, **line} for line in lines)
        sizes = [line["size"] for line in lines]
        exponents = {
            f"{name}_exponent": fit_exponent(sizes, [line[name] for line in lines])
            for name in lines[0]
            if name != "size"
        }
        yield {"part": "growth", "axis": axis, **exponents}


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Fit the exponent of a power law.

    Input:  sizes 1, 2, 4 and values 3, 6, 12
    Output: 1.0
    """
    logs = [math.log(max(value, 1e-9)) for value in values]
    return float(np.polyfit([math.log(size) for size in sizes], logs, 1)[0])


def measure_steps(axis: str, checkpoint: Path) -> list[Figures]:
    """Time training steps of rising size, and their peak memory above the weights."""
    found: list[Figures] = in_new_process(_grow_steps, axis, checkpoint)
    return found


def _grow_steps(axis: str, checkpoint: Path) -> list[Figures]:
    sizes, make, count = STEP_AXES[axis]
    trainable = load_trainable(replace(lora(), model=str(checkpoint), bf16=False))
    model, processor, lines = trainable.model.train(), trainable.processor, list[Figures]()
    before = resident_with_weights(model)
    for size in sizes:
        batch = _collate(processor, make(size), crops=size if axis == "crops" else 1)
        step = train_step(model, batch, fused=True, bf16=False)
        peak = peak_mib(step, above=before)
        seconds = statistics.median(measure(step).cpu for _ in range(REPEATS))
        lines.append({"size": count(batch), "cpu_s": seconds, "peak_mib": peak})
    return lines


def _collate(processor: Phi3VProcessor, samples: Sequence[Sample], *, crops: int) -> Batch:
    processor.image_processor.num_crops = crops
    return select_labelled(
        CompletionCollator(processor=processor, template=TEMPLATES["product"])(samples)
    )


def measure_samples(_: Path) -> list[Figures]:
    """Time everything before the first step, over datasets of rising size, and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        found: list[Figures] = in_new_process(_grow_samples, Path(folder))
    return found


def _grow_samples(folder: Path) -> list[Figures]:
    recipe = replace(lora(), model=SMALL, output_dir=folder / "run", bf16=False)
    few = replace(recipe, data=str(write_dataset(folder / "few", 50)))
    prepare(few)  # loads libraries
    before, lines = resident_mib(), list[Figures]()
    for size in SAMPLES:
        chosen = replace(recipe, data=str(write_dataset(folder / str(size), size)))
        held: list[object] = []
        seconds = list[float]()

        def work(chosen: Any = chosen, held: Any = held, seconds: Any = seconds) -> None:
            seconds.append(measure(lambda: held.append(prepare(chosen))).cpu)

        peak = peak_mib(work, above=before)
        lines.append({"size": size, "cpu_s": seconds[0], "peak_mib": peak})
    return lines


def write_dataset(folder: Path, count: int) -> Path:
    """Write products with small images, of which eight are distinct, as one shard."""
    images = []
    for number in range(DISTINCT_IMAGES):
        encoded = io.BytesIO()
        Image.open(io.BytesIO(draw_image(number))).resize((192, 192)).save(encoded, "JPEG")
        images.append(encoded.getvalue())
    rows = [
        {
            "image": {"bytes": images[number % DISTINCT_IMAGES], "path": None},
            "id": f"p{number}",
            "title": " ".join(TITLE.split()[: 3 + number % 9]),
            "category3_code": "COATS",
            "full_price": 390.0 + number,
        }
        for number in range(count)
    ]
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return folder


def measure_clients(_: Path) -> list[Figures]:
    """Let a rising number of clients send images to `phi-vision serve`, one after the other."""
    with serving(SMALL, ["--queue", str(2 * max(CLIENTS))]) as server:
        asyncio.run(_send(server, 1, SECONDS_PER_CLIENTS / 2))
        return [asyncio.run(_send(server, clients, SECONDS_PER_CLIENTS)) for clients in CLIENTS]


async def _send(server: Server, clients: int, seconds: float) -> Figures:
    process = psutil.Process(server.process.pid)
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "image/jpeg"}
    images = [draw_image(number) for number in range(4)]
    taken: list[float] = []

    async def ask(number: int) -> None:
        while (begun := time.perf_counter()) < until:
            image = images[number % len(images)]
            async with session.post("/v1/records", data=image, headers=headers) as response:
                await response.read()
                response.raise_for_status()
            taken.append(time.perf_counter() - begun)

    async with aiohttp.ClientSession(server.address) as session:
        times, begun = process.cpu_times(), time.perf_counter()
        until = begun + seconds
        await asyncio.gather(*map(ask, range(clients)))
        spent, wall = process.cpu_times(), time.perf_counter() - begun
    cpu = spent.user + spent.system - times.user - times.system
    return {
        "size": clients,
        "cpu_s": cpu / len(taken),
        "latency_s": statistics.median(taken),
        "requests_s": len(taken) / wall,
        "resident_mib": process.memory_info().rss / MIB,
    }


AXES: Mapping[str, Callable[[Path], list[Figures]]] = {
    "tokens": lambda checkpoint: measure_steps("tokens", checkpoint),
    "crops": lambda checkpoint: measure_steps("crops", checkpoint),
    "batch": lambda checkpoint: measure_steps("batch", checkpoint),
    "samples": measure_samples,
    "clients": measure_clients,
}
"""Axis -> what measures it over a checkpoint, size by size."""
