"""The full-size model that all parts share, its adapters for a while, and batches for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoTokenizer
from transformers.initialization import no_init_weights

from benchmarks.full_size import full_size_config
from benchmarks.gpu.costs import Costs
from benchmarks.workload import draw_samples
from phi_vision.data.collator import Batch, CompletionCollator, select_labelled
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.model.checkpoint import SMALL, resolve
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.training.adapters import select_trained_parts
from phi_vision.training.recipes import lora
from pretraining.tiny import Sizes, make_config, make_processor

RECIPE = lora()


class SharedModel:
    """One model in bf16 with random weights, drawn on the device; parts leave it as it was."""

    def __init__(self, device: torch.device, *, is_tiny: bool) -> None:
        self.device, self.is_tiny = device, is_tiny
        self.tokenizer = AutoTokenizer.from_pretrained(resolve(SMALL))
        self.config = self._config()
        self.costs = Costs(self.config, RECIPE.r or 0)
        self.model = self._draw()

    def _config(self) -> Phi3VConfig:
        sizes = Sizes(num_crops=4)
        config = full_size_config(self.tokenizer)
        config = make_config(sizes, self.tokenizer) if self.is_tiny else config
        config.dtype = torch.bfloat16
        return config

    def _draw(self) -> Any:
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with no_init_weights(), self.device:
                model = Phi3VForCausalLM(self.config)
        finally:
            torch.set_default_dtype(before)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                is_scale = weight.ndim == 1 and "norm" in name and name.endswith("weight")
                if is_scale or name.endswith("bias"):
                    weight.fill_(float(is_scale))
                else:
                    weight.normal_(std=0.02)
        # Rotary frequencies stay in float32, as a checkpoint loads them.
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(self.device)
        # Of the config, as a checkpoint has them.
        model.generation_config.eos_token_id = self.config.eos_token_id
        model.generation_config.pad_token_id = self.config.pad_token_id
        return model.requires_grad_(False).eval()

    @cache  # noqa: B019
    def processor(self, crops: int) -> Phi3VProcessor:
        """Return the processor for images of up to so many crops."""
        if self.is_tiny:
            return make_processor(Sizes(num_crops=crops), self.tokenizer)
        return Phi3VProcessor(Phi3VImageProcessor(num_crops=crops), self.tokenizer)

    def collator(self, crops: int) -> CompletionCollator:
        """Return the collator of a training."""
        return CompletionCollator(processor=self.processor(crops), template=TEMPLATES["product"])

    @cache  # noqa: B019
    def batch(self, crops: int, rows: int) -> Batch:
        """Prepare a batch as a training does, in main memory."""
        return select_labelled(self.collator(crops)(samples(rows)))

    def to_device(self, batch: Any) -> dict[str, Any]:
        """Copy the tensors of a batch to the device."""
        return {name: value.to(self.device) for name, value in without_ids(batch).items()}

    @contextmanager
    def adapted(self, dropout: float | None = None) -> Iterator[Any]:
        """Put the recipe's adapters on the model, and take them off again."""
        given = RECIPE if dropout is None else replace(RECIPE, lora_dropout=dropout)
        try:
            yield select_trained_parts(self.model, given, torch.bfloat16).train()
        finally:
            self.restore()

    def restore(self) -> None:
        """Remove adapters, hooks, gradients and compiled layers from the model."""
        for name, module in list(self.model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                self.model.set_submodule(name, module.get_base_layer())
            module._compiled_call_impl = None
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        self.model._hf_peft_config_loaded = False
        self.model._forward_hooks.clear()
        self.model._forward_pre_hooks.clear()
        self.model.to(self.device).requires_grad_(False).eval()
        for weight in self.model.parameters():
            weight.grad = None


def without_ids(batch: Any) -> dict[str, Any]:
    """Remove what is no input of the model from a batch."""
    return {name: value for name, value in batch.items() if name != "sample_ids"}


@contextmanager
def checkpointing(model: Any, *, is_on: bool = True, every: int = 1) -> Iterator[None]:
    """Recompute the activations of every n-th layer, as the recipe's option does of each."""
    if not is_on:
        yield
        return
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
    try:
        yield
    finally:
        inner.activation_checkpointing_disable()
        inner.disable_input_require_grads()


def decoder_layers(model: nn.Module) -> list[Any]:
    """List the layers of the decoder, below adapters too."""
    return [m for m in model.modules() if type(m).__name__ == "Phi3DecoderLayer"]


@cache
def samples(count: int, *, is_mixed: bool = False) -> list[Sample]:
    """Draw products with square images, or with every second one twice as high as wide."""
    return draw_samples(count, [(768, 768), (480, 960)] if is_mixed else [(768, 768)])
