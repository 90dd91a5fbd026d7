"""A base assembled from a tower and a decoder: both compute as before, and what does not fit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parts_of_a_base import make_decoder, make_tokenizer, make_tower
from torch.nn.functional import cosine_similarity
from transformers import Dinov2Model, LlamaForCausalLM
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from phi_vision.model.assembly import adapt_tokenizer, assemble, check_crops
from phi_vision.model.checkpoint import SMALL, load_model
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.training.adapters import select_trained_parts
from phi_vision.training.recipes import RECIPES

TEXTS = ["A coat costs 390.0 in 2024,  isn't it?\n  Yes", "größer 価格 🧥", ""]


def imagenet_pixels(pixels: torch.Tensor, image_processor: object) -> torch.Tensor:
    """Normalise CLIP's pixels with ImageNet's mean and deviation instead."""
    mean, std, other_mean, other_std = (
        torch.tensor(each).view(1, 3, 1, 1)
        for each in (
            image_processor.image_mean,  # type: ignore[attr-defined]
            image_processor.image_std,  # type: ignore[attr-defined]
            IMAGENET_DEFAULT_MEAN,
            IMAGENET_DEFAULT_STD,
        )
    )
    return (pixels * std + mean - other_mean) / other_std


@pytest.mark.parametrize("crop_size", [28, 56, 84])
def test_the_towers_features_are_those_of_dinov2(crop_size: int) -> None:
    tower = make_tower()
    model, processor = assemble(tower, make_decoder(), make_tokenizer(), crop_size=crop_size)
    pixels = torch.rand(3, 3, crop_size, crop_size, generator=torch.manual_seed(0)) * 4 - 2
    with torch.no_grad():
        given = imagenet_pixels(pixels, processor.image_processor)
        expected = tower(given).last_hidden_state[:, 1:]
        found = model.model.vision_embed_tokens.img_processor(pixels)
    assert cosine_similarity(found, expected, dim=-1).min() >= 0.99999


@pytest.mark.parametrize("tied", [False, True])
def test_the_decoders_logits_and_loss_are_those_of_llama(tied: bool, tmp_path: Path) -> None:
    decoder, tokenizer = make_decoder(tied=tied), make_tokenizer()
    model, processor = assemble(make_tower(), decoder, tokenizer, crop_size=28)
    ids = torch.tensor([tokenizer(TEXTS[0]).input_ids])
    with torch.no_grad():
        expected = decoder(ids).logits
        found = model(ids).logits[..., : len(tokenizer)]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    model.save_pretrained(tmp_path), processor.save_pretrained(tmp_path)
    loaded, _ = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits[..., : len(tokenizer)], found)
    assert tied == (loaded.lm_head.weight is loaded.model.embed_tokens.weight)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_have_the_ids_that_they_had(text: str) -> None:
    tokenizer = make_tokenizer()
    adapted = adapt_tokenizer(tokenizer)
    assert adapted(text, add_special_tokens=False).input_ids == tokenizer(text).input_ids
    assert adapted(text).input_ids == [adapted.bos_token_id, *tokenizer(text).input_ids]
    assert adapted.decode(adapted(text).input_ids, skip_special_tokens=True) == text


def test_the_end_of_a_turn_keeps_its_row_and_new_tokens_start_from_a_meaning() -> None:
    decoder, tokenizer = make_decoder(tied=True), make_tokenizer()
    model, processor = assemble(make_tower(), decoder, tokenizer, crop_size=28)
    adapted, rows = processor.tokenizer, model.model.embed_tokens.weight
    ids = {token: adapted.convert_tokens_to_ids(token) for token in ("<|end|>", "<|user|>", "</s>")}
    assert ids["<|end|>"] == tokenizer.eos_token_id
    old = decoder.get_input_embeddings().weight
    start = old[[tokenizer.convert_tokens_to_ids("<|im_start|>"), *tokenizer("user").input_ids]]
    torch.testing.assert_close(rows[ids["<|user|>"]], 0.9 * start.mean(dim=0))
    torch.testing.assert_close(rows[ids["</s>"]], 0.9 * old[tokenizer.eos_token_id])
    assert model.config.eos_token_id[0] == ids["<|end|>"]


def test_an_image_and_a_question_are_answered(tmp_path: Path) -> None:
    from PIL import Image

    model, processor = assemble(make_tower(), make_decoder(), make_tokenizer(), crop_size=28)
    turns = [{"role": "user", "content": "<|image_1|>\nWhat is it?"}]
    prompt = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=prompt, images=Image.new("RGB", (40, 30), "red"), return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert written.shape[1] <= inputs["input_ids"].shape[1] + 4


def test_the_same_parts_give_the_same_weights() -> None:
    one, other = (
        assemble(make_tower(), make_decoder(), make_tokenizer(), crop_size=28)[0].state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_swiglu_ffn": True}, "use_swiglu_ffn is True, not False"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', not 'gelu'"),
        ({"qkv_bias": False}, "qkv_bias is False, not True"),
    ],
)
def test_a_tower_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    tower: Dinov2Model = make_tower(**change)
    with pytest.raises(ValueError, match=rf"tower does not fit.*{message}.*dinov2-small"):
        assemble(tower, make_decoder(), make_tokenizer(), crop_size=28)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "attention_bias is True, not False"),
        ({"mlp_bias": True}, "mlp_bias is True, not False"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', not 'silu'"),
        ({"head_dim": 32}, "its heads are 32 wide, not 16"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "linear"),
        ({"vocab_size": 40}, "has rows for 40 tokens, but its tokenizer has"),
    ],
)
def test_a_decoder_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    decoder: LlamaForCausalLM = make_decoder(**change)
    with pytest.raises(ValueError, match=message):
        assemble(make_tower(), decoder, make_tokenizer(), crop_size=28)


def test_a_crop_that_holds_no_even_number_of_patches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"42 pixels .* Give a multiple of 28 as --crop-size"):
        assemble(make_tower(), make_decoder(), make_tokenizer(), crop_size=42)


def test_the_largest_crop_leaves_room_for_text_in_the_context() -> None:
    counts = Phi3VImageProcessor(num_crops=4, crop_size=1764, num_img_tokens=63**2)
    assert counts.count_tokens(4 * 1764, 1764) == 20_161  # a column of four, and the global view
    check_crops(1764, 4, 14, 20_162)
    with pytest.raises(ValueError, match=r"20,161 image tokens, .* at most 1736 as --crop-size"):
        check_crops(1764, 4, 14, 20_161)


def test_a_tokenizer_without_an_end_of_turn_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no token that ends a turn"):
        adapt_tokenizer(tokenizer)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_writes_to_the_small_stream_is_not_trained(method: str) -> None:
    model, _ = assemble(make_tower(), make_decoder(), make_tokenizer(), crop_size=28)
    last = model.config.vision_config.num_hidden_layers - 1
    recipe = replace(RECIPES[method](), train_vision=True, vision_layers=None)
    trained = select_trained_parts(model, recipe, torch.float32)
    tower = [n for n, w in trained.named_parameters() if w.requires_grad and "img_processor" in n]
    assert any("fc1" in name for name in tower)
    forbidden = (
        f"embeddings pre_layrnorm post_layernorm out_proj fc2 layers.{last} layers.{last - 1}"
    )
    assert not [name for name in tower if any(part in name for part in forbidden.split())]


def test_fp16_is_refused_for_such_a_tower_alone(tmp_path: Path) -> None:
    model, processor = assemble(make_tower(), make_decoder(), make_tokenizer(), crop_size=28)
    model.save_pretrained(tmp_path), processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"too small for fp16\. Load it in bf16 or fp32"):
        load_model(tmp_path, dtype=torch.float16)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["img_processor"]["vision_config"]["layer_norm_eps"] < 1e-11
    shutil.rmtree(tmp_path)
    assert load_model(SMALL, dtype=torch.float16)[0].dtype == torch.float16
