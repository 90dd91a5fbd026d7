"""Attention of whole rows on a CPU, block by block: faster than PyTorch's, above all in bf16.

    scores of 128 positions of 16 heads -> softmax -> product with the values, then the next block

A block stays in the processor's cache, its products are those of oneDNN or MKL, and what lies
above the diagonal is never computed. Shapes: B rows, H heads, L positions, D width of a head,
G rows times heads of a chunk, S positions of a block, E positions that a block attends to.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BLOCKWISE = "blockwise"
BLOCK = {torch.bfloat16: 128}  # positions; 64 of other dtypes
CHUNK = 16  # rows times heads
# Positions up to which the backward pass finds the probabilities of the forward pass. Those of
# longer rows would outweigh all other activations: they are computed again, in a third more time.
MAX_KEPT = 1024


def use_blockwise_attention(model: PreTrainedModel) -> None:
    """Switch decoder and tower to blockwise attention."""
    AttentionInterface.register(BLOCKWISE, attend)
    AttentionMaskInterface.register(BLOCKWISE, sdpa_mask)
    model.set_attn_implementation(BLOCKWISE)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attend, (B, H, L, D) -> (B, L, H, D); what is not a row by itself is left to PyTorch.

    Args:
        module: A layer of transformers, which knows whether it is causal.
        query, key, value: (B, H, L, D).
        attention_mask: (B, 1, L, L), True where a position sees another; None: all, or of a causal
            layer those before.
        **settings: Of transformers' interface.
    """
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (each.to(dtype) for each in (query, key, value))
    is_trained = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    # In float32 PyTorch's kernel is as fast forward alone, and faster where it would be all again.
    is_faster = query.dtype == torch.bfloat16 or (is_trained and query.shape[2] <= MAX_KEPT)
    is_whole = query.shape == key.shape and query.shape[2] > 1 and query.device.type == "cpu"
    if not (is_faster and is_whole) or settings.get("dropout"):
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return out, None
    scale = settings.get("scaling") or query.shape[-1] ** -0.5
    hidden = None if attention_mask is None else ~attention_mask
    is_causal = bool(module.is_causal)
    return BlockwiseAttention.apply(query, key, value, hidden, is_causal, scale), None


class Block(NamedTuple):
    """A part of the scores: positions from `start` to `end`, which see the first `keys`."""

    start: int
    end: int
    keys: int


class BlockwiseAttention(torch.autograd.Function):
    """Softmax of scaled scores, times the values."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        hidden: torch.Tensor | None,
        is_causal: bool,
        scale: float,
    ) -> torch.Tensor:
        """Attend: (B, H, L, D), and a (B, 1, L, L) mask of what is hidden -> (B, L, H, D)."""
        ctx.is_causal, ctx.scale = is_causal, scale
        rows, heads, length, width = query.shape
        out_BLHD = query.new_empty((rows, length, heads, width))
        keeps = length <= MAX_KEPT and any(ctx.needs_input_grad)
        kept = list[torch.Tensor]()
        for chunk in _chunks(query):
            q_GLD, k_GLD, v_GLD = _flatten((query, key, value), chunk)
            out = out_BLHD[chunk].transpose(1, 2)
            for block in _blocks(query, is_causal):
                weights_GSE = _probabilities(q_GLD, k_GLD, _part(hidden, chunk), block, ctx)
                mixed = torch.bmm(weights_GSE, v_GLD[:, : block.keys])
                out[:, :, block.start : block.end] = mixed.unflatten(0, (-1, heads))
                if keeps:
                    kept.append(weights_GSE)
        ctx.save_for_backward(query, key, value, hidden, *kept)
        return out_BLHD

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        query, key, value, hidden, *kept = ctx.saved_tensors
        found = [torch.empty_like(each) for each in (query, key, value)]
        summed = torch.promote_types(query.dtype, torch.float32)
        kept.reverse()
        for chunk in _chunks(query):
            q_GLD, k_GLD, v_GLD = _flatten((query, key, value), chunk)
            grad_GLD = gradients[0][chunk].transpose(1, 2).flatten(0, 1)
            to_query = torch.empty_like(q_GLD)
            to_key, to_value = (torch.zeros_like(q_GLD, dtype=summed) for _ in range(2))
            for block in _blocks(query, ctx.is_causal):
                start, end, keys = block
                given = (q_GLD, k_GLD, _part(hidden, chunk), block, ctx)
                weights_GSE = kept.pop() if kept else _probabilities(*given)
                grad_GSD = grad_GLD[:, start:end]
                to_value[:, :keys] += torch.bmm(weights_GSE.transpose(1, 2), grad_GSD)
                grad_GSE = torch.bmm(grad_GSD, _turn(v_GLD, keys))
                grad_GSE = torch._softmax_backward_data(grad_GSE, weights_GSE, -1, query.dtype)
                to_query[:, start:end] = torch.bmm(grad_GSE, k_GLD[:, :keys])
                to_key[:, :keys] += torch.bmm(grad_GSE.transpose(1, 2), q_GLD[:, start:end])
            for whole, part, scale in zip(
                found, (to_query, to_key, to_value), (ctx.scale, ctx.scale, 1.0), strict=True
            ):
                torch.mul(part.unflatten(0, (-1, query.shape[1])), scale, out=whole[chunk])
        return *found, None, None, None


def _chunks(query: torch.Tensor) -> Iterator[slice]:
    """Yield slices of rows, so many that rows times heads are about `CHUNK`."""
    step = max(1, CHUNK // query.shape[1])
    for start in range(0, query.shape[0], step):
        yield slice(start, start + step)


def _blocks(query: torch.Tensor, is_causal: bool) -> Iterator[Block]:
    length, size = query.shape[2], BLOCK.get(query.dtype, 64)
    for start in range(0, length, size):
        end = min(start + size, length)
        yield Block(start, end, end if is_causal else length)


def _flatten(tensors: Sequence[torch.Tensor], chunk: slice) -> list[torch.Tensor]:
    """Take rows of each: (B, H, L, D) -> (G, L, D)."""
    return [each[chunk].flatten(0, 1) for each in tensors]


def _part(hidden: torch.Tensor | None, chunk: slice) -> torch.Tensor | None:
    return None if hidden is None else hidden[chunk]


def _turn(x_GLD: torch.Tensor, keys: int) -> torch.Tensor:
    """Turn the first positions: (G, L, D) -> (G, D, E).

    oneDNN takes a whole tensor turned, but a part of one PyTorch would copy number by number.
    """
    x_GED = x_GLD[:, :keys]
    return (x_GED.contiguous() if x_GED.dtype == torch.bfloat16 else x_GED).transpose(1, 2)


def _probabilities(
    q_GLD: torch.Tensor, k_GLD: torch.Tensor, hidden: torch.Tensor | None, block: Block, ctx: Any
) -> torch.Tensor:
    """Compute the probabilities of one block: (G, S, E)."""
    start, end, keys = block
    q_GSD, k_GDE = q_GLD[:, start:end], _turn(k_GLD, keys)
    # The first argument counts nothing: a product with a factor has no other name.
    scores_GSE = torch.baddbmm(q_GLD.new_zeros(1, 1, 1), q_GSD, k_GDE, beta=0, alpha=ctx.scale)
    lowest = torch.finfo(scores_GSE.dtype).min
    if hidden is not None:
        scores_BHSE = scores_GSE.unflatten(0, (hidden.shape[0], -1))
        scores_BHSE.masked_fill_(hidden[:, :, start:end, :keys], lowest)
    elif ctx.is_causal:
        # A sum is four times as fast as to fill where a mask says.
        later_SS = scores_GSE.new_full((end - start, end - start), -torch.inf).triu(1)
        scores_GSE[:, :, start:] += later_SS
    return scores_GSE.softmax(-1)
