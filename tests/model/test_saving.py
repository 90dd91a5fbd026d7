"""Checkpoints: official folders load as they are, and what is saved is an official folder again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import (
    GOLDEN,
    VERSIONS,
    as_ours,
    golden_index,
    golden_weights,
    official,
    read_case,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

import phi_vision
from phi_vision import Phi3VConfig, Phi3VForCausalLM, Phi3VImageProcessor, Phi3VProcessor
from phi_vision.model.checkpoint import load_model
from phi_vision.model.modeling_phi3_v import Phi3VModel

NUM_CROPS = {"phi-3-vision": 16, "phi-3.5-vision": 4}
QUESTION = "<|user|>\n<|image_1|>\nCount the ellipses<|end|>\n<|assistant|>\n"


@pytest.fixture(params=VERSIONS)
def official_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint laid out like the released one: fields, shards, generation and crop numbers."""
    version = request.param
    source = GOLDEN / "models" / VERSIONS[version]
    folder = tmp_path / version
    folder.mkdir()
    fields = json.loads((source / "config.json").read_text())
    # The released file asks for flash attention, which is nowhere to be found on a CPU.
    fields |= {"_attn_implementation": "flash_attention_2", "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(fields))
    index = golden_index(VERSIONS[version])
    names = {shard: Path(shard).name for shard in set(index["weight_map"].values())}
    index["weight_map"] = {key: names[shard] for key, shard in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for shard, name in names.items():
        (folder / name).symlink_to((source / shard).resolve())
    crops = {"image_processor_type": "Phi3VImageProcessor", "num_crops": NUM_CROPS[version]}
    crops["auto_map"] = {"AutoImageProcessor": "image_processing_phi3_v.Phi3VImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(crops))
    if version == "phi-3.5-vision":  # Phi-3-vision comes without
        stops = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 32000}
        (folder / "generation_config.json").write_text(json.dumps(stops))
    return folder


def logits_for(model: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs).logits
    return logits


# Official folders.


@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoModelForImageTextToText])
def test_an_official_folder_loads_with_the_auto_classes(official_folder: Path, auto: Any) -> None:
    config = AutoConfig.from_pretrained(official_folder)
    assert type(config) is Phi3VConfig
    model, report = auto.from_pretrained(
        official_folder, dtype=torch.float32, output_loading_info=True
    )
    assert type(model) is Phi3VForCausalLM
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    weights = golden_weights(VERSIONS[official_folder.name])
    assert model.state_dict().keys() == weights.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name].float()), name


def test_the_decoder_alone_loads_as_auto_model(official_folder: Path) -> None:
    model, report = AutoModel.from_pretrained(official_folder, output_loading_info=True)
    assert type(model) is Phi3VModel
    assert not report["missing_keys"]


def test_weights_have_the_official_dtypes(official_folder: Path) -> None:
    assert AutoModelForCausalLM.from_pretrained(official_folder).dtype == torch.bfloat16


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_callers_kind_of_attention_is_used(official_folder: Path, attention: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(official_folder, attn_implementation=attention)
    assert model.config._attn_implementation == attention


def test_generation_stops_at_the_turns_end_though_the_file_names_only_eos(
    official_folder: Path,
) -> None:
    """The official `</s>` (2) is a token the model never learnt to say."""
    model = AutoModelForCausalLM.from_pretrained(official_folder)
    assert set(model.generation_config.eos_token_id) == {32007, 32000, 2}
    assert model.generation_config.pad_token_id == 32000


def test_the_aliases_of_the_official_module_tree_are_tolerated(official_folder: Path) -> None:
    shard = official_folder / "model-00001-of-00002.safetensors"
    weights = load_file(shard)
    prefix = "model.vision_embed_tokens."
    weights[f"{prefix}wte.weight"] = torch.zeros(4, 4)
    weights[f"{prefix}img_processor.vision_model.embeddings.position_ids"] = torch.arange(577)[None]
    shard.unlink()
    save_file(weights, shard, metadata={"format": "pt"})
    index_file = official_folder / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    index["weight_map"] |= dict.fromkeys(weights, shard.name)
    index_file.write_text(json.dumps(index))
    _, report = Phi3VForCausalLM.from_pretrained(official_folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_an_official_folder_answers_about_an_image(official_folder: Path) -> None:
    tokenizer_files = official(official_folder.name)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(tokenizer_files / name, official_folder)
    shutil.copy(tokenizer_files / "preprocessor_config.json", official_folder)
    processor = AutoProcessor.from_pretrained(official_folder)
    assert type(processor) is Phi3VProcessor
    assert type(AutoImageProcessor.from_pretrained(official_folder)) is Phi3VImageProcessor
    assert processor.image_processor.num_crops == NUM_CROPS[official_folder.name]
    model = AutoModelForCausalLM.from_pretrained(official_folder, dtype=torch.float32)
    image = Image.new("RGB", (336, 336))
    inputs = processor(text=QUESTION, images=image, num_crops=1, return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2


@pytest.mark.parametrize("version", VERSIONS)
def test_the_released_config_makes_the_released_parameters(version: str) -> None:
    folder = official(version)
    described = json.loads((folder / "parameters.json").read_text())
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = Phi3VForCausalLM(config)
    shapes = {name: list(weight.shape) for name, weight in model.named_parameters()}
    assert shapes == described["parameters"]
    assert model.state_dict().keys() == shapes.keys()
    assert sum(p.numel() for p in model.parameters()) == described["num_parameters"]
    assert config.rope_parameters["rope_type"] == "longrope"
    assert (config.vision_config.num_hidden_layers, config.vision_config.image_size) == (24, 336)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_released_config_is_written_back_field_for_field(version: str) -> None:
    given = json.loads((official(version) / "config.json").read_text())
    written = AutoConfig.from_pretrained(official(version)).to_dict()
    # Where the file is changed on purpose: how it names its origin, the kind of number, the stop
    # tokens, a window that hides nothing, and a kind of attention not everyone has.
    free = {"_name_or_path", "torch_dtype", "transformers_version", "auto_map", "eos_token_id"}
    free |= {"sliding_window", "_attn_implementation"}
    assert {key: written.get(key) for key in given if key not in free} == {
        key: value for key, value in given.items() if key not in free
    }


# Configs.


def test_without_a_described_tower_the_tower_is_vit_l_14_336() -> None:
    tower = Phi3VConfig().vision_config
    sizes = (tower.hidden_size, tower.num_hidden_layers, tower.patch_size, tower.image_size)
    assert sizes == (1024, 24, 14, 336)


@pytest.mark.parametrize("kind", ["su", "yarn"])
def test_both_official_kinds_of_rope_survive_a_round_trip(kind: str) -> None:
    fields = json.loads((GOLDEN / "models" / "phi3-tiny" / "config.json").read_text())
    fields["rope_scaling"]["type"] = kind
    config = Phi3VConfig.from_dict(fields)
    assert config.rope_parameters["rope_type"] == "longrope"
    assert config.to_dict()["rope_scaling"] == fields["rope_scaling"]
    assert Phi3VConfig.from_dict(config.to_dict()).rope_parameters == config.rope_parameters


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"img_processor": {"image_dim_out": 512}},
            "image_dim_out is 512 but the CLIP tower is 1024",
        ),
        ({"embd_layer": {"hd_transform_order": "glb_sub"}}, "'glb_sub'; only 'sub_glb'"),
    ],
)
def test_a_config_that_cannot_work_is_rejected(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Phi3VConfig(**change)


# What is saved.


@pytest.fixture
def saved(official_folder: Path, tmp_path: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(official_folder, dtype=torch.float32)
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_saved_weights_are_safetensors_under_the_official_names(
    official_folder: Path, saved: Path
) -> None:
    expected = golden_weights(VERSIONS[official_folder.name])
    found = load_file(saved / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight.float()) for name, weight in expected.items())


def test_a_model_never_loaded_is_saved_under_the_official_names_too(tmp_path: Path) -> None:
    fields = json.loads((GOLDEN / "models" / "phi3-tiny" / "config.json").read_text())
    Phi3VForCausalLM(Phi3VConfig.from_dict(fields)).save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == golden_weights("phi3-tiny").keys()


def test_saved_config_has_the_official_fields(official_folder: Path, saved: Path) -> None:
    given = json.loads((official_folder / "config.json").read_text())
    found = json.loads((saved / "config.json").read_text())
    same = ("rope_scaling", "rope_theta", "img_processor", "embd_layer", "model_type", "vocab_size")
    same += ("architectures", "original_max_position_embeddings", "max_position_embeddings")
    assert {name: found[name] for name in same} == {name: given[name] for name in same}
    assert not {"vision_config", "rope_parameters", "_attn_implementation"} & found.keys()
    assert found["auto_map"] == given["auto_map"]


def test_load_save_load_is_the_identity(saved: Path, tmp_path: Path) -> None:
    again = AutoModelForCausalLM.from_pretrained(saved)
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (saved / "config.json").read_text()
    stops = "generation_config.json"
    assert (tmp_path / "again" / stops).read_text() == (saved / stops).read_text()
    first, second = (load_file(f / "model.safetensors") for f in (saved, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_shards_load_as_one_file_does(saved: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(saved)
    model.save_pretrained(tmp_path / "shards", max_shard_size="5MB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "shards")
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_a_saved_processor_comes_back_the_same(processor: Phi3VProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is Phi3VProcessor
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    assert again.chat_template == processor.chat_template
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    image = Image.linear_gradient("L")
    found, expected = (
        p(text=QUESTION, images=image, return_tensors="pt") for p in (again, processor)
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_other_engines_find_preprocessor_config(processor: Phi3VProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    found = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert found["image_processor_type"] == "Phi3VImageProcessor"
    official_names = {"num_crops", "image_mean", "image_std", "num_img_tokens"}
    ours = processor.image_processor.to_dict()
    assert {name: found[name] for name in official_names} == {n: ours[n] for n in official_names}
    assert Phi3VImageProcessor.from_pretrained(tmp_path).to_dict() == ours


# Far from home: a machine with transformers and without phi-vision.

FAR_FROM_HOME = """
import sys
sys.modules.update(dict.fromkeys(["phi_vision", "torchvision"]))  # none to be found
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor
folder, answer, question = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(text=question, images=Image.linear_gradient("L"), return_tensors="pt")
with torch.no_grad():
    torch.save(model(**inputs).logits, answer)
for part in (model, processor, processor.image_processor):
    assert type(part).__module__.startswith("transformers_modules."), type(part)
"""


def test_a_saved_folder_loads_on_a_machine_without_phi_vision(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = tmp_path / "checkpoint", tmp_path / "logits.pt"
    model, processor = load_model(tiny_checkpoint)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    sources = Path(phi_vision.__file__).parent / "model"
    for source in sources.glob("*_phi3_v.py"):
        assert (folder / source.name).read_text() == source.read_text()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    arguments = [str(folder), str(found), QUESTION]
    subprocess.run([sys.executable, "-c", FAR_FROM_HOME, *arguments], check=True, cwd=tmp_path)
    inputs = processor(text=QUESTION, images=Image.linear_gradient("L"), return_tensors="pt")
    assert torch.equal(torch.load(found), logits_for(model, inputs))


def test_a_golden_answer_survives_a_round_trip(tmp_path: Path) -> None:
    case = read_case("p3_square_nc1")
    case.model().save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    expected = case.expected()
    inputs = {"input_ids": as_ours(expected["input_ids"]), **case.pixels()}
    assert torch.equal(logits_for(again, inputs), logits_for(case.model(), inputs))
