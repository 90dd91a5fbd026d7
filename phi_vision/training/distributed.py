"""Several processes that train one model: launch checks and communication.

    torchrun --nproc-per-node 2 --no-python phi-vision train lora --data catalog

starts the command twice. Each process takes its own part of every batch, and only the first writes
files. Launches that the libraries below would silently turn into something else are errors. What
processes share of the model is in sharding.py; see docs/distributed.md.
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
from transformers import TrainerCallback, TrainerState

from phi_vision.training.recipes import Recipe

logger = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""For waiting on another process, which may be writing a large checkpoint; torchrun notices at once
if one has died."""

STORAGE_DELAY = 60.0
"""Seconds after which shared storage shows a new file to all machines: network file systems cache
its absence for up to half a minute."""

SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

SET_BY_OTHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Number of processes that mpirun, or Slurm's srun, started."""

OTHER_MODES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
    "ACCELERATE_USE_FSDP": "FSDP with settings of its own",
}
"""Variables of `accelerate launch`, and the mode that they request."""


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Count the processes that train together, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes files and messages."""
    return rank() == 0


def torchrun_command(processes: int) -> str:
    """Format the command that starts a training with several processes on one machine."""
    return f"torchrun --nproc-per-node {processes} --no-python phi-vision train …"


@contextmanager
def joined(recipe: Recipe) -> Iterator[None]:
    """Connect with the other processes of the launch, if any, for the time of a run.

    Raises:
        ValueError: The launch contradicts the recipe.
    """
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
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # gloo beside NCCL carries tensors in main memory: gathered predictions and checkpoints.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except RuntimeError as error:
        raise ValueError(
            f"process {rank()} on {os.uname().nodename} could not reach the others: {error}; check "
            "--master-addr and the firewall, and set GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME) "
            "to the network that the machines share, such as eth0"
        ) from error


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
    """Join the parts of all processes, in all of them.

    Input:  A B in the first of two processes, C D E in the second
    Output: A B C D E in both
    """
    if not dist.is_initialized():
        return list(part)
    parts: list[Sequence[T]] = [[]] * world_size()
    dist.all_gather_object(parts, list(part))
    return [item for each in parts for item in each]


def check_same_settings(settings: Mapping[str, object]) -> None:
    """Check that all processes have the same settings.

    Args:
        settings: Name -> value, such as the recipe's fields.

    Raises:
        ValueError: One differs; with its name and process.
    """
    everywhere = gather([dict(settings)])
    for name, value in everywhere[0].items():
        for number, theirs in enumerate(everywhere):
            if theirs[name] != value:
                raise ValueError(
                    f"process {number} has another {name} than process 0 ({theirs[name]} instead "
                    f"of {value}); start the same command on every machine, with the same files"
                )


def check_folder_is_shared(folder: Path, written: Path) -> None:
    """Check that every process sees a file that the first one has written to the run folder.

    Raises:
        ValueError: Some processes do not.
    """
    wait_for_all()
    deadline = time.monotonic() + (STORAGE_DELAY if world_size() > 1 else 0.0)
    while not written.is_file() and time.monotonic() < deadline:
        time.sleep(0.5)
    blind = gather([] if written.is_file() else [f"{rank()} on {os.uname().nodename}"])
    if blind:
        raise ValueError(
            f"process {', '.join(blind)} does not see {written}, which process 0 has written; "
            f"put --output-dir {folder} on storage that all machines share"
        )


def check_same_processes(checkpoint: Path) -> None:
    """Check that a run resumes with its number of processes: its batches would differ.

    Raises:
        ValueError: It had another number.
    """
    states = len([*checkpoint.glob("rng_state*.pth")])
    if states and states != world_size():
        raise ValueError(
            f"{checkpoint} was written by a run of {states} processes, and now there are "
            f"{world_size()}, which would see other batches; resume with {states}"
        )


class SeedPerProcess(TrainerCallback):
    """Seeds each process differently, so that dropout differs: the Trainer seeds all alike."""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Seed after all have made the same model; a resumed run loads its states later."""
        torch.manual_seed(args.seed + rank())


def check_launch(recipe: Recipe, environment: Mapping[str, str], *, gpus: int) -> None:
    """Check that the launch does what it seems to.

    Args:
        recipe: The run.
        environment: Variables that launchers set.
        gpus: Number of GPUs that this process sees.

    Raises:
        ValueError: It does not; with what would happen, and the right command.
    """
    for problem in LAUNCH_PROBLEMS:
        message = problem(recipe, environment, gpus)
        if message:
            raise ValueError(message)


def _other_launcher(recipe: Recipe, environment: Mapping[str, str], gpus: int) -> str | None:
    """Find processes that mpirun or srun started without telling them about each other."""
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


def _unused_gpus(recipe: Recipe, environment: Mapping[str, str], gpus: int) -> str | None:
    """Find one process with several GPUs, which would become nn.DataParallel."""
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


def _other_mode(recipe: Recipe, environment: Mapping[str, str], gpus: int) -> str | None:
    """Find settings of `accelerate config` that contradict the recipe."""
    for name, mode in OTHER_MODES.items():
        if environment.get(name, "false").lower() in ("true", "1"):
            return (
                f"the launcher asks for {mode} ({name}), but the recipe has sharding "
                f"{recipe.sharding}; sharding is set by the recipe alone: start with torchrun, "
                "or choose plain multi-GPU in `accelerate config`, and --sharding none or fsdp"
            )
    accumulation = recipe.gradient_accumulation_steps
    for name, field, value, ours in (
        ("ACCELERATE_MIXED_PRECISION", "bf16", recipe.bf16, "bf16" if recipe.bf16 else "no"),
        (
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
            "gradient_accumulation_steps",
            accumulation,
            str(accumulation),
        ),
        ("ACCELERATE_DYNAMO_BACKEND", "torch_compile", False, "no"),
    ):
        wanted = environment.get(name, "").lower()
        if wanted not in ("", "no", "1", ours):
            return (
                f"the launcher asks for {wanted} ({name}), but the recipe has {field} {value}; "
                "set it in the recipe alone, and start with torchrun"
            )
    return None


def _single_shard(recipe: Recipe, environment: Mapping[str, str], gpus: int) -> str | None:
    if recipe.sharding == "fsdp" and int(environment.get("WORLD_SIZE", "1")) == 1:
        return (
            "sharding fsdp shares the weights between processes, but there is only one; start "
            f"`{torchrun_command(max(2, gpus))}`, or leave sharding out"
        )
    return None


LAUNCH_PROBLEMS: tuple[Callable[[Recipe, Mapping[str, str], int], str | None], ...] = (
    _other_launcher,
    _unused_gpus,
    _other_mode,
    _single_shard,
)
"""Each returns what is wrong with a launch, or None."""
