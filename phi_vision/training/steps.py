"""Hands each step of the Trainer to a Tracking, with its speed and the machine's load."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phi_vision.training.distributed import world_size
from phi_vision.training.recipes import Recipe
from phi_vision.training.throughput import Throughput
from phi_vision.training.tracking.machine_meter import MachineMeter
from phi_vision.training.tracking.tracker import Tracking


class StepCallback(TrainerCallback):
    """Writes down what the Trainer logs of a step, and measures the rest."""

    def __init__(self, tracking: Tracking, recipe: Recipe) -> None:
        self.tracking = tracking
        self.machine = MachineMeter()
        is_paired = recipe.objective == "dpo"
        self.throughput = Throughput(rows_per_sample=2 if is_paired else 1, processes=world_size())

    def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
        """Start counting and the clock."""
        self.throughput.watch(model)
        self.throughput.restart()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Write down a step; evaluations log too, and come from elsewhere."""
        if logs is None or "loss" not in logs:
            return
        rates = {} if optimizer is None else learning_rates(optimizer.param_groups)
        figures = {**logs, **rates, **self.throughput.lap(), **self.machine.read()}
        self.tracking.step(state.global_step, figures)

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Leave the time of an evaluation out of the speed of training."""
        self.throughput.restart()

    def on_save(self, *_: Any, **__: Any) -> None:
        """Leave the time of a checkpoint out of the speed of training."""
        self.throughput.restart()


def learning_rates(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Name the learning rates of the optimizer's groups, if there are several.

    Input:  groups of language at 1e-4 and (LoRA+) 16e-4, of vision at 1e-5
    Output: {"learning_rate_language": 1e-4, "learning_rate_language_fast": 16e-4,
             "learning_rate_vision": 1e-5}
    """
    # By their highest rates, since all are zero at the first step of a warm-up.
    rates = {
        (group.get("name", ""), group.get("initial_lr", group["lr"])): group["lr"]
        for group in groups
    }
    if len(rates) == 1:
        return {}
    named: dict[str, float] = {}
    for (name, _), rate in sorted(rates.items()):
        key = f"learning_rate_{name}"
        named[f"{key}_fast" if key in named else key] = rate
    return named
