"""Waits for the GPU are found by their place, and no new ones come into a step or a token."""

from pathlib import Path

import torch

from benchmarks.gpu.model import SharedModel
from benchmarks.gpu.waits import TOKENS, Waits, count_waits, writing
from benchmarks.workload import train_step

STEP = {
    "modeling_phi3_v.py forward": "sizes of the images, before anything is launched",
    "modeling_phi3_v.py _find_placeholders": "as many placeholders as features",
    "modeling_phi3_v.py _is_padded_behind": "whether the mask is needed",
    "modeling_phi3_v.py _are_others_unread": "whether any position has a label",
    "last_layer_phi3_v.py find_places": "the most labelled positions of a row",
    "modeling_phi3_v.py _keep": "the positions with logits",
    "masking_utils.py find_packed_sequence_indices": "transformers: whether rows are packed",
    "workload.py step": "backward: the positions with logits",
}
"""Place in a training step -> what it waits for."""


def this_place(function: str) -> str:
    return f"{Path(__file__).name} {function}"


def test_waits_are_found_by_their_place() -> None:
    def reads() -> None:
        values = torch.arange(6.0)
        values.tolist()
        bool(values.sum() > 1)
        values[values > 2]

    def launches() -> None:
        values = torch.arange(6.0, requires_grad=True)
        values[torch.tensor([1, 3])].sum().backward()
        torch.where(values > 2, values, 0.0).cumsum(0)

    assert count_waits(reads) == {this_place("reads"): 3}
    assert count_waits(launches) == {}
    to_list = torch.Tensor.tolist
    with Waits():
        pass
    assert torch.Tensor.tolist is to_list


def test_a_training_step_waits_only_where_it_is_known() -> None:
    shared = SharedModel(torch.device("cpu"), is_tiny=True)
    with shared.adapted() as model:
        batch = shared.to_device(shared.batch(4, 2))
        found = count_waits(train_step(model, batch, fused=True, bf16=True))
    assert found.keys() <= STEP.keys()
    assert max(found.values()) == 1


def test_a_new_token_waits_once() -> None:
    shared = SharedModel(torch.device("cpu"), is_tiny=True)
    few, many = (count_waits(writing(shared, tokens)).total() for tokens in TOKENS)
    assert many - few == TOKENS[1] - TOKENS[0]
