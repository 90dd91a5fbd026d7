"""Stands in for bitsandbytes' 4-bit layers where only shapes count.

Theirs pack real numbers when they are made; these hold as many bytes and make the same temporary.
"""

from typing import Any

import torch
from torch import nn

BLOCK, BLOCK_OF_SCALES = 64, 256
"""nf4 keeps an 8-bit scale for 64 weights, and a float32 scale for 256 of these."""


class FourBitLinear(nn.Linear):
    """A frozen layer of half a byte a weight; an `nn.Linear`, so that adapters can be attached."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        size = layer.in_features * layer.out_features
        packed = torch.zeros((size // 2, 1), dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        scales = size // BLOCK
        self.scales = nn.Buffer(torch.zeros(scales, dtype=torch.uint8))
        self.scales_of_scales = nn.Buffer(torch.zeros(-(-scales // BLOCK_OF_SCALES)))
        self.shape = (layer.out_features, layer.in_features)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Multiply with the weights unpacked for a moment, now and in the backward pass."""
        if torch.is_autocast_enabled("cpu"):
            hidden = hidden.to(torch.get_autocast_dtype("cpu"))
        product: torch.Tensor = _Product.apply(hidden, self.shape)
        # PEFT copies the result before it adds the adapter's.
        return product.clone()


class _Product(torch.autograd.Function):
    """Product with a weight that exists only while it is computed."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.shape = shape
        return nn.functional.linear(hidden, hidden.new_empty(shape))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] @ gradients[0].new_empty(ctx.shape), None


def hold_in_four_bits(model: nn.Module) -> None:
    """Exchange the decoder's linear layers, as `learner.describe_quantization` has it done."""
    for name, layer in list(model.named_modules()):
        is_decoder = ".layers." in name and "vision_embed_tokens" not in name
        if is_decoder and isinstance(layer, nn.Linear):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, FourBitLinear(layer))
