"""Speed and memory beside the plain way: steps, generation, preprocessing, start-up; growth.

    OMP_NUM_THREADS=1 python -m benchmarks.speed                       the whole table, an hour
    OMP_NUM_THREADS=1 python -m benchmarks.speed step --hidden 256 --crops 4 --rows 4 --bf16 true
    OMP_NUM_THREADS=1 python -m benchmarks.speed step --plain attention    one difference alone

Both sides have the same weights, images and texts, and take turns, so that a busy machine slows
both; a ratio is the median over rounds of CPU-seconds, plain over ours. The plain way is the same
native model as most people would run it (`PLAIN`). Beside each step of ours: its share of the
machine's GEMM rate, measured in the same run, and of a perfect step, which is the step's own matrix
products timed alone. `growth` has the exponents of time and memory by tokens, crops, batch, samples
and clients; on a GPU `gpu` adds steps and generation at full size. `--out` keeps all as JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.__main__ import measure_full_size
from benchmarks.growth import measure_growth
from benchmarks.matrix_products import MatrixProducts
from benchmarks.peak_memory import measure_memory
from benchmarks.timing import Figures, gemm_rate, take_turns
from benchmarks.workload import (
    LAYERS,
    Setting,
    draw_image,
    draw_samples,
    train_step,
    write_checkpoint,
)
from phi_vision.data.collator import CompletionCollator, select_labelled
from phi_vision.data.feature_cache import cache_features
from phi_vision.data.template import TEMPLATES
from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.io.process import CACHE_VARIABLE
from phi_vision.model.blockwise_attention import BLOCKWISE, use_blockwise_attention
from phi_vision.model.checkpoint import SMALL, load_model
from phi_vision.model.image_processing_phi3_v import pad_to_crops
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.training.adapters import load_trainable, select_trained_parts
from phi_vision.training.recipes import lora

PLAIN = {
    "logits": "logits at every position, instead of where there is a label",
    "attention": "eager attention, instead of the one chosen for the machine",
    "weights": "float32 weights under autocast, instead of bfloat16 ones",
}
"""Differences of the plain training step."""

NEW_TOKENS = 24


# The parts


def measure_step(
    setting: Setting, checkpoint: Path, options: argparse.Namespace, *, is_cached: bool = False
) -> Figures:
    """A LoRA step of `phi-vision train lora`, beside the plain one; of bf16 also in float32."""
    recipe = replace(lora(), model=str(checkpoint), bf16=setting.bf16)
    ours = load_trainable(recipe)
    collator = CompletionCollator(processor=ours.processor, template=TEMPLATES["product"])
    batch = collator(draw_samples(setting.rows))
    selected = select_labelled(batch)

    def plain(*, bf16: bool) -> Callable[[], None]:
        model = load_model(checkpoint)[0]
        if "attention" in options.plain:
            model.set_attn_implementation("eager")
        elif ours.model.config._attn_implementation == BLOCKWISE:
            use_blockwise_attention(model)
        is_rounded = bf16 and "weights" not in options.plain
        held = torch.bfloat16 if is_rounded else torch.float32
        trained = select_trained_parts(model, recipe, held).train()
        return train_step(
            trained, batch if "logits" in options.plain else selected, fused=True, bf16=bf16
        )

    if is_cached:
        cache_features(ours.model)
    step = train_step(ours.model.train(), selected, fused=True, bf16=setting.bf16)
    step()  # computes the features to keep
    with MatrixProducts() as products:
        step()
    others = {"fp32": plain(bf16=False)} if setting.bf16 else {}
    figures = take_turns(
        step,
        plain(bf16=setting.bf16),
        rounds=options.rounds,
        budget=options.budget,
        others=others,
    )
    rate = products.flops / figures["ours_cpu_s"]
    return {
        **figures,
        "gflops": rate / 1e9,
        "of_gemm": rate / gemm_rate(ours.precision),
        "of_perfect": products.seconds_alone() / figures["ours_cpu_s"],
    }


def measure_generation(
    setting: Setting, checkpoint: Path, options: argparse.Namespace, *, is_cached: bool = False
) -> Figures:
    """Batched generation, beside transformers' `generate` one sample at a time in float32."""
    model, processor = load_model(
        checkpoint, dtype=torch.bfloat16 if setting.bf16 else torch.float32
    )
    use_blockwise_attention(model)
    plain_model, _ = load_model(checkpoint, dtype=torch.float32)
    if is_cached:
        cache_features(model)
    samples = draw_samples(4 * setting.rows)
    # A checkpoint of random weights seldom stops by itself; both sides then write as much.
    for each in (model, plain_model):
        each.generation_config.eos_token_id = each.config.eos_token_id
    prompts = [TEMPLATES["product"].prompt(processor, 1)] * len(samples)

    def ours() -> None:
        requests = [
            GenerationRequest(
                prompt=prompt, images=tuple(sample.open_images()), max_new_tokens=NEW_TOKENS
            )
            for prompt, sample in zip(prompts, samples, strict=True)
        ]
        generate(model, processor, requests, batch_size=4 * setting.rows)

    def plain() -> None:
        for prompt, sample in zip(prompts, samples, strict=True):
            inputs = processor(text=prompt, images=sample.open_images(), return_tensors="pt")
            with torch.no_grad():
                plain_model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)

    return take_turns(ours, plain, rounds=options.rounds, budget=options.budget)


def measure_preprocessing(
    setting: Setting, checkpoint: Path, options: argparse.Namespace
) -> Figures:
    """Images and texts to inputs, beside the plain way: PIL, then arithmetic in float32."""
    processor = load_model(checkpoint)[1]
    images = [image for sample in draw_samples(4) for image in sample.open_images()]
    prompt = TEMPLATES["product"].prompt(processor, 1)

    def ours() -> None:
        for image in images:
            processor(text=prompt, images=image, return_tensors="pt")

    def plain() -> None:
        for image in images:
            plain_inputs(processor, prompt, image)

    return take_turns(ours, plain, rounds=4 * options.rounds, budget=options.budget)


def plain_inputs(processor: Phi3VProcessor, prompt: str, image: Image.Image) -> Figures:
    """Prepare one image and its prompt as the official code does, step by step."""
    cutter = processor.image_processor
    size, limit = cutter.crop_size, cutter.num_crops
    padded = pad_to_crops(image.convert("RGB"), limit, size)
    pixels = torch.from_numpy(np.array(padded)).permute(2, 0, 1).float() / 255
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (cutter.image_mean, cutter.image_std)
    )
    pixels = (pixels - mean) / std
    view = torch.nn.functional.interpolate(pixels[None], size=(size, size), mode="bicubic")
    rows, columns = pixels.shape[1] // size, pixels.shape[2] // size
    crops = pixels.reshape(3, rows, size, columns, size).permute(1, 3, 0, 2, 4)
    crops = torch.cat([view, crops.reshape(-1, 3, size, size)])
    missing = torch.zeros(1 + limit - len(crops), 3, size, size)
    before, after = prompt.split("<|image_1|>")
    tokens = cutter.count_tokens(*pixels.shape[1:])
    tokenizer = processor.tokenizer
    ids = [
        *tokenizer(before.removeprefix(tokenizer.bos_token)).input_ids,
        *[processor.image_token_id] * tokens,
        *tokenizer(after).input_ids,
    ]
    return {"pixel_values": torch.cat([crops, missing])[None], "input_ids": torch.tensor([ids])}


def measure_start(setting: Setting, checkpoint: Path, options: argparse.Namespace) -> Figures:
    """A process that predicts one image, beside one that only imports torch."""
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image.jpg"
        image.write_bytes(draw_image(0))
        command = [sys.executable, "-m", "phi_vision", "predict", SMALL, str(image)]

        def spent(command: Sequence[str]) -> float:
            code = (
                "import os, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
                "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); "
                "t = os.times(); print(t.children_user + t.children_system)"
            )
            given = [sys.executable, "-c", code, *command]
            done = subprocess.run(given, check=True, capture_output=True, text=True)
            return float(done.stdout)

        importing = [sys.executable, "-c", "import torch"]
        pairs = [(spent(command), spent(importing)) for _ in range(options.rounds)]
    return {
        "ours_cpu_s": statistics.median(one for one, _ in pairs),
        "torch_cpu_s": statistics.median(other for _, other in pairs),
        "rounds": len(pairs),
    }


# The run

Part = Callable[[Setting, Path, argparse.Namespace], Figures]
PARTS: dict[str, Part] = {
    "preprocessing": measure_preprocessing,
    "step": measure_step,
    "step_cached": partial(measure_step, is_cached=True),
    "generation": measure_generation,
    "generation_cached": partial(measure_generation, is_cached=True),
    "start": measure_start,
    "memory": measure_memory,
}
"""Name -> part that compares both sides in each setting."""

TABLES: dict[str, Callable[[Path], Iterator[Figures]]] = {
    "growth": measure_growth,
    "gpu": measure_full_size,
}
"""Name -> part with settings of its own, over a folder for its files; `gpu` needs one."""


def settings_of(part: str, options: argparse.Namespace) -> Iterator[Setting]:
    """Yield the settings in which a part's figures differ."""
    hidden, rows, bf16 = options.hidden, options.rows, options.bf16
    if part in ("preprocessing", "start"):
        hidden, rows, bf16 = hidden[:1], rows[:1], bf16[:1]
    crops = options.crops[:1] if part == "start" else options.crops
    for each in product(hidden, crops, rows, bf16):
        yield Setting(**dict(zip(("hidden", "crops", "rows", "bf16"), each, strict=True)))


@contextmanager
def checkpoints() -> Iterator[Callable[[Setting], Path]]:
    """Give the checkpoint of a setting, written once."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = folder  # features that were computed for this measurement

        def checkpoint(setting: Setting) -> Path:
            place = Path(folder) / f"{setting.hidden}-{setting.crops}"
            if not place.exists():
                write_checkpoint(place, setting.hidden, setting.crops)
            return place

        yield checkpoint


def run(options: argparse.Namespace) -> Iterator[Figures]:
    """Measure every part in each of its settings."""
    rates = {name: gemm_rate(dtype) / 1e9 for name, dtype in DTYPES.items()}
    yield {"part": "gemm", **{f"{name}_gflops": rate for name, rate in rates.items()}}
    with checkpoints() as checkpoint:
        for part in options.parts:
            for setting in settings_of(part, options) if part in PARTS else ():
                figures = PARTS[part](setting, checkpoint(setting), options)
                yield {"part": part, "setting": str(setting), **figures}
            if part in TABLES:
                with tempfile.TemporaryDirectory() as folder:
                    yield from TABLES[part](Path(folder))


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def describe(figures: Figures) -> str:
    """Lay figures out in one line."""
    texts = (
        f"{name} {value:.3g}" if isinstance(value, float) else f"{value}"
        for name, value in figures.items()
        if name != "rounds"
    )
    return "  ".join(texts)


def numbers(names: Iterable[str]) -> list[bool]:
    """Read `true` and `false`."""
    return [name == "true" for name in names]


def main() -> None:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join([*PARTS, *TABLES]))
    parser.add_argument("--hidden", type=int, nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--crops", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4], help="of a batch")
    parser.add_argument("--bf16", nargs="+", choices=("true", "false"), default=["false", "true"])
    parser.add_argument("--plain", nargs="*", choices=PLAIN, default=list(PLAIN))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=60, help="seconds for each setting")
    parser.add_argument("--out", type=Path, help="JSON file of all figures")
    options = parser.parse_args()
    by_default = [part for part in (*PARTS, *TABLES) if part != "gpu" or torch.cuda.is_available()]
    options.parts = options.parts or by_default
    if unknown := [part for part in options.parts if part not in {*PARTS, *TABLES}]:
        parser.error(f"no part {unknown[0]!r}; the parts are {', '.join([*PARTS, *TABLES])}")
    options.bf16 = numbers(options.bf16)
    measured = []
    for figures in run(options):
        measured.append(figures)
        print(describe(figures), flush=True)
    if options.out:
        setup = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        options.out.write_text(json.dumps([setup, *measured], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
