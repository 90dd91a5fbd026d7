"""Who holds how many bytes while a computation runs, and when it was most.

Watches PyTorch's operations from below: each storage that one of them makes is put down under the
part that is being computed, and taken off when the last tensor that uses it goes. Works on fake
tensors (shapes without storage), so a model of any size can be counted on any machine.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Ledger(TorchDispatchMode):
    """Counts bytes by part, operations, and the floating-point operations of matrix products.

    A subclass of PyTorch's, since that is how PyTorch lets operations be watched.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = "activations"
        self.held: Counter[str] = Counter()
        self.most: Mapping[str, int] = {}
        """Bytes by part at the moment when all together were most."""
        self.operations = 0
        self.flops = 0
        self._total = 0
        self._peak = 0
        self._parts: dict[int, str] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and put down what it made."""
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        if func._overloadpacket in flop_registry:
            count = flop_registry[func._overloadpacket]
            self.flops += int(count(*args, **(kwargs or {}), out_val=out))
        part = self.part
        if func is torch.ops.aten._to_copy.default and self._part_of(args[0]) == "weights":
            part = "copies"
        self.put_down((leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)), part)
        return out

    def put_down(self, tensors: Iterable[torch.Tensor], part: str) -> None:
        """Put down storages that are not yet in the books."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            # The address of PyTorch's own object: Python's wrappers of it come and go.
            key = storage._cdata
            if key not in self._parts:
                self._parts[key] = part
                self._add(part, storage.nbytes())
                weakref.finalize(storage, self._take_off, key, storage.nbytes())

    def move(self, tensor: torch.Tensor, part: str) -> None:
        """Put a storage down under another part."""
        storage = tensor.untyped_storage()
        former = self._parts.get(storage._cdata)
        if former is not None:
            self.held[former] -= storage.nbytes()
            self.held[part] += storage.nbytes()
            self._parts[storage._cdata] = part

    @contextmanager
    def under(self, part: str) -> Iterator[None]:
        """Put down what is made meanwhile under `part`."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def _part_of(self, tensor: torch.Tensor) -> str | None:
        return self._parts.get(tensor.untyped_storage()._cdata)

    def _add(self, part: str, size: int) -> None:
        self.held[part] += size
        self._total += size
        if self._total > self._peak:
            self._peak = self._total
            self.most = dict(self.held)

    def _take_off(self, key: int, size: int) -> None:
        self.held[self._parts.pop(key)] -= size
        self._total -= size
