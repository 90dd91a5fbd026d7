"""A linear layer with a LoRA adapter as one differentiable function, on a CPU.

    x W^T + b + scale * dropout(x) A^T B^T

PEFT owns the adapters: their weights, saving, merging and all variants. Only the forward pass of a
plain one over a frozen layer is replaced, where PEFT would convert the input to float32 and back,
draw a random number for every input, and keep the input four times. Shapes: T positions, I inputs
and O outputs of a layer, R rank.
"""

import math
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import nn


def use_lora_function(model: nn.Module) -> None:
    """Switch the plain adapters of a model to `LoraProduct`."""
    for module in model.modules():
        if isinstance(module, Linear) and type(module.get_base_layer()) is nn.Linear:
            module.__class__ = LoraLinear


class LoraLinear(Linear):
    """PEFT's layer with another forward pass."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Multiply, as PEFT does: (…, I) -> (…, O)."""
        base, names = self.get_base_layer(), self.active_adapters
        out: torch.Tensor
        dtype = x.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        is_plain = len(names) == 1 and names[0] in self.lora_A and names[0] not in self.lora_variant
        is_plain &= not (args or kwargs or self.disable_adapters or self.merged)
        is_plain &= base.weight.dtype == dtype and not base.weight.requires_grad
        if not is_plain or self.lora_bias[names[0]] or getattr(base.bias, "requires_grad", False):
            out = super().forward(x, *args, **kwargs)
            return out
        (name,) = names
        dropout = self.lora_dropout[name]
        share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        scale = self.scaling[name]
        out = LoraProduct.apply(x.to(dtype), base.weight, base.bias, down, up, scale, share)
        return out


class LoraProduct(torch.autograd.Function):
    """The product with a frozen weight and with an adapter over it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight_OI: torch.Tensor,
        bias: torch.Tensor | None,
        down_RI: torch.Tensor,
        up_OR: torch.Tensor,
        scale: float,
        dropout: float,
    ) -> torch.Tensor:
        """Multiply: (…, I) -> (…, O)."""
        x_TI, places = hidden.flatten(0, -2), None
        out_TO = nn.functional.linear(x_TI, weight_OI, bias)
        if dropout:
            # The inputs that stay are scaled, too; here together with the adapter.
            places, scale = draw_dropped(x_TI.numel(), dropout), scale / (1.0 - dropout)
            x_TI = x_TI.clone(memory_format=torch.contiguous_format)
            x_TI.view(-1).index_fill_(0, places, 0.0)
        low_TR = x_TI @ down_RI.to(x_TI.dtype).T
        out_TO.addmm_(low_TR, up_OR.to(x_TI.dtype).T, alpha=scale)
        ctx.scale = scale
        ctx.save_for_backward(weight_OI, down_RI, up_OR, x_TI, low_TR, places)
        return out_TO.view(*hidden.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of the input and of the adapter."""
        weight_OI, down_RI, up_OR, x_TI, low_TR, places = ctx.saved_tensors
        grad_TO, dtype = gradients[0].flatten(0, -2), x_TI.dtype
        to_low_TR = grad_TO @ up_OR.to(dtype).mul(ctx.scale)
        to_up_OR = (grad_TO.T @ low_TR).to(up_OR.dtype).mul_(ctx.scale)
        to_down_RI = (to_low_TR.T @ x_TI).to(down_RI.dtype)
        to_hidden = None
        if ctx.needs_input_grad[0]:
            to_TI = grad_TO @ weight_OI
            numbers = to_TI.view(-1)
            # Of a dropped input the adapter has no gradient: the sum is undone there.
            before = None if places is None else numbers[places]
            to_TI.addmm_(to_low_TR, down_RI.to(dtype))
            if before is not None:
                numbers.index_copy_(0, places, before)
            to_hidden = to_TI.view(*gradients[0].shape[:-1], -1)
        return to_hidden, None, None, to_down_RI, to_up_OR, None, None


def draw_dropped(count: int, probability: float) -> torch.Tensor:
    """Draw which of `count` numbers are dropped, each on its own with the same probability.

    The gaps between dropped ones are geometric, so that there is one draw for each of them instead
    of one for each number.

    Input:  10 numbers, probability 0.2
    Output: their places, and the first of them for draws that were not needed: 3 4 8 3 3 …
    """
    # Eight standard deviations more than on average: one draw in 10^15 would not reach the end.
    size = math.ceil(count * probability + 8 * math.sqrt(count * probability) + 16)
    # `geometric_` takes three times as long.
    gaps = torch.rand(size).log_().div_(math.log1p(-probability)).ceil_().clamp_(1, count)
    places = gaps.long().cumsum(0).sub_(1)
    # How many are needed is not read: `plan` runs this without values.
    return torch.where(places < count, places, places[0])
