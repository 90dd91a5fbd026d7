"""The decoder's graph, built by onnxruntime-genai from a plain Phi-3 checkpoint.

The builder runs in its own process, so that its memory is freed when it is done.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import Phi3Config, PreTrainedTokenizerBase

from phi_vision.export.merge import plan_shards, write_shards
from phi_vision.io.formatting import format_bytes
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM

TEXT_FILE = "phi-3-v-text.onnx"

DECODER_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "hidden_act", "max_position_embeddings"),
    *("original_max_position_embeddings", "rms_norm_eps", "sliding_window", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
"""Config fields that a Phi-3 decoder without images shares with the model."""

KILLED = -9
"""Return code of a process that the system killed, as it does when memory runs out."""

PEAK_MEMORY = {"fp32": 1.5, "int8": 2.5, "int4": 2.5}
"""Peak memory of the builder as a multiple of the float32 weights, measured on some layers of the
full size (`benchmarks/onnx_memory.py`)."""


def write_plain_checkpoint(
    model: Phi3VForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write the decoder as a Phi-3 checkpoint in float32 that needs none of our code.

    Args:
        model: A model without an adapter; stays as it is.
        tokenizer: Its tokenizer.
        folder: Must exist.
    """
    config = decoder_config(model.config)
    config.architectures = ["Phi3ForCausalLM"]
    config.dtype = torch.float32
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {
        name: weight
        for name, weight in model.state_dict().items()
        if "vision_embed_tokens" not in name
    }
    if config.tie_word_embeddings:
        del weights["lm_head.weight"]
    shapes = {
        name: torch.empty_like(weight, dtype=torch.float32, device="meta")
        for name, weight in weights.items()
    }
    converted = ((name, weight.to("cpu", torch.float32)) for name, weight in weights.items())
    write_shards(converted, shapes, plan_shards(shapes, "5GB"), folder)


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
    """Build the graph and genai_config.json with onnxruntime-genai's own builder.

    Args:
        checkpoint: From `write_plain_checkpoint`; also the builder's cache.
        folder: Where the graph goes.
        precision: fp32, int8 or int4.

    Raises:
        OSError: The builder failed; the message quotes its last lines.
    """
    options = ["exclude_embeds=true", "shared_embeddings=false", f"filename={TEXT_FILE}"]
    # -P: a file of the user with a library's name would be imported in its place.
    command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-e", "cpu"]
    places = ["-i", str(checkpoint), "-o", str(folder), "-c", str(checkpoint), "-p", precision]
    # A script: it changes the import path and prints.
    built = subprocess.run(
        [*command, *places, "--extra_options", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if built.returncode == KILLED:
        size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
        raise OSError(
            "onnxruntime-genai was killed while it built the decoder, most likely because memory "
            f"ran out: the weights are {format_bytes(size)} in float32, and the builder needs up "
            f"to {PEAK_MEMORY[precision]:g} times as much; export on a machine with more memory"
        )
    if built.returncode:
        last = " / ".join(built.stderr.strip().splitlines()[-3:])
        raise OSError(f"onnxruntime-genai could not build the decoder: {last}")
