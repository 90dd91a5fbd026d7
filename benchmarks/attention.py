"""Three kinds of attention on this machine: forward and backward, the best of eight rounds.

OMP_NUM_THREADS=1 python -m benchmarks.attention
"""

import time

import torch
from torch.nn import functional

from phi_vision.model.blockwise_attention import BlockwiseAttention

SHAPES = {
    "tower of phi-vision-small": (160, 5, 65, 32, False),
    "decoder of phi-vision-small": (32, 4, 242, 64, True),
    "decoder, 4 crops": (4, 12, 815, 64, True),
    "decoder, 16 crops": (1, 12, 2560, 64, True),
}
"""Name -> batch, heads, positions, width of a head, causal."""
ROUNDS = 8


def blockwise(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool
) -> torch.Tensor:
    """Attend with ours."""
    scale = query.shape[-1] ** -0.5
    out: torch.Tensor = BlockwiseAttention.apply(query, key, value, None, causal, scale)
    return out


def fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool
) -> torch.Tensor:
    """Attend with PyTorch's own kernel."""
    return functional.scaled_dot_product_attention(query, key, value, is_causal=causal)


def plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool
) -> torch.Tensor:
    """Attend with two matrix products and a softmax."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    weights: torch.Tensor = scores.float().softmax(-1).to(value.dtype)
    return weights @ value


def main() -> None:
    """Measure both in turn, for each shape and dtype."""
    for name, (batch, heads, positions, width, causal) in SHAPES.items():
        for dtype in (torch.bfloat16, torch.float32):
            query, key, value = (
                torch.randn(batch, heads, positions, width, dtype=dtype, requires_grad=True)
                for _ in range(3)
            )
            best = dict.fromkeys((blockwise, fused, plain), float("inf"))
            for _ in range(ROUNDS):
                for attend in best:
                    start = time.process_time()
                    attend(query, key, value, causal).sum().backward()
                    best[attend] = min(best[attend], time.process_time() - start)
            figures = ", ".join(f"{a.__name__} {1000 * s:.0f} ms" for a, s in best.items())
            print(f"{name}, {dtype}: {figures}")


if __name__ == "__main__":
    main()
