"""A model -> a folder that onnxruntime-genai loads as `phi3v`, in C#, C++, Java or Python.

    phi-3-v-vision.onnx     crops to embeddings       traced from `onnx_graphs.py`
    phi-3-v-embedding.onnx  words to embeddings       traced from `onnx_graphs.py`
    phi-3-v-text.onnx       the decoder               built as `onnx_decoder.py` has it built
    genai_config.json       how the three belong together
    config.json, ...        the checkpoint's own, for `onnx_model.py`; no weights
    template.yaml, README   the wording, and what is known of the model; with `export_onnx` alone

Images must be prepared as `Phi3VImageProcessor` does it: GenAI's image processor in C++ cuts them
otherwise.
"""

import copy
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template, write_template
from phi_vision.export.merge import find_weights, open_source, refuse_few_bits
from phi_vision.export.model_card import Form, write_card
from phi_vision.export.onnx_decoder import build_decoder, write_plain_checkpoint
from phi_vision.export.onnx_graphs import write_vision_graph, write_word_graph
from phi_vision.export.onnx_verify import ROUNDING, ask, compare_answers
from phi_vision.export.verify import Proof, proof_samples
from phi_vision.generation.request import Generation
from phi_vision.inference.onnx_predictor import GENAI_FILE, OnnxModel
from phi_vision.io.atomic import atomic_folder, check_folder_is_free, temporary_folder
from phi_vision.model.checkpoint import adapter_base, load_config
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM, Phi3VImageEmbedding
from phi_vision.model.processing_phi3_v import Phi3VProcessor

PRECISIONS = ("fp32", "int8", "int4")
"""Numbers that the decoder's weights can be written in; of whole numbers, 32 share a scale.
Images and words are embedded in float32 whatever is chosen."""

BYTES_OF_A_WEIGHT = {"fp32": 4.0, "int8": 1.2, "int4": 0.7}
"""About what a weight of the decoder takes on disk, scales included."""

VISION_FILE = "phi-3-v-vision.onnx"
EMBEDDING_FILE = "phi-3-v-embedding.onnx"

LIBRARIES = ("onnx", "onnxscript", "onnxruntime_genai")
"""What writing takes beyond what the model needs."""

USE = """
```sh
pip install 'phi-vision[onnx]'
phi-vision predict FOLDER photo.jpg
```

Other applications load the folder with onnxruntime-genai (model type `phi3v`) and ask PROMPT. They
must prepare images as `image_processing_phi3_v.py` in this folder does: the image processor of
onnxruntime-genai cuts them otherwise, and the model then sees something it did not learn from.
Keys and values are reserved for `max_length`: set it to the prompt's length and that of an answer.
"""
"""How the folder is asked, for its card; PROMPT stands for the question as JSON."""


def export_onnx(
    source: str,
    out: Path,
    *,
    precision: str = "fp32",
    data: Path | None = None,
    samples: int = 4,
) -> Proof:
    """Write a run as a folder for onnxruntime-genai, once it is known how its graphs answer.

    An adapter is merged. The model and the graphs are asked the same about real samples, both in
    float32 on the CPU, one after the other: never are both in memory, nor the model twice.

    Args:
        source: Run, checkpoint or adapter folder, hub id, or "phi-vision-small".
        out: Where to; must not exist, or be empty.
        precision: One of `PRECISIONS`.
        data: Folder of samples to ask about; that of the run's recipe unless given.
        samples: How many to ask about; 0 writes without asking.

    Returns:
        What the comparison found. At int8 and int4 whatever it found is kept.

    Raises:
        ValueError: There is no such model, data or precision, the folder holds something, what
            writes graphs is not installed, or at fp32 the graphs answer otherwise.
        OSError: The disk is full, or onnxruntime-genai's builder failed.
    """
    _refuse(precision)
    check_folder_is_free(out)
    chosen, template = proof_samples(source, data, samples)
    place = find_weights(source)
    needed = bytes_needed(load_config(adapter_base(place) or place), precision)
    with atomic_folder(out, needed_bytes=needed) as unfinished:
        with temporary_folder(unfinished) as workshop:
            processor, expected = _take_apart(source, unfinished, workshop, chosen, template)
            _put_together(processor, unfinished, workshop, precision)
        found = ask(OnnxModel(unfinished), processor, chosen, template) if chosen else []
        proof = compare_answers(expected, found, allowed=ROUNDING if precision == "fp32" else None)
        proof.refuse()
        write_template(template, unfinished / TEMPLATE_FILE)
        form = describe(precision, template.prompt(processor))
        write_card(source, unfinished, template=template, proof=proof, form=form)
    return proof


def describe(precision: str, prompt: str) -> Form:
    """Say in the card what was written and how it is asked.

    Args:
        precision: Numbers of the decoder's weights.
        prompt: The question about one image, as the model reads it.
    """
    return Form(
        library="onnxruntime-genai",
        holds=(
            f"Graphs for onnxruntime-genai, its decoder in {precision}, the rest in fp32; no "
            "weights that could be trained further."
        ),
        use=USE.replace("PROMPT", json.dumps(prompt, ensure_ascii=False)),
    )


def write_onnx(
    model: Phi3VForCausalLM | PeftModel,
    processor: Phi3VProcessor,
    folder: Path,
    *,
    precision: str = "fp32",
) -> None:
    """Write a model as a folder for onnxruntime-genai, whole or not at all.

    An adapter is merged first, in a copy: the model given stays as it is.

    Args:
        model: A model as `load_model` gives it, with or without an adapter.
        processor: Its processor.
        folder: Where to; must not exist, or be empty.
        precision: One of `PRECISIONS`.

    Raises:
        ValueError: The precision or the folder cannot be used, the model is quantised, or what
            writes graphs is not installed.
        OSError: The disk is full, or onnxruntime-genai's builder failed.
    """
    _refuse(precision)
    check_folder_is_free(folder)
    refuse_few_bits(model)
    needed = bytes_needed(model.config, precision)
    with (
        atomic_folder(folder, needed_bytes=needed) as unfinished,
        temporary_folder(unfinished) as workshop,
    ):
        whole = merge(model)
        _write_decoder_parts(whole, processor, unfinished, workshop)
        _write_graphs(whole.model.vision_embed_tokens, whole.model.embed_tokens, unfinished)
        _put_together(processor, unfinished, workshop, precision)


def merge(model: Phi3VForCausalLM | PeftModel) -> Phi3VForCausalLM:
    """Give the model without an adapter, or a copy in float32 into which its adapter is merged."""
    if not isinstance(model, PeftModel):
        return model
    # In float32 before and not after: merged in bfloat16, small changes would be rounded away.
    merged: Phi3VForCausalLM = copy.deepcopy(model).float().merge_and_unload()
    return merged


def bytes_needed(config: Phi3VConfig, precision: str) -> int:
    """Say what writing takes on disk: the graphs, and meanwhile the decoder in float32."""
    with torch.device("meta"):
        weights = dict(Phi3VForCausalLM(config).named_parameters())
    sizes: dict[str, int] = {name: values.numel() for name, values in weights.items()}
    embedded = sum(sizes[name] for name in sizes if "embed_tokens" in name)
    decoder = sum(sizes[name] for name in sizes if "vision_embed_tokens" not in name)
    return round(4 * embedded + (4 + BYTES_OF_A_WEIGHT[precision]) * decoder)


def _refuse(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(
            f"no precision {precision!r} for ONNX; choose from {', '.join(PRECISIONS)}"
        )
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise ValueError(
                f"writing ONNX needs {library}, which is not installed; "
                "pip install 'phi-vision[onnx]'"
            )


def _take_apart(
    source: str, folder: Path, workshop: Path, samples: Sequence[Sample], template: Template
) -> tuple[Phi3VProcessor, list[Generation]]:
    """Load the model, ask it, and write what the graphs are made of.

    The model is let go of on return: building the decoder takes all the memory there is.
    """
    # In float32 before the adapter is attached: it holds more than bfloat16, and what was trained
    # whole, as a projector is, would take the base's numbers.
    model, processor = open_source(source, dtype=torch.float32)
    expected = ask(model, processor, samples, template) if samples else []
    whole = model.merge_and_unload(safe_merge=True) if isinstance(model, PeftModel) else model
    _write_decoder_parts(whole, processor, folder, workshop)
    images, words = whole.model.vision_embed_tokens, whole.model.embed_tokens
    del model, whole  # Tracing holds its part several times: the decoder must be gone.
    _write_graphs(images, words, folder)
    return processor, expected


def _write_decoder_parts(
    whole: Phi3VForCausalLM, processor: Phi3VProcessor, folder: Path, workshop: Path
) -> None:
    """Write what the builder starts from, and what is kept of the checkpoint beside the graphs."""
    write_plain_checkpoint(whole, processor.tokenizer, workshop)
    whole.config.save_pretrained(folder)
    whole.generation_config.save_pretrained(folder)


def _write_graphs(images: Phi3VImageEmbedding, words: nn.Embedding, folder: Path) -> None:
    """Write the graphs that are traced."""
    write_vision_graph(_as_fp32(images), folder / VISION_FILE)
    write_word_graph(_as_fp32(words), folder / EMBEDDING_FILE)


def _put_together(processor: Phi3VProcessor, folder: Path, workshop: Path, precision: str) -> None:
    """Have the decoder built, and describe all three graphs."""
    build_decoder(workshop, folder, precision)
    _complete_genai_config(folder / GENAI_FILE)
    # The builder leaves a tokenizer of its own wording.
    processor.save_pretrained(folder)


def _as_fp32(module: Any) -> Any:
    """Give a part of the model in float32 on the CPU; a copy, unless that is what it is."""
    weights = next(module.parameters())
    if weights.device.type == "cpu" and weights.dtype == torch.float32:
        return module
    return copy.deepcopy(module).to("cpu", torch.float32)


def _complete_genai_config(file: Path) -> None:
    """Say that there are images, in the builder's description of the decoder."""
    described = json.loads(file.read_text(encoding="utf-8"))
    described["model"] |= {
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
    # Keys and values are reserved for max_length: as long as the whole context they would fill the
    # memory of most machines.
    context = described["model"]["context_length"]
    described["search"] |= {"top_k": 1, "max_length": min(4096, context)}
    file.write_text(json.dumps(described, indent=4) + "\n", encoding="utf-8")
