"""Loading: what counts as a model, and the one clear line for everything that does not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from toy_rows import Inputs

from phi_vision.model.checkpoint import SMALL, fast_dtype, load_config, load_model, resolve


def refusal(source: str | Path) -> str:
    """Load what cannot be loaded and give the message, which must be one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_model(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint folder that is the test's own to break."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


@pytest.fixture
def shards(copy: Path) -> list[Path]:
    """The shards of a checkpoint in several."""
    model, _ = load_model(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="500KB")
    found = sorted(copy.glob("model-*.safetensors"))
    assert len(found) > 1
    return found


@pytest.fixture
def adapter(copy: Path, tmp_path: Path) -> Path:
    """An adapter as PEFT writes it, that has learnt something: B is not zero."""
    model, _ = load_model(copy)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["qkv_proj", "down_proj"]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


# What loads


def test_a_full_folder_loads_ready_to_answer(tiny_checkpoint: Path, rows: list[Inputs]) -> None:
    model, processor = load_model(str(tiny_checkpoint))
    assert not model.training
    assert model.dtype == torch.float32
    assert processor.image_token_id == model.config.image_token_id
    saved = load_file(tiny_checkpoint / "model.safetensors")
    assert torch.equal(model.lm_head.weight, saved["lm_head.weight"])


def test_weights_are_loaded_in_the_requested_dtype(tiny_checkpoint: Path) -> None:
    model, _ = load_model(tiny_checkpoint, dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_an_adapter_folder_loads_with_its_base_and_the_base_s_processor(
    adapter: Path, copy: Path, rows: list[Inputs]
) -> None:
    model, processor = load_model(adapter)
    assert isinstance(model, PeftModel)
    assert processor.image_processor.crop_size == 56
    base, _ = load_model(copy)
    with torch.no_grad():
        changed, plain = model(**rows[0]).logits, base(**rows[0]).logits
        assert not torch.allclose(changed, plain, atol=1e-3)
        with model.disable_adapter():
            assert torch.equal(model(**rows[0]).logits, plain)


def test_a_run_folder_loads_the_model_in_it(copy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("model: elsewhere\n")
    copy.rename(run / "model")
    assert resolve(run) == str(run / "model")
    model, _ = load_model(run)
    assert model.config.model_type == "phi3_v"


def test_the_packaged_checkpoint_loads_by_its_name() -> None:
    folder = Path(resolve(SMALL))
    assert folder.is_dir()
    if not (folder / "config.json").is_file():
        pytest.skip(f"{SMALL} has no weights yet")
    model, processor = load_model(SMALL)
    assert len(processor.tokenizer) == model.config.vocab_size


# What does not


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert f"No model at '{tmp_path}/nowhere': no such folder. Give a checkpoint folder" in message


def test_a_folder_without_config_is_reported_with_its_content(tmp_path: Path) -> None:
    for name in ("photo.png", "notes.txt"):
        (tmp_path / name).touch()
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path} is no checkpoint: it has no config.json")
    assert "only notes.txt, photo.png. Give the folder that holds" in message


def test_an_empty_folder_is_reported_as_empty(tmp_path: Path) -> None:
    assert "has no config.json, only nothing" in refusal(tmp_path)


def test_a_torn_config_is_no_matter_of_the_hub(copy: Path) -> None:
    config = copy / "config.json"
    config.write_text(config.read_text()[:100])
    message = refusal(copy)
    assert "is no checkpoint" in message
    assert "not a valid JSON" in message
    assert "hub" not in message


def test_another_kind_of_model_is_rejected(copy: Path) -> None:
    config = copy / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "phi3"}))
    message = refusal(copy)
    assert message.startswith(f"{copy} holds a model of type 'phi3', not 'phi3_v'.")
    with pytest.raises(ValueError, match="of type 'phi3'"):
        load_config(copy)


def cut_off(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1000])


def leave_the_head_only(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:4])


@pytest.mark.parametrize("harm", [cut_off, leave_the_head_only, Path.unlink])
def test_a_shard_that_is_not_whole_is_rejected(
    shards: list[Path], harm: Callable[[Path], None]
) -> None:
    harm(shards[-1])
    message = refusal(shards[-1].parent)
    assert message.startswith(f"The weights in {shards[-1].parent} do not load: ")
    assert message.endswith("Is every shard there, whole?")


def test_a_missing_tensor_is_named(copy: Path) -> None:
    file = copy / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.vision_embed_tokens.glb_GN"]
    save_file(tensors, file, metadata={"format": "pt"})
    message = refusal(copy)
    assert "lack 1 of the model's tensors, the first 'model.vision_embed_tokens.glb_GN'" in message


def test_a_tensor_of_another_shape_is_rejected(copy: Path) -> None:
    file = copy / "model.safetensors"
    tensors = load_file(file)
    tensors["model.vision_embed_tokens.glb_GN"] = torch.zeros(1, 1, 3)
    save_file(tensors, file, metadata={"format": "pt"})
    assert "do not load" in refusal(copy)


def test_a_folder_without_processor_is_reported_with_the_files_to_copy(copy: Path) -> None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        (copy / name).unlink(missing_ok=True)
    assert "Copy preprocessor_config.json" in refusal(copy)


def test_an_adapter_whose_base_is_gone_names_both(adapter: Path, copy: Path) -> None:
    copy.rename(copy.with_name("moved"))
    assert f"{adapter} is an adapter of '{copy}', which is not there." in refusal(adapter)


@pytest.mark.parametrize("harm", [cut_off, Path.unlink])
def test_an_adapter_that_is_not_whole_is_rejected(
    adapter: Path, harm: Callable[[Path], None]
) -> None:
    harm(adapter / "adapter_model.safetensors")
    assert f"The adapter in {adapter} does not load: " in refusal(adapter)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no body/no:model"])
def test_a_hub_id_that_cannot_be_fetched_is_reported(name: str) -> None:
    message = refusal(name)
    assert message.startswith(f"'{name}' is no folder here, and fetching it from the hub failed: ")
    assert message.endswith("and give that folder.")


def test_numbers_are_bfloat16_only_where_the_machine_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    assert fast_dtype(cpu) == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert fast_dtype(cpu) == torch.bfloat16


# Damaged and hostile folders: one line, before anything is allocated


def change(name: str, **fields: object) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return harm


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def change_tower(**fields: object) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text())
        config["img_processor"]["vision_config"] |= fields
        file.write_text(json.dumps(config))

    return harm


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def spoil_processor(folder: Path) -> None:
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text("[]")


def fill(value: float, dtype: torch.dtype) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        tensors["lm_head.weight"] = torch.full_like(tensors["lm_head.weight"], value, dtype=dtype)
        save_file(tensors, file, metadata={"format": "pt"})

    return harm


def move_ids(folder: Path) -> None:
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"] = {w: 50_000 + i for w, i in tokenizer["model"]["vocab"].items()}
    file.write_text(json.dumps(tokenizer))


def change_crops(**fields: object) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / "processor_config.json").unlink()
        change("preprocessor_config.json", **fields)(folder)

    return harm


def as_folder(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return harm


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 7\n"
STOPS = "generation_config.json"
MODEL_HARMS = {
    "whole numbers": (fill(1, torch.int32), "lm_head.weight holds whole numbers (I32)"),
    "another tokenizer": (move_ids, "the tokenizer has ids up to 5"),
    "no image token": (change("config.json", image_token_id=7), "config.json has 7. Copy"),
    "no tokenizer": (as_folder("tokenizer.json"), "there is no tokenizer.json."),
    "no config": (as_folder("config.json"), "it has no config.json"),
    "weights of nothing": (as_folder("model.safetensors"), "The weights in"),
    "a pointer of Git LFS": (write("model.safetensors", LFS), "to fetch with `git lfs pull`"),
    "no number": (change("config.json", rms_norm_eps=float("nan")), "not JSON compliant"),
    "no activation": (change("config.json", hidden_act="none"), "there is no 'none'"),
    "other crops": (change_crops(crop_size=100), "crop_size is 100, and the model in config.json"),
    "other tokens": (change_crops(num_img_tokens=7), "num_img_tokens is 7, and the model in"),
    "no deviation": (change_crops(image_std=[0, 0, 0]), "image_std [0, 0, 0]. Copy"),
    "means of text": (change_crops(image_mean="x"), "image_mean is ['x'], image_std"),
    "stops of nothing": (write(STOPS, "{"), f"The {STOPS} in"),
    "a list of stops": (write(STOPS, "[]"), f"The {STOPS} in"),
    "a stop of text": (write(STOPS, '{"eos_token_id": "end"}'), "its eos_token_id is 'end'"),
    "a foreign stop": (write(STOPS, '{"eos_token_id": [2, 99999]}'), "its eos_token_id is [2, 99"),
    "a list": (write("config.json", "[]"), "type None, not 'phi3_v'"),
    "no fields": (write("config.json", "{}"), "type None, not 'phi3_v'"),
    "deep brackets": (write("config.json", "[" * 100_000), "is no checkpoint"),
    "a billion layers": (change("config.json", num_hidden_layers=10**9), "weights of the decoder"),
    "a huge vocabulary": (change("config.json", vocab_size=10**12), "has vocab_size 1000000000000"),
    "a wide decoder": (change("config.json", hidden_size=10**9), "has hidden_size 1000000000,"),
    "a size of text": (change("config.json", hidden_size="wide"), "has hidden_size 'wide'"),
    "no heads": (change("config.json", num_attention_heads=0), "does not load"),
    "a scale of text": (change("config.json", rope_scaling="long"), "does not load"),
    "a tower of text": (change("config.json", img_processor="clip"), "does not load"),
    "a huge crop": (change_tower(image_size=14 * 10**7), "has image_size 140000000,"),
    "a deep tower": (change_tower(num_hidden_layers=10**9), "weights of the tower have 3"),
    "pickled weights": (pickle_weights, "The weights in"),
    "empty weights": (write("model.safetensors", ""), "The weights in"),
    "a list as index": (write("model.safetensors.index.json", "[]"), "The weights in"),
    "a tokenizer of nothing": (write("tokenizer.json", "{}"), "No processor in"),
    "a processor of nothing": (spoil_processor, "No processor in"),
    "countless crops": (
        change("processor_config.json", image_processor={"num_crops": 10**9}),
        "num_crops is 1000000000",
    ),
}


@pytest.mark.parametrize("harm", MODEL_HARMS)
def test_a_damaged_model_is_one_line(copy: Path, harm: str) -> None:
    damage, expected = MODEL_HARMS[harm]
    damage(copy)
    assert expected in refusal(copy)


def hollow(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(dict(list(tensors.items())[:1]), file)


ADAPTER_HARMS = {
    "a list": write("adapter_config.json", "[]"),
    "no fields": write("adapter_config.json", "{}"),
    "no JSON": write("adapter_config.json", "rank 8"),
    "a base of numbers": change("adapter_config.json", base_model_name_or_path=7),
    "a huge rank": change("adapter_config.json", r=10**9),
    "a rank of text": change("adapter_config.json", r="8"),
    "another kind": change("adapter_config.json", peft_type="PROMPT_TUNING"),
    "endless layers": change("adapter_config.json", layer_replication=[[0, 10**9]]),
    "no weights": lambda adapter: (adapter / "adapter_model.safetensors").unlink(),
    "pickled weights": lambda adapter: (
        (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin") and None
    ),
    "few weights": hollow,
    "weights of other modules": change("adapter_config.json", target_modules=["qkv_proj"]),
    "a scale that is no number": change("adapter_config.json", lora_alpha=float("nan")),
    "cut weights": lambda adapter: cut_off(adapter / "adapter_model.safetensors"),
}


@pytest.mark.parametrize("harm", ADAPTER_HARMS)
def test_a_damaged_adapter_is_one_line(adapter: Path, harm: str) -> None:
    ADAPTER_HARMS[harm](adapter)
    assert f"The adapter in {adapter} does not load: " in refusal(adapter)


def test_a_run_without_a_model_names_the_command_that_continues_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: lora\n")
    (tmp_path / "checkpoints").mkdir()
    message = refusal(tmp_path)
    assert "has no model yet: it ended before its first evaluation" in message
    assert f"Continue it with `phi-vision train {tmp_path}/recipe.yaml --resume`" in message
