"""Attention of generation on a CPU: one new token of each row, without padding, in float32.

In bfloat16 the kernels behind `scaled_dot_product_attention` take three times as long for it, since
products of vectors are slow. Whole rows are read by blockwise attention.

Shapes: B rows, H heads, G heads of keys and values, L new and K cached positions, D head size.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.models.phi3.modeling_phi3 import Phi3Model

from phi_vision.model import blockwise_attention

NAME = "phi_vision_generation"
_in_use = threading.RLock()


@contextmanager
def cpu_attention(decoder: Phi3Model) -> Iterator[None]:
    """Attend by `attend` in a decoder; another thread that wants the same waits."""
    with _in_use:
        usual = decoder.config._attn_implementation
        decoder.set_attn_implementation({"": NAME})
        try:
            yield
        finally:
            decoder.set_attn_implementation({"": usual})


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    first_columns: Sequence[int] | None = None,
    stores_only: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to all positions up to its own, for whole rows or for one new token of each row.

    Input:  query (B, H, L, D), key and value (B, G, K, D); with `first_columns`, where each row's
            keys begin, L is 1; without, K is L, and there is no padding
    Output: (B, L, H, D), of no meaning where only keys and values are to be stored
    """
    if stores_only:
        return query.transpose(1, 2), None
    if first_columns is None:
        return blockwise_attention.attend(
            module, query.to(value.dtype), key, value, attention_mask, scaling=scaling
        )
    # Under autocast the products would be made in its dtype.
    with torch.autocast("cpu", enabled=False):
        return _attend_once(query, key, value, first_columns, scaling), None


def _attend_once(
    query_BH1D: torch.Tensor,
    key_BGKD: torch.Tensor,
    value_BGKD: torch.Tensor,
    first_columns: Sequence[int],
    scaling: float,
) -> torch.Tensor:
    """Attend with one token of each row, in float32: products of vectors are slow in bfloat16."""
    rows, heads, columns, width = key_BGKD.shape
    query_BGXD = (query_BH1D.float() * scaling).view(rows, heads, -1, width)
    attended_BGXD = torch.empty_like(query_BGXD)
    scratch = torch.empty(heads * columns * width)

    def as_float(held_GKD: torch.Tensor) -> torch.Tensor:
        if held_GKD.dtype == torch.float32:
            return held_GKD
        return scratch[: held_GKD.numel()].view_as(held_GKD).copy_(held_GKD)

    for row, first in enumerate(first_columns):
        scores_GXK = query_BGXD[row] @ as_float(key_BGKD[row, :, first:]).transpose(1, 2)
        values_GKD = as_float(value_BGKD[row, :, first:])
        torch.bmm(scores_GXK.softmax(-1), values_GKD, out=attended_BGXD[row])
    return attended_BGXD.view(rows, 1, -1, width).to(query_BH1D.dtype)


AttentionInterface.register(NAME, attend)
