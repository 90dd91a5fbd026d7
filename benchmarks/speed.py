"""Speed beside the plain way: steps, generation, preprocessing and start-up, in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.speed                       the whole table, an hour
    OMP_NUM_THREADS=1 python -m benchmarks.speed step --hidden 256 --crops 4 --rows 4 --bf16 true
    OMP_NUM_THREADS=1 python -m benchmarks.speed step --plain attention    one difference alone

Both sides have the same weights, images and texts, and take turns, so that a busy machine slows
both; a ratio is the median over rounds of CPU-seconds, plain over ours. The plain way is the same
native model as most people would run it (`PLAIN`). Beside each step of ours: its share of the
machine's GEMM rate, measured in the same run, and of a perfect step, which is the step's own matrix
products timed alone. `--out` keeps every figure as JSON.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer

from phi_vision.data.collator import Batch, CompletionCollator, select_labelled
from phi_vision.data.feature_cache import VARIABLE, cache_features
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.model.checkpoint import SMALL, load_model, resolve
from phi_vision.model.image_processing_phi3_v import pad_to_crops
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.training.adapters import load_trainable, select_trained_parts
from phi_vision.training.recipes import lora
from pretraining.tiny import Sizes, make_config, make_processor

LAYERS = {256: 6, 768: 8}
"""Hidden size -> layers, of the decoder and of the tower."""

PLAIN = {
    "logits": "logits at every position, instead of where there is a label",
    "attention": "eager attention, instead of the one chosen for the machine",
    "weights": "float32 weights under autocast, instead of bfloat16 ones",
    "optimizer": "AdamW weight by weight, instead of fused",
}
"""Differences of the plain training step."""

IMAGE_SIZE = (768, 768)
NEW_TOKENS = 24
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured: sizes of the model and of a batch."""

    hidden: int
    crops: int
    rows: int
    bf16: bool

    def __str__(self) -> str:
        dtype = "bf16" if self.bf16 else "fp32"
        return f"hidden {self.hidden}, {self.crops} crops, {self.rows} rows, {dtype}"


class Seconds(NamedTuple):
    """Time of one piece of work."""

    cpu: float
    wall: float


# Time


def measure(work: Callable[[], object]) -> Seconds:
    """Run a piece of work once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def take_turns(
    ours: Callable[[], object], plain: Callable[[], object], *, rounds: int, budget: float
) -> Figures:
    """Time both sides in turn, after one run each that counts for nothing.

    Ends after `rounds`, or when the next round would exceed `budget` seconds; two at least.
    """
    started = time.perf_counter()
    ours(), plain()
    times: list[tuple[Seconds, Seconds]] = []
    for count in range(rounds):
        each = (time.perf_counter() - started) / (count + 1)
        if count >= 2 and time.perf_counter() - started + each > budget:
            break
        times.append((measure(ours), measure(plain)))
    one, other = zip(*times, strict=True)
    return {
        "ours_cpu_s": statistics.median(seconds.cpu for seconds in one),
        "plain_cpu_s": statistics.median(seconds.cpu for seconds in other),
        "ours_wall_s": statistics.median(seconds.wall for seconds in one),
        "plain_wall_s": statistics.median(seconds.wall for seconds in other),
        "ratio": statistics.median(b.cpu / a.cpu for a, b in times),
        "rounds": len(times),
    }


def gemm_rate(dtype: torch.dtype, size: int = 1536) -> float:
    """Return the FLOPs per CPU-second of a large matrix product, the best of eight."""
    one, other = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    torch.mm(one, other)
    return 2 * size**3 / min(measure(lambda: torch.mm(one, other)).cpu for _ in range(8))


class MatrixProducts(TorchDispatchMode):
    """Records the matrix products of whatever runs inside, by shape and dtype."""

    NAMES = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[tuple[str, tuple[int, ...], tuple[int, ...], torch.dtype]]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note a product and run it."""
        name = func.name().partition(".")[0]
        if name in self.NAMES:
            one, other = args[-2:]
            self.counts[name, tuple(one.shape), tuple(other.shape), one.dtype] += 1
        return func(*args, **(kwargs or {}))

    def seconds_alone(self) -> float:
        """Time each kind of product alone, the best of three, and add them up."""
        total = 0.0
        for (_, one, other, dtype), count in self.counts.items():
            left, right = torch.randn(one, dtype=dtype), torch.randn(other, dtype=dtype)
            work = torch.mm if left.ndim == 2 else torch.bmm
            total += count * min(measure(lambda: work(left, right)).cpu for _ in range(3))  # noqa: B023
        return total


# The model and its data


def write_checkpoint(folder: Path, hidden: int, crops: int) -> Path:
    """Write a checkpoint with random weights and crops of the official size."""
    sizes = Sizes(
        crop_size=336,
        num_crops=crops,
        vision_width=hidden,
        vision_layers=LAYERS[hidden] + 1,  # the last is never run
        vision_heads=hidden // 64,
        hidden_size=hidden,
        layers=LAYERS[hidden],
        heads=hidden // 64,
        intermediate_size=4 * hidden,
    )
    tokenizer = AutoTokenizer.from_pretrained(resolve(SMALL))
    torch.manual_seed(0)
    Phi3VForCausalLM(make_config(sizes, tokenizer)).save_pretrained(folder)
    make_processor(sizes, tokenizer).save_pretrained(folder)
    return folder


def draw_image(number: int) -> bytes:
    """Draw shapes and grain, so that a JPEG and its resizing are work."""
    draw = np.random.default_rng(number)
    image = Image.new("RGB", IMAGE_SIZE, tuple(draw.integers(180, 255, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, width, height = draw.integers(20, 400, 4).tolist()
        pen.ellipse((x, y, x + width, y + height), fill=tuple(draw.integers(0, 255, 3).tolist()))
    grain = draw.normal(0, 6, (*IMAGE_SIZE[::-1], 3))
    pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=88)
    return encoded.getvalue()


def draw_samples(count: int) -> list[Sample]:
    """Make products with one image each and titles of different lengths."""
    words = [
        "long",
        "wide",
        "coat",
        "of",
        "grey",
        "wool",
        "with",
        "horn",
        "buttons",
        "and",
        "a",
        "deep",
        "hood",
    ]
    return [
        Sample(
            id=str(number),
            group=str(number),
            images=(draw_image(number),),
            record={
                "title": " ".join(words[: 3 + 5 * number % 9]),
                "category3_code": "COATS",
                "full_price": 390.0 + number,
            },
        )
        for number in range(count)
    ]


# The parts


def train_step(
    model: torch.nn.Module, batch: Batch, *, fused: bool, bf16: bool
) -> Callable[[], None]:
    """Return a training step as the Trainer's: autocast, loss, backward, clipping, AdamW."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=fused, foreach=False)
    inputs = {name: value for name, value in batch.items() if name != "sample_ids"}

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_step(
    setting: Setting, checkpoint: Path, options: argparse.Namespace, *, is_cached: bool = False
) -> Figures:
    """A LoRA step of `phi-vision train lora`, beside the plain one."""
    recipe = replace(lora(), model=str(checkpoint), bf16=setting.bf16)
    ours, plain_model = load_trainable(recipe), load_model(checkpoint)[0]
    if "attention" in options.plain:
        plain_model.set_attn_implementation("eager")
    elif setting.bf16:
        plain_model.set_attn_implementation(ours.model.config._attn_implementation)
    held = torch.float32 if "weights" in options.plain else ours.precision
    plain = select_trained_parts(plain_model, recipe, held)
    if is_cached:
        cache_features(ours.model)
    collator = CompletionCollator(processor=ours.processor, template=TEMPLATES["product"])
    batch = collator(draw_samples(setting.rows))
    selected = select_labelled(batch)
    step = train_step(ours.model.train(), selected, fused=True, bf16=setting.bf16)
    with MatrixProducts() as products, FlopCounterMode(display=False) as flops:
        step()
    plain_step = train_step(
        plain.train(),
        batch if "logits" in options.plain else selected,
        fused="optimizer" not in options.plain,
        bf16=setting.bf16,
    )
    figures = take_turns(step, plain_step, rounds=options.rounds, budget=options.budget)
    rate = flops.get_total_flops() / figures["ours_cpu_s"]
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
}


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
        os.environ[VARIABLE] = folder  # features that were computed for this measurement

        def checkpoint(setting: Setting) -> Path:
            place = Path(folder) / f"{setting.hidden}-{setting.crops}"
            return (
                place
                if place.exists()
                else write_checkpoint(place, *(setting.hidden, setting.crops))
            )

        yield checkpoint


def run(options: argparse.Namespace) -> Iterator[Figures]:
    """Measure every part in each of its settings."""
    rates = {name: gemm_rate(dtype) / 1e9 for name, dtype in DTYPES.items()}
    yield {"part": "gemm", **{f"{name}_gflops": rate for name, rate in rates.items()}}
    with checkpoints() as checkpoint:
        for part in options.parts:
            for setting in settings_of(part, options):
                figures = PARTS[part](setting, checkpoint(setting), options)
                yield {"part": part, "setting": str(setting), **figures}


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
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--hidden", type=int, nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--crops", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4], help="of a batch")
    parser.add_argument("--bf16", nargs="+", choices=("true", "false"), default=["false", "true"])
    parser.add_argument("--plain", nargs="*", choices=PLAIN, default=list(PLAIN))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=60, help="seconds for each setting")
    parser.add_argument("--out", type=Path, help="JSON file of all figures")
    options = parser.parse_args()
    options.parts = options.parts or list(PARTS)
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
