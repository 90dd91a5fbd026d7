"""Conversations: their prompts in the model's chat format, and their template."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from phi_vision.data.samples import IMAGE_MARK, Message, Sample, failure, may_have_messages
from phi_vision.data.template import CONVERSATION, END, Template
from phi_vision.model.processing_phi3_v import Phi3VProcessor

CONTROL_TOKEN = re.compile(r"<\|\w+\|>|<image[_ -]?\d+>")  # also the image tags of other models


class Segment(NamedTuple):
    """A stretch of a row's text."""

    text: str
    is_supervised: bool


def are_conversations(samples: Sequence[Sample]) -> bool:
    """Whether all samples are conversations, which are evaluated by their last completion."""
    return bool(samples) and may_have_messages(samples) and all(each.messages for each in samples)


def conversation_template(samples: Sequence[Sample]) -> Template:
    r"""Build the template of conversations: for a bare image, their most frequent beginning.

    Input:  twice user "<image>\nWhat is it?", once user "Describe <image>."
    Output: Template(question="What is it?", turn="<image>\nWhat is it?", answer="{completion}", …)
    """
    beginnings: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        said = {turn.role: turn.content for turn in reversed(sample.messages)}  # the first of each
        beginnings[said.get("user", ""), said.get("system", "")] += 1
    (turn, system), _ = beginnings.most_common(1)[0]
    question = turn.replace(IMAGE_MARK, "").strip()
    marked = turn if IMAGE_MARK in turn else ""
    return replace(CONVERSATION, question=question, turn=marked, system=system)


def prompt_of(processor: Phi3VProcessor, template: Template, sample: Sample) -> str:
    """Format a sample's prompt: a conversation up to its last completion, else the template's."""
    if not sample.messages:
        return template.prompt(processor, len(sample.images))
    return "".join(part.text for part in conversation_segments(processor, open_ended(sample))[:-1])


def open_ended(sample: Sample) -> Sample:
    """Append an empty completion to a conversation that ends with a question."""
    if sample.messages[-1].role == "assistant":
        return sample
    return replace(sample, messages=(*sample.messages, Message("assistant", "")))


def conversation_segments(processor: Phi3VProcessor, sample: Sample) -> list[Segment]:
    r"""Render a conversation in the model's own chat format.

    Input:  one image; user "<image>\nWhat is it?", assistant "A hat."
    Output: <s><|user|>\n<|image_1|>\nWhat is it?<|end|>\n<|assistant|>\n     prompt
            A hat.<|end|>                                                      supervised
    """
    numbers = itertools.count(1)
    messages, segments, done = list[dict[str, str]](), list[Segment](), ""
    for role, content in placed_turns(sample):
        text = re.sub(IMAGE_MARK, lambda _: f"<|image_{next(numbers)}|>", content)
        if role == "assistant":
            prompt = processor.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            segments += [Segment(prompt[len(done) :], False), Segment(text + END, True)]
            done = prompt + text + END
        messages.append({"role": role, "content": text})
    return segments


def placed_turns(sample: Sample) -> list[Message]:
    """Check a conversation, and return its turns with a mark for each image.

    Input:  one image; user "What is it?", assistant "A hat."
    Output: user "<image>\\nWhat is it?", assistant "A hat."
    """
    turns = list(sample.messages)
    marks = sum(turn.content.count(IMAGE_MARK) for turn in turns)
    if not marks and sample.images:  # Images without a place are shown first.
        first = next((at for at, turn in enumerate(turns) if turn.role == "user"), 0)
        content = f"{IMAGE_MARK}\n" * len(sample.images) + turns[first].content
        turns[first] = turns[first]._replace(content=content)
        marks = len(sample.images)
    problem = None
    if marks != len(sample.images):
        problem = f"{marks} {IMAGE_MARK} marks for {len(sample.images)} images"
    elif turns[-1].role != "assistant":
        problem = f"the last turn is the {turns[-1].role}'s, so nothing is supervised"
    elif found := CONTROL_TOKEN.search("".join(turn.content for turn in turns)):
        problem = f"it holds the control token {found.group()}"
    if problem:
        raise failure("no_conversation", id=sample.id, problem=problem)
    return turns
