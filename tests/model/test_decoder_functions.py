"""Fused norm and rotation against those of transformers: outputs and gradients."""

from typing import Any

import pytest
import torch
from torch.autograd import gradcheck
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm, apply_rotary_pos_emb

from phi_vision.model import decoder_functions
from phi_vision.model.decoder_functions import (
    FusedAttention,
    FusedNorm,
    RotatedHeads,
    use_decoder_functions,
)
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM

ROWS, LENGTH, HEADS, GROUPS, WIDTH = 3, 40, 4, 2, 8


def learn(work: Any, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return outputs and the gradients of the inputs."""
    given = [each.clone().requires_grad_() for each in inputs]
    found = work(*given)
    outputs = found if isinstance(found, tuple) else (found,)
    torch.manual_seed(1)
    torch.autograd.backward(outputs, [torch.randn(out.shape).to(out.dtype) for out in outputs])
    gradients = (each.grad for each in given)
    return [each.detach().double() for each in (*outputs, *gradients) if each is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_that_of_transformers(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(decoder_functions, "CACHED", 700)  # parts of 21 of 120 positions
    torch.manual_seed(0)
    hidden, weight = torch.randn(ROWS, LENGTH, 32).to(dtype), torch.rand(32).to(dtype)
    found = []
    for kind in (FusedNorm, Phi3RMSNorm):
        norm = kind(32).to(dtype)

        def work(x: torch.Tensor, w: torch.Tensor, norm: Phi3RMSNorm = norm) -> Any:
            return torch.func.functional_call(norm, {"weight": w}, (x,))

        found.append(learn(work, hidden, weight))
    # The output has the same roundings; gradients have fewer in bf16, sums in another order.
    assert torch.equal(found[0][0], found[1][0])
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max())
        )


@pytest.mark.parametrize("of_rows", [1, ROWS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_are_cut_and_rotated_as_in_transformers(dtype: torch.dtype, of_rows: int) -> None:
    torch.manual_seed(0)
    joined = torch.randn(ROWS, LENGTH, (HEADS + 2 * GROUPS) * WIDTH).to(dtype)
    cos, sin = (torch.randn(of_rows, LENGTH, WIDTH // 2).repeat(1, 1, 2).to(dtype) for _ in "cs")

    def plain(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cut = x.unflatten(-1, (-1, WIDTH)).transpose(1, 2).split([HEADS, GROUPS, GROUPS], dim=1)
        return (*apply_rotary_pos_emb(cut[0], cut[1], cos, sin), cut[2])

    ours, theirs = (
        learn(work, joined) for work in (lambda x: RotatedHeads.apply(x, cos, sin, HEADS), plain)
    )
    # A sum rounded once in bf16 instead of three times; in float32 in another order.
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            one, other, rtol=tolerance, atol=tolerance * float(other.abs().max())
        )


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    joined = torch.randn(2, 3, 4 * 4, dtype=torch.float64, requires_grad=True)
    cos, sin = (torch.randn(2, 3, 2, dtype=torch.float64).repeat(1, 1, 2) for _ in "cs")
    assert gradcheck(lambda x: RotatedHeads.apply(x, cos, sin, 2), (joined,))


def test_only_the_decoder_of_a_model_changes_and_its_logits_stay(
    model: Phi3VForCausalLM, rows: list[Any]
) -> None:
    with torch.no_grad():
        before = [model(**row).logits for row in rows]
        use_decoder_functions(model)
        kinds = {type(module) for module in model.modules()}
        assert {FusedAttention, FusedNorm} <= kinds
        for row, expected in zip(rows, before, strict=True):
            # float32 sums in another order; logits are of size 1 to 10
            torch.testing.assert_close(model(**row).logits, expected, atol=2e-5, rtol=1e-5)
            whole = model(**row, use_cache=False).logits
            torch.testing.assert_close(whole, expected, atol=2e-5, rtol=1e-5)
