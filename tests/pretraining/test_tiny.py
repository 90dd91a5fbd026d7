"""The tiny checkpoint: complete, small, and the same from the same seed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_rows import ONE

from phi_vision.model.checkpoint import load_model
from pretraining.tiny import Sizes, make_config, make_processor, write_tiny_checkpoint


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_it_has_a_few_hundred_thousand_weights(tiny_checkpoint: Path) -> None:
    assert 200_000 < sum(tensor.numel() for tensor in weights(tiny_checkpoint).values()) < 500_000


def test_the_seed_decides_the_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    again = weights(write_tiny_checkpoint(tmp_path / "again", seed=0))
    other = weights(write_tiny_checkpoint(tmp_path / "other", seed=1))
    first = weights(tiny_checkpoint)
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_its_config_is_in_the_official_form(tiny_checkpoint: Path) -> None:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    assert config["model_type"] == "phi3_v"
    assert config["architectures"] == ["Phi3VForCausalLM"]
    assert config["rope_scaling"]["type"] == "su"
    assert config["img_processor"]["num_img_tokens"] == 4
    assert "vision_config" not in config


def test_its_parts_fit_together(tiny_checkpoint: Path, images: list) -> None:
    model, processor = load_model(tiny_checkpoint)
    assert len(processor.tokenizer) == model.config.vocab_size
    inputs = processor(text=ONE, images=images[:1], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape == (*inputs["input_ids"].shape, model.config.vocab_size)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("crop_size", "tokens"), [(56, 4), (112, 16), (336, 144)])
def test_config_and_processor_of_any_size_agree_on_the_tokens_of_a_crop(
    tiny_checkpoint: Path, crop_size: int, tokens: int
) -> None:
    _, processor = load_model(tiny_checkpoint)
    sizes = Sizes(crop_size=crop_size)
    config = make_config(sizes, processor.tokenizer)
    image_processor = make_processor(sizes, processor.tokenizer).image_processor
    assert config.img_processor["num_img_tokens"] == image_processor.num_img_tokens == tokens
    assert config.tower.image_size == image_processor.crop_size == crop_size
