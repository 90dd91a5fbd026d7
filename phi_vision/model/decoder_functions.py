"""Norm and rotation in the decoder as one differentiable function each, on a CPU.

transformers writes them as a row of operations that read and write all positions in main memory and
keep what they read for the backward pass. Shapes: T positions of all rows, I inputs, B rows,
L positions, H heads, G heads of keys, D width of a head.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.phi3.modeling_phi3 import (
    Phi3Attention,
    Phi3RMSNorm,
    eager_attention_forward,
)

CACHED = 1 << 17  # numbers of a part of the positions: half a megabyte in float32
MAX_PARTS = 16  # `plan` spends as long on each operation as on a whole one


def use_decoder_functions(model: nn.Module) -> None:
    """Switch a decoder to these functions."""
    for module in model.modules():
        if type(module) is Phi3RMSNorm:
            module.__class__ = FusedNorm
        elif type(module) is Phi3Attention:
            module.__class__ = FusedAttention


class FusedNorm(Phi3RMSNorm):
    """The norm of transformers with another forward pass."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalise, (…, I) -> (…, I)."""
        out: torch.Tensor
        out = RootMeanSquare.apply(hidden_states, self.weight, self.variance_epsilon)
        return out


class FusedAttention(Phi3Attention):
    """The attention of transformers with another forward pass, where nothing is cached."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        **given: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend, (B, L, I) -> (B, L, I)."""
        cos, sin = position_embeddings
        if past_key_values is not None or cos.shape[-1] != self.head_dim:
            inputs = (hidden_states, position_embeddings, attention_mask, past_key_values)
            found: tuple[torch.Tensor, torch.Tensor | None] = super().forward(*inputs, **given)
            return found
        joined, heads = self.qkv_proj(hidden_states), self.config.num_attention_heads
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        given |= {"dropout": self.attention_dropout if self.training else 0.0}
        rotated = RotatedHeads.apply(joined, cos.to(joined.dtype), sin.to(joined.dtype), heads)
        out, weights = attend(self, *rotated, attention_mask, scaling=self.scaling, **given)
        return self.o_proj(out.flatten(2)), weights


class RootMeanSquare(torch.autograd.Function):
    """Division by the root of the mean square, times a weight."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Normalise, (…, I) -> (…, I)."""
        x_TI = hidden.reshape(-1, hidden.shape[-1])
        out_TI = torch.empty_like(x_TI, dtype=torch.promote_types(x_TI.dtype, weight.dtype))
        factor_T1 = x_TI.new_empty((len(x_TI), 1), dtype=torch.float32)
        for part in _parts(x_TI):
            wide, factor = x_TI[part].float(), factor_T1[part]
            torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(eps), out=factor)
            torch.mul((wide * factor).to(hidden.dtype), weight, out=out_TI[part])
        ctx.save_for_backward(x_TI, weight, factor_T1)
        return out_TI.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of input and weight."""
        x_TI, weight, factor_T1 = ctx.saved_tensors
        grad_TI, to_TI = gradients[0].reshape(x_TI.shape), torch.empty_like(x_TI)
        wide_weight, to_weight = weight.float(), torch.zeros_like(weight, dtype=torch.float32)
        for part in _parts(x_TI):
            normal, grad = x_TI[part] * factor_T1[part], grad_TI[part].float()
            if ctx.needs_input_grad[1]:
                to_weight += (normal * grad).sum(0)
            grad = grad * wide_weight
            mean = (grad * normal).mean(-1, keepdim=True)
            torch.mul(grad.addcmul_(normal, mean, value=-1), factor_T1[part], out=to_TI[part])
        return to_TI.view(gradients[0].shape), to_weight.to(weight.dtype), None


class RotatedHeads(torch.autograd.Function):
    """Query, key and value of each head, the first two rotated by their positions."""

    @staticmethod
    def forward(
        ctx: Any, joined: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int
    ) -> tuple[torch.Tensor, ...]:
        """Cut and rotate: (B, L, (H + 2G) D), cos and sin (B, L, D) -> three of (B, H, L, D)."""
        ctx.save_for_backward(cos, sin)
        x_BHLD = joined.unflatten(-1, (-1, cos.shape[-1])).transpose(1, 2)
        groups = (x_BHLD.shape[1] - heads) // 2
        query, key, value = x_BHLD.split([heads, groups, groups], dim=1)
        found = [each.new_empty(each.shape) for each in (query, key)]
        for each, out in zip((query, key), found, strict=True):
            _rotate(each, cos, sin, out)
        return *found, value.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient of what was cut: rotated back, and joined."""
        cos, sin = ctx.saved_tensors
        rows, _, length, width = gradients[0].shape
        counts = [each.shape[1] for each in gradients]
        to_BLHD = gradients[0].new_empty((rows, length, sum(counts), width))
        to_query, to_key, to_value = to_BLHD.transpose(1, 2).split(counts, dim=1)
        _rotate(gradients[0], cos, -sin, to_query)
        _rotate(gradients[1], cos, -sin, to_key)
        to_value.copy_(gradients[2])
        return to_BLHD.flatten(2), None, None, None


def _rotate(
    x_BHLD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out_BHLD: torch.Tensor
) -> None:
    """Rotate pairs of a first and a second half, whose angles are equal, so that -sin undoes it."""
    half = x_BHLD.shape[-1] // 2
    for row, (x, out) in enumerate(zip(x_BHLD, out_BHLD, strict=True)):
        cos_LD, sin_LD = cos[row % len(cos)], sin[row % len(sin)]
        torch.mul(x, cos_LD, out=out)
        out[..., :half].addcmul_(x[..., half:], sin_LD[:, :half], value=-1)
        out[..., half:].addcmul_(x[..., :half], sin_LD[:, half:])


def _parts(x_TI: torch.Tensor) -> Iterator[slice]:
    """Yield slices of positions, few enough to stay in the processor's cache."""
    step = max(1, CACHED // x_TI.shape[1], len(x_TI) // MAX_PARTS)
    for start in range(0, len(x_TI), step):
        yield slice(start, start + step)
