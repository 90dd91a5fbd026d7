"""Where Python waits for the GPU: each wait leaves it without work until the next launch."""

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.decoding import requests_for
from benchmarks.gpu.model import SharedModel
from benchmarks.gpu.session import Session
from benchmarks.workload import train_step
from phi_vision.generation.generate import generate

READS_VALUES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")
"""Operations whose result, or its shape, Python needs at once."""
BY_MASK = ("index", "index_put", "_index_put_impl_")
"""Operations that wait if an index is a mask: they count its true values."""
SKIPPED = ("/torch/", "/unittest/", __file__)
TOKENS = (2, 10)


class Waits(TorchDispatchMode):
    """Counts the waits of whatever runs inside, by the place that causes them.

    On a CPU, where nothing waits, it finds the same places, but not copies to main memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = Counter[str]()

    def __enter__(self) -> "Waits":
        """Begin to count."""
        to_list = torch.Tensor.tolist

        def counted(tensor: torch.Tensor) -> Any:
            self.places[_place()] += 1
            return to_list(tensor)

        self._patch = patch.object(torch.Tensor, "tolist", counted)
        self._patch.start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """End counting."""
        super().__exit__(*error)
        self._patch.stop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count it if it waits."""
        name = func.name().partition("::")[2].partition(".")[0]
        out = func(*args, **(kwargs or {}))
        by_mask = name in BY_MASK and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        copied = name == "_to_copy" and args[0].is_cuda and out.device.type == "cpu"
        if name in READS_VALUES or by_mask or copied:
            self.places[_place()] += 1
        return out


def _place() -> str:
    """Return the innermost place outside of PyTorch: `modeling_phi3_v.py _find_placeholders`."""
    stack = traceback.extract_stack()
    frame = next(f for f in reversed(stack) if not any(part in f.filename for part in SKIPPED))
    return f"{Path(frame.filename).name} {frame.name}"


def count_waits(work: Callable[[], object]) -> Counter[str]:
    """Count the waits of a piece of work by place, after a run that warms up."""
    work()
    with Waits() as waits:
        work()
    return waits.places


def measure_waits(session: Session, shared: SharedModel) -> None:
    """Count the waits of a training step, and those that each new token adds."""
    with shared.adapted() as model:
        step = train_step(model, shared.to_device(shared.batch(4, 2)), fused=True, bf16=True)
        session.add(what="step", **count_waits(step))
    few, many = (count_waits(writing(shared, tokens)) for tokens in TOKENS)
    added = {place: (many[place] - few[place]) / (TOKENS[1] - TOKENS[0]) for place in many}
    session.add(what="token", **{place: count for place, count in added.items() if count})


def writing(shared: SharedModel, tokens: int) -> Callable[[], object]:
    """Return the generation of so many tokens for two samples."""
    requests = requests_for(shared, 2, tokens)
    return lambda: generate(shared.model, shared.processor(4), requests)
