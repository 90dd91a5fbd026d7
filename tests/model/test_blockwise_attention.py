"""Blockwise attention against PyTorch's: outputs and gradients, of padded and of packed rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from toy_rows import Inputs
from transformers.models.phi3.modeling_phi3 import Phi3Model

from phi_vision.model import blockwise_attention
from phi_vision.model.blockwise_attention import BLOCKWISE, attend, use_blockwise_attention
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM

SHAPE = (5, 4, 150, 16)  # of three chunks, of which the last is smaller, and three blocks of 64


class Layer(torch.nn.Module):
    """Stands in for a layer of transformers."""

    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal


def draw(dtype: torch.dtype) -> list[torch.Tensor]:
    """Draw query, key, value and the gradient of the output."""
    torch.manual_seed(0)
    return [torch.randn(SHAPE, dtype=torch.float32).to(dtype).requires_grad_() for _ in range(4)]


def packed_mask() -> torch.Tensor:
    """Two samples in each row, the second from position 100 on."""
    place = torch.arange(SHAPE[2])
    sees = (place[:, None] >= place) & ((place[:, None] >= 100) == (place >= 100))
    return sees.expand(SHAPE[0], 1, -1, -1)


def learn(dtype: torch.dtype, work: Any) -> list[torch.Tensor]:
    """Return the output of some attention and the gradients of its inputs, in float64."""
    query, key, value, gradient = draw(dtype)
    out = work(query, key, value)
    out.backward(gradient)
    return [each.double() for each in (out, query.grad, key.grad, value.grad)]  # type: ignore[union-attr]


def ours(is_causal: bool, mask: torch.Tensor | None) -> Any:
    return lambda q, k, v: attend(Layer(is_causal), q, k, v, mask)[0].transpose(1, 2)


def plain(is_causal: bool, mask: torch.Tensor | None) -> Any:
    """Two products and a softmax in float32, as transformers' eager attention."""
    sees = mask if mask is not None else torch.ones(SHAPE[2], SHAPE[2], dtype=torch.bool)
    sees = sees.tril() if is_causal else sees

    def work(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        scores = query @ key.transpose(2, 3) * SHAPE[3] ** -0.5
        scores = scores.masked_fill(~sees, torch.finfo(scores.dtype).min)
        return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value

    return work


@pytest.mark.parametrize("max_kept", [0, 1024], ids=["computed again", "kept"])
@pytest.mark.parametrize("kind", ["causal", "whole", "packed"])
def test_outputs_and_gradients_are_those_of_pytorch(
    monkeypatch: pytest.MonkeyPatch, kind: str, max_kept: int
) -> None:
    monkeypatch.setattr(blockwise_attention, "MAX_KEPT", max_kept)
    mask = packed_mask() if kind == "packed" else None
    exact = learn(
        torch.float64,
        lambda q, k, v: scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=kind == "causal"
        ),
    )
    found = learn(torch.float32, ours(kind != "whole", mask))
    rounded = learn(torch.bfloat16, ours(kind != "whole", mask))
    plainly = learn(torch.bfloat16, plain(kind != "whole", mask))
    for one, other, coarse, reference in zip(exact, found, rounded, plainly, strict=True):
        # float32 sums in another order; measured 4e-7.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)
        # About as close to the exact values as plain attention in bf16; measured 0.8 to 1.1.
        assert (one - coarse).norm() < 1.2 * (one - reference).norm()


def test_a_step_of_the_whole_model_is_that_with_pytorch(
    model: Phi3VForCausalLM, batch_of_rows: Callable[[str], Inputs]
) -> None:
    batch, found = batch_of_rows("right"), {}
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels = labels.masked_fill(labels == model.config.image_token_id, -100)
    for attention in ("sdpa", BLOCKWISE):
        if attention == BLOCKWISE:
            use_blockwise_attention(model)
        model.zero_grad()
        model.requires_grad_(True)(**batch, labels=labels, use_cache=False).loss.backward()
        weights = model.named_parameters()
        found[attention] = {n: w.grad.clone() for n, w in weights if w.grad is not None}
    largest = max(float(gradient.abs().max()) for gradient in found["sdpa"].values())
    for name, gradient in found["sdpa"].items():
        # Sums in another order; measured 1e-6 of the largest.
        torch.testing.assert_close(found[BLOCKWISE][name], gradient, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_token_with_or_without_a_mask(
    model: Phi3VForCausalLM,
    rows: list[Inputs],
    batch_of_rows: Callable[[str], Inputs],
    monkeypatch: pytest.MonkeyPatch,
    side: str,
) -> None:
    masks = []
    inner = Phi3Model.forward

    def noting(*given: Any, **named: Any) -> Any:
        masks.append(named["attention_mask"])
        return inner(*given, **named)

    monkeypatch.setattr(Phi3Model, "forward", noting)
    batch = batch_of_rows(side)
    with torch.no_grad():
        together = model(**batch, use_cache=False).logits
        assert (masks[0] is None) == (side == "right")
        for row, alone in enumerate(rows):
            real = together[row][batch["attention_mask"][row] == 1]
            # float32 sums in another order; logits here are of size 1 to 10
            torch.testing.assert_close(real, model(**alone).logits[0], atol=2e-5, rtol=1e-5)
