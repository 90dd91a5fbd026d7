"""The matrix products of a step, however they are called, and the time that they take alone.

    with MatrixProducts() as products:
        step()
    products.flops, products.seconds_alone()

A fused attention counts as the products that it stands for: two forward, four backward, half of
each where it is causal, since it skips what lies above the diagonal; the scores that it computes a
second time in the backward pass are not counted. Frozen weights in oneDNN's own layout are counted
like others. Any other operation that PyTorch knows to be products is an error, since leaving it out
would make a step look further from a perfect one than it is.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.timing import measure

MATRICES = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
LINEAR = ("aten::mkldnn_linear", "mkldnn::_linear_pointwise")
ATTENTION = (
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
)
CONVOLUTION = "aten::convolution"
PLAIN_NAMESPACES = ("aten", "prim", "prims", "profiler")
"""Namespaces of which PyTorch lists the operations that are products."""


class Product(NamedTuple):
    """The shapes of two matrices, or of two batches of them, that are multiplied."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    dtype: torch.dtype

    @property
    def flops(self) -> float:
        """A multiplication and an addition for each pair of numbers."""
        return 2.0 * math.prod(self.left) * self.right[-1]


class MatrixProducts(TorchDispatchMode):
    """Records the matrix products of whatever runs inside, by shape and dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = defaultdict[Product, float](float)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and note its products."""
        out = func(*args, **(kwargs or {}))
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | (kwargs or {})
        for product, count in _products(func, given, out):
            self.counts[product] += count
        return out

    @property
    def flops(self) -> float:
        """Of all products."""
        return sum(count * product.flops for product, count in self.counts.items())

    def seconds_alone(self) -> float:
        """Time each kind of product alone, in CPU-seconds, the best of three, and add them up."""
        total = 0.0
        for (one, other, dtype), count in self.counts.items():
            left, right = torch.randn(one, dtype=dtype), torch.randn(other, dtype=dtype)
            work = torch.mm if left.ndim == 2 else torch.bmm
            total += count * min(measure(lambda: work(left, right)).cpu for _ in range(3))  # noqa: B023
        return total


def _products(func: Any, given: dict[str, Any], out: Any) -> Iterator[tuple[Product, float]]:
    """Yield the products of one operation, and how often each occurs.

    Input:  addmm of (800, 256) and (256, 768) in float32
    Output: Product((800, 256), (256, 768), float32), 1.0
    """
    name = func.name().partition(".")[0].removesuffix("_")  # in place or not
    given = {key: value for key, value in given.items() if key != "out"}
    tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
    if name in MATRICES:
        left, right = tensors[-2:]
        yield Product(tuple(left.shape), tuple(right.shape), left.dtype), 1.0
    elif name in LINEAR:
        hidden, (outer, inner) = tensors[0], tensors[1].shape
        yield Product((hidden.numel() // inner, inner), (inner, outer), hidden.dtype), 1.0
    elif name == CONVOLUTION:
        (outer, *rest), places = given["weight"].shape, out.numel() // out.shape[1]
        yield Product((places, math.prod(rest)), (math.prod(rest), outer), out.dtype), 1.0
    elif name in ATTENTION:
        share = 0.5 if given.get("is_causal") else 1.0
        for product in attention_products(given, is_backward=name.endswith("backward")):
            yield product, share
    elif func._overloadpacket in flop_registry or name.partition("::")[0] not in PLAIN_NAMESPACES:
        raise ValueError(
            f"{name} may be a matrix product that is not counted; describe it in {__name__}"
        )


def attention_products(given: dict[str, Any], *, is_backward: bool) -> Iterator[Product]:
    """Yield the products that a fused attention stands for.

    Input:  query (B, heads, L, D), key and value (B, heads, S, D)
    Output: forward, scores and their product with the values; backward, the gradients of the
            values, the scores, the queries and the keys
    """
    rows, heads, length, width = given["query"].shape
    batch, keys, dtype = rows * heads, given["key"].shape[2], given["query"].dtype
    scores = Product((batch, length, width), (batch, width, keys), dtype)
    mixed = Product((batch, length, keys), (batch, keys, width), dtype)
    turned = Product((batch, keys, length), (batch, length, width), dtype)
    yield from (scores, mixed, turned, turned) if is_backward else (scores, mixed)
