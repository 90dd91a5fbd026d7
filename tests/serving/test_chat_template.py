"""Conversations become prompts in which nothing a caller wrote is a control token."""

import copy

import pytest
from PIL import Image
from pydantic import TypeAdapter

from phi_vision.data.template import PRODUCT, TEMPLATES, Template
from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.chat_template import ChatTemplate, image_urls
from phi_vision.serving.errors import ApiError
from phi_vision.serving.schemas import Message

MESSAGES: TypeAdapter[list[Message]] = TypeAdapter(list[Message])
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


def user(*parts: str) -> dict[str, object]:
    """A user's turn; "" stands for an image."""
    return {
        "role": "user",
        "content": [{"type": "text", "text": part} if part else IMAGE for part in parts],
    }


def template_of(small: LocalPredictor, template: Template = PRODUCT) -> ChatTemplate:
    predictor = copy.copy(small)
    predictor.template = template
    return ChatTemplate(predictor)


@pytest.fixture(scope="module")
def chat_template(small: LocalPredictor) -> ChatTemplate:
    return template_of(small)


def prompt(chat_template: ChatTemplate, *messages: dict[str, object]) -> str:
    return chat_template.prompt(MESSAGES.validate_python(messages))


def test_images_are_numbered_through_the_conversation(chat_template: ChatTemplate) -> None:
    said = prompt(
        chat_template,
        {"role": "developer", "content": "Be brief."},
        user("", "What is it?"),
        {"role": "assistant", "content": "A hat."},
        user("And these:", "", ""),
    )
    assert said == (
        "<s><|system|>\nBe brief.<|end|>\n<|user|>\n<|image_1|>\nWhat is it?<|end|>\n"
        "<|assistant|>\nA hat.<|end|>\n"
        "<|user|>\nAnd these:\n<|image_2|>\n<|image_3|><|end|>\n<|assistant|>\n"
    )


def test_images_are_listed_by_the_path_of_their_field() -> None:
    shown = image_urls(MESSAGES.validate_python([user("a"), user("b", "")]))
    assert shown == {"messages[1].content[1].image_url.url": "data:"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_templates_question_gets_the_prompt_of_training(
    small: LocalPredictor, name: str
) -> None:
    chat_template = template_of(small, TEMPLATES[name])
    asked = prompt(chat_template, user("", "", TEMPLATES[name].question))
    assert asked == TEMPLATES[name].prompt(small.processor, images=2)


@pytest.mark.parametrize(
    "control",
    [
        *("<|end|>", "<|assistant|>", "<|user|>", "<|system|>", "<|endoftext|>", "<|image|>"),
        *("<s>", "</s>", "<unk>", "<0x0A>", "<|image_1|>", "<|image_12|>", "<<|end|>"),
    ],
)
def test_control_tokens_in_text_are_neutralized(
    small: LocalPredictor, chat_template: ChatTemplate, control: str
) -> None:
    tokenizer = small.processor.tokenizer
    plain = chat_template.neutralize(f"a {control} b{control}")
    written = tokenizer.encode(plain, add_special_tokens=False)
    assert not set(written) & set(tokenizer.added_tokens_decoder)
    # As close as text comes to the words themselves: their tokens, and one for each blank.
    words = tokenizer.encode(
        f"a {control} b{control}", add_special_tokens=False, split_special_tokens=True
    )
    assert len(written) <= len(words) + 2
    assert plain.replace("< ", "<") == f"a {control} b{control}"


def test_other_text_is_unchanged(chat_template: ChatTemplate) -> None:
    words = "5 < 6 <b>bold</b> <3 |end| <|no token|> ▁ é 😀\n\x00 <image>"
    assert chat_template.neutralize(words) == words


def test_halves_of_control_tokens_do_not_join(chat_template: ChatTemplate) -> None:
    said = prompt(chat_template, user("<|im", "age_1|>"), user("<", "", "|end|>"))
    assert said.count("<|end|>") == 2
    assert said.count("<|image_1|>") == 1


@pytest.mark.parametrize("size", [(120, 160), (400, 50), (30, 900), (336, 336)])
def test_prompt_lengths_equal_those_of_the_processor(
    small: LocalPredictor, chat_template: ChatTemplate, size: tuple[int, int]
) -> None:
    images = [Image.new("RGB", size), Image.new("L", (70, 40))]
    said = prompt(chat_template, user("Look: é\n", "", "<|end|> and", "", "done"))
    ids = small.processor(text=said, images=images, return_tensors="pt")["input_ids"]
    assert chat_template.length(said, images) == ids.shape[1]


def test_a_prompt_that_fills_the_context_is_rejected(
    small: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "Is it a hat?"
    length = template_of(small).length(words, ())
    monkeypatch.setattr(small.model.config, "max_position_embeddings", length + 1)
    template_of(small).check_length(words, (), "messages")
    monkeypatch.setattr(small.model.config, "max_position_embeddings", length)
    with pytest.raises(ApiError, match=rf"context is {length} tokens; the prompt has {length};"):
        template_of(small).check_length(words, (), "messages")
