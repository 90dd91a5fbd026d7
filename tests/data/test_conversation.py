"""Conversations: their prompts, and the template that compares their last completions."""

import pytest

from phi_vision.data.conversation import (
    are_conversations,
    conversation_template,
    placed_turns,
    prompt_of,
)
from phi_vision.data.samples import Message, Role, Sample, shuffle_images
from phi_vision.data.template import CONVERSATION, PRODUCT, find_template, write_template
from phi_vision.data.template_grammar import grammar_of
from phi_vision.model.checkpoint import load_processor

ASKED, ANSWERED = ("user", "<image>What is it?"), ("assistant", "A hat.")


def talk(*turns: tuple[Role, str], images: int = 1, name: str = "a") -> Sample:
    shown = tuple(f"{name}{number}".encode() for number in range(images))
    messages = tuple(Message(*turn) for turn in turns)
    return Sample(id=name, group=name, images=shown, record={}, messages=messages)


def test_the_prompt_of_a_conversation_is_all_before_its_last_reply(tiny_checkpoint):
    processor = load_processor(str(tiny_checkpoint))
    long = talk(ASKED, ANSWERED, ("user", "Its colour?"), ("assistant", "Red."))
    for sample in (long, talk(*long.messages[:-1])):
        assert prompt_of(processor, PRODUCT, sample).removeprefix("<s>") == (
            "<|user|>\n<|image_1|>What is it?<|end|>\n<|assistant|>\nA hat.<|end|>\n"
            "<|user|>\nIts colour?<|end|>\n<|assistant|>\n"
        )


@pytest.mark.parametrize(
    ("said", "images", "problem"),
    [
        ("<|image_1|> What?", 1, r"holds the control token <\|image_1\|>"),
        ("<image_1> What?", 1, "holds the control token <image_1>"),
        ("<image> What?", 2, "1 <image> marks for 2 images"),
        ("Is <image> like <image>?", 1, "2 <image> marks for 1 images"),
    ],
)
def test_other_image_tags_and_counts_are_rejected(said, images, problem):
    with pytest.raises(
        ValueError, match=rf"{problem}; prepare the data with `phi-vision prepare SOURCE"
    ):
        placed_turns(talk(("user", said), ANSWERED, images=images))


def test_a_bare_image_gets_the_most_frequent_prompt_of_the_training(tiny_checkpoint, tmp_path):
    processor = load_processor(str(tiny_checkpoint))
    brief = ("system", "Be brief.")
    usual = talk(brief, ASKED, ANSWERED, ("user", "Why?"), ("assistant", "So."))
    samples = [talk(("user", "Price?"), ANSWERED), usual, usual]
    template = conversation_template(samples)
    assert (template.question, template.system) == ("What is it?", "Be brief.")
    assert template.prompt(processor) == prompt_of(processor, template, talk(brief, ASKED))
    assert "<|image_1|>\n<|image_2|>\nWhat is it?" in template.prompt(processor, images=2)
    write_template(template, tmp_path / "template.yaml")
    assert find_template(str(tmp_path)) == template


def test_a_reply_is_written_and_read_verbatim():
    completion = "A \\hat\\.\n\nIt costs < 5 €."
    assert CONVERSATION.render({"completion": completion}) == completion
    assert CONVERSATION.parse(f" {completion}<|end|>") == {"completion": completion}
    assert CONVERSATION.spans(completion) == {"completion": (0, len(completion))}
    with pytest.raises(ValueError, match="no particular form"):
        grammar_of(CONVERSATION)


def test_only_data_of_conversations_alone_are_conversations():
    assert are_conversations([talk(ASKED, ANSWERED)])
    assert not are_conversations([talk(ASKED, ANSWERED), talk()])
    assert not are_conversations([])


def test_shuffled_images_fill_the_places_of_a_conversation():
    samples = [talk(ANSWERED, images=number, name=f"n{number}") for number in (1, 0, 3, 2)]
    shuffled = shuffle_images(samples, seed=0)
    assert [len(sample.images) for sample in shuffled] == [1, 0, 3, 2]
    for before, after in zip(samples, shuffled, strict=True):
        assert not set(before.images) & set(after.images)
    assert shuffle_images([talk(ANSWERED, images=0)], seed=0) == [talk(ANSWERED, images=0)]
