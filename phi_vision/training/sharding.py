"""DDP and FSDP2: what processes share of the model.

FSDP2 (`torch.distributed.fsdp.fully_shard`) splits every weight, gradient and optimizer state over
the processes; a layer is gathered while it computes. The Trainer and accelerate do that; this file
configures them, verifies it, and gathers whole weights for saving.
"""

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import PeftModel
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerState,
)

from phi_vision.data.preference_collator import SHARED_PIXELS
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM, Phi3VModel
from phi_vision.training.distributed import SeedPerProcess, world_size
from phi_vision.training.recipes import Recipe

SHARDED_LAYER = "Phi3DecoderLayer"
"""The unit that FSDP gathers. Not CLIP's layers: if one process has images in its batch and another
has none, only one would ask for them, and wait forever."""

IMAGE_INPUTS = ("pixel_values", "mm_encoder_outputs", SHARED_PIXELS)
"""Inputs of the decoder that carry images."""


def check_sharding_support(recipe: Recipe) -> None:
    """Check that FSDP2 can shard and compute the recipe.

    Raises:
        ValueError: It cannot; with the alternative.
    """
    if recipe.sharding == "none":
        return
    if recipe.quantization is not None:
        raise ValueError(
            f"sharding fsdp leaves weights in {recipe.quantization} whole in every process, so "
            "nothing would be saved; leave sharding out (4 bits are small), or leave out "
            "quantization"
        )
    if recipe.optim not in ("adamw_torch_fused", "adamw_torch"):
        raise ValueError(
            f"optim {recipe.optim} cannot compute with sharded weights; use adamw_torch_fused, "
            "whose state fsdp shares between the processes"
        )
    if recipe.objective == "dpo":
        raise ValueError(
            "sharding fsdp does not support objective dpo, which needs a reference model; leave "
            "sharding out"
        )


def sharding_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of TrainingArguments for the recipe's sharding."""
    if recipe.sharding == "none":
        # `synchronize_vision` makes sure that there are none.
        return {"ddp_find_unused_parameters": False}
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "transformer_layer_cls_to_wrap": [SHARDED_LAYER],
            # A checkpoint holds whole weights and a whole optimizer state, in one file each.
            "state_dict_type": "FULL_STATE_DICT",
        },
    }


def apply_sharding(trainer: Trainer, recipe: Recipe) -> None:
    """Configure a Trainer for the recipe's sharding, also where accelerate would not.

    `ShardingCheck` verifies it at the first step.
    """
    trainer.add_callback(ShardingCheck(recipe, trainer))
    if world_size() > 1:
        trainer.add_callback(SeedPerProcess())
        synchronize_vision(trainer.model)
    if recipe.sharding == "none":
        return
    state = trainer.accelerator.state
    if not trainer.is_fsdp_enabled:
        # accelerate 1.15 silently drops FSDP on CPUs, though all it does for it works there.
        PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
        trainer.is_fsdp_enabled = True
    if state.mixed_precision == "bf16":
        # accelerate's own policy reduces gradients and returns the loss in bf16.
        state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )


class ShardingCheck(TrainerCallback):
    """Stops before the first step if another mode is in force than the recipe's."""

    def __init__(self, recipe: Recipe, trainer: Trainer) -> None:
        self.recipe = recipe
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Check the model that the steps will use."""
        check_sharding(self.recipe, self.trainer.model_wrapped)


def check_sharding(recipe: Recipe, model: nn.Module) -> None:
    """Check that a model is sharded as the recipe says. Sharded weights are DTensors.

    Raises:
        ValueError: It is not; with the mode in force.
    """
    whole = [name for name, weight in model.named_parameters() if not isinstance(weight, DTensor)]
    if recipe.sharding == "fsdp" and whole:
        raise ValueError(
            f"sharding fsdp was asked for, but {len(whole)} weights are whole in every process, "
            f"such as {whole[0]} (found {type(model).__name__}); leave sharding out, or see "
            "docs/distributed.md for the versions it was built with"
        )
    expected = world_size() > 1 and recipe.sharding == "none"
    if expected != isinstance(model, DistributedDataParallel) or isinstance(model, nn.DataParallel):
        raise ValueError(
            f"{world_size()} processes with sharding {recipe.sharding} were asked for, but the "
            f"model became a {type(model).__name__}; start with torchrun, see docs/distributed.md"
        )


def is_sharded(model: nn.Module) -> bool:
    """Whether the model is spread over processes, so that all must compute together."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def whole_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all weights, or under adapters the trained ones; every process must call this.

    Of a sharded model only the first process gets them, in main memory.
    """
    if not is_sharded(model):
        return model.state_dict()
    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=isinstance(model, PeftModel)
    )
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    return weights


def synchronize_vision(model: Phi3VForCausalLM | PeftModel) -> None:
    """Make the gradient of the vision part zero instead of none for batches without images.

    Processes sum their gradients weight by weight. One whose batch has no images would have
    nothing to add for the tower and projector, and the others would wait for it forever.
    """
    decoder = next(module for module in model.modules() if isinstance(module, Phi3VModel))
    decoder.register_forward_pre_hook(_touch_vision, with_kwargs=True)


def _touch_vision(
    decoder: Phi3VModel, given: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    has_images = any(inputs.get(name) is not None for name in IMAGE_INPUTS)
    if has_images or not (decoder.training and torch.is_grad_enabled()):
        return given, inputs
    vision = decoder.vision_embed_tokens
    touched = [weight.sum() * 0.0 for weight in vision.parameters() if weight.requires_grad]
    if not touched:
        return given, inputs
    embeds_BLH = decoder.embed_tokens(inputs["input_ids"])
    nothing = torch.stack([zero.float() for zero in touched]).sum().to(embeds_BLH.dtype)
    return given, {**inputs, "inputs_embeds": embeds_BLH + nothing}
