"""A minimal fine-tuning loop without any checks, for recipes that `phi-vision train` refuses.

The broken recipes themselves are in `broken_recipes.py`.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from phi_vision.data.collator import IGNORED, Batch, CompletionCollator
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.generation.generate import left_pad
from phi_vision.model.checkpoint import SMALL, fast_dtype, load_model
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor

Rows = Callable[[Sequence[Sample]], Batch]
"""Samples -> the batch that the model is trained on."""

BATCH_SIZE, WARMUP, LEARNING_RATE, LORA_LEARNING_RATE = 8, 0.05, 1e-3, 3e-3
RANK, ALPHA = 32, 64
"""Of the adapters, as in `make demo`."""

MAX_NEW_TOKENS = 96
FAST = fast_dtype(torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A model with its processor and template."""

    model: Phi3VForCausalLM | PeftModel
    processor: Phi3VProcessor
    template: Template
    learning_rate: float = LEARNING_RATE

    @property
    def collator(self) -> CompletionCollator:
        """The package's own collator: images included, only answers supervised, nothing cut."""
        return CompletionCollator(processor=self.processor, template=self.template)


def start_full(template: Template) -> Setup:
    """Load phi-vision-small with everything but the CLIP tower to be trained."""
    model, processor = _load_small(torch.float32)
    model.model.vision_embed_tokens.img_processor.requires_grad_(False)
    return Setup(model=model, processor=processor, template=template)


def start_lora(template: Template, targets: Sequence[str]) -> Setup:
    """Load phi-vision-small with new adapters in the layers of these names."""
    model, processor = _load_small(FAST)
    described = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=list(targets)
    )
    adapted = get_peft_model(model, described)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return Setup(
        model=adapted, processor=processor, template=template, learning_rate=LORA_LEARNING_RATE
    )


def learn(
    setup: Setup,
    rows: Rows,
    samples: Sequence[Sample],
    *,
    epochs: int,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> list[float]:
    """Train with AdamW, warm-up and cosine decay; return the loss of each step."""
    steps = epochs * math.ceil(len(samples) / BATCH_SIZE)
    trained = [weight for weight in setup.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=setup.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    losses = []
    for epoch in range(1, epochs + 1):
        setup.model.train()
        for some in _batches(samples, seed=epoch):
            loss = compute_loss(setup.model, rows(some))
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(loss.item())
        after_epoch(epoch)
    return losses


def compute_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Compute the loss in the machine's fast precision."""
    with torch.autocast("cpu", dtype=FAST, enabled=torch.bfloat16 == FAST):
        loss: torch.Tensor = model(**batch, use_cache=False).loss
    return loss


@torch.inference_mode()
def mean_loss(setup: Setup, rows: Rows, samples: Sequence[Sample]) -> float:
    """Compute the mean loss per labelled token."""
    setup.model.eval()
    total, labels = 0.0, 0
    for start in range(0, len(samples), BATCH_SIZE):
        batch = rows(samples[start : start + BATCH_SIZE])
        count = int((batch["labels"][:, 1:] != IGNORED).sum())
        total, labels = total + count * compute_loss(setup.model, batch).item(), labels + count
    return total / labels


@torch.inference_mode()
def generate(
    setup: Setup, rows: Sequence[dict[str, torch.Tensor]], **generation: Any
) -> tuple[list[str], list[int]]:
    """Generate an answer to each row, greedily; return the texts and their numbers of tokens."""
    setup.model.eval()
    padding = setup.processor.tokenizer.pad_token_id
    texts, lengths = list[str](), list[int]()
    for start in range(0, len(rows), 2 * BATCH_SIZE):
        batch = left_pad(rows[start : start + 2 * BATCH_SIZE], padding)
        options = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, **generation}
        with torch.autocast("cpu", dtype=FAST, enabled=torch.bfloat16 == FAST):
            ids = setup.model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
        texts += setup.processor.batch_decode(ids, skip_special_tokens=True)
        lengths += (ids != padding).sum(dim=1).tolist()
    return [text.strip() for text in texts], lengths


def _load_small(dtype: torch.dtype) -> tuple[Phi3VForCausalLM, Phi3VProcessor]:
    torch.manual_seed(0)
    model, processor = load_model(SMALL, dtype=dtype)
    if torch.bfloat16 == FAST:
        model.set_attn_implementation("eager")  # faster in bf16 on a CPU (docs/log.md)
    return model, processor


def _rate(step: int, steps: int) -> float:
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def _batches(samples: Sequence[Sample], seed: int) -> Iterator[list[Sample]]:
    order = random.Random(seed).sample(list(samples), len(samples))
    return (order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE))
