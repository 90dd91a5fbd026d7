"""export_onnx: a run as a folder that onnxruntime-genai loads, in C#, C++, Java or Python.

    phi-3-v-vision.onnx     crops to embeddings       traced from `onnx_graphs.py`
    phi-3-v-embedding.onnx  tokens to embeddings      traced from `onnx_graphs.py`
    phi-3-v-text.onnx       the decoder               built by `onnx_decoder.py`
    genai_config.json       how the three belong together
    config.json, ...        the checkpoint's own, for `inference/onnx_predictor.py`; no weights
    template.yaml, README   prompt template and model card

Images must be prepared as `Phi3VImageProcessor` does: GenAI's image processor in C++ cuts them into
other crops.
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template, write_template
from phi_vision.export.merge import find_weights, open_source
from phi_vision.export.model_card import write_card
from phi_vision.export.onnx_decoder import build_decoder, write_plain_checkpoint
from phi_vision.export.onnx_graphs import write_embedding_graph, write_vision_graph
from phi_vision.export.verify import (
    LOGPROB_ROUNDING,
    Verification,
    compare_generations,
    generate_predictions,
    verification_samples,
)
from phi_vision.generation.request import Generation
from phi_vision.inference.onnx_predictor import GENAI_FILE, OnnxModel
from phi_vision.io.atomic import atomic_folder, check_folder_is_free, temporary_folder
from phi_vision.model.checkpoint import adapter_base, load_config
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor

BYTES_OF_A_WEIGHT = {"fp32": 4.0, "int8": 1.2, "int4": 0.7}
"""Precision of the decoder -> approximate bytes of a weight on disk, scales included."""

PRECISIONS = tuple(BYTES_OF_A_WEIGHT)
"""Precisions of the decoder's weights; 32 integers share a scale. The other graphs are float32."""

VISION_FILE = "phi-3-v-vision.onnx"
EMBEDDING_FILE = "phi-3-v-embedding.onnx"

LIBRARIES = ("onnx", "onnxscript", "onnxruntime_genai")
"""What the export needs besides the model's dependencies."""


def export_onnx(
    source: str,
    out: Path,
    *,
    precision: str = "fp32",
    data: Path | None = None,
    samples: int = 4,
) -> Verification:
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
    chosen, template = verification_samples(source, data, samples)
    place = find_weights(source)
    needed = bytes_needed(load_config(adapter_base(place) or place), precision)
    with atomic_folder(out, needed_bytes=needed) as folder:
        with temporary_folder(folder) as scratch:
            processor, expected = _write_model(source, folder, scratch, chosen, template)
            _write_decoder(processor, folder, scratch, precision)
        graphs = OnnxModel(folder) if chosen else None
        found = generate_predictions(graphs, processor, chosen, template) if graphs else []
        tolerance = LOGPROB_ROUNDING if precision == "fp32" else None
        verification = compare_generations(expected, found, tolerance=tolerance)
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
    model, processor = open_source(source, dtype=torch.float32)
    expected = generate_predictions(model, processor, samples, template)
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
    fields["model"] |= {
        "type": "phi3v",
        "embedding": {
            "filename": EMBEDDING_FILE,
            "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
            "outputs": {"inputs_embeds": "inputs_embeds"},
        },
        "vision": {
            "filename": VISION_FILE,
            "inputs": {"pixel_values": "pixel_values", "image_sizes": "image_sizes"},
            "outputs": {"image_features": "image_features"},
        },
    }
    # Keys and values are reserved for max_length: for the whole context they would fill the memory
    # of most machines.
    length = min(4096, fields["model"]["context_length"])
    fields["search"] |= {"top_k": 1, "max_length": length}
    file.write_text(json.dumps(fields, indent=4) + "\n", encoding="utf-8")
    # The builder leaves a tokenizer in its own form.
    processor.save_pretrained(folder)
