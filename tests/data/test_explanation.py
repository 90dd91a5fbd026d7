"""An explanation shows the batch of training, and an image as the model takes it."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from benchmarks.full_size import full_size_config
from phi_vision.data.collator import IGNORED, CompletionCollator
from phi_vision.data.explanation import Explanation, explain, image_token_parts
from phi_vision.data.explanation_drawing import COLOURS, WIDTH, draw
from phi_vision.data.samples import Message, Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.model.checkpoint import SMALL, load_config, load_model, load_processor, resolve
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.processing_phi3_v import Phi3VProcessor

RECORD = {"title": "Wool Coat", "category3_code": "COATS", "full_price": 390.0}


def noise(width: int, height: int) -> bytes:
    encoded = io.BytesIO()
    Image.effect_noise((width, height), 80).convert("RGB").save(encoded, "PNG")
    return encoded.getvalue()


def make_sample(*sizes: tuple[int, int]) -> Sample:
    images = tuple(noise(*size) for size in sizes)
    return Sample(id="coat.jpg", group="g", images=images, record=RECORD)


@pytest.fixture(scope="module")
def config() -> Phi3VConfig:
    return load_config(SMALL)


@pytest.fixture(scope="module")
def collator() -> CompletionCollator:
    return CompletionCollator(processor=load_processor(SMALL), template=TEMPLATES["product"])


@pytest.fixture(scope="module")
def official() -> tuple[CompletionCollator, Phi3VConfig]:
    """Phi-3.5-Vision's sizes: at most 4 crops of 336 pixels."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(SMALL))
    processor = Phi3VProcessor(Phi3VImageProcessor(num_crops=4), tokenizer)
    config = full_size_config(tokenizer)
    return CompletionCollator(processor=processor, template=TEMPLATES["product"]), config


def shown(collator: CompletionCollator, sample: Sample, config: Phi3VConfig) -> Explanation:
    """Explain a sample, and compare with the batch that a training step gets."""
    found, batch = explain(collator, sample, config), collator([sample])
    assert found.input_ids == batch["input_ids"][0].tolist()
    assert found.labels == batch["labels"][0].tolist()
    is_image = batch["input_ids"][0] == collator.processor.image_token_id
    assert found.count("image") == int(is_image.sum()) == sum(len(i.parts) for i in found.images)
    assert found.count("completion") == int((batch["labels"][0] != IGNORED).sum())
    assert sum(span.length for span in found.spans) == len(found.input_ids)
    for span in found.spans:
        labels = batch["labels"][0, span.start : span.end]
        assert (span.kind == "completion") == bool((labels != IGNORED).all())
    crops = sum(len(image.crops) for image in found.images)
    assert crops == len(batch.get("pixel_values", ()))
    return found


def test_the_worked_example_of_the_docs_is_shown(
    official: tuple[CompletionCollator, Phi3VConfig],
) -> None:
    found = shown(official[0], make_sample((500, 333)), official[1])
    assert found.as_dict()["images"] == [
        {
            "size": {"width": 500, "height": 333},
            "resized": {"width": 672, "height": 447},
            "padded": {"width": 672, "height": 672},
            "padding": {"left": 0, "right": 0, "top": 112, "bottom": 113},
            "crop_size": 336,
            "rows": 2,
            "columns": 2,
            "crops": 5,
            "tokens": 757,
            "tokens_by_part": {
                "crops": 576,
                "row_separators": 36,
                "view_separator": 1,
                "global_view": 144,
            },
        }
    ]
    assert [*found.lines()][:4] == [
        "image 1: 500 × 333 pixels",
        "  resized   672 × 447 pixels, padded with white to 672 × 672 (112 top and 113 bottom)",
        "  crops     2 × 2 of 336 × 336, and the global view",
        "  tokens    757 = 576 crops + 36 row separators + 1 view separator + 144 global view",
    ]


@pytest.mark.parametrize(
    "sizes", [[(40, 60)], [(300, 100)], [(50, 50), (90, 200)], []], ids=lambda sizes: str(sizes)
)
@pytest.mark.parametrize("name", ["product", "walkthrough"])
def test_the_sequence_is_the_batch_of_training(
    collator: CompletionCollator, config: Phi3VConfig, sizes: list[tuple[int, int]], name: str
) -> None:
    of_template = CompletionCollator(processor=collator.processor, template=TEMPLATES[name])
    found = shown(of_template, make_sample(*sizes), config)
    assert found.spans[-1].text.startswith("Product: Wool Coat, Category: COATS")
    assert [span.image for span in found.spans if span.image] == [*range(1, len(sizes) + 1)]


def test_every_completion_of_a_conversation_is_supervised(
    collator: CompletionCollator, config: Phi3VConfig
) -> None:
    turns = [("user", "<image>\nWhat?"), ("assistant", "A hat."), ("user", "Red?")]
    messages = tuple(Message(*turn) for turn in [*turns, ("assistant", "No.")])  # type: ignore[arg-type]
    talk = Sample(id="t", group="t", images=[noise(60, 40)], record={}, messages=messages)
    found = shown(collator, talk, config)
    assert [span.kind for span in found.spans] == [
        *("prompt", "image", "prompt", "completion", "prompt", "completion")
    ]


def test_a_prompt_without_a_record_is_that_of_inference(
    collator: CompletionCollator, config: Phi3VConfig
) -> None:
    sample = make_sample((300, 100))
    whole, prompt = (explain(collator, sample, config, has_record=given) for given in (True, False))
    assert prompt.input_ids == whole.input_ids[: len(prompt.input_ids)]
    assert len(prompt.input_ids) == whole.spans[-1].start
    assert prompt.count("completion") == 0


def test_the_parts_of_the_image_tokens_are_where_the_model_puts_them(tiny_checkpoint: Path) -> None:
    model, _ = load_model(tiny_checkpoint)
    embedding = model.model.vision_embed_tokens
    with torch.no_grad():
        embedding.sub_GN.fill_(-1.0)
        embedding.glb_GN.fill_(-2.0)
    patches = embedding.patches
    for rows, columns in ((1, 1), (2, 2), (3, 1)):
        crops = 1 + rows * columns
        features = torch.full((crops, patches**2, 32), 5.0)
        features[0] = 7.0  # the global view comes first
        arranged = embedding._arrange(features, rows, columns)[:, 0].tolist()
        meant = {"row separators": -1, "view separator": -2, "crops": 5, "global view": 7}
        parts = image_token_parts(rows, columns, patches // 2)
        assert [meant[part] for part in parts] == arranged


def test_the_crops_are_drawn_as_the_model_gets_them(
    collator: CompletionCollator, config: Phi3VConfig
) -> None:
    sample = make_sample((224, 224))  # two rows and columns of crops, which need no resizing
    (image,) = explain(collator, sample, config).images
    (original,) = sample.open_images()
    assert image.crops[1].tobytes() == original.crop((0, 0, 112, 112)).tobytes()
    assert image.crops[4].tobytes() == original.crop((112, 112, 224, 224)).tobytes()


def test_a_drawing_has_a_cell_for_each_token(
    official: tuple[CompletionCollator, Phi3VConfig],
) -> None:
    found = explain(official[0], make_sample((500, 333), (80, 300)), official[1])
    drawing = draw(found, "a title")
    assert drawing.width == WIDTH
    colours = {colour for _, colour in drawing.getcolors(1 << 24) or ()}
    for colour in COLOURS.values():
        assert tuple(bytes.fromhex(colour[1:])) in colours


def test_an_image_that_is_too_thin_is_named(
    collator: CompletionCollator, config: Phi3VConfig
) -> None:
    with pytest.raises(ValueError, match=r"'coat.jpg', image 1: The image is 5000 pixels long"):
        explain(collator, make_sample((1, 5000)), config, has_record=False)
