"""The full-size model with random weights: memory and time to load, generate and train.

    python -m benchmarks.full_size write FOLDER        4.15 B parameters, two bf16 shards, 8.3 GB
    python -m benchmarks.full_size ask FOLDER IMAGE  loads it, reports peak memory, answers once
    python -m benchmarks.full_size train FOLDER        steps of a recipe, on a GPU or a CPU

The last line printed is a JSON object of figures. With random weights the prediction is noise; its
time and memory are real. The tokenizer is that of `--tokenizer`, by default `phi-vision-small`'s;
the weights have the official shapes either recipe.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer

from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.model.checkpoint import SMALL, load_model, resolve
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.runs import RunDir, read_history
from phi_vision.synthetic.catalog import write_catalog
from phi_vision.training.estimate import make_plan
from phi_vision.training.recipes import RECIPES
from phi_vision.training.trainer import train as run_recipe

QUESTION = "<|user|>\n<|image_1|>\nWhat is shown in this image?<|end|>\n<|assistant|>\n"
SHARD_BYTES = 4_950_000_000
NUM_CROPS = 4
PRODUCTS = 64
"""Drawn products for training."""


def write(folder: Path, tokenizer_folder: str) -> None:
    """Write the checkpoint tensor by tensor, with at most one shard in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = full_size_config(tokenizer)
    with torch.device("meta"):
        model = Phi3VForCausalLM(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shards = list(_shards(shapes))
    torch.manual_seed(0)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _random_tensor(name, shapes[name]) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    size = 2 * sum(_count(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    config.dtype = torch.bfloat16
    config.architectures = ["Phi3VForCausalLM"]
    config.save_pretrained(folder)
    Phi3VProcessor(Phi3VImageProcessor(num_crops=NUM_CROPS), tokenizer).save_pretrained(folder)
    _print_figures(parameters=size // 2, bytes=size, shards=len(shards), tensors=len(shapes))


def ask(folder: Path, image: Path, new_tokens: int) -> None:
    """Load the checkpoint and predict from one image."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    size = index["metadata"]["total_size"]
    before = _peak_bytes()
    started = time.perf_counter()
    model, processor = load_model(folder)
    loaded, load_seconds = _peak_bytes(), time.perf_counter() - started
    started = time.perf_counter()
    images = (Image.open(image),)
    question = GenerationRequest(prompt=QUESTION, images=images, max_new_tokens=new_tokens)
    (prediction,) = generate(model, processor, [question])
    answer_seconds = time.perf_counter() - started
    # Loading only maps the files; weights are read into memory on first use.
    answered = _peak_bytes()
    _print_figures(
        checkpoint_bytes=size,
        peak_bytes_before=before,
        peak_bytes_loaded=loaded,
        peak_bytes_answered=answered,
        peak_over_size_loaded=round(loaded / size, 3),
        peak_over_size_answered=round(answered / size, 3),
        load_seconds=round(load_seconds, 1),
        answer_seconds=round(answer_seconds, 1),
        new_tokens=new_tokens,
        answer=prediction.text,
    )


def train(
    folder: Path, recipe_name: str, steps: int, batch_size: int, *, checkpointing: bool
) -> None:
    """Train as `phi-vision train` does, on drawn products, beside the estimate of `plan`."""
    with tempfile.TemporaryDirectory() as scratch:
        write_catalog(Path(scratch) / "data", rows=PRODUCTS, seed=0)
        recipe = replace(
            RECIPES[recipe_name](),
            model=str(folder),
            data=str(Path(scratch) / "data"),
            output_dir=Path(scratch) / "run",
            validation_fraction=0.0,
            gradient_checkpointing=checkpointing,
            per_device_train_batch_size=batch_size,
            max_steps=steps,
            num_train_epochs=float(steps * batch_size),
            warmup_steps=0.0,
            report_to="none",
        )
        plan = make_plan(recipe)
        run = run_recipe(recipe)
        taken = read_history(RunDir(run.folder).log_file).steps
    on_gpu = torch.cuda.is_available()
    _print_figures(
        recipe=recipe_name,
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        batch_size=batch_size,
        gradient_checkpointing=checkpointing,
        steps=len(taken),
        first_loss=taken[0]["loss"],
        last_loss=taken[-1]["loss"],
        # The first step also fills caches.
        last_samples_per_second=taken[-1]["samples_per_second"],
        planned_bytes=round(plan.need.memory),
        peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else _peak_bytes(),
    )


def full_size_config(tokenizer: AutoTokenizer) -> Phi3VConfig:
    """Return a config of the official sizes; rotary factors have the official shape only."""
    return Phi3VConfig(
        rope_scaling={"type": "su", "short_factor": [1.1] * 48, "long_factor": [32.0] * 48},
        rope_theta=10000.0,
        original_max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[
            tokenizer.convert_tokens_to_ids(name) for name in ("<|end|>", "<|endoftext|>")
        ],
        image_token_id=tokenizer.convert_tokens_to_ids(Phi3VProcessor.image_token),
    )


def _shards(shapes: dict[str, tuple[int, ...]]) -> Iterator[list[str]]:
    """Split the tensors, in order, into shards of at most `SHARD_BYTES`."""
    names: list[str] = []
    held = 0
    for name, shape in shapes.items():
        size = 2 * _count(shape)
        if names and held + size > SHARD_BYTES:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    yield names


def _random_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Fill norm scales with ones, biases with zeros, the rest with small noise."""
    if len(shape) == 1 and "norm" in name and name.endswith("weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _peak_bytes() -> int:
    """Return the peak resident memory of this process, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _print_figures(**figures: object) -> None:
    print(json.dumps(figures))


def main() -> None:
    """Run one of the three measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("write", "ask", "train"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("--tokenizer", default=resolve(SMALL), help="folder of the tokenizer")
    parser.add_argument("--new-tokens", type=int, default=8, help="length of the answer")
    parser.add_argument("--recipe", choices=RECIPES, default="lora", help="how to train")
    parser.add_argument("--steps", type=int, default=8, help="training steps")
    parser.add_argument("--batch-size", type=int, default=8, help="samples a step")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory")
    options = parser.parse_args()
    if options.task == "write":
        write(options.folder, options.tokenizer)
    elif options.task == "ask":
        ask(options.folder, options.image, options.new_tokens)
    else:
        checkpointing = options.gradient_checkpointing
        train(
            *(options.folder, options.recipe, options.steps, options.batch_size),
            checkpointing=checkpointing,
        )


if __name__ == "__main__":
    main()
