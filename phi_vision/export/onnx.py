"""export_onnx: a run as a folder that onnxruntime-genai loads, in C#, C++, Java or Python.

    phi-3-v-vision.onnx     crops to embeddings       traced from `onnx_graphs.py`
    phi-3-v-embedding.onnx  tokens to embeddings      traced from `onnx_graphs.py`
    phi-3-v-text.onnx       the decoder               built by onnxruntime-genai
    genai_config.json       how the three belong together (model type `phi3v`)
    config.json, ...        the checkpoint's own, for `inference/onnx_predictor.py`; no weights
    template.yaml, README   prompt template and model card

Images must be prepared as `Phi3VImageProcessor` does: GenAI's image processor in C++ cuts them into
other crops. The builder of the decoder reads a plain Phi-3 checkpoint in float32, in a process of
its own, so that its memory is freed when it is done.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Phi3Config, PreTrainedTokenizerBase

from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template, write_template
from phi_vision.export import merge, verify
from phi_vision.export.model_card import write_card
from phi_vision.export.onnx_graphs import write_embedding_graph, write_vision_graph
from phi_vision.generation.request import Generation
from phi_vision.inference.onnx_predictor import GENAI_FILE, OnnxModel
from phi_vision.io.atomic import atomic_folder, check_folder_is_free, folder_bytes, temporary_folder
from phi_vision.io.formatting import format_bytes
from phi_vision.model.checkpoint import adapter_base, load_config
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor

BYTES_OF_A_WEIGHT = {"fp32": 4.0, "int8": 1.2, "int4": 0.7}
"""Precision of the decoder -> approximate bytes of a weight on disk, scales included."""

PRECISIONS = tuple(BYTES_OF_A_WEIGHT)
"""Precisions of the decoder's weights; 32 integers share a scale. The other graphs are float32."""

PEAK_MEMORY = {"fp32": 1.5, "int8": 2.5, "int4": 2.5}
"""Peak memory of the builder as a multiple of the float32 weights, measured on some layers of the
full size (`benchmarks/onnx_memory.py`)."""

VISION_FILE = "phi-3-v-vision.onnx"
EMBEDDING_FILE = "phi-3-v-embedding.onnx"
TEXT_FILE = "phi-3-v-text.onnx"

LIBRARIES = ("onnx", "onnxscript", "onnxruntime_genai")
"""What the export needs besides the model's dependencies."""

DECODER_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "hidden_act", "max_position_embeddings"),
    *("original_max_position_embeddings", "rms_norm_eps", "sliding_window", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
"""Config fields that a Phi-3 decoder without images shares with the model."""

KILLED = -9
"""Return code of a process that the system killed, as it does when memory runs out."""


def export_onnx(
    source: str,
    out: Path,
    *,
    precision: str = "fp32",
    data: Path | None = None,
    samples: int = 4,
) -> verify.Verification:
    """Export a run as a folder for onnxruntime-genai, and verify it.

    Model and graphs predict the same samples in float32 on the CPU, one after the other, so that
    never both are in memory.

    Args:
        source: Run, checkpoint or adapter folder, hub id, or "phi-vision-small".
        out: The folder to write; must not exist, or be empty.
        precision: One of `PRECISIONS`. At int8 and int4 differences are reported and accepted.
        data: Samples to verify with; those of the run's recipe by default.
        samples: Number of samples; 0 skips the verification.

    Raises:
        ValueError: There is no such model, data or precision, the folder is in use, a library is
            missing, or at fp32 the predictions differ.
        OSError: The disk is full, or onnxruntime-genai's builder failed.
    """
    _check_precision(precision)
    check_folder_is_free(out)
    chosen, template = verify.verification_samples(source, data, samples)
    place = merge.find_weights(source)
    needed = bytes_needed(load_config(adapter_base(place) or place), precision)
    with atomic_folder(out, needed_bytes=needed) as folder:
        with temporary_folder(folder) as scratch:
            processor, expected = _write_model(source, folder, scratch, chosen, template)
            _write_decoder(processor, folder, scratch, precision)
        graphs = OnnxModel(folder) if chosen else None
        found = verify.generate_predictions(graphs, processor, chosen, template) if graphs else []
        tolerance = verify.LOGPROB_ROUNDING if precision == "fp32" else None
        verification = verify.compare_generations(expected, found, tolerance=tolerance)
        verification.check()
        write_template(template, folder / TEMPLATE_FILE)
        write_card(
            source,
            folder,
            template=template,
            verification=verification,
            library="onnxruntime-genai",
            precision=precision,
            prompt=template.prompt(processor),
        )
    return verification


def bytes_needed(config: Phi3VConfig, precision: str) -> int:
    """Return the disk space of an export: the graphs, and temporarily the decoder in float32."""
    with torch.device("meta"):
        model = Phi3VForCausalLM(config)
    sizes: dict[str, int] = {name: weight.numel() for name, weight in model.named_parameters()}
    embedded = sum(size for name, size in sizes.items() if "embed_tokens" in name)
    decoder = sum(size for name, size in sizes.items() if "vision_embed_tokens" not in name)
    return round(4 * embedded + (4 + BYTES_OF_A_WEIGHT[precision]) * decoder)


def write_plain_checkpoint(
    model: Phi3VForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write the decoder of a model without adapter as a Phi-3 checkpoint in float32."""
    config = decoder_config(model.config)
    config.architectures = ["Phi3ForCausalLM"]
    config.dtype = torch.float32
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {n: w for n, w in model.state_dict().items() if "vision_embed_tokens" not in n}
    if config.tie_word_embeddings:
        del weights["lm_head.weight"]
    shapes = {
        name: torch.empty_like(weight, dtype=torch.float32, device="meta")
        for name, weight in weights.items()
    }
    converted = ((name, weight.to("cpu", torch.float32)) for name, weight in weights.items())
    merge.write_shards(converted, shapes, merge.plan_shards(shapes, "5GB"), folder)


def decoder_config(config: Phi3VConfig) -> Phi3Config:
    """Return the config of the decoder alone, in the terms of onnxruntime-genai's builder.

    The builder also reads the rotation's former field `type`, and computes the attention factor
    from it: `yarn` and `longrope` differ in nothing else.
    """
    fields = config.to_dict()
    rope = dict(config.rope_parameters)
    if rope["rope_type"] == "longrope":
        rope["type"] = "yarn" if "attention_factor" in rope else "longrope"
    return Phi3Config(**{name: fields[name] for name in DECODER_FIELDS}, rope_parameters=rope)


def build_decoder(checkpoint: Path, folder: Path, precision: str) -> None:
    """Build the decoder's graph and genai_config.json with onnxruntime-genai's own builder.

    Args:
        checkpoint: From `write_plain_checkpoint`; also the builder's cache.
        folder: Where the graph goes.
        precision: One of `PRECISIONS`.

    Raises:
        OSError: The builder failed; the message quotes its last lines.
    """
    options = ["exclude_embeds=true", "shared_embeddings=false", f"filename={TEXT_FILE}"]
    # -P: a file of the user with a library's name would be imported in its place.
    command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-e", "cpu"]
    places = ["-i", str(checkpoint), "-o", str(folder), "-c", str(checkpoint), "-p", precision]
    built = subprocess.run(
        [*command, *places, "--extra_options", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if built.returncode == KILLED:
        raise OSError(
            "onnxruntime-genai was killed while it built the decoder, most likely because memory "
            f"ran out: the weights are {format_bytes(folder_bytes(checkpoint))} in float32, and "
            f"the builder needs up to {PEAK_MEMORY[precision]:g} times as much; export on a "
            "machine with more memory"
        )
    if built.returncode:
        last = " / ".join(built.stderr.strip().splitlines()[-3:])
        raise OSError(f"onnxruntime-genai could not build the decoder: {last}")


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(
            f"no precision {precision!r} for ONNX; choose from {', '.join(PRECISIONS)}"
        )
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise ValueError(
                f"exporting to ONNX needs {library}, which is not installed; "
                "pip install 'phi-vision[onnx]'"
            )


def _write_model(
    source: str, folder: Path, scratch: Path, samples: Sequence[Sample], template: Template
) -> tuple[Phi3VProcessor, list[Generation]]:
    """Load the model, predict, and write the traced graphs and the input of the builder.

    The model is freed on return: building the decoder needs all the memory there is.
    """
    # In float32 before the adapter is attached: its tensors hold more than bfloat16, and modules
    # that were trained in full, such as a projector, would be cast to the base's dtype.
    model, processor = merge.open_source(source, dtype=torch.float32)
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


def _write_graphs(images: Any, tokens: Any, folder: Path) -> None:
    write_vision_graph(images, folder / VISION_FILE)
    write_embedding_graph(tokens, folder / EMBEDDING_FILE)


def _write_decoder(processor: Phi3VProcessor, folder: Path, scratch: Path, precision: str) -> None:
    """Build the decoder's graph, and describe all three graphs in genai_config.json."""
    build_decoder(scratch, folder, precision)
    file = folder / GENAI_FILE
    fields = json.loads(file.read_text(encoding="utf-8"))

    def graph(name: str, inputs: Sequence[str], output: str) -> dict[str, object]:
        named = {port: port for port in inputs}
        return {"filename": name, "inputs": named, "outputs": {output: output}}

    fields["model"] |= {
        "type": "phi3v",
        "embedding": graph(EMBEDDING_FILE, ["input_ids", "image_features"], "inputs_embeds"),
        "vision": graph(VISION_FILE, ["pixel_values", "image_sizes"], "image_features"),
    }
    # Keys and values are reserved for max_length: for the whole context they would fill the memory
    # of most machines.
    length = min(4096, fields["model"]["context_length"])
    fields["search"] |= {"top_k": 1, "max_length": length}
    file.write_text(json.dumps(fields, indent=4) + "\n", encoding="utf-8")
    # The builder leaves a tokenizer in its own form.
    processor.save_pretrained(folder)
