"""What processes share of the model: nothing (DDP, each holds all of it) or everything (FSDP2).

FSDP2 (`torch.distributed.fsdp.fully_shard`) cuts every weight, gradient and optimizer state into
one piece per process; a layer is put together while it computes. The Trainer and accelerate do
that; this file tells them to, proves that they did, and puts whole weights together for saving.
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
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from phi_vision.data.preference_collator import SHARED_PIXELS
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM, Phi3VModel
from phi_vision.training.distributed import world_size
from phi_vision.training.recipes import Recipe

SHARDED_LAYER = "Phi3DecoderLayer"
"""What is put together at a time. Not CLIP's layers: where one process has images in its batch
and another has none, only one would ask for them, and wait for ever."""

IMAGES = ("pixel_values", "mm_encoder_outputs", SHARED_PIXELS)
"""The forms in which a batch brings its images to the decoder."""


def check_can_be_sharded(recipe: Recipe) -> None:
    """Refuse what FSDP2 would leave whole, or could not compute with.

    Raises:
        ValueError: Says what does not go together, and what to take instead.
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
            f"optim {recipe.optim} cannot compute with sharded weights; use "
            "adamw_torch_fused, whose state fsdp shares between the processes"
        )
    if recipe.objective == "dpo":
        raise ValueError(
            "sharding fsdp is not built for objective dpo, which needs a second model to compare "
            "with; leave sharding out"
        )


def describe_sharding(recipe: Recipe) -> dict[str, Any]:
    """Give the fields of TrainingArguments that say what processes share."""
    if recipe.sharding == "none":
        # `keep_vision_in_step` sees to it that there are none.
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


def put_in_force(trainer: Trainer, recipe: Recipe) -> None:
    """Have a Trainer share what the recipe says, also where accelerate would not.

    Checked at the first step by `SharingGuard`.
    """
    if world_size() > 1:
        keep_vision_in_step(trainer.model)
    if recipe.sharding == "none":
        return
    state = trainer.accelerator.state
    if not trainer.is_fsdp_enabled:
        # accelerate 1.15 drops FSDP on CPUs without a word, though all it does for it works there.
        PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
        trainer.is_fsdp_enabled = True
    if state.mixed_precision == "bf16":
        # Its own choice adds gradients up, and gives the loss out, in bf16.
        state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )


class SharingGuard(TrainerCallback):
    """Stops before the first step if another mode is in force than the recipe says."""

    def __init__(self, recipe: Recipe, trainer: Trainer) -> None:
        self.recipe = recipe
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Look at the model that the steps will use."""
        check_sharing(self.recipe, self.trainer.model_wrapped)


def check_sharing(recipe: Recipe, model: nn.Module) -> None:
    """Refuse a model that is not shared as the recipe says. Weights cut in pieces are DTensors.

    Raises:
        ValueError: Says what is in force instead.
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
    """Give all weights, or under adapters the trained ones; to be called by every process.

    Of a sharded model only the first process is given them, in main memory.
    """
    if not is_sharded(model):
        return model.state_dict()
    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=isinstance(model, PeftModel)
    )
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    return weights


def keep_vision_in_step(model: Phi3VForCausalLM | PeftModel) -> None:
    """Let a batch without images give the vision part a gradient of zero instead of none.

    Processes add up their gradients weight by weight. One whose batch has no images would have
    nothing to add for the tower and projector, and the others would wait for it for ever.
    """
    decoder = next(module for module in model.modules() if isinstance(module, Phi3VModel))
    decoder.register_forward_pre_hook(_touch_vision, with_kwargs=True)


def _touch_vision(
    decoder: Phi3VModel, given: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    has_images = any(inputs.get(name) is not None for name in IMAGES)
    if has_images or not (decoder.training and torch.is_grad_enabled()):
        return given, inputs
    vision = decoder.vision_embed_tokens
    touched = [weight.sum() * 0.0 for weight in vision.parameters() if weight.requires_grad]
    if not touched:
        return given, inputs
    embeds_BLH = decoder.embed_tokens(inputs["input_ids"])
    nothing = torch.stack([zero.float() for zero in touched]).sum().to(embeds_BLH.dtype)
    return given, {**inputs, "inputs_embeds": embeds_BLH + nothing}
