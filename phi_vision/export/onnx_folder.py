"""Model -> a folder that onnxruntime-genai loads as `phi3v`, in C#, C++, Java or Python.

    phi-3-v-vision.onnx     crops to embeddings       traced from `onnx_graphs.py`
    phi-3-v-embedding.onnx  words to embeddings       traced from `onnx_graphs.py`
    phi-3-v-text.onnx       the decoder               built by onnxruntime-genai's own builder
    genai_config.json       how the three belong together
    config.json, ...        the checkpoint's own, for `onnx_model.py`; no weights

Pictures must be prepared as `Phi3VImageProcessor` does it: GenAI's image processor in C++ cuts them
otherwise.
"""

import contextlib
import copy
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerBase

from phi_vision.deploy.onnx_graphs import write_vision_graph, write_word_graph
from phi_vision.deploy.onnx_model import GENAI_FILE
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor

PRECISIONS = ("fp32", "int8", "int4")
"""Numbers that the decoder's weights can be written in; of whole numbers, 32 share a scale.
Pictures and words are embedded in float32 whatever is chosen."""

VISION_FILE = "phi-3-v-vision.onnx"
EMBEDDING_FILE = "phi-3-v-embedding.onnx"
TEXT_FILE = "phi-3-v-text.onnx"

DECODER_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "rms_norm_eps",
    "sliding_window",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""What a Phi-3 decoder without pictures takes over from our config."""


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
    """
    _refuse(model, folder, precision)
    whole = merge(model)
    with _new_folder(folder) as unfinished:
        _write_decoder(whole, processor.tokenizer, unfinished, precision)
        image_embedding = _as_fp32(whole.model.vision_embed_tokens)
        write_vision_graph(image_embedding, unfinished / VISION_FILE)
        write_word_graph(_as_fp32(whole.model.embed_tokens), unfinished / EMBEDDING_FILE)
        _complete_genai_config(unfinished / GENAI_FILE)
        whole.config.save_pretrained(unfinished)
        whole.generation_config.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)


def merge(model: Phi3VForCausalLM | PeftModel) -> Phi3VForCausalLM:
    """Give the model without an adapter, or a copy in float32 into which its adapter is merged."""
    if not isinstance(model, PeftModel):
        return model
    # In float32 before and not after: merged in bfloat16, small changes would be rounded away.
    merged: Phi3VForCausalLM = copy.deepcopy(model).float().merge_and_unload()
    return merged


def _refuse(model: Phi3VForCausalLM | PeftModel, folder: Path, precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(
            f"no precision {precision!r} for ONNX; choose from {', '.join(PRECISIONS)}"
        )
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; choose another folder, or remove it")
    for name, weights in model.named_parameters():
        if not weights.is_floating_point():
            raise ValueError(
                f"the model is held in fewer bits ({name} is {weights.dtype}), from which no graph "
                "can be written; load it without quantization"
            )
    for library in ("onnx", "onnxscript", "onnxruntime_genai"):
        if importlib.util.find_spec(library) is None:
            raise ValueError(
                f"writing ONNX needs {library}, which is not installed; "
                "pip install 'phi-vision[onnx]'"
            )


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give a hidden folder beside the one wanted, and rename it at the end."""
    unfinished = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        unfinished.replace(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _write_decoder(
    model: Phi3VForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path, precision: str
) -> None:
    """Have the decoder built from a plain Phi-3 checkpoint, which needs none of our code."""
    with tempfile.TemporaryDirectory(dir=folder) as workshop:
        _write_plain_checkpoint(model, Path(workshop))
        tokenizer.save_pretrained(workshop)
        options = ["exclude_embeds=true", "shared_embeddings=false", f"filename={TEXT_FILE}"]
        # -P: a user's script called like a library would be imported in its place, and run again.
        command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-e", "cpu"]
        command += ["-i", workshop, "-o", str(folder), "-c", workshop, "-p", precision]
        # The builder is a script that puts its own folder on the import path and prints.
        built = subprocess.run(
            [*command, "--extra_options", *options],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        if built.returncode:
            last = built.stderr.strip().splitlines()[-3:]
            raise RuntimeError(f"onnxruntime-genai could not build the decoder: {' / '.join(last)}")


def _write_plain_checkpoint(model: Phi3VForCausalLM, folder: Path) -> None:
    with torch.device("meta"):
        decoder = Phi3ForCausalLM(decoder_config(model.config))
    weights = {
        name: values.to("cpu", torch.float32)
        for name, values in model.state_dict().items()
        if "vision_embed_tokens" not in name
    }
    decoder.load_state_dict(weights, assign=True)
    decoder.generation_config.eos_token_id = model.generation_config.eos_token_id
    decoder.save_pretrained(folder)


def decoder_config(config: Phi3VConfig) -> Phi3Config:
    """Give the config of the decoder alone, worded for onnxruntime-genai's builder.

    The builder reads the kind of rotation under its old name too, and computes the attention factor
    from it: `yarn` and `longrope` differ in nothing else.
    """
    fields = config.to_dict()
    rope = dict(config.rope_parameters)
    if rope["rope_type"] == "longrope":
        rope["type"] = "yarn" if "attention_factor" in rope else "longrope"
    return Phi3Config(**{name: fields[name] for name in DECODER_FIELDS}, rope_parameters=rope)


def _as_fp32(module: Any) -> Any:
    """Copy a part of the model in float32, on the CPU."""
    return copy.deepcopy(module).to("cpu", torch.float32)


def _complete_genai_config(file: Path) -> None:
    """Say that there are pictures, in the builder's description of the decoder."""
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
