"""The LoRA function against PEFT's forward pass: outputs, gradients, dropout, where it applies."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from phi_vision.training.lora_function import LoraLinear, draw_dropped, use_lora_function


class Layer(nn.Module):
    """A model of one linear layer."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.proj = nn.Linear(48, 32).to(dtype)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        out: torch.Tensor = self.proj(hidden)
        return out


def adapted(dtype: torch.dtype = torch.float32, **settings: Any) -> PeftModel:
    """Attach an adapter with an effect, in float32."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["proj"], **settings)
    model = get_peft_model(Layer(dtype), config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape)
    return model.train()


def learn(model: nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return output and gradients."""
    torch.manual_seed(1)
    hidden = torch.randn(3, 70, 48).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = model(hidden)
    out.backward(torch.randn(out.shape).to(out.dtype))
    trained = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert {gradient.dtype for gradient in trained if gradient is not None} == {torch.float32}
    return [each.double() for each in (out, hidden.grad, *trained) if each is not None]


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}])
def test_without_dropout_it_is_what_peft_computes(settings: dict[str, Any]) -> None:
    model = adapted(**settings)
    theirs = learn(copy.deepcopy(model), torch.float32)
    use_lora_function(model)
    assert isinstance(model.base_model.model.proj, LoraLinear)
    ours = learn(model, torch.float32)
    assert len(ours) == len(theirs) == 4
    for one, other in zip(ours, theirs, strict=True):
        # float32 sums in another order; measured 2e-6 of values up to 50
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


def test_in_bf16_it_is_as_close_to_float32_as_peft() -> None:
    model = adapted(torch.bfloat16)
    exact = learn(copy.deepcopy(model).double().float(), torch.float32)
    theirs = learn(copy.deepcopy(model), torch.bfloat16)
    use_lora_function(model)
    for one, ours, other in zip(exact, learn(model, torch.bfloat16), theirs, strict=True):
        # Both round inputs, weights and results to bf16; measured 0.8 to 1.1.
        assert (one - ours).norm() < 1.2 * (one - other).norm()


def test_dropped_inputs_reach_neither_the_adapter_nor_its_gradients() -> None:
    model = adapted(lora_dropout=0.25)
    use_lora_function(model)
    reference = copy.deepcopy(model)
    torch.manual_seed(1)
    hidden = torch.randn(3, 70, 48).requires_grad_()
    gradient = torch.randn(3, 70, 32)
    torch.manual_seed(2)
    out = model(hidden)
    out.backward(gradient)
    torch.manual_seed(2)
    places = draw_dropped(hidden.numel(), 0.25)
    mask = torch.ones(hidden.numel()).index_fill_(0, places, 0.0).view(hidden.shape)
    again = hidden.detach().clone().requires_grad_()
    proj = reference.base_model.model.proj
    low = proj.lora_A["default"](again * mask / 0.75)
    expected = proj.base_layer(again) + proj.lora_B["default"](low) * proj.scaling["default"]
    expected.backward(gradient)
    pairs = [(out, expected), (hidden.grad, again.grad)]
    weights = zip(model.parameters(), reference.parameters(), strict=True)
    pairs += [(one.grad, other.grad) for one, other in weights if one.requires_grad]
    for one, other in pairs:
        assert one is not None
        assert other is not None
        # sums of 210 products in another order; values up to 200
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-4)


def test_each_number_is_dropped_on_its_own_with_the_same_probability() -> None:
    torch.manual_seed(0)
    dropped = torch.zeros(400, 500)
    for draw in dropped:
        places = draw_dropped(500, 0.05)
        distinct = places.unique()
        assert torch.equal(places[: len(distinct)], distinct)
        assert set(places[len(distinct) :].tolist()) <= {int(places[0])}
        draw.index_fill_(0, places, 1.0)
    # 200,000 draws: standard deviation 0.0005; of a place 0.011; of neighbours 0.0001.
    assert float(dropped.mean()) == pytest.approx(0.05, abs=0.002)
    assert float(dropped.mean(0).max()) < 0.05 + 5 * 0.011
    assert float(dropped[:, -50:].mean()) == pytest.approx(0.05, abs=0.007)
    together = float((dropped[:, 1:] * dropped[:, :-1]).mean())
    assert together == pytest.approx(0.05**2, abs=0.0006)


def test_an_evaluation_drops_nothing_and_a_merged_adapter_is_the_same() -> None:
    model = adapted(lora_dropout=0.5)
    use_lora_function(model)
    hidden = torch.randn(5, 48)
    model.eval()
    found, again = model(hidden), model(hidden)
    assert torch.equal(found, again)
    with model.disable_adapter():
        assert not torch.allclose(model(hidden), found)
    merged = model.merge_and_unload()
    assert type(merged.proj) is nn.Linear
    torch.testing.assert_close(merged(hidden), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_other_kinds_of_adapters_are_peft_s_own(settings: dict[str, Any]) -> None:
    model = adapted(**settings)
    theirs = learn(copy.deepcopy(model), torch.float32)
    use_lora_function(model)
    ours = learn(model, torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
