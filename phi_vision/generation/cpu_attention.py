"""Attention of generation on a CPU: no padding, little memory traffic, fast in bfloat16 too.

In bfloat16 the kernels behind `scaled_dot_product_attention` take three times as long as this for
one new token of each row, and twice as long for whole rows.

Shapes: B rows, H heads, G heads of keys and values, L new and K cached positions, D head size.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.models.phi3.modeling_phi3 import Phi3Model

NAME = "phi_vision_generation"
BLOCK = 128  # positions read at once: their scores stay in the processor's cache
_in_use = threading.RLock()


@contextmanager
def cpu_attention(decoder: Phi3Model) -> Iterator[None]:
    """Let a decoder attend by `attend`; another thread that wants the same waits."""
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
    query = query.to(value.dtype)
    # Under autocast the products would be made in its dtype.
    with torch.autocast("cpu", enabled=False):
        if first_columns is not None:
            return _attend_once(query, key, value, first_columns, scaling), None
        if query.dtype == torch.bfloat16:
            return _attend_causally(query, key, value, scaling), None
        attended = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
        return attended.transpose(1, 2), None


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


def _attend_causally(
    query_BHLD: torch.Tensor, key_BGLD: torch.Tensor, value_BGLD: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attend block by block, each to the positions up to its end only."""
    rows, heads, length, width = query_BHLD.shape
    groups = heads // key_BGLD.shape[1]
    query = query_BHLD.reshape(-1, length, width)
    key, value = (
        each.repeat_interleave(groups, dim=1).view(-1, length, width)
        if groups > 1
        else each.reshape(-1, length, width)
        for each in (key_BGLD, value_BGLD)
    )
    attended_BLHD = torch.empty(rows, length, heads, width, dtype=value.dtype)
    later = torch.ones(BLOCK, BLOCK, dtype=torch.bool).triu_(1)
    unused = query.new_empty(())
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        scores = torch.baddbmm(
            unused, query[:, start:end], key[:, :end].transpose(1, 2), beta=0, alpha=scaling
        )
        scores[..., start:].masked_fill_(later[: end - start, : end - start], -torch.inf)
        block = torch.bmm(scores.softmax(-1), value[:, :end])
        attended_BLHD[:, start:end] = block.view(rows, heads, -1, width).transpose(1, 2)
    return attended_BLHD


AttentionInterface.register(NAME, attend)
