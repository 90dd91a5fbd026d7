"""Merging an adapter tensor by tensor: as peft merges, and nothing that does not fit is taken."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from toy_adapters import FORMS, write_adapter

from phi_vision.export.hf import base_weights, merged_weights, open_source
from phi_vision.model.checkpoint import load_model

ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="session")
def bf16_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16")
    model, processor = load_model(tiny_checkpoint, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="400KB")
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return write_adapter(tiny_checkpoint, tmp_path / "adapter")


def refused(source: Path, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        open_source(source)
    assert "\n" not in str(caught.value)


# What is merged.


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_merged_in_float32_and_rounded_once(
    form: str, bf16_checkpoint: Path, tmp_path: Path
) -> None:
    model, _ = open_source(write_adapter(bf16_checkpoint, tmp_path, form=form))
    assert isinstance(model, PeftModel)
    found = dict(merged_weights(model))
    plain = load_model(bf16_checkpoint)[0].state_dict()
    before = base_weights(model)
    assert list(found) == list(before) == list(plain)
    expected = load_model(tmp_path)[0].float().merge_and_unload().state_dict()
    for name, weight in found.items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, expected[name].bfloat16()), name
    changed = [name for name in found if not torch.equal(found[name], plain[name])]
    assert 2 <= len(changed) < len(found)


def test_merging_leaves_the_model_as_it_was(adapter: Path) -> None:
    model, _ = open_source(adapter)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    dict(merged_weights(model))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_checkpoint_without_adapter_is_itself(tiny_checkpoint: Path) -> None:
    model, _ = open_source(tiny_checkpoint)
    found = dict(merged_weights(model))
    assert all(torch.equal(found[name], weight) for name, weight in model.state_dict().items())


# Adapters that do not fit.


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / ADAPTER)
    edit(weights)
    save_file(weights, folder / ADAPTER)


def first(weights: dict[str, torch.Tensor]) -> str:
    return next(name for name in weights if "qkv_proj.lora_A" in name)


def test_an_adapter_that_lacks_a_tensor_is_rejected_where_peft_warns(adapter: Path) -> None:
    change(adapter, lambda weights: weights.pop(first(weights)))
    refused(
        adapter,
        "does not load: of .*qkv_proj.lora_A.weight it has nothing, and the base needs 4 x 64",
    )


def test_an_adapter_of_a_wider_base_is_rejected(adapter: Path) -> None:
    change(adapter, lambda weights: weights.update({first(weights): torch.zeros(4, 128)}))
    refused(
        adapter, "it has 4 x 128, and the base needs 4 x 64. Is it whole, and made for this base?"
    )


def test_an_adapter_of_a_deeper_base_is_rejected(adapter: Path) -> None:
    name = "base_model.model.model.layers.7.self_attn.qkv_proj.lora_A.weight"
    change(adapter, lambda weights: weights.update({name: torch.zeros(4, 64)}))
    refused(adapter, "layers.7.* it has 4 x 64, and the base needs nothing")


def test_an_adapter_that_matches_no_layer_is_rejected(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    fields = json.loads(file.read_text()) | {"target_modules": ["query_key_value"]}
    file.write_text(json.dumps(fields))
    refused(adapter, "does not load: Target modules .*query_key_value")


@pytest.mark.parametrize("base", [None, ""])
def test_an_adapter_without_the_name_of_its_base_is_rejected(
    adapter: Path, base: str | None
) -> None:
    file = adapter / "adapter_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps(fields | {"base_model_name_or_path": base}))
    refused(adapter, "does not name its base, .* write the base's folder or hub id")
    del fields["base_model_name_or_path"]
    file.write_text(json.dumps(fields))
    refused(adapter, "does not name its base")


def test_an_adapter_whose_config_was_cut_is_rejected(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(file.read_text()[:100])
    refused(adapter, "The adapter in .* does not load: .* Copy it there again")


def test_an_adapter_whose_weights_are_missing_or_cut_is_rejected(adapter: Path) -> None:
    whole = (adapter / ADAPTER).read_bytes()
    (adapter / ADAPTER).write_bytes(whole[:-100])
    refused(adapter, "does not load: .* Is it whole")
    (adapter / ADAPTER).unlink()
    refused(adapter, "does not load: adapter_model.safetensors is missing. Is it whole")


def test_an_adapter_of_another_kind_is_rejected(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = IA3Config(target_modules=["qkv_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    model = get_peft_model(load_model(tiny_checkpoint)[0], config)
    model.peft_config["default"].base_model_name_or_path = str(tiny_checkpoint)
    model.save_pretrained(tmp_path)
    refused(tmp_path, "its type is IA3; only LoRA of the model's own layers can be read")


def test_an_adapter_with_numbers_that_are_none_is_rejected(adapter: Path) -> None:
    change(adapter, lambda weights: weights[first(weights)].fill_(float("nan")))
    model, _ = open_source(adapter)
    with pytest.raises(
        ValueError, match=r"the merged weight of .* is not finite: the adapter is broken"
    ):
        dict(merged_weights(model))


# Weights that are not whole.


def test_shards_that_are_missing_or_cut_are_rejected(bf16_checkpoint: Path, tmp_path: Path) -> None:
    for file in bf16_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1000])
    refused(tmp_path, "The weights in .* do not load: .* Is every shard there, whole?")
    shard.unlink()
    refused(tmp_path, "The weights in .* do not load: .* Is every shard there, whole?")


def test_quantised_weights_are_rejected(tiny_checkpoint: Path, tmp_path: Path) -> None:
    fields = json.loads((tiny_checkpoint / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    refused(
        tmp_path, "are quantized, and the rounded-off precision is lost; export from the checkpoint"
    )


def test_graphs_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").write_text("{}")
    refused(tmp_path, "holds graphs for ONNX Runtime, .* pass the run or checkpoint")


def test_a_run_that_saved_nothing_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: lora\n")
    refused(tmp_path, "has no weights: it was stopped before .* continue it with .* --resume")
