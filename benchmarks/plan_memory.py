"""The memory that `plan` estimates and the memory that training takes, by method.

    python -m benchmarks.plan_memory FOLDER [--models small large wide] [--methods full lora qlora]

Compares the peak resident memory of the process (VmHWM), libraries included: the figure that the
OOM killer acts on. PyTorch's own count would leave out the allocator's gaps and the kernels'
buffers. Each training is a separate process, since VmHWM never falls; FOLDER keeps the models and
samples.
"""

import argparse
import io
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import AutoTokenizer

from phi_vision.model.checkpoint import SMALL, resolve
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.runs import RunDir
from phi_vision.training.estimate import estimate_need, measure_data, resident_bytes
from phi_vision.training.gpus import find_gpu
from phi_vision.training.recipes import RECIPES, Recipe, load_recipe, to_yaml
from phi_vision.training.trainer import train
from pretraining.tiny import Sizes, make_config, make_processor

LARGE = Sizes(
    crop_size=224,
    num_crops=1,
    vision_width=512,
    vision_layers=7,
    vision_heads=8,
    hidden_size=1024,
    layers=8,
    heads=8,
    intermediate_size=2816,
)
"""132 million weights: 5 GiB of memory in full training, a minute of one core."""

WIDE = Sizes(
    crop_size=224,
    num_crops=4,
    vision_width=384,
    vision_layers=9,
    vision_heads=6,
    hidden_size=1536,
    layers=5,
    heads=12,
    intermediate_size=4096,
)
"""169 million weights and rows three times as long: no constant of the plan was fitted to it."""

SIZES = {"large": LARGE, "wide": WIDE}
"""Models with random weights, beside the packaged small one."""

MIB = 2**20


def write_samples(folder: Path, count: int) -> Path:
    """Write noise images of one size with one record."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    rows = []
    for number in range(count):
        encoded = io.BytesIO()
        Image.fromarray(noise.integers(0, 255, (480, 640, 3), dtype=np.uint8)).save(encoded, "JPEG")
        rows.append(
            {
                "image": {"bytes": encoded.getvalue(), "path": None},
                "id": f"p{number}",
                "title": "A long wide coat of grey wool",
                "category3_code": "COATS",
                "full_price": 390.0,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return folder


def write_model(folder: Path, sizes: Sizes) -> Path:
    """Write a model with random weights unless it exists."""
    if not (folder / "config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(resolve(SMALL))
        torch.manual_seed(0)
        model = Phi3VForCausalLM(make_config(sizes, tokenizer)).to(torch.bfloat16)
        model.save_pretrained(folder)
        make_processor(sizes, tokenizer).save_pretrained(folder)
    return folder


def ask_child(task: str, recipe: Recipe, folder: Path) -> float:
    """Plan or train in a separate process; return the bytes that it printed."""
    described = RunDir(folder).recipe_file
    described.write_text(to_yaml(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.plan_memory", str(described), "--child", task]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"to {task} failed: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["bytes"])


def be_child(task: str, recipe: Recipe) -> None:
    """Plan or train, and print the bytes."""
    print(json.dumps({"bytes": TASKS[task](recipe)}))


def plan_memory(recipe: Recipe) -> float:
    """Return the bytes of a plan for this machine's CPU."""
    load = measure_data(recipe)
    resident_bytes()
    return estimate_need(recipe, load, find_gpu("cpu")).memory


def train_and_measure(recipe: Recipe) -> float:
    """Train, and return the peak memory in bytes."""
    train(recipe)
    return largest_resident_size()


def largest_resident_size() -> float:
    """Read the peak resident memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def compare(folder: Path, runs: Path, models: list[str], methods: list[str]) -> None:
    """Print a line per method: planned, measured, and their ratio."""
    sources = {"small": SMALL} | {
        name: str(write_model(folder / name, SIZES[name])) for name in models if name in SIZES
    }
    data = write_samples(folder / "samples", 8)
    kinds: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    settings = itertools.product(models, methods, kinds, (False, True))
    print("model  method  kind  twice  planned  measured  apart")
    for number, (model, method, precision, twice) in enumerate(settings):
        recipe = replace(
            RECIPES[method](),
            model=sources[model],
            data=str(data),
            output_dir=runs / f"run{number}",
            validation_fraction=0.0,
            per_device_train_batch_size=4,
            num_train_epochs=1.0,
            eval_samples=0,
            bf16=precision == "bf16",
            gradient_checkpointing=twice,
            report_to="none",
        )
        planned = ask_child("plan", recipe, folder) / MIB
        measured = ask_child("train", recipe, folder) / MIB
        print(
            f"{model}  {method:6}  {precision}  {'yes' if twice else 'no ':5}  {planned:7.0f}  "
            f"{measured:8.0f}  {planned / measured - 1:+.1%}",
            flush=True,
        )


def main() -> None:
    """Compare, or run one of the measured trainings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--models", nargs="+", choices=["small", *SIZES], default=["small", "large"]
    )
    parser.add_argument("--methods", nargs="+", default=["full", "lora", "qlora"])
    parser.add_argument("--child", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        be_child(options.child, load_recipe(options.folder))
    else:
        with tempfile.TemporaryDirectory() as runs:
            compare(options.folder, Path(runs), options.models, options.methods)


TASKS: dict[str, Callable[[Recipe], float]] = {"plan": plan_memory, "train": train_and_measure}
"""The tasks of a separate process."""

if __name__ == "__main__":
    main()
