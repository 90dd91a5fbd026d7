"""Small checkpoints of the same architecture with random weights, for tests and experiments.

python -m pretraining.tiny FOLDER
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from phi_vision.model.checkpoint import SMALL, resolve
from phi_vision.model.configuration_phi3_v import CLIP_VIT_L_14_336, Phi3VConfig, describe_tower
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import STOP_TOKENS, Phi3VProcessor


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a checkpoint."""

    crop_size: int = 56  # side of a crop in pixels
    patch_size: int = 14  # side of a patch in pixels
    num_crops: int = 1  # maximum crops of an image, besides its global view
    vision_width: int = 32  # of the CLIP tower
    vision_layers: int = 3  # of the CLIP tower; the last is never run
    vision_heads: int = 2  # of the CLIP tower
    hidden_size: int = 64  # width of the decoder
    layers: int = 2  # of the decoder
    heads: int = 4  # of the decoder
    intermediate_size: int = 128  # width of the decoder's feed-forward part


def write_tiny_checkpoint(folder: str | Path, *, seed: int = 0) -> Path:
    """Write a checkpoint of a few hundred thousand random weights, complete with its processor."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(SMALL))
    torch.manual_seed(seed)
    model = Phi3VForCausalLM(make_config(Sizes(), tokenizer))
    model.save_pretrained(folder)
    make_processor(Sizes(), tokenizer).save_pretrained(folder)
    return Path(folder)


def make_config(sizes: Sizes, tokenizer: AutoTokenizer) -> Phi3VConfig:
    """Make the config of a checkpoint of the given sizes over a tokenizer's vocabulary."""
    half_head = sizes.hidden_size // sizes.heads // 2
    vision_config = CLIP_VIT_L_14_336 | {
        "hidden_size": sizes.vision_width,
        "image_size": sizes.crop_size,
        "intermediate_size": 4 * sizes.vision_width,
        "num_attention_heads": sizes.vision_heads,
        "num_hidden_layers": sizes.vision_layers,
        "patch_size": sizes.patch_size,
        "projection_dim": sizes.vision_width,
    }
    return Phi3VConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rope_scaling={
            "type": "su",
            "short_factor": [1.0] * half_head,
            "long_factor": [32.0] * half_head,
        },
        img_processor={**describe_tower(vision_config), "vision_config": vision_config},
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.convert_tokens_to_ids(token) for token in STOP_TOKENS],
        image_token_id=tokenizer.convert_tokens_to_ids(Phi3VProcessor.image_token),
    )


def make_processor(sizes: Sizes, tokenizer: AutoTokenizer) -> Phi3VProcessor:
    """Make the processor that fits a config made by `make_config`."""
    side = sizes.crop_size // sizes.patch_size // 2
    image_processor = Phi3VImageProcessor(
        num_crops=sizes.num_crops, crop_size=sizes.crop_size, num_img_tokens=side * side
    )
    return Phi3VProcessor(image_processor, tokenizer)


if __name__ == "__main__":
    print(write_tiny_checkpoint(sys.argv[1]))
