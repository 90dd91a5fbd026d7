"""The base that ships: an ordinary checkpoint that has learnt to look."""

import random
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.model.checkpoint import SMALL, load_model, resolve
from phi_vision.synthetic.drawing import draw, random_garment, random_scene

MEGABYTE = 1_000_000


def test_the_packaged_base_weighs_at_most_20_megabytes_in_bf16() -> None:
    weights = Path(resolve(SMALL)) / "model.safetensors"
    assert weights.stat().st_size <= 20 * MEGABYTE
    assert load_model(SMALL)[0].dtype == torch.bfloat16


def test_the_packaged_base_loads_like_any_checkpoint() -> None:
    model = AutoModelForImageTextToText.from_pretrained(resolve(SMALL))
    processor = AutoProcessor.from_pretrained(resolve(SMALL))
    assert type(model).__name__ == "Phi3VForCausalLM"
    assert type(processor).__name__ == "Phi3VProcessor"
    assert model.config.image_token_id == processor.image_token_id


def test_the_packaged_base_has_no_copy_of_the_code_beside_it() -> None:
    files = list(Path(resolve(SMALL)).iterdir())
    assert not [file.name for file in files if file.suffix == ".py"]
    assert not [file.name for file in files if "auto_map" in file.read_text(errors="replace")]


def test_digits_are_single_tokens() -> None:
    _, processor = load_model(SMALL)
    assert processor.tokenizer.tokenize("1290.0") == ["▁", "1", "2", "9", "0", ".", "0"]


def test_the_packaged_base_describes_its_images() -> None:
    model, processor = load_model(SMALL, dtype=torch.float32)
    rng = random.Random("not in the pool")
    garments = [random_garment(rng) for _ in range(24)]
    images = [draw(garment, random_scene(rng)) for garment in garments]
    message = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": "Which kind?"}],
    }
    prompt = processor.apply_chat_template([message], add_generation_prompt=True)
    questions = [
        GenerationRequest(prompt=prompt, images=(one,), max_new_tokens=8) for one in images
    ]
    said = generate(model, processor, questions)
    # Measured 0.97 to 0.99 on hundreds; 20 of 24 leaves room for chance and fails a blind model.
    pairs = zip(said, garments, strict=True)
    assert sum(each.text == garment.kind for each, garment in pairs) >= 20
