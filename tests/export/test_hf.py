"""An exported folder: the official layout, opened on a machine without phi-vision."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from toy_adapters import write_adapter
from transformers import GenerationConfig

import phi_vision
from phi_vision.data.dataset import load_samples
from phi_vision.data.template import PRODUCT, find_template
from phi_vision.export.hf import export_hf
from phi_vision.model.checkpoint import load_config, load_model, load_processor
from phi_vision.training.recipes import Recipe
from phi_vision.training.trainer import train

MakeRecipe = Callable[..., Recipe]
TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "model" / "golden" / "models" / "phi35-tiny"
OFFICIAL = TESTS.parents[1] / "shared" / "official" / "phi-3.5-vision"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

FAR_FROM_HOME = """
import sys
sys.modules.update(dict.fromkeys(["phi_vision", "torchvision"]))  # none to be found
"""


@pytest.fixture
def official_folder(tmp_path: Path) -> Path:
    """A checkpoint with official fields, names and vocabulary, and a tokenizer where one lies."""
    folder = tmp_path / "official"
    folder.mkdir()
    fields = json.loads((GOLDEN / "config.json").read_text())
    fields |= {"_attn_implementation": "flash_attention_2", "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(fields))
    index = json.loads((GOLDEN / "model.safetensors.index.json").read_text())
    for shard in set(index["weight_map"].values()):
        (folder / Path(shard).name).symlink_to((GOLDEN / shard).resolve())
    index["weight_map"] = {name: Path(file).name for name, file in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if not OFFICIAL.is_dir():
        pytest.skip(f"no official files in {OFFICIAL}")
    for name in (*TOKENIZER, "preprocessor_config.json", "generation_config.json"):
        shutil.copy(OFFICIAL / name, folder)
    return folder


@pytest.fixture
def exported(tiny_checkpoint: Path, products: Path, tmp_path: Path) -> Path:
    adapter = write_adapter(tiny_checkpoint, tmp_path / "coats", form="projector")
    export_hf(str(adapter), tmp_path / "out", data=products, samples=2, max_shard_size="500KB")
    return tmp_path / "out"


def read(file: Path) -> dict[str, object]:
    fields: dict[str, object] = json.loads(file.read_text())
    return fields


# The layout.


def test_the_folder_contains_all_files_that_other_tools_need(exported: Path) -> None:
    names = {file.name for file in exported.iterdir()}
    shards = {name for name in names if re.fullmatch(r"model-0000\d-of-0000\d.safetensors", name)}
    assert len(shards) > 1
    assert names - shards == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "preprocessor_config.json",
        "processor_config.json",
        "template.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
        *(file.name for file in Path(phi_vision.__file__).parent.glob("model/*_phi3_v.py")),
    }
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    held = {name: shard for shard in shards for name in load_file(exported / shard)}
    assert index["weight_map"] == held
    sizes = [weight.nbytes for shard in shards for weight in load_file(exported / shard).values()]
    assert index["metadata"]["total_size"] == sum(sizes)
    assert find_template(str(exported)) == PRODUCT


def test_readers_of_transformers_4_and_5_find_the_numbers_of_the_weights(exported: Path) -> None:
    fields = read(exported / "config.json")
    assert (fields["dtype"], fields["torch_dtype"]) == ("float32", "float32")
    assert fields["auto_map"] == {
        "AutoConfig": "configuration_phi3_v.Phi3VConfig",
        "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
        "AutoModelForImageTextToText": "modeling_phi3_v.Phi3VForCausalLM",
    }
    assert load_config(exported).dtype == torch.float32


def test_the_three_stop_tokens_of_the_vocabulary_end_an_answer(exported: Path) -> None:
    stops = load_processor(exported).tokenizer.convert_tokens_to_ids(
        ["<|end|>", "<|endoftext|>", "</s>"]
    )
    found = GenerationConfig.from_pretrained(exported)
    assert found.eos_token_id == stops
    assert read(exported / "generation_config.json").keys() == {
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "transformers_version",
    }


def test_one_short_file_needs_no_index(tiny_checkpoint: Path, tmp_path: Path) -> None:
    export_hf(str(tiny_checkpoint), tmp_path / "out", samples=0)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("size", ["5 apples", "five GB", ""])
def test_a_size_that_is_none_is_rejected(tiny_checkpoint: Path, tmp_path: Path, size: str) -> None:
    with pytest.raises(ValueError, match=r"max_shard_size is .*; write a size like 5GB"):
        export_hf(str(tiny_checkpoint), tmp_path / "out", samples=0, max_shard_size=size)
    assert not (tmp_path / "out").exists()


def test_the_crops_are_those_of_the_training(tiny_checkpoint: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_checkpoint, tmp_path / "adapter")
    processor = load_processor(adapter)
    processor.image_processor.num_crops = 3
    processor.save_pretrained(adapter)
    export_hf(str(adapter), tmp_path / "out", samples=0)
    assert read(tmp_path / "out" / "preprocessor_config.json")["num_crops"] == 3
    assert load_processor(tmp_path / "out").image_processor.num_crops == 3


# An official checkpoint.


def test_an_official_checkpoint_keeps_its_fields_names_and_tokenizer(
    official_folder: Path, products: Path, tmp_path: Path
) -> None:
    adapter, out = write_adapter(official_folder, tmp_path / "adapter"), tmp_path / "out"
    verification = export_hf(str(adapter), out, data=products, samples=1)
    assert verification.samples == 1
    for name in TOKENIZER:
        assert (out / name).read_bytes() == (OFFICIAL / name).read_bytes(), name
    given, found = read(official_folder / "config.json"), read(out / "config.json")
    for name in ("rope_scaling", "rope_theta", "original_max_position_embeddings", "img_processor"):
        assert found[name] == given[name], name
    assert isinstance(found["rope_scaling"], dict)
    assert found["rope_scaling"].keys() == {"type", "short_factor", "long_factor"}
    assert not {"_attn_implementation", "rope_parameters", "vision_config"} & found.keys()
    assert found["torch_dtype"] == "float16"
    assert read(out / "generation_config.json")["eos_token_id"] == [32007, 32000, 2]
    index = json.loads((official_folder / "model.safetensors.index.json").read_text())
    assert load_file(out / "model.safetensors").keys() == index["weight_map"].keys()


# Full trainings.


def test_a_full_training_is_exported_with_the_tokenizer_of_its_base(
    make_recipe: MakeRecipe, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_checkpoint, base)
    # As the official file names it; written anew it would be called TokenizersBackend.
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps(read(file) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    run = train(make_recipe("full", model=str(base), max_steps=1)).folder
    verification = export_hf(str(run), tmp_path / "out", samples=1)
    assert (verification.max_difference, verification.identical, verification.adapter_delta) == (
        0,
        1,
        None,
    )
    trained = load_file(run / "model" / "model.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], weight) for name, weight in trained.items())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    shutil.rmtree(base)
    export_hf(str(run), tmp_path / "alone", samples=0)
    own = run / "model" / "tokenizer.json"
    assert (tmp_path / "alone" / "tokenizer.json").read_bytes() == own.read_bytes()


def test_a_run_that_bears_the_name_of_its_base_is_exported(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_checkpoint, run / "model")
    (run / "recipe.yaml").write_text(f"model: {run}\nmethod: full\ndata: gone\n")
    export_hf(str(run), tmp_path / "out", samples=0)
    own = run / "model" / "tokenizer.json"
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == own.read_bytes()


# Away from home.


def test_the_cards_own_code_answers_alike_on_a_machine_without_phi_vision(
    exported: Path, products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_samples(products)[0].open_images()[0].save(exported / "photo.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    command = [sys.executable, "-c", FAR_FROM_HOME + code]
    ran = subprocess.run(command, cwd=exported, capture_output=True)
    assert ran.returncode == 0, ran.stderr
    model, processor = load_model(exported)
    image = Image.open(exported / "photo.jpg")
    inputs = processor(text=PRODUCT.prompt(processor), images=image, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=96)[0, inputs["input_ids"].shape[1] :]
    assert ran.stdout.decode().strip() == processor.decode(ids).split("<|")[0].strip()
