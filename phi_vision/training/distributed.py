"""Several processes that train one model: launch checks, communication, DDP and FSDP2.

    torchrun --nproc-per-node 2 --no-python -- phi-vision train lora --data catalog

starts the command twice. Each process takes its own part of every batch, and only the first writes
files. Launches that the libraries would turn into something else are errors: docs/distributed.md.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import PeftModel
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainerCallback

from phi_vision.data.preference_collator import SHARED_PIXELS
from phi_vision.io.formatting import error_texts
from phi_vision.model.modeling_phi3_v import Phi3VModel
from phi_vision.training.recipes import Recipe

logger = logging.getLogger(__name__)
failure = error_texts(__file__)

T = TypeVar("T")

# For waiting on another process, which may be writing a large checkpoint; torchrun notices at once
# if one has died.
TIMEOUT = timedelta(minutes=30)
# Seconds after which shared storage shows a new file to all machines: network file systems cache
# its absence for up to half a minute.
STORAGE_DELAY = 60.0

SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Number of processes that mpirun, or Slurm's srun, started.
SET_BY_OTHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
OTHER_MODES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
    "ACCELERATE_USE_FSDP": "FSDP with settings of its own",
}
"""Variables of `accelerate launch`, and the mode that they request."""

# The unit that FSDP gathers. Not CLIP's layers: if one process has images in its batch and another
# has none, only one would ask for them, and wait forever.
SHARDED_LAYER = "Phi3DecoderLayer"
# Inputs of the decoder that carry images.
IMAGE_INPUTS = ("pixel_values", "mm_encoder_outputs", SHARED_PIXELS)


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Count the processes that train together, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Count the processes that train together on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes files and messages."""
    return rank() == 0


@contextmanager
def joined(recipe: Recipe) -> Iterator[None]:
    """Connect with the other processes of the launch, if any, for a run, or raise ValueError."""
    check_launch(recipe, os.environ, gpus=torch.cuda.device_count())
    connects = world_size() > 1 and not dist.is_initialized()
    if connects:
        _connect()
        if is_main():
            logger.info("%d processes train together, sharding %s", world_size(), recipe.sharding)
    # accelerate remembers the first run of a process and would impose its kind on the next ones,
    # by a variable that its launcher sets too.
    AcceleratorState._reset_state(reset_partial_state=True)
    ours = logging.getLogger("phi_vision")
    level = ours.level
    if not is_main():
        ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(level)
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.pop("ACCELERATE_USE_FSDP", None)
    # Not after an error: the others may wait for this process, and notice its end.
    if connects:
        dist.barrier()
        dist.destroy_process_group()


def _connect() -> None:
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # gloo beside NCCL carries tensors in main memory: gathered predictions and checkpoints.
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except RuntimeError as error:
        raise failure("unreachable", here=_here(), error=error) from error


def _here() -> str:
    return f"{rank()} on {os.uname().nodename}"


def wait_for_all() -> None:
    """Wait until every process has reached this point."""
    if dist.is_initialized():
        dist.barrier()


def divide(items: Sequence[T]) -> Sequence[T]:
    """Return this process's part of a sequence.

    Input:  a b c d e, in the second of two processes
    Output: c d e
    """
    count = world_size()
    return items[len(items) * rank() // count : len(items) * (rank() + 1) // count]


def gather(part: Sequence[T]) -> list[T]:
    """Join the parts of all processes, in all of them: the reverse of `divide`."""
    if not dist.is_initialized():
        return list(part)
    parts: list[Sequence[T]] = [[]] * world_size()
    dist.all_gather_object(parts, list(part))
    return [item for each in parts for item in each]


def check_same_settings(settings: Mapping[str, object]) -> None:
    """Check that all processes have the same settings, or raise ValueError with the first other."""
    everywhere = gather([dict(settings)])
    for name, value in everywhere[0].items():
        for number, theirs in enumerate(everywhere):
            if (other := theirs[name]) != value:
                raise failure("other_setting", number=number, name=name, theirs=other, value=value)


def check_folder_is_shared(folder: Path, written: Path) -> None:
    """Check that every process sees a file that the first one has written, or raise ValueError."""
    wait_for_all()
    deadline = time.monotonic() + (STORAGE_DELAY if world_size() > 1 else 0.0)
    while not written.is_file() and time.monotonic() < deadline:
        time.sleep(0.5)
    if blind := gather([] if written.is_file() else [_here()]):
        raise failure("folder_not_shared", blind=", ".join(blind), written=written, folder=folder)


def check_same_processes(checkpoint: Path) -> None:
    """Check that a run resumes with its number of processes, or raise ValueError."""
    states = len([*checkpoint.glob("rng_state*.pth")])
    if states and states != world_size():
        raise failure("other_processes", checkpoint=checkpoint, states=states, now=world_size())


def check_launch(recipe: Recipe, environment: Mapping[str, str], *, gpus: int) -> None:
    """Check that a launch does what it seems to with so many GPUs, or raise ValueError."""
    processes = int(environment.get("WORLD_SIZE", "1"))
    local = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    absent = [name for name in SET_BY_TORCHRUN if name not in environment]
    if processes > 1 and absent:
        missing = ", ".join(absent)
        raise failure("no_rendezvous", processes=processes, missing=missing, command=_torchrun(2))
    for name in SET_BY_OTHERS if "WORLD_SIZE" in absent else ():
        if int(environment.get(name, "1")) > 1:
            raise failure("other_launcher", count=environment[name], name=name)
    if gpus > 1 and processes == 1:
        raise failure("unused_gpus", gpus=gpus, command=_torchrun(gpus))
    if 0 < gpus < local:
        raise failure("too_few_gpus", local=local, gpus=gpus, command=_torchrun(gpus))
    for name, mode in OTHER_MODES.items():
        if environment.get(name, "false").lower() in ("true", "1"):
            raise failure("other_mode", mode=mode, name=name, sharding=recipe.sharding)
    steps = recipe.gradient_accumulation_steps
    for name, field, value, ours in (
        ("MIXED_PRECISION", "bf16", recipe.bf16, "bf16" if recipe.bf16 else "no"),
        ("GRADIENT_ACCUMULATION_STEPS", "gradient_accumulation_steps", steps, str(steps)),
        ("DYNAMO_BACKEND", "torch_compile", False, "no"),
    ):
        wanted = environment.get(f"ACCELERATE_{name}", "").lower()
        if wanted not in ("", "no", "1", ours):
            raise failure("other_argument", wanted=wanted, name=name, field=field, value=value)
    if recipe.sharding == "fsdp" and processes == 1:
        raise failure("one_process", command=_torchrun(max(2, gpus)))


def _torchrun(processes: int) -> str:
    return f"`torchrun --nproc-per-node {processes} --no-python -- phi-vision train …`"


def sharding_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of TrainingArguments for the recipe's sharding."""
    if recipe.sharding == "none":
        # `_touch_vision` makes sure that there are none.
        return {"ddp_find_unused_parameters": False}
    return {
        "fsdp": True,
        # A checkpoint holds whole weights and a whole optimizer state, in one file each.
        "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"}
        | {"transformer_layer_cls_to_wrap": [SHARDED_LAYER]},
    }


def apply_sharding(trainer: Trainer, recipe: Recipe) -> None:
    """Configure a Trainer for the recipe's sharding, also where accelerate would not."""
    trainer.add_callback(ShardingCallback(recipe, trainer))
    if world_size() > 1:
        decoder = next(part for part in trainer.model.modules() if isinstance(part, Phi3VModel))
        decoder.register_forward_pre_hook(_touch_vision, with_kwargs=True)
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


class ShardingCallback(TrainerCallback):
    """Before the first step, checks the mode in force and seeds each process differently."""

    def __init__(self, recipe: Recipe, trainer: Trainer) -> None:
        self.recipe, self.trainer = recipe, trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Check the model that the steps will use, and seed this process."""
        check_sharding(self.recipe, self.trainer.model_wrapped)
        if world_size() > 1:
            # All have made the same model by now, and dropout shall differ; the Trainer seeds all
            # alike. A resumed run loads its states later.
            torch.manual_seed(args.seed + rank())


def check_sharding(recipe: Recipe, model: nn.Module) -> None:
    """Check that a model is sharded (its weights are DTensors) as the recipe says."""
    kind = type(model).__name__
    whole = [name for name, weight in model.named_parameters() if not isinstance(weight, DTensor)]
    if recipe.sharding == "fsdp" and whole:
        raise failure("not_sharded", count=len(whole), first=whole[0], kind=kind)
    expected = world_size() > 1 and recipe.sharding == "none"
    if expected != isinstance(model, DistributedDataParallel) or isinstance(model, nn.DataParallel):
        raise failure("other_wrapper", now=world_size(), sharding=recipe.sharding, kind=kind)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model is spread over processes, so that all must compute together."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def whole_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all weights, or under adapters the trained ones; every process must call this."""
    if not is_sharded(model):
        return model.state_dict()
    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=isinstance(model, PeftModel)
    )
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    return weights


def _touch_vision(
    decoder: Phi3VModel, given: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # A gradient of the vision part that is zero instead of none for batches without images: else
    # other processes would wait forever for what this one adds to the gradients of the tower.
    has_images = any(inputs.get(name) is not None for name in IMAGE_INPUTS)
    trained = [w for w in decoder.vision_embed_tokens.parameters() if w.requires_grad]
    if has_images or not (trained and decoder.training and torch.is_grad_enabled()):
        return given, inputs
    embeds_BLH = decoder.embed_tokens(inputs["input_ids"])
    zeros = torch.stack([(weight.sum() * 0.0).float() for weight in trained])
    return given, {**inputs, "inputs_embeds": embeds_BLH + zeros.sum().to(embeds_BLH.dtype)}
