"""Several processes that train one model together: how they were started, how they work as one.

    torchrun --nproc-per-node 2 --no-python phi-vision train lora --data catalog

starts the command twice. Each process takes its own part of every batch, and only the first writes
files. Refuses launches that the libraries below would silently turn into something else. What a
recipe's `sharding` does to the model is in sharding.py; commands for users in docs/distributed.md.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phi_vision.training.recipes import Recipe

logger = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_WAIT = timedelta(minutes=30)
"""After which a process that waits for another gives up. One may write a large checkpoint while
the others wait; who has died is noticed by torchrun at once."""

SLOWEST_STORAGE = 60.0
"""Seconds after which storage that machines share shows all of them a new file. Network file
systems remember for up to half a minute that there was none."""

SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

SET_BY_OTHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""How often mpirun, or Slurm's srun, started a command."""


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Count the processes that train together, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes files and speaks to the user."""
    return rank() == 0


def torchrun_command(processes: int) -> str:
    """Say how to start a training on one machine with several processes."""
    return f"torchrun --nproc-per-node {processes} --no-python phi-vision train …"


@contextmanager
def joined(recipe: Recipe) -> Iterator[None]:
    """Connect with the other processes of the launch, if there are any, for as long as a run takes.

    Raises:
        ValueError: The launch would not do what the recipe says.
    """
    check_launch(recipe, os.environ, gpus=torch.cuda.device_count())
    is_joining = world_size() > 1 and not dist.is_initialized()
    if is_joining:
        _connect()
        _say_who_joined(recipe)
    # accelerate remembers the first run of a process and would impose its kind on the next ones,
    # by a variable that its launcher sets too.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        with _only_first_speaks():
            yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.pop("ACCELERATE_USE_FSDP", None)
    # Not after an error: the others may wait for this process, and are told by its end.
    if is_joining:
        dist.barrier()
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Wait until every process has come this far."""
    if dist.is_initialized():
        dist.barrier()


def divide(items: Sequence[T]) -> Sequence[T]:
    """Give this process its part of what all of them have.

    Input:  a b c d e, in the second of two processes
    Output: c d e
    """
    count = world_size()
    return items[len(items) * rank() // count : len(items) * (rank() + 1) // count]


def gather(part: Sequence[T]) -> list[T]:
    """Join the parts of all processes again, for all of them.

    Input:  A B in the first of two processes, C D E in the second
    Output: A B C D E in both
    """
    if not dist.is_initialized():
        return list(part)
    parts: list[Sequence[T]] = [[]] * world_size()
    dist.all_gather_object(parts, list(part))
    return [item for each in parts for item in each]


def check_alike(described: Mapping[str, object]) -> None:
    """Refuse processes that were given different things to do.

    Args:
        described: What must be the same everywhere, such as the recipe's fields, by name.

    Raises:
        ValueError: Names the first thing that differs, and in which process.
    """
    everywhere = gather([dict(described)])
    for name, value in everywhere[0].items():
        for number, theirs in enumerate(everywhere):
            if theirs[name] != value:
                raise ValueError(
                    f"process {number} has another {name} than process 0 ({theirs[name]} instead "
                    f"of {value}); start the same command on every machine, with the same files"
                )


def check_folder_is_shared(out: Path, written: Path) -> None:
    """Refuse machines that do not see what the first process has written to the run's folder.

    Raises:
        ValueError: `written` does not appear; names the processes.
    """
    wait_for_all()
    give_up = time.monotonic() + (SLOWEST_STORAGE if world_size() > 1 else 0.0)
    while not written.is_file() and time.monotonic() < give_up:
        time.sleep(0.5)
    blind = gather([] if written.is_file() else [f"{rank()} on {os.uname().nodename}"])
    if blind:
        raise ValueError(
            f"process {', '.join(blind)} does not see {written}, which process 0 has written; "
            f"put --output-dir {out} on storage that all machines share"
        )


def check_same_processes(checkpoint: Path) -> None:
    """Refuse to resume a run with another number of processes: its batches would differ.

    Raises:
        ValueError: Says how many there were.
    """
    states = len([*checkpoint.glob("rng_state*.pth")])
    if states and states != world_size():
        raise ValueError(
            f"{checkpoint} was written by a run of {states} processes, and now there are "
            f"{world_size()}, which would see other batches; resume with {states}"
        )


class OwnRandomness(TrainerCallback):
    """Lets each process drop other activations: the Trainer gives all of them the same seed."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Seed anew, once all have made the same model; a resumed run loads its states later."""
        torch.manual_seed(args.seed + rank())


def check_launch(recipe: Recipe, environment: Mapping[str, str], *, gpus: int) -> None:
    """Refuse a launch that would do something else than it seems to.

    Args:
        recipe: What shall be done.
        environment: Variables that launchers set.
        gpus: How many this process sees.

    Raises:
        ValueError: Says what was asked for, what would happen, and the command to type.
    """
    for problem in LAUNCH_PROBLEMS:
        message = problem(recipe, environment, gpus)
        if message:
            raise ValueError(message)


def _find_other_launcher(recipe: Recipe, environment: Mapping[str, str], gpus: int) -> str | None:
    """mpirun and srun start a command often, but do not say how the processes find each other."""
    if "WORLD_SIZE" in environment:
        missing = [name for name in SET_BY_TORCHRUN if name not in environment]
        if missing and int(environment["WORLD_SIZE"]) > 1:
            return (
                f"WORLD_SIZE is {environment['WORLD_SIZE']} but {', '.join(missing)} are not set, "
                f"so the processes cannot find each other; start with `{torchrun_command(2)}`"
            )
        return None
    for name in SET_BY_OTHERS:
        count = int(environment.get(name, "1"))
        if count > 1:
            return (
                f"this command was started {count} times ({name}), and each would train alone into "
                "one folder; start torchrun once per machine, see docs/distributed.md"
            )
    return None


def _find_unused_gpus(recipe: Recipe, environment: Mapping[str, str], gpus: int) -> str | None:
    """One process with several GPUs becomes nn.DataParallel: each batch would be that often."""
    if gpus > 1 and int(environment.get("WORLD_SIZE", "1")) == 1:
        return (
            f"found {gpus} GPUs but one process, which would be turned into nn.DataParallel: "
            f"slower, and with batches {gpus} times as large; start one process for each with "
            f"`{torchrun_command(gpus)}`, or choose one GPU with CUDA_VISIBLE_DEVICES=0"
        )
    local = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    if gpus and local > gpus:
        return (
            f"{local} processes were started on a machine with {gpus} GPUs; start "
            f"`{torchrun_command(gpus)}`"
        )
    return None


def _find_other_mode(recipe: Recipe, environment: Mapping[str, str], gpus: int) -> str | None:
    """`accelerate launch` passes on what `accelerate config` has set, whatever the recipe says."""
    for name, mode in OTHER_MODES.items():
        if environment.get(name, "false").lower() in ("true", "1"):
            return (
                f"the launcher asks for {mode} ({name}), but the recipe has sharding "
                f"{recipe.sharding}; what is shared the recipe alone decides: start with torchrun, "
                "or choose plain multi-GPU in `accelerate config`, and --sharding none or fsdp"
            )
    settings = {
        "ACCELERATE_MIXED_PRECISION": ("bf16", recipe.bf16, "bf16" if recipe.bf16 else "no"),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
            "gradient_accumulation_steps",
            recipe.gradient_accumulation_steps,
            str(recipe.gradient_accumulation_steps),
        ),
        "ACCELERATE_DYNAMO_BACKEND": ("torch_compile", False, "no"),
    }
    for name, (field, value, ours) in settings.items():
        wished = environment.get(name, "").lower()
        if wished not in ("", "no", "1", ours):
            return (
                f"the launcher asks for {wished} ({name}), but the recipe has {field} {value}; "
                "set it in the recipe alone, and start with torchrun"
            )
    return None


def _find_lonely_shard(recipe: Recipe, environment: Mapping[str, str], gpus: int) -> str | None:
    if recipe.sharding == "fsdp" and int(environment.get("WORLD_SIZE", "1")) == 1:
        return (
            "sharding fsdp shares the weights between processes, but there is only one; start "
            f"`{torchrun_command(max(2, gpus))}`, or leave sharding out"
        )
    return None


def _connect() -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # gloo beside NCCL carries what is in main memory: gathered answers and checkpoints.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
    except RuntimeError as error:
        raise ValueError(
            f"process {rank()} on {os.uname().nodename} could not reach the others: {error}; check "
            "--master-addr and the firewall, and name the network that the machines share with "
            "GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME), such as eth0"
        ) from error


def _say_who_joined(recipe: Recipe) -> None:
    if is_main():
        logger.info("%d processes train together, sharding %s", world_size(), recipe.sharding)


@contextmanager
def _only_first_speaks() -> Iterator[None]:
    """Keep what is said to the user from being said by every process."""
    ours = logging.getLogger("phi_vision")
    before = ours.level
    if not is_main():
        ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(before)


OTHER_MODES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
    "ACCELERATE_USE_FSDP": "FSDP with settings of its own",
}
"""Variables of `accelerate launch`, and the mode that they stand for."""

LAUNCH_PROBLEMS: tuple[Callable[[Recipe, Mapping[str, str], int], str | None], ...] = (
    _find_other_launcher,
    _find_unused_gpus,
    _find_other_mode,
    _find_lonely_shard,
)
"""Each returns what is wrong with a launch, or None."""
