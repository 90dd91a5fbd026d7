"""Conversations to prompts: messages in OpenAI's form, worded as the model reads them.

Nothing a caller writes becomes a control token, and nothing is cut off.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from phi_vision.data.template import Template
from phi_vision.model.processing_phi3_v import IMAGE_TAG, Phi3VProcessor
from phi_vision.serving.schemas import ImagePart, Message, TextPart, UserMessage


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image that a message shows."""

    url: str

    param: str
    """Where it stands, such as `messages.0.content.1.image_url.url`."""


class Wording:
    """Words prompts for one model.

    Args:
        processor: The model's.
        template: The wording that it was trained with.
        context: Most tokens that the model reads and writes in all.
    """

    def __init__(self, processor: Phi3VProcessor, template: Template, context: int) -> None:
        self._processor = processor
        self._template = template
        self._context = context
        # A copy: the thread that owns the model sets the padding of the processor's own.
        self._tokenizer = copy.deepcopy(processor.tokenizer.backend_tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        controls = [token.content for token in processor.tokenizer.added_tokens_decoder.values()]
        self._controls = re.compile(
            "|".join(
                f"{re.escape(control[:1])}(?={re.escape(control[1:])})"
                for control in sorted(controls)
            )
            + f"|<(?={IMAGE_TAG.pattern[1:]})"
        )

    def plain(self, words: str) -> str:
        """Put a blank into all that the tokenizer or the processor takes for a control token.

        Behind its first character, as the data that models learn from is prepared: what is left are
        the tokens of the words themselves, and one for the blank.

        Input:  "5 < 6 <b> <|end|> </s> <|image_1|>"
        Output: "5 < 6 <b> < |end|> < /s> < |image_1|>"
        """
        return self._controls.sub(lambda match: f"{match.group()} ", words)

    def prompt(self, messages: Sequence[Message]) -> str:
        """Word a conversation up to where the answer begins.

        The template's own question about images is asked in the very form that the model was
        trained on, which is not always that of a conversation.

        Input:  a user's image and "What is it?"
        Output: <|user|>\\n<|image_1|>\\nWhat is it?<|end|>\\n<|assistant|>\\n
        """
        images = len(images_of(messages))
        if len(messages) == 1 and isinstance(messages[0], UserMessage):
            content = messages[0].content
            words = [content] if isinstance(content, str) else [_words(part) for part in content]
            if words == [None] * images + [self._template.question]:
                return self._template.prompt(self._processor, images=images)
        number = 0
        turns = []
        for message in messages:
            lines = []
            for part in _parts(message):
                if isinstance(part, str):
                    lines.append(self.plain(part))
                else:
                    number += 1
                    lines.append(f"<|image_{number}|>")
            role = "system" if message.role == "developer" else message.role
            turns.append({"role": role, "content": "\n".join(lines)})
        worded: str = self._processor.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        return worded

    def length(self, prompt: str, images: Sequence[Image]) -> int:
        """Count the tokens of a prompt with its images, as the processor would.

        Raises:
            ValueError: An image has an impossible shape.
        """
        counts = [
            self._processor.calc_num_image_tokens_from_image_size(*image.size) for image in images
        ]
        image_token, bos = self._processor.image_token, str(self._processor.tokenizer.bos_token)

        def spelt(tag: re.Match[str]) -> str:
            return image_token * counts[int(tag.group(1)) - 1] + bos

        text = IMAGE_TAG.sub(spelt, prompt.removeprefix(bos))
        return len(self._tokenizer.encode(text).ids)

    def room(self, length: int) -> int:
        """Count the tokens that are left for an answer to a prompt of so many.

        Raises:
            ValueError: None is left; says how many the model reads.
        """
        left = self._context - length
        if left < 1:
            raise ValueError(
                f"this model reads and writes at most {self._context:,} tokens; the question has "
                f"{length:,}; ask less, or show fewer images"
            )
        return left


def images_of(messages: Sequence[Message]) -> list[Shown]:
    """List the images of a conversation, in the order in which they are shown."""
    return [
        Shown(url=part.image_url.url, param=f"messages.{place}.content.{number}.image_url.url")
        for place, message in enumerate(messages)
        for number, part in enumerate(_parts(message))
        if isinstance(part, ImagePart)
    ]


def characters_of(messages: Sequence[Message]) -> int:
    """Count the characters of a conversation's words."""
    return sum(
        len(part) for message in messages for part in _parts(message) if isinstance(part, str)
    )


def _parts(message: Message) -> list[str | ImagePart]:
    content = message.content or ""
    parts = [content] if isinstance(content, str) else content
    return [part if isinstance(part, str | ImagePart) else part.text for part in parts]


def _words(part: TextPart | ImagePart) -> str | None:
    """The words of a part; None for an image."""
    return None if isinstance(part, ImagePart) else str(part.text)
