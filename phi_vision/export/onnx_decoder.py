"""The decoder's graph: a plain Phi-3 checkpoint, out of which onnxruntime-genai's builder makes it.

The builder runs in a process of its own, so that what it holds is given back when it is done.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import Phi3Config, PreTrainedTokenizerBase

from phi_vision.export.weight_shards import plan_shards, write_shards
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM

TEXT_FILE = "phi-3-v-text.onnx"

SHARD_SIZE = "5GB"
"""Size of a file of the plain checkpoint; any would do."""

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
"""What a Phi-3 decoder without images takes over from our config."""

KILLED = -9
"""Return code of a process that the system ended, as it does when memory runs out."""

HELD = {"fp32": 1.5, "int8": 2.5, "int4": 2.5}
"""What the builder holds at most, as a multiple of the weights in float32; measured on a cut of the
full size (`benchmarks/onnx_memory.py`)."""


def write_plain_checkpoint(
    model: Phi3VForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write the decoder as a Phi-3 checkpoint in float32, which needs none of our code.

    Args:
        model: Without an adapter; stays as it is.
        tokenizer: Goes beside it.
        folder: Where to; must exist.

    Raises:
        OSError: The disk is full.
    """
    described = decoder_config(model.config)
    described.architectures = ["Phi3ForCausalLM"]
    described.dtype = torch.float32
    described.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {
        name: values
        for name, values in model.state_dict().items()
        if "vision_embed_tokens" not in name
    }
    if described.tie_word_embeddings:
        del weights["lm_head.weight"]
    shapes = {
        name: torch.empty_like(values, dtype=torch.float32, device="meta")
        for name, values in weights.items()
    }
    written = ((name, values.to("cpu", torch.float32)) for name, values in weights.items())
    write_shards(written, shapes, plan_shards(shapes, SHARD_SIZE), folder)


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


def build_decoder(checkpoint: Path, folder: Path, precision: str) -> None:
    """Have onnxruntime-genai's own builder make the graph, and describe it in genai_config.json.

    Args:
        checkpoint: What `write_plain_checkpoint` wrote; also where the builder may leave things.
        folder: Where the graph goes.
        precision: fp32, int8 or int4.

    Raises:
        OSError: The builder failed; says what it said last.
    """
    options = ["exclude_embeds=true", "shared_embeddings=false", f"filename={TEXT_FILE}"]
    # -P: a user's script called like a library would be imported in its place, and run again.
    command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-e", "cpu"]
    places = ["-i", str(checkpoint), "-o", str(folder), "-c", str(checkpoint), "-p", precision]
    # The builder is a script that puts its own folder on the import path and prints.
    built = subprocess.run(
        [*command, *places, "--extra_options", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if built.returncode == KILLED:
        held = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
        raise OSError(
            "onnxruntime-genai was killed while it built the decoder, most likely for want of "
            f"memory: the weights are {held / 1e9:.1f} GB in float32, and the builder holds up to "
            f"{HELD[precision]:g} times as much; export on a machine with more memory"
        )
    if built.returncode:
        last = " / ".join(built.stderr.strip().splitlines()[-3:])
        raise OSError(f"onnxruntime-genai could not build the decoder: {last}")
