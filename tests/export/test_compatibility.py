"""What each engine needs of a folder: met and unmet requirements are found, and none is guessed."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from phi_vision.export.compatibility import ENGINES, Requirement, check, some, unmet
from phi_vision.export.hf import INDEX, expected_shapes
from phi_vision.inference.onnx_predictor import GENAI_FILE
from phi_vision.model.checkpoint import ADAPTER_CONFIG, load_model, load_processor, read_header
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.processing_phi3_v import Phi3VProcessor


def save_whole(checkpoint: Path, folder: Path) -> Path:
    """Write what an export writes: weights in shards, words, images, and the code."""
    model, processor = load_model(checkpoint)
    processor.image_processor.pad_crops = True
    model.save_pretrained(folder, max_shard_size="300KB")
    processor.save_pretrained(folder)
    change(folder / "config.json", auto_map__AutoModelForImageTextToText=CODE)
    return folder


CODE = "modeling_phi3_v.Phi3VForCausalLM"


def change(file: Path, **fields: Any) -> None:
    """Write other values into a JSON file; `a__b` is field b of a, None removes it."""
    described = json.loads(file.read_text())
    for name, value in fields.items():
        *path, last = name.split("__")
        inner = described
        for step in path:
            inner = inner[step]
        inner[last] = value
        if value is None:
            del inner[last]
    file.write_text(json.dumps(described))


@pytest.fixture(scope="module")
def _whole(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whole(tiny_checkpoint, tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def folder(_whole: Path, tmp_path: Path) -> Path:
    """A whole exported folder of the tiny checkpoint, the test's own to break."""
    shutil.copytree(_whole, tmp_path / "model")
    return tmp_path / "model"


def complaint(folder: Path, engine: str) -> Requirement:
    """Give the one thing that an engine lacks."""
    (found,) = unmet(check(folder)[engine])
    return found


# Whole folders.


def test_an_exported_folder_has_all_that_transformers_needs(folder: Path) -> None:
    found = check(folder)
    assert unmet(found["transformers"]) == []
    assert unmet(found["transformers-alone"]) == []


def test_a_small_checkpoint_is_rejected_for_vllm_and_its_fixed_numbers(folder: Path) -> None:
    needs = [requirement.need for requirement in unmet(check(folder)["vllm"])]
    assert needs == [
        "image_token_id 32044, fixed in vLLM",
        "the tower ViT-L/14 at 336 pixels, fixed in vLLM",
    ]


def test_a_checkpoint_of_the_official_size_has_all_that_vllm_needs(folder: Path) -> None:
    official_size(folder)
    assert unmet(check(folder)["vllm"]) == []


def official_size(folder: Path) -> None:
    """Give a folder the official tower and ids; the weights are holes of the right length."""
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        if token["content"] == Phi3VProcessor.image_token:
            token["id"] = 32044
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    described = json.loads((folder / "config.json").read_text())
    described |= {"vocab_size": 32064, "image_token_id": 32044, "img_processor": None}
    config = Phi3VConfig.from_dict(described)
    described["img_processor"] = config.img_processor
    (folder / "config.json").write_text(json.dumps(described))
    change(folder / "preprocessor_config.json", crop_size=336, num_img_tokens=144, num_crops=4)
    write_hollow(folder / "model.safetensors", expected_shapes(config))


def write_hollow(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a safetensors file that takes its length, but no room."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    words = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(words)) + words)
        stream.truncate(8 + len(words) + end)


# Weights.


def first_shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[0]


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_config_that_cannot_be_used_is_not_called_missing(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    missing = {each.need: each.found for each in unmet(check(folder)["transformers"])}
    assert missing["config.json"] == "no fields in config.json"
    (folder / "config.json").unlink()
    missing = {each.need: each.found for each in unmet(check(folder)["transformers"])}
    assert missing["config.json"].startswith("no config.json, but ")


def test_a_missing_shard_is_named(folder: Path) -> None:
    name = first_shard(folder).name
    first_shard(folder).unlink()
    found = {
        requirement.need: requirement.found for requirement in unmet(check(folder)["transformers"])
    }
    assert found["every weight file, complete"] == f"{name} is missing"
    assert " missing: " in found["official names and the shapes of config.json"]


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_shard_is_recognized_by_its_length(folder: Path, length: int) -> None:
    shard = first_shard(folder)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:length])
    assert not all(requirement.ok for requirement in check(folder)["transformers"])
    with pytest.raises(ValueError, match=shard.name):
        read_header(shard)


def test_weights_of_another_size_are_not_those_of_the_config(folder: Path) -> None:
    change(folder / "config.json", intermediate_size=256)
    found = complaint(folder, "transformers")
    assert found.found.startswith("4 of other shape: model.layers.0.mlp.down_proj.weight")


def test_weights_under_other_names_are_missing_and_foreign(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    shard = folder / index["model.embed_tokens.weight"]
    shard.write_bytes(shard.read_bytes().replace(b"model.embed_tokens", b"xodel.embed_tokens"))
    found = {f.need: f.found for f in unmet(check(folder)["vllm"])}
    assert "1 missing: model.embed_tokens.weight; 1 unexpected" in str(found)
    assert "1 unlisted: xodel.embed_tokens.weight" in str(found)


def test_quantised_weights_are_no_weights_to_serve(folder: Path) -> None:
    shard = first_shard(folder)
    shard.write_bytes(shard.read_bytes().replace(b'"F32"', b'"I32"', 1))
    assert complaint(folder, "transformers").found == "F32, I32"


def test_pickled_weights_are_not_read(folder: Path) -> None:
    for file in folder.glob("model*"):
        if file.suffix != ".py":
            file.unlink()
    (folder / "pytorch_model.bin").touch()
    found = complaint(folder, "transformers").found
    assert found == f"no model.safetensors and no {INDEX}; pytorch_model.bin beside"


def test_an_adapter_is_to_be_merged_alone_and_beside_weights(folder: Path) -> None:
    (folder / ADAPTER_CONFIG).write_text("{}")
    beside = complaint(folder, "transformers")
    assert beside.found == "an adapter beside the weights (adapter_config.json)"
    assert "phi-vision export RUN" in beside.advice
    for file in folder.iterdir():
        if file.name != ADAPTER_CONFIG:
            file.unlink()
    found = [requirement.found for requirement in unmet(check(folder)["vllm"])]
    assert found[0] == "no config.json, but an adapter"
    assert found[1] == "an adapter without its base's weights (adapter_config.json)"


def test_the_weights_of_gigabytes_are_not_read(folder: Path) -> None:
    """Whatever stands behind the header: holes here, which nothing could have loaded."""
    official_size(folder)
    assert (folder / "model.safetensors").stat().st_size > 600_000_000
    assert unmet(check(folder)["transformers"]) == []


# What stands beside them.

BREAK: dict[str, dict[str, Any]] = {
    "config.json": {"model_type": "phi3"},
    "tokenizer_config.json": {"tokenizer_class": "SomeTokenizer"},
    "tokenizer.json": {"added_tokens": []},
    "generation_config.json": {"eos_token_id": 2},
    "preprocessor_config.json": {"crop_size": 336},
}
"""File -> a value with which transformers would read something else, or for ever."""


@pytest.mark.parametrize("name", BREAK)
def test_a_wrong_value_is_found(folder: Path, name: str) -> None:
    change(folder / name, **BREAK[name])
    assert unmet(check(folder)["transformers-alone"])


NEEDED = [
    "chat_template.jinja",
    "config.json",
    "configuration_phi3_v.py",
    "image_processing_phi3_v.py",
    "modeling_phi3_v.py",
    "preprocessor_config.json",
    "processing_phi3_v.py",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    INDEX,
]


@pytest.mark.parametrize("name", NEEDED)
def test_every_file_is_missed_and_every_broken_one_found(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\xff{ import (")
    broken = unmet(check(folder)["transformers-alone"])
    assert broken or name == "chat_template.jinja"
    (folder / name).unlink()
    assert unmet(check(folder)["transformers-alone"])


def test_without_generation_config_the_stops_of_config_json_count(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    assert unmet(check(folder)["transformers-alone"]) == []
    change(folder / "config.json", eos_token_id=2)
    assert "<|end|>" in complaint(folder, "transformers-alone").need


@pytest.mark.parametrize("value", [None, "", 7, {}, []])
@pytest.mark.parametrize(
    "field", ["img_processor", "rope_scaling", "hidden_size", "auto_map", "architectures"]
)
def test_no_value_of_a_field_stops_the_check(folder: Path, field: str, value: Any) -> None:
    described = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(described))
    assert set(check(folder)) == set(ENGINES)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import phi_vision", "modeling_phi3_v.py imports phi_vision"),
        ("from torchvision.io import x", "modeling_phi3_v.py imports torchvision"),
        ("from .lost import x", "modeling_phi3_v.py needs .lost, which is missing"),
        ("from ..export import x", "modeling_phi3_v.py needs ..export, which is missing"),
        ("def (", "modeling_phi3_v.py is not Python"),
    ],
)
def test_code_that_needs_more_than_there_is_is_named(folder: Path, line: str, found: str) -> None:
    code = folder / "modeling_phi3_v.py"
    code.write_text(code.read_text() + f"\n{line}\n")
    assert found in complaint(folder, "transformers-alone").found


def test_code_on_the_hub_is_not_code_in_the_folder(folder: Path) -> None:
    remote = f"microsoft/Phi-3.5-vision-instruct--{CODE}"
    change(folder / "config.json", auto_map__AutoModelForCausalLM=remote)
    assert complaint(folder, "transformers-alone").found == f"on the hub, not here: {remote}"


def test_a_rotation_that_vllm_does_not_have_is_rejected(folder: Path) -> None:
    official_size(folder)
    change(folder / "config.json", rope_scaling__type="yarn")
    assert complaint(folder, "vllm").found == "yarn"


def test_without_padded_crops_vllm_gets_the_instructions(folder: Path) -> None:
    official_size(folder)
    change(folder / "preprocessor_config.json", pad_crops=False)
    assert "--mm-processor-kwargs '{\"pad_crops\": true}'" in complaint(folder, "vllm").advice


# Graphs.


def write_graphs(folder: Path, processor: Phi3VProcessor) -> None:
    """Write three graphs that hold one weight each, beside their files, as genai describes them."""
    onnx = pytest.importorskip("onnx")
    names = {"decoder": "past.%d.key", "embedding": "input_ids", "vision": "pixel_values"}
    parts = {}
    for part, name in names.items():
        put_in = onnx.helper.make_tensor_value_info(name.replace("%d", "0"), 1, [4])
        put_out = onnx.helper.make_tensor_value_info("out", 1, [4])
        weight = onnx.numpy_helper.from_array(torch.ones(400).numpy(), "weight")
        node = onnx.helper.make_node("Identity", [put_in.name], ["out"])
        graph = onnx.helper.make_graph([node], part, [put_in], [put_out], [weight])
        model = onnx.helper.make_model(graph)
        place = {"save_as_external_data": True, "location": f"{part}.onnx.data"}
        onnx.save(model, folder / f"{part}.onnx", **place)
        parts[part] = {"filename": f"{part}.onnx", "inputs": {"x": name}, "outputs": {"y": "out"}}
    end = processor.tokenizer.convert_tokens_to_ids("<|end|>")
    described = {"type": "phi3v", "context_length": 4096, "eos_token_id": [end], **parts}
    (folder / GENAI_FILE).write_text(
        json.dumps({"model": described, "search": {"max_length": 4096}})
    )


@pytest.fixture
def graphs(folder: Path) -> Path:
    write_graphs(folder, load_processor(folder))
    return folder


def test_a_folder_of_graphs_has_all_that_genai_needs(graphs: Path) -> None:
    assert unmet(check(graphs)["onnxruntime-genai"]) == []


def test_a_folder_without_graphs_is_none(folder: Path) -> None:
    found = complaint(folder, "onnxruntime-genai").found
    assert found == "no readable genai_config.json: not a folder of graphs"


@pytest.mark.parametrize("name", ["vision.onnx", "vision.onnx.data"])
def test_a_missing_or_cut_graph_is_found(graphs: Path, name: str) -> None:
    whole = (graphs / name).read_bytes()
    (graphs / name).write_bytes(whole[:-10])
    assert complaint(graphs, "onnxruntime-genai").need.startswith("vision")
    (graphs / name).unlink()
    assert complaint(graphs, "onnxruntime-genai").need.startswith("vision")


def test_a_graph_without_the_inputs_that_are_named_is_rejected(graphs: Path) -> None:
    change(graphs / GENAI_FILE, model__vision__inputs={"image_sizes": "image_sizes"})
    assert complaint(graphs, "onnxruntime-genai").found == "vision.onnx has no image_sizes"


@pytest.mark.parametrize(
    "field", ["model__type", "model__eos_token_id", "search__max_length", "model", "search"]
)
def test_a_description_of_something_else_is_rejected(graphs: Path, field: str) -> None:
    change(graphs / GENAI_FILE, **{field: 131072})
    assert complaint(graphs, "onnxruntime-genai")


# Words.


def test_a_few_of_many_are_named() -> None:
    assert some("dcba") == "a, b, c and 1 more"
    assert some([]) == "nothing"
