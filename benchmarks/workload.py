"""What is measured: a model with random weights, products with images, a step over them."""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import AutoTokenizer

from phi_vision.data.samples import Sample
from phi_vision.model.checkpoint import SMALL, resolve
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from pretraining.tiny import Sizes, make_config, make_processor

LAYERS = {256: 6, 768: 8}
"""Hidden size -> layers, of the decoder and of the tower."""

IMAGE_SIZE = (768, 768)
TITLE = "long wide coat of grey wool with horn buttons and a deep hood"


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


def draw_image(number: int, size: tuple[int, int] = IMAGE_SIZE) -> bytes:
    """Draw shapes and grain, so that a JPEG and its resizing are work."""
    draw = np.random.default_rng(number)
    image = Image.new("RGB", size, tuple(draw.integers(180, 255, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, width, height = draw.integers(20, 400, 4).tolist()
        pen.ellipse((x, y, x + width, y + height), fill=tuple(draw.integers(0, 255, 3).tolist()))
    grain = draw.normal(0, 6, (*size[::-1], 3))
    pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=88)
    return encoded.getvalue()


def draw_samples(count: int, sizes: Sequence[tuple[int, int]] = (IMAGE_SIZE,)) -> list[Sample]:
    """Make products with one image each, of the sizes in turn, and titles of different lengths."""
    return [
        Sample(
            id=str(number),
            group=str(number),
            images=(draw_image(number, sizes[number % len(sizes)]),),
            record={
                "title": " ".join(TITLE.split()[: 3 + 5 * number % 9]),
                "category3_code": "COATS",
                "full_price": 390.0 + number,
            },
        )
        for number in range(count)
    ]


def train_step(
    model: torch.nn.Module, batch: Mapping[str, Any], *, fused: bool, bf16: bool
) -> Callable[[], None]:
    """Return a training step as the Trainer's: autocast, loss, backward, clipping, AdamW."""
    device = next(model.parameters()).device.type
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=fused, foreach=False)
    inputs = {name: value for name, value in batch.items() if name != "sample_ids"}

    def step() -> None:
        with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
            loss = model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
