"""export_onnx: a run as a folder that onnxruntime-genai loads, in C#, C++, Java or Python.

    phi-3-v-vision.onnx     crops to embeddings       traced from `VisionGraph`
    phi-3-v-embedding.onnx  tokens to embeddings      traced from `EmbeddingGraph`
    phi-3-v-text.onnx       the decoder               built by onnxruntime-genai
    genai_config.json       how the three belong together (model type `phi3v`)
    config.json, ...        the checkpoint's own, for `inference/onnx_predictor.py`; no weights
    template.yaml, README   prompt template and model card

Images must be prepared as `Phi3VImageProcessor` does: GenAI's image processor in C++ cuts them into
other crops.

N images, K crops of the image with most (global view included), S side of a crop in pixels, T image
tokens of all images, H hidden size.
"""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.export import Dim
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerBase

from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.export import hf, verify
from phi_vision.export.model_card import write_card
from phi_vision.generation.request import Generation
from phi_vision.inference.onnx_predictor import GENAI_FILE, OnnxModel
from phi_vision.io.atomic import atomic_folder, check_folder_is_free, folder_bytes, temporary_folder
from phi_vision.io.formatting import format_bytes
from phi_vision.io.process import check_installed
from phi_vision.model.checkpoint import adapter_base, load_config
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM, Phi3VImageEmbedding
from phi_vision.model.processing_phi3_v import Phi3VProcessor

# Precision of the decoder, of which 32 integers share a scale -> approximate bytes of a weight on
# disk, scales included. The other graphs are float32.
BYTES_OF_A_WEIGHT = {"fp32": 4.0, "int8": 1.2, "int4": 0.7}
PRECISIONS = tuple(BYTES_OF_A_WEIGHT)
# Peak memory of the builder as a multiple of the float32 weights, measured on some layers of the
# full size (`benchmarks/onnx_memory.py`).
PEAK_MEMORY = {"fp32": 1.5, "int8": 2.5, "int4": 2.5}
OPSET = 20  # of ONNX: the first with GELU as one operator

GRAPH_FILE = "phi-3-v-{}.onnx"
# Traced graph -> its inputs with their dimensions that vary; its output.
INPUTS = {
    "embedding": {"input_ids": "batch_size sequence_length", "image_features": "num_image_tokens"},
    "vision": {"pixel_values": "num_images max_num_crops", "image_sizes": "num_images"},
}
OUTPUTS = {"embedding": "inputs_embeds", "vision": "image_features"}
# Config fields that a Phi-3 decoder without images shares with the model.
DECODER_FIELDS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act "
    "num_key_value_heads max_position_embeddings original_max_position_embeddings rms_norm_eps "
    "sliding_window tie_word_embeddings bos_token_id eos_token_id pad_token_id"
)


def export_onnx(
    source: str, out: Path, *, precision: str = "fp32", data: Path | None = None, samples: int = 4
) -> verify.Verification:
    """Export a run as a folder for onnxruntime-genai, and verify it; arguments as of `export_hf`.

    Both predict in float32 on the CPU, never both in memory. The precision is of `PRECISIONS`; at
    fp32 differences are a ValueError. A full disk or a failing builder is an OSError.
    """
    if precision not in PRECISIONS:
        raise hf.failure("no_precision", precision=precision, known=", ".join(PRECISIONS))
    for library in ("onnx", "onnxscript", "onnxruntime", "onnxruntime_genai"):
        check_installed(library, "phi-vision[onnx]", "exporting to ONNX")
    check_folder_is_free(out)
    place = hf.find_weights(source)
    chosen, template = verify.verification_samples(source, data, samples)
    needed = bytes_needed(load_config(adapter_base(place) or place), precision)
    with atomic_folder(out, needed_bytes=needed) as folder:
        with temporary_folder(folder) as scratch:
            processor, expected = _write_model(source, folder, scratch, chosen, template)
            _write_decoder(processor, folder, scratch, precision)
        graphs = OnnxModel(folder) if chosen else None
        found = verify.generate_predictions(graphs, processor, chosen, template) if graphs else []
        tolerance = verify.LOGPROB_ROUNDING if precision == "fp32" else None
        verification = verify.compare_generations(expected, found, tolerance=tolerance)
        prompt = template.prompt(processor)
        write_card(source, folder, template, prompt, verification, "onnxruntime-genai", precision)
    return verification


def bytes_needed(config: Phi3VConfig, precision: str) -> int:
    """Return the disk space of an export: the graphs, and temporarily the decoder in float32."""
    sizes = {name: math.prod(shape) for name, shape in hf.expected_shapes(config).items()}
    embedded = sum(size for name, size in sizes.items() if "embed_tokens" in name)
    decoder = sum(size for name, size in sizes.items() if "vision_embed_tokens" not in name)
    return round(4 * embedded + (4 + BYTES_OF_A_WEIGHT[precision]) * decoder)


def write_plain_checkpoint(
    model: Phi3VForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write the decoder of a model without adapter as a Phi-3 checkpoint in float32."""
    with torch.device("meta"):
        decoder = Phi3ForCausalLM(decoder_config(model.config)).float()
    named = model.state_dict().items()
    weights = {name: w.float() for name, w in named if "vision_embed_tokens" not in name}
    decoder.load_state_dict(weights, assign=True)
    decoder.generation_config = model.generation_config
    # The library holds the bytes of one file beside the weights.
    decoder.save_pretrained(folder, max_shard_size="500MB")
    tokenizer.save_pretrained(folder)


def decoder_config(config: Phi3VConfig) -> Phi3Config:
    """Return the config of the decoder alone, in the terms of onnxruntime-genai's builder."""
    fields = config.to_dict()
    rope = dict(config.rope_parameters)
    if rope["rope_type"] == "longrope":
        # The rotation's former field, from which the builder computes the attention factor.
        rope["type"] = "yarn" if "attention_factor" in rope else "longrope"
    own = {name: fields[name] for name in DECODER_FIELDS.split()}
    return Phi3Config(**own, rope_parameters=rope)


def build_decoder(checkpoint: Path, folder: Path, precision: str) -> None:
    """Build the decoder's graph and genai_config.json with onnxruntime-genai's own builder.

    It reads a plain Phi-3 checkpoint, also its cache, in a process of its own, to free its memory.
    Where it fails, an OSError quotes its last lines.
    """
    # -P: a file of the user with a library's name would be imported in its place.
    command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-e", "cpu"]
    command += ["-i", str(checkpoint), "-o", str(folder), "-c", str(checkpoint), "-p", precision]
    command += ["--extra_options", "exclude_embeds=true", "shared_embeddings=false"]
    command += [f"filename={GRAPH_FILE.format('text')}"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    built = subprocess.run(command, capture_output=True, text=True, env=offline)
    if built.returncode == -signal.SIGKILL:  # as the system does when memory runs out
        size = format_bytes(folder_bytes(checkpoint))
        raise OSError(
            "onnxruntime-genai was killed while it built the decoder, most likely because memory "
            f"ran out: the weights are {size} in float32, and the builder needs up to "
            f"{PEAK_MEMORY[precision]:g} times as much; export on a machine with more memory"
        )
    if built.returncode:
        last = " / ".join(built.stderr.strip().splitlines()[-3:])
        raise OSError(f"onnxruntime-genai could not build the decoder: {last}")


def _write_model(
    source: str, folder: Path, scratch: Path, samples: Sequence[Sample], template: Template
) -> tuple[Phi3VProcessor, list[Generation]]:
    """Load the model, predict, write the other graphs; free the model for the decoder's builder."""
    # In float32 before the adapter is attached: its tensors hold more than bfloat16, and modules
    # that were trained in full, such as a projector, would be cast to the base's dtype.
    model, processor = hf.open_source(source, dtype=torch.float32)
    expected = verify.generate_predictions(model, processor, samples, template)
    merged: Phi3VForCausalLM = (
        model.merge_and_unload(safe_merge=True) if isinstance(model, PeftModel) else model
    )
    write_plain_checkpoint(merged, processor.tokenizer, scratch)
    merged.config.save_pretrained(folder)
    merged.generation_config.save_pretrained(folder)
    images, tokens = merged.model.vision_embed_tokens, merged.model.embed_tokens
    del model, merged  # Tracing holds its module several times, so the decoder must be freed.
    _write_graphs(images, tokens, folder)
    return processor, expected


def _write_decoder(processor: Phi3VProcessor, folder: Path, scratch: Path, precision: str) -> None:
    """Build the decoder's graph, and describe all three graphs in genai_config.json."""
    build_decoder(scratch, folder, precision)
    file = folder / GENAI_FILE
    fields = json.loads(file.read_text(encoding="utf-8"))
    for name, output in OUTPUTS.items():
        ports = {"inputs": {port: port for port in INPUTS[name]}, "outputs": {output: output}}
        fields["model"][name] = {"filename": GRAPH_FILE.format(name), **ports}
    fields["model"]["type"] = "phi3v"
    # Keys and values are reserved for max_length: for the whole context they would fill the memory
    # of most machines.
    length = min(4096, fields["model"]["context_length"])
    fields["search"] |= {"top_k": 1, "max_length": length}
    file.write_text(json.dumps(fields, indent=4) + "\n", encoding="utf-8")
    # The builder leaves a tokenizer in its own form.
    processor.save_pretrained(folder)


class VisionGraph(nn.Module):
    """Crops to embeddings: `Phi3VImageEmbedding` as one gather, traced for any number of images."""

    def __init__(self, embedding: Phi3VImageEmbedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor) -> torch.Tensor:
        """Embed images: their crops with zeros at the end, and sizes (N, 2) after padding.

        Input:  (N, K, 3, S, S), (N, 2)
        Output: (T, H), image by image
        """
        embedding = self.embedding
        grids_N2 = image_sizes // embedding.crop_size
        used_NK = torch.arange(pixel_values.shape[1])[None] < _encoded(grids_N2)
        features = embedding.img_processor(pixel_values.flatten(0, 1)[used_NK.flatten()])
        patches = embedding._merge_2x2(features).flatten(0, 2)
        separators = [embedding.sub_GN.flatten(0, 2), embedding.glb_GN.flatten(0, 1)]
        table = torch.cat([*separators, patches])
        arranged = table[_reading_order(grids_N2, embedding.patches // 2, used_NK.shape[1])]
        projected: torch.Tensor = embedding.img_projection(arranged)
        return projected


def _encoded(grids_N2: torch.Tensor) -> torch.Tensor:
    """Count the crops to encode of each image, (N, 1): a single one equals the global view."""
    crops_N1 = grids_N2.prod(1, keepdim=True)
    return crops_N1 + (crops_N1 > 1).long()


def _reading_order(grids_N2: torch.Tensor, side: int, most_crops: int) -> torch.Tensor:
    """Return the entry of each image token in a table of `sub_GN`, `glb_GN` and all merged patches.

    Input:  one image of 1 x 2 crops, 1 x 1 merged patches each: its global view is entry 2, its
            crops are 3 and 4
    Output: [3, 4, 0, 1, 2, 0]: the crops as one image with the end of its row, the separator, the
            global view with the end of its row
    """
    rows, columns = grids_N2[:, :1], grids_N2[:, 1:]
    counts = _encoded(grids_N2)
    first = 2 + (counts.cumsum(0) - counts) * side**2
    place = torch.arange(most_crops * side * (side + 1) + 1)[None]

    line, at = place // (columns * side + 1), place % (columns * side + 1)
    crop = line // side * columns + at // side + counts - rows * columns
    patch = first + crop * side**2 + line % side * side + at % side
    crops = torch.where(at == columns * side, 0, patch)

    before = rows * side * (columns * side + 1)
    line, at = (place - before - 1) // (side + 1), (place - before - 1) % (side + 1)
    view = torch.where(at == side, 0, first + line * side + at)

    order = torch.where(place < before, crops, torch.where(place == before, 1, view))
    return order[place < before + 1 + side * (side + 1)]


class EmbeddingGraph(nn.Module):
    """Token ids to embeddings, with those of the images in place of negative ids."""

    def __init__(self, tokens: nn.Embedding) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, input_ids: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        """Embed tokens (B, L), features (T, H) among them: (B, L, H); T = 0 after a prompt."""
        is_image = input_ids < 0
        embedded = self.tokens(input_ids.clamp(min=0))
        # The first entry of the table means "no image"; with T = 0 it is the only one.
        table = torch.cat([torch.zeros_like(embedded[:1, 0]), image_features])
        number = is_image.flatten().long().cumsum(0).reshape(is_image.shape)
        return torch.where(is_image[..., None], table[number * is_image], embedded)


@torch.no_grad()
def _write_graphs(images: Any, tokens: nn.Embedding, folder: Path) -> None:
    """Trace the embeddings of images and of tokens, each with its weights in a file beside it."""
    size = images.crop_size
    # Two images of different shapes, so that the trace takes no size for a constant.
    sizes = torch.tensor([[2 * size, 2 * size], [size, 3 * size]])
    _trace("vision", VisionGraph(images), (torch.zeros(2, 5, 3, size, size), sizes), folder)
    inputs = (torch.tensor([[1, -1, -1, 5], [1, 3, 4, 5]]), torch.zeros(2, tokens.embedding_dim))
    _trace("embedding", EmbeddingGraph(tokens), inputs, folder)


def _trace(name: str, graph: nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path) -> None:
    axes = INPUTS[name].items()
    shapes = {port: dict(enumerate(map(Dim, names.split()))) for port, names in axes}
    # It warns of torchvision and of merged names.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            graph.eval(),
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(shapes),
            output_names=[OUTPUTS[name]],
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    # The exporter records in each node the source files and lines of this machine.
    for node in program.model.graph:
        node.metadata_props.clear()
    program.save(folder / GRAPH_FILE.format(name), external_data=True)


def read_graph(folder: Path, described: Any) -> tuple[str, bool]:
    """Return what was found of a graph in genai_config.json, and whether it is whole."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx.external_data_helper import ExternalDataInfo

    name = str(described.get("filename", "")) if isinstance(described, dict) else ""
    if not name or not (folder / name).is_file():
        return f"{name} is missing" if name else f"not in {GENAI_FILE}", False
    try:
        graph = onnx.load(folder / name, load_external_data=False).graph
    except DecodeError:
        return f"{name} is no ONNX graph, or was cut", False
    ends: dict[str, int] = {}
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = ExternalDataInfo(tensor)
            end = int(place.offset or 0) + int(place.length or 0)
            ends[place.location] = max(end, ends.get(place.location, 0))
    paths = {file: folder / file for file in ends}
    sizes = {file: path.stat().st_size if path.is_file() else 0 for file, path in paths.items()}
    cut = [file for file, end in ends.items() if sizes[file] < end]
    problems = [f"{file} has {sizes[file]} bytes of {ends[file]}" for file in cut]
    known = {value.name for value in [*graph.input, *graph.output]}
    # A name with %d stands for one per layer.
    ports = [*described.get("inputs", {}).values(), *described.get("outputs", {}).values()]
    missing = sorted({port.replace("%d", "0") for port in ports} - known)
    problems += [f"{name} has no {', '.join(missing)}"] if missing else []
    size = format_bytes((folder / name).stat().st_size + sum(sizes.values()))
    return "; ".join(problems) or f"{name}, {size}", not problems
