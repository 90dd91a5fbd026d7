"""What vLLM asks of an exported folder, call for call as its Phi3VForCausalLM makes them.

vLLM itself is not installed here; docs/deploy-vllm.md says what was run with it by hand.
"""

import ast
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

from phi_vision.data.template import PRODUCT
from phi_vision.export import compatibility as engines
from phi_vision.inference.local import LocalPredictor
from phi_vision.model import modeling_phi3_v
from phi_vision.model.checkpoint import load_model, load_processor
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.processing_phi3_v import Phi3VProcessor

QUESTION = "<|user|>\nFirst <|image_1|> and  then\n<|image_2|>: é 价格?<|end|>\n<|assistant|>\n"
SIZES = [(60, 50), (30, 100), (40, 40), (300, 57), (57, 300), (1, 20), (200, 1), (500, 333)]


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder: up to 4 crops of 56 pixels, padded as vLLM wants them."""
    place = tmp_path_factory.mktemp("exported") / "model"
    model, processor = load_model(tiny_checkpoint)
    processor.image_processor.num_crops = 4
    processor.image_processor.pad_crops = True
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def processor(folder: Path) -> Phi3VProcessor:
    """What vLLM loads."""
    loaded: Phi3VProcessor = AutoProcessor.from_pretrained(folder)
    return loaded


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    noise = torch.randint(0, 256, (20, 24, 3), generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(noise.to(torch.uint8).numpy())
    return [image.resize((60, 50)), image.resize((30, 200))]


def test_images_are_processed_beside_a_dummy_text_of_tags(
    processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    text = "".join(processor.img_tokens[:2])
    assert text == "<|image_1|><|image_2|>"
    made = processor(text=text, images=images, truncation=False, return_tensors="pt")
    # A row for an image, so that rows can be cached, and joined with those of other requests.
    assert made["pixel_values"].shape == (2, 5, 3, 56, 56)
    assert made["image_sizes"].tolist() == [[112, 112], [224, 56]]


@pytest.mark.parametrize("size", SIZES)
def test_tokens_are_counted_by_size_alone(processor: Phi3VProcessor, size: tuple[int, int]) -> None:
    width, height = size
    made = processor.image_processor(Image.new("RGB", size))
    counted = processor.calc_num_image_tokens_from_image_size(width=width, height=height)
    assert counted == made["num_img_tokens"].item()


@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_the_longest_image_of_vllms_memory_test_can_be_cut(num_crops: int) -> None:
    crops = Phi3VImageProcessor(num_crops=num_crops, pad_crops=True)
    made = crops(Image.new("RGB", (50, 8000)), return_tensors="pt")
    assert made["pixel_values"].shape == (1, num_crops + 1, 3, 336, 336)
    counted = crops.calc_num_image_tokens_from_image_size(width=50, height=8000)
    assert counted == made["num_img_tokens"].item()


def test_a_text_laid_out_by_vllm_is_the_text_of_the_processor(
    processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    """vLLM tokenizes what stands between tags piece by piece, and writes placeholders between."""
    chunks = re.split(r"<\|image_\d+\|>", QUESTION)
    ids: list[int] = []
    for place, chunk in enumerate(chunks):
        ids += processor.tokenizer(chunk).input_ids
        if place < len(images):
            width, height = images[place].size
            count = processor.calc_num_image_tokens_from_image_size(width=width, height=height)
            ids += [processor.image_token_id] * count
    made = processor(text=QUESTION, images=images)
    assert made["input_ids"] == [ids]


def test_tags_are_tokenized_alike_alone_and_in_a_text(processor: Phi3VProcessor) -> None:
    """vLLM searches the tokens of a tag in the tokens of a text."""
    for tag in processor.img_tokens[:20]:
        alone = processor.tokenizer(tag, add_special_tokens=False).input_ids
        assert processor.tokenizer.decode(alone).strip() == tag


def test_num_crops_given_to_the_server_holds_for_cutting_and_counting(
    folder: Path, images: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    """As vLLM does it with --mm-processor-kwargs: when loading, and again in the call."""
    loaded = AutoProcessor.from_pretrained(folder, num_crops=2)
    made = loaded(
        text="<|image_1|>",
        images=images[:1],
        num_crops=2,
        truncation=False,
        return_tensors="pt",
    )
    assert made["pixel_values"].shape == (1, 3, 3, 56, 56)
    shown = int((made["input_ids"] == loaded.image_token_id).sum())
    assert shown == loaded.calc_num_image_tokens_from_image_size(width=60, height=50) == 13
    assert not [record for record in caplog.records if "num_crops" in record.message]


def test_padding_can_be_requested_where_a_folder_does_not(tiny_checkpoint: Path) -> None:
    loaded = AutoImageProcessor.from_pretrained(tiny_checkpoint, pad_crops=True)
    assert loaded(Image.new("RGB", (9, 9)), return_tensors="pt")["pixel_values"].ndim == 5
    plain = AutoImageProcessor.from_pretrained(tiny_checkpoint)
    assert plain(Image.new("RGB", (9, 9)), return_tensors="pt")["pixel_values"].ndim == 4


def test_a_chat_becomes_numbered_tags_in_the_order_of_the_images(
    processor: Phi3VProcessor,
) -> None:
    blocks = [{"type": "image"}, {"type": "text", "text": "One. "}, {"type": "image"}]
    messages = [{"role": "user", "content": blocks}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<s><|user|>\n<|image_1|>\nOne. <|image_2|>\n<|end|>\n<|assistant|>\n"


# The same folder in our own rooms.


def test_padded_crops_give_the_features_of_the_others_bit_for_bit(
    folder: Path, images: list[Image.Image]
) -> None:
    model, processor = load_model(folder)
    both = [processor.image_processor(images, pad_crops=padded) for padded in (False, True)]
    with torch.no_grad():
        flat, padded = (
            model.get_image_features(made["pixel_values"], made["image_sizes"]).pooler_output
            for made in both
        )
    assert both[1]["pixel_values"][1, -1].any()
    assert all(torch.equal(a, b) for a, b in zip(flat, padded, strict=True))


def test_padding_crops_are_zeros_behind_the_others(images: list[Image.Image]) -> None:
    crops = Phi3VImageProcessor(num_crops=4, crop_size=56, num_img_tokens=4)
    square = images[0].resize((56, 56))
    wide = square.resize((112, 56))
    flat = crops(wide, return_tensors="pt", num_crops=2)["pixel_values"]
    padded = crops(wide, return_tensors="pt", num_crops=3, pad_crops=True)["pixel_values"][0]
    used = len(flat)
    assert torch.equal(padded[:used], flat)
    assert not padded[used:].any()


def test_our_package_joins_crops_whatever_the_folder_requests(
    folder: Path, images: list[Image.Image]
) -> None:
    assert not load_processor(folder).image_processor.pad_crops
    predictor = LocalPredictor(folder, template=PRODUCT.name, device="cpu", dtype=torch.float32)
    assert len(predictor.predict(images)) == 2


# Code that travels must run on the transformers that vLLM has, not only on ours.

KNOWN_IN_5_20 = {
    "ALL_ATTENTION_FUNCTIONS",
    "BaseImageProcessor",
    "BaseModelOutputWithPast",
    "BaseModelOutputWithPooling",
    "BatchFeature",
    "CLIPVisionConfig",
    "CLIPVisionModel",
    "Cache",
    "CausalLMOutputWithPast",
    "GenerationMixin",
    "ImagesKwargs",
    "OPENAI_CLIP_MEAN",
    "OPENAI_CLIP_STD",
    "Phi3Attention",
    "Phi3Config",
    "Phi3DecoderLayer",
    "Phi3Model",
    "Phi3PreTrainedModel",
    "ProcessingKwargs",
    "ProcessorMixin",
    "SubConfigSpec",
    "apply_rotary_pos_emb",
    "can_return_tuple",
    "eager_attention_forward",
    "is_tracing",
    "is_valid_image",
}
"""What transformers 5.20.2 was seen to have, with answers equal to those of 5.23.0. A name that is
not here must be tried there first: vLLM 0.33.0 takes transformers below 5.21."""


def test_the_shipped_code_imports_only_names_of_vllms_transformers() -> None:
    files = Path(modeling_phi3_v.__file__).parent.glob("*_phi3_v.py")
    names = {
        alias.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers")
        for alias in node.names
    }
    assert names <= KNOWN_IN_5_20


def test_every_attribute_that_vllm_reads_exists() -> None:
    assert all(name in vars(Phi3VProcessor) for name in engines.VLLM_ATTRIBUTES)
