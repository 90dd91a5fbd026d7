"""Graphics cards and what they can do, and how long a step takes on one.

The figures are the makers' own: dense matrix products (without sparsity) with sums in float32.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from phi_vision.io.formatting import GIB
from phi_vision.model.checkpoint import fast_dtype
from phi_vision.training.memory import Cost
from phi_vision.training.recipes import Recipe

UTILISATION = 0.4
"""Share of a card's matrix products that a training like this one reaches; 0.3-0.5 is usual."""

SECONDS_OF_AN_OPERATION = 10e-6
"""What PyTorch takes to hand one operation to a card. Small models wait for this, not for it."""

UTILISATION_OF_A_CPU = 0.5
"""The same share for a CPU, against the large products that `this_machine` takes the time of."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a plan has to know of the machine that computes."""

    name: str
    memory: float
    """Bytes that a process can have; on a CPU the main memory."""
    bf16: float | None
    """Floating-point operations a second in bf16; None where it does not multiply in it."""
    fp32: float
    """The same in float32, without rounding to fewer bits before."""
    bandwidth: float | None
    """Bytes a second from and to memory; None for a CPU, which is measured as a whole."""

    @property
    def is_cpu(self) -> bool:
        """Whether this is no card but the machine itself."""
        return self.bandwidth is None


def seconds_of_a_step(card: Card, recipe: Recipe, cost: Cost, precision: torch.dtype) -> float:
    """Estimate the time of one optimizer step.

    Products at a usual share of the card's best, or the time it takes to hand it the operations,
    whichever is longer; then reading and writing weights, gradients and moments once.

    Input:  1e14 operations of products on a card of 3e14 a second, weights that take 0.1 s
    Output: 1e14 / (0.4 * 3e14) + 0.1 = 0.93
    """
    speed = card.bf16 if precision == torch.bfloat16 and card.bf16 else card.fp32
    if card.bandwidth is None:
        return cost.flops / (UTILISATION_OF_A_CPU * speed)
    products = cost.flops / (UTILISATION * speed)
    handing = cost.operations * SECONDS_OF_AN_OPERATION
    # Read the weight, its gradient and two moments; write all but the gradient.
    moved = cost.trained * (7 * 4 if "8bit" not in recipe.optim else 3 * 4 + 4)
    return max(products, handing) + moved / card.bandwidth


def find_card(name: str) -> Card:
    """Find a card by name, or take the machine itself for `cpu`.

    Raises:
        ValueError: There is no card of that name in `CARDS`.
    """
    if name.lower() == "cpu":
        return this_machine()
    for card in CARDS.values():
        if card.name.lower() == name.lower():
            return card
    raise ValueError(f"no card {name!r}; choose one of cpu, {', '.join(CARDS)}")


def this_machine() -> Card:
    """Describe what this machine computes on, by timing a few products."""
    if torch.cuda.is_available():
        device = torch.device("cuda")
        found = torch.cuda.get_device_properties(device)
        name, memory = found.name, float(found.total_memory)
    else:
        device, name = torch.device("cpu"), "cpu"
        memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    has_bf16 = fast_dtype(device) == torch.bfloat16
    return Card(
        name=name,
        memory=memory,
        bf16=_time_products(device, torch.bfloat16) if has_bf16 else None,
        fp32=_time_products(device, torch.float32),
        bandwidth=_time_copy(device) if device.type == "cuda" else None,
    )


def _time_products(device: torch.device, dtype: torch.dtype) -> float:
    """Give the operations a second of large products."""
    side = 4096 if device.type == "cuda" else 1024
    left = torch.ones(side, side, dtype=dtype, device=device)
    return 2 * side**3 / _best_seconds(device, lambda: left @ left)


def _time_copy(device: torch.device) -> float:
    """Give the bytes a second that are read and written."""
    source = torch.ones(64 * 2**20, device=device)
    return 2 * source.nbytes / _best_seconds(device, source.clone)


def _best_seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Give the shortest of a few times, after one round to warm up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _card(name: str, gib: float, bf16: float | None, fp32: float, gb_a_second: float) -> Card:
    return Card(
        name=name,
        memory=gib * GIB,
        bf16=None if bf16 is None else bf16 * 1e12,
        fp32=fp32 * 1e12,
        bandwidth=gb_a_second * 1e9,
    )


CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        #     name          GiB    bf16    fp32   GB/s
        _card("T4", 14.6, None, 8.1, 320),
        _card("V100-16GB", 15.8, None, 15.7, 900),
        _card("L4", 22.0, 121, 30.3, 300),
        _card("A10G", 22.1, 70, 31.2, 600),
        _card("A10", 22.1, 125, 31.2, 600),
        _card("RTX-3090", 23.6, 71, 35.6, 936),
        _card("RTX-4090", 23.5, 165, 82.6, 1008),
        _card("RTX-5090", 31.4, 209, 104.8, 1792),
        _card("A100-40GB", 39.4, 312, 19.5, 1555),
        _card("L40S", 44.4, 362, 91.6, 864),
        _card("RTX-A6000", 47.4, 155, 38.7, 768),
        _card("A100-80GB", 79.2, 312, 19.5, 2039),
        _card("H100", 79.1, 989, 67.0, 3350),
        _card("H200", 139.8, 989, 67.0, 4800),
        _card("B200", 178.4, 2250, 75.0, 8000),
    )
}
"""Name -> card, by memory. Another one is one line here."""
