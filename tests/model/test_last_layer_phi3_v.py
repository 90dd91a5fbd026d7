"""The last layer at labelled positions alone gives the loss and gradients of the whole layer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from toy_rows import Inputs

from phi_vision.model import modeling_phi3_v
from phi_vision.model.blockwise_attention import use_blockwise_attention
from phi_vision.model.last_layer_phi3_v import find_places
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM


def test_places_are_those_that_are_marked() -> None:
    keep = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0]]).bool()
    places, is_there = find_places(keep)
    assert places.tolist() == [[1, 3], [2, 0]]
    assert is_there.tolist() == [[True, True], [True, False]]
    values = torch.arange(8).view(2, 4)
    assert torch.equal(torch.take_along_dim(values, places, 1)[is_there], values[keep])


def learn(model: Phi3VForCausalLM, batch: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    weights = model.named_parameters()
    return {"loss": loss.detach()} | {n: w.grad.clone() for n, w in weights if w.grad is not None}


@pytest.mark.parametrize("side", ["left", "right", "packed"])
@pytest.mark.parametrize("attention", ["blockwise", "eager", "sdpa"])
def test_loss_and_gradients_are_those_of_the_whole_layer(
    model: Phi3VForCausalLM,
    batch_of_rows: Callable[[str], Inputs],
    monkeypatch: pytest.MonkeyPatch,
    attention: str,
    side: str,
) -> None:
    if attention == "blockwise":
        use_blockwise_attention(model)
    else:
        model.set_attn_implementation(attention)
    batch: Any = batch_of_rows("left" if side == "left" else "right")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    keep = (mask == 1) & (ids != model.config.image_token_id) & (torch.arange(ids.shape[1]) % 3 > 0)
    keep[:, -1] = False
    if side == "packed":
        del batch["attention_mask"]
        batch["position_ids"] = (torch.arange(ids.shape[1]) % 25).expand_as(ids)
    labels = torch.roll(ids, -1, 1)[keep]
    batch |= {"labels": ids, "logits_to_keep": keep, "shift_labels": labels}
    model.requires_grad_(True).train()
    found = learn(model, batch)
    monkeypatch.setattr(modeling_phi3_v, "ATTENTION", ())
    whole = learn(model, batch)
    assert found.keys() == whole.keys()
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        # float32 sums in another order; measured 1e-6 of the largest
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * largest)


def test_only_labelled_positions_are_computed(
    model: Phi3VForCausalLM, batch_of_rows: Callable[[str], Inputs]
) -> None:
    batch, shapes = batch_of_rows("right"), []
    keep = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    keep[:, 20:22] = keep[0, 23] = True
    layers = model.model.layers
    for layer in layers:
        layer.mlp.register_forward_hook(lambda *given: shapes.append(given[2].shape[1]))
    logits = model(**batch, logits_to_keep=keep, use_cache=False).logits
    assert logits.shape[0] == int(keep.sum())
    assert shapes == [keep.shape[1]] * (len(layers) - 1) + [3]
    shapes.clear()
    model(**batch, logits_to_keep=keep, use_cache=False, output_hidden_states=True)
    assert shapes == [keep.shape[1]] * len(layers), "hidden states were asked for"
