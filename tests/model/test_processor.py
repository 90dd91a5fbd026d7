"""Words and images to ids: the official ids, batches, chats, and errors that say which."""

import json
from typing import Any

import pytest
import torch
from golden_cases import BATCHES, GOLDEN, IMAGE_TOKEN_ID, SINGLE, VERSIONS, Case, as_ours, official
from PIL import Image
from toy_rows import NONE, ONE, TWO
from transformers import AutoTokenizer, ProcessorMixin

from phi_vision import Phi3VImageProcessor, Phi3VProcessor

OFFICIAL_WORDS = json.loads((GOLDEN / "processor" / "tokenization.json").read_text())["both"]


@pytest.fixture(scope="module", params=VERSIONS)
def official_processor(request: pytest.FixtureRequest) -> Phi3VProcessor:
    """A processor around an official tokenizer; an image has 313 image tokens."""
    tokenizer = AutoTokenizer.from_pretrained(official(request.param))
    return Phi3VProcessor(Phi3VImageProcessor(num_crops=1), tokenizer)


def processor_for(case: Case) -> Phi3VProcessor:
    tokenizer = AutoTokenizer.from_pretrained(official(case.version))
    return Phi3VProcessor(case.image_processor(), tokenizer)


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.name)
def test_ids_of_every_golden_case_are_the_official_ones(case: Case) -> None:
    processor, expected = processor_for(case), case.expected()
    shown = case.open_images() or None
    for text, name in (("train_text", "input_ids"), ("prompt", "prompt_input_ids")):
        made = processor(text=case.facts[text], images=shown, return_tensors="pt")
        assert made["input_ids"].tolist() == as_ours(expected[name]).tolist()
        assert made["attention_mask"].all()
    assert processor.decode(expected["gen_tokens"]) == case.facts["gen"]["text"]


@pytest.mark.parametrize("case", BATCHES, ids=lambda case: case.name)
@pytest.mark.parametrize("side", ["left", "right"])
def test_ids_of_the_golden_batches_are_the_official_ones(case: Case, side: str) -> None:
    samples, expected = case.facts["samples"], case.expected()
    shown = [[Image.open(case.folder / i["file"]) for i in s["images"]] for s in samples]
    answered = side == "right"
    texts = [s["prompt"] + (s["answer"] if answered else "") for s in samples]
    made = processor_for(case)(text=texts, images=shown, padding_side=side, return_tensors="pt")
    prefix, ids = ("", "input_ids") if answered else ("left_pad_", "prompt_input_ids")
    assert torch.equal(made["input_ids"], as_ours(expected[prefix + ids]))
    assert torch.equal(made["attention_mask"], expected[prefix + "attention_mask"])
    assert torch.equal(made["image_sizes"], expected["image_sizes"])


def test_words_alone_get_the_official_ids(official_processor: Phi3VProcessor) -> None:
    for entry in OFFICIAL_WORDS["text_only"]:
        text, tokenizer = entry["text"], official_processor.tokenizer
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer(text)["input_ids"] == entry["input_ids"], text
        assert bare == entry["input_ids_no_special"], text
        if "<|image" in text:
            continue  # a tag without its image, an error here: see below
        once = entry["input_ids"][text.startswith("<s>") :]
        assert official_processor(text=text)["input_ids"] == [once], text


def test_words_around_images_get_the_official_ids(official_processor: Phi3VProcessor) -> None:
    image = Image.new("RGB", (336, 336))
    for entry in OFFICIAL_WORDS["with_images"]:
        expected: list[int] = []
        for run in entry["input_ids_runlength"]:
            expected += [run] if isinstance(run, int) else [IMAGE_TOKEN_ID] * run[1]
        made = official_processor(text=entry["text"], images=[image] * entry["num_images"])
        assert made["input_ids"] == [expected], entry["text"]


def test_chats_are_worded_officially_and_begin_with_one_bos(
    official_processor: Phi3VProcessor,
) -> None:
    for entry in OFFICIAL_WORDS["chat_template"]:
        chat, prompted = entry["messages"], entry["add_generation_prompt"]
        words = official_processor.apply_chat_template(chat, add_generation_prompt=prompted)
        assert words == "<s>" + entry["text"]
        shown = [Image.new("RGB", (9, 9))] if "<|image_1|>" in words else None
        from_template = official_processor(text=words, images=shown)["input_ids"]
        assert from_template == official_processor(text=entry["text"], images=shown)["input_ids"]
        assert from_template[0][:2].count(1) == 1


def test_ids_are_decoded_officially(official_processor: Phi3VProcessor) -> None:
    for entry in OFFICIAL_WORDS["decode"]:
        for skip in (True, False):
            text = official_processor.decode(entry["ids"], skip_special_tokens=skip)
            assert text == entry[f"skip_special_tokens_{str(skip).lower()}"], entry["ids"]


# What follows needs no official file: the tokenizer is that of phi-vision-small.


def shape(made: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(values.shape) for name, values in made.items()}


def test_a_text_with_its_image_gives_the_model_inputs(
    processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    for shown in (images[0], images[:1], [images[:1]]):
        made = processor(text=ONE, images=shown, return_tensors="pt")
        length = made["input_ids"].shape[1]
        assert shape(made) == {
            "input_ids": (1, length),
            "attention_mask": (1, length),
            "pixel_values": (5, 3, 56, 56),
            "image_sizes": (1, 2),
        }
        assert (made["input_ids"] == processor.image_token_id).sum() == (4 + 1) * 4 + 1 + 3 * 2


def test_each_image_ends_with_a_bos_as_in_training(
    processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    ids = processor(text="<|image_1|>", images=images[2])["input_ids"][0]
    bos, placeholder = processor.tokenizer.bos_token_id, processor.image_token_id
    assert ids == [bos, *[placeholder] * 27, bos]


def test_a_batch_takes_rows_with_any_number_of_images(
    processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    a, b, c = images
    made = processor(text=[ONE, TWO, NONE], images=[[a], [b, c], []], return_tensors="pt")
    alone = [
        processor(text=text, images=shown, return_tensors="pt")
        for text, shown in [(ONE, [a]), (TWO, [b, c]), (NONE, None)]
    ]
    for row, single in enumerate(alone):
        real = made["input_ids"][row][made["attention_mask"][row] == 1]
        assert real.tolist() == single["input_ids"][0].tolist()
    for name in ("pixel_values", "image_sizes"):
        joined = torch.cat([single[name] for single in alone if name in single])
        assert torch.equal(made[name], joined)
    assert "pixel_values" not in alone[2]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("is_begun", [False, True])
def test_ids_repeated_after_tokenizing_are_those_of_the_whole_text(
    processor: Phi3VProcessor, images: list[Image.Image], side: str, is_begun: bool
) -> None:
    a, b, c = images
    texts = ["<s>" * is_begun + text for text in (ONE, TWO, NONE, "<|image_1|>", "<|image_1|> \n")]
    shown = [[a], [b, c], [], [a], [c]]
    options = {"padding_side": side, "add_special_tokens": not is_begun, "return_tensors": "pt"}
    found = processor(text=texts, images=shown, **options)
    whole = ProcessorMixin.__call__(processor, text=texts, images=shown, **options)
    assert list(found) == list(whole)
    for name in whole:
        assert found[name].dtype == whole[name].dtype
        assert torch.equal(found[name], whole[name]), name


def test_rows_are_padded_on_the_left_unless_asked_otherwise(processor: Phi3VProcessor) -> None:
    texts = [NONE, NONE + "Good morning to you"]
    left = processor(text=texts, return_tensors="pt")["attention_mask"]
    right = processor(text=texts, return_tensors="pt", padding_side="right")["attention_mask"]
    assert left[0, [0, -1]].tolist() == [0, 1]
    assert right[0, [0, -1]].tolist() == [1, 0]


def test_tags_out_of_order_show_the_image_they_name(
    processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    """The official code shows images in list order, whatever the tags say."""
    a, b = images[:2]
    swapped = processor(text="<|image_2|> or <|image_1|>?", images=[a, b], return_tensors="pt")
    plain = processor(text="<|image_1|> or <|image_2|>?", images=[b, a], return_tensors="pt")
    assert all(torch.equal(swapped[name], plain[name]) for name in plain)


def test_a_repeated_tag_shows_its_image_again(
    processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    """The official processor accepts it and the official model then fails."""
    a, b = images[:2]
    text = "<|image_1|> <|image_2|> <|image_1|>"
    again = processor(text=text, images=[a, b], return_tensors="pt")
    thrice = processor(
        text="<|image_1|> <|image_2|> <|image_3|>", images=[a, b, a], return_tensors="pt"
    )
    assert all(torch.equal(again[name], thrice[name]) for name in thrice)


def test_leading_zeros_and_unnumbered_tags_are_understood(
    processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    expected = processor(text=TWO, images=images[:2])["input_ids"]
    for spelled in ("<|image_0{}|>", "<|image|>"):
        text = TWO.replace("<|image_1|>", spelled.format(1)).replace(
            "<|image_2|>", spelled.format(2)
        )
        assert processor(text=text, images=images[:2])["input_ids"] == expected


@pytest.mark.parametrize(
    ("text", "count", "complaint"),
    [
        ("Look: <|image_1|>", 0, r"Text 0 shows <\|image_1\|> but was given 0 image"),
        ("<|image_1|> <|image_3|>", 2, r"Text 0 shows <\|image_3\|> but was given 2 image"),
        ("<|image_0|>", 1, r"Text 0 shows <\|image_0\|> but was given 1 image"),
        (
            "<|image_1|> alone",
            2,
            r"given 2 image\(s\) but never shows image 2; write <\|image_2",
        ),
        ("no tag at all", 1, r"given 1 image\(s\) but never shows image 1"),
        ("<|image_1|> <|image|>", 2, r"Text 0 mixes <\|image\|> with numbered tags"),
    ],
)
def test_a_tag_or_image_without_the_other_is_reported_by_name(
    processor: Phi3VProcessor,
    images: list[Image.Image],
    text: str,
    count: int,
    complaint: str,
) -> None:
    with pytest.raises(ValueError, match=complaint):
        processor(text=text, images=images[:count] or None)


def test_an_error_names_the_text_of_a_batch(
    processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    with pytest.raises(ValueError, match=r"Text 1 shows <\|image_1\|> but was given 0"):
        processor(text=[ONE, ONE], images=[[images[0]], []])
    with pytest.raises(ValueError, match="2 texts and a flat list of 1 images"):
        processor(text=[ONE, NONE], images=[images[0]])
    with pytest.raises(ValueError, match="2 texts but 1 lists of images"):
        processor(text=[ONE, ONE], images=[[images[0]]])


def test_a_text_that_would_be_cut_through_an_image_is_rejected(
    processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    with pytest.raises(ValueError, match="truncat"):
        processor(text=ONE, images=images[0], truncation=True, max_length=20)


CHAT = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "image"},
            {"type": "image"},
            {"type": "text", "text": "Which is dearer?"},
        ],
    },
]


def test_blocks_of_a_chat_become_numbered_tags(processor: Phi3VProcessor) -> None:
    assert processor.apply_chat_template(CHAT, add_generation_prompt=True) == (
        "<s><|system|>\nBe brief.<|end|>\n"
        "<|user|>\n<|image_1|>\n<|image_2|>\nWhich is dearer?<|end|>\n"
        "<|assistant|>\n"
    )


def test_a_chat_with_images_becomes_the_models_inputs(
    processor: Phi3VProcessor, images: list[Image.Image], tmp_path: Any
) -> None:
    images[1].save(tmp_path / "b.png")
    content = [
        {"type": "image", "image": images[0]},
        {"type": "image", "path": str(tmp_path / "b.png")},
        {"type": "text", "text": "Which is dearer?"},
    ]
    made = processor.apply_chat_template(
        [CHAT[0], {"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    words = processor.apply_chat_template(CHAT, add_generation_prompt=True)
    expected = processor(text=words, images=images[:2], return_tensors="pt")
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in expected)


def test_the_template_marks_the_assistants_turns(processor: Phi3VProcessor) -> None:
    made = processor.apply_chat_template(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A coat"}],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    masks = made["assistant_masks"][0]
    said = [token for token, mask in zip(made["input_ids"][0], masks, strict=True) if mask]
    assert processor.decode(said).strip() == "A coat<|end|>"
