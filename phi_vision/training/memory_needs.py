"""What a run needs of a machine: the memory of its worst moment, and the time of a step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from phi_vision.io.formatting import GIB
from phi_vision.training.adapters import choose_precision
from phi_vision.training.distributed import world_size
from phi_vision.training.gpus import Card, seconds_of_a_step
from phi_vision.training.lengths import Load, heaviest, usual
from phi_vision.training.memory import (
    BatchShape,
    Cost,
    Setting,
    cost_of_evaluation,
    cost_of_training,
)
from phi_vision.training.recipes import Recipe
from phi_vision.training.rows import rows_examined

LIBRARIES_ON_A_CARD = 0.7 * GIB
"""What CUDA's own context and the kernels of PyTorch take of a card before the first tensor."""

CUT_UP = 1.05
"""A card's memory is handed out in blocks; what lies unused between them is a few per cent."""

HOLES_OF_WEIGHTS = 0.7
"""What a CPU's allocator (glibc) holds in gaps between tensors that live on, as a share of the
weights. Like the next three a fit to trainings of 7, 133 and 169 million weights
(benchmarks/plan_memory.py, docs/log.md): where gaps open depends on the order of everything. With
MALLOC_MMAP_THRESHOLD_=1048576 there are none, and small models train at half the speed."""

HOLES_OF_ACTIVATIONS = 0.15
"""The same as a share of the activations that are kept for the backward pass."""

HOLES_WITH_CHECKPOINTING = 0.7
"""The same where activations are computed twice: what a layer takes for a moment is torn to
pieces by the gradients between."""

HOLES_BESIDE_4_BITS = 0.3
"""The same beside weights in 4 bits."""

LOADED_LATER = 60 * 2**20
"""What the libraries load, and keep for themselves, only when the first step is taken (CPU)."""

LOADED_WITH_CHECKPOINTING = 30 * 2**20
"""What PyTorch loads besides where activations are computed twice (CPU)."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a run takes of a machine."""

    parts: Mapping[str, float]
    moment: str
    cost: Cost
    precision: torch.dtype

    @property
    def memory(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


class Needs:
    """Finds what a run needs; remembers it, since many cards need the same."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self._memory: dict[Setting, tuple[str, dict[str, int]]] = {}
        self._costs: dict[tuple[Setting, BatchShape], Cost] = {}

    def of(self, recipe: Recipe, card: Card) -> Need:
        """Find the worst moment of a run on a card."""
        setting = choose_setting(recipe, self.load, card)
        if setting not in self._memory:
            self._memory[setting] = self._find_worst(setting)
        moment, parts = self._memory[setting]
        cost = self._cost(
            setting, _compare(recipe, usual(self.load.rows, recipe.per_device_train_batch_size))
        )
        shared = _share_out(recipe, {part: float(size) for part, size in parts.items() if size})
        return Need(
            parts=_with_libraries(recipe, card, shared, holes=_count_holes(recipe, cost, parts)),
            moment=moment,
            precision=setting.precision,
            cost=cost,
        )

    def seconds(self, recipe: Recipe, card: Card) -> float:
        """Estimate the seconds of an optimizer step with a usual batch."""
        need = self.of(recipe, card)
        return seconds_of_a_step(card, recipe, need.cost, need.precision)

    def _find_worst(self, setting: Setting) -> tuple[str, dict[str, int]]:
        recipe = setting.recipe
        cost = self._cost(
            setting, _compare(recipe, heaviest(self.load.rows, recipe.per_device_train_batch_size))
        )
        moments = {"a training step": cost.parts}
        if self.load.validation:
            alone = [[weight] for weight in self.load.validation]
            shape = _compare(recipe, heaviest(alone, rows_examined(recipe)))
            writes = recipe.eval_samples > 0
            moments["an evaluation"] = cost_of_evaluation(setting, shape, writes=writes)
        worst = max(moments, key=lambda name: sum(moments[name].values()))
        parts = moments[worst]
        if cost.packed and setting.is_on_cpu:
            # Weights that are not packed lie in the mapped file, which so stays open: what was
            # read to be packed stays with it, until the machine needs the room.
            stored = self.load.config.dtype or torch.float32
            parts = {**parts, "mapped file": cost.packed * stored.itemsize}
        if recipe.objective == "dpo" and recipe.method == "full":
            parts = {**parts, "reference": parts["weights"]}
        return worst, parts

    def _cost(self, setting: Setting, batch: BatchShape) -> Cost:
        if (setting, batch) not in self._costs:
            self._costs[setting, batch] = cost_of_training(setting, batch)
        return self._costs[setting, batch]


def choose_setting(recipe: Recipe, load: Load, card: Card) -> Setting:
    """Choose arithmetic and attention as `learner.make_learner` would on that card."""
    if recipe.bf16 is None:
        precision = torch.float32 if card.bf16 is None else torch.bfloat16
    else:
        precision = choose_precision(recipe.bf16)
    is_plain = card.is_cpu and precision == torch.bfloat16
    attention = "eager" if is_plain else "sdpa"
    return Setting(
        recipe=recipe,
        config=load.config,
        precision=precision,
        attention=attention,
        is_on_cpu=card.is_cpu,
    )


def _compare(recipe: Recipe, batch: BatchShape) -> BatchShape:
    """Give the shape of a batch of pairs: every row twice, its images once."""
    if recipe.objective == "sft":
        return batch
    return replace(batch, rows=2 * batch.rows, learnt=2 * batch.learnt)


def _share_out(recipe: Recipe, parts: Mapping[str, float]) -> dict[str, float]:
    """Give one process its share: all but the activations where FSDP shares the weights out."""
    processes = world_size()
    shared = ("weights", "gradients", "optimizer") if recipe.sharding == "fsdp" else ()
    return {name: size / processes if name in shared else size for name, size in parts.items()}


def _with_libraries(
    recipe: Recipe, card: Card, parts: Mapping[str, float], *, holes: float
) -> dict[str, float]:
    if not card.is_cpu:
        return {
            **{part: CUT_UP * size for part, size in parts.items()},
            "CUDA": LIBRARIES_ON_A_CARD,
        }
    libraries = resident() + LOADED_LATER
    if recipe.gradient_checkpointing:
        libraries += LOADED_WITH_CHECKPOINTING
    return {**parts, "holes": holes, "libraries": libraries}


def _count_holes(recipe: Recipe, cost: Cost, parts: Mapping[str, int]) -> float:
    """Estimate what the allocator of a CPU holds in gaps.

    Weights in 4 bits are few large tensors, which leave fewer.
    """
    if recipe.quantization is not None:
        share = HOLES_BESIDE_4_BITS if recipe.gradient_checkpointing else 0.0
        return HOLES_OF_WEIGHTS * cost.scattered + share * parts["activations"]
    share = HOLES_WITH_CHECKPOINTING if recipe.gradient_checkpointing else HOLES_OF_ACTIVATIONS
    return HOLES_OF_WEIGHTS * parts["weights"] + share * parts["activations"]


@cache
def resident() -> float:
    """Give what this process holds: a training has imported the same, and read the same data."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * 4096)
