"""Messages in OpenAI's form to prompts: neutralizes control tokens, truncates nothing."""

import copy
import itertools
import re
from collections.abc import Sequence

from PIL.Image import Image

from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.errors import ApiError, api_error
from phi_vision.serving.schemas import ImagePart, Message

IMAGE_TAG = re.compile(r"<\|image_(\d+)\|>")


class ChatTemplate:
    """Builds prompts for one model."""

    def __init__(self, predictor: LocalPredictor) -> None:
        self._processor = processor = predictor.processor
        self._template = predictor.template
        self._context: int = predictor.model.config.max_position_embeddings
        # A copy: the model's thread changes the padding of the processor's own.
        self._tokenizer = copy.deepcopy(processor.tokenizer.backend_tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        tokens = sorted(t.content for t in processor.tokenizer.added_tokens_decoder.values())
        patterns = [f"{re.escape(token[:1])}(?={re.escape(token[1:])})" for token in tokens]
        self._controls = re.compile("|".join([*patterns, f"<(?={IMAGE_TAG.pattern[1:]})"]))

    def neutralize(self, text: str) -> str:
        """Insert a space after the first character of each control token and image tag.

        Input:  "5 < 6 <b> <|end|> </s> <|image_1|>"
        Output: "5 < 6 <b> < |end|> < /s> < |image_1|>"
        """
        return self._controls.sub(r"\g<0> ", text)

    def prompt(self, messages: Sequence[Message]) -> str:
        """Format a conversation up to the start of the assistant's turn.

        The template's own question is formatted as in training, which may differ from chat.

        Input:  a user's image and "What is it?"
        Output: <|user|>\\n<|image_1|>\\nWhat is it?<|end|>\\n<|assistant|>\\n
        """
        if len(messages) == 1 and messages[0].role == "user":
            *images, text = _parts(messages[0])
            if text == self._template.question and all(isinstance(i, ImagePart) for i in images):
                return self._template.prompt(self._processor, images=len(images))
        numbers = itertools.count(1)
        turns = []
        for message in messages:
            lines = [
                self.neutralize(part) if isinstance(part, str) else f"<|image_{next(numbers)}|>"
                for part in _parts(message)
            ]
            role = "system" if message.role == "developer" else message.role
            turns.append({"role": role, "content": "\n".join(lines)})
        prompt: str = self._processor.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        return prompt

    def length(self, prompt: str, images: Sequence[Image]) -> int:
        """Count the tokens of a prompt with its images, exactly as the processor does."""
        count = self._processor.calc_num_image_tokens_from_image_size
        image_token, bos = self._processor.image_token, str(self._processor.tokenizer.bos_token)

        def expand(tag: re.Match[str]) -> str:
            return str(image_token * count(*images[int(tag[1]) - 1].size)) + bos

        text = IMAGE_TAG.sub(expand, prompt.removeprefix(bos))
        return len(self._tokenizer.encode(text).ids)

    def check_length(self, prompt: str, images: Sequence[Image], param: str) -> None:
        """Check that a prompt leaves context for at least one token; slow for long prompts."""
        try:
            length = self.length(prompt, images)
        except ValueError as error:
            raise ApiError(400, str(error), param=param, code="impossible_shape") from error
        if length >= self._context:
            found = {"context": self._context, "length": length}
            raise api_error("context_length_exceeded", param=param, **found)


def image_urls(messages: Sequence[Message]) -> dict[str, str]:
    """Map each image's field, as messages[0].content[1].image_url.url, to the URL in it."""
    return {
        f"messages[{i}].content[{j}].image_url.url": part.image_url.url
        for i, message in enumerate(messages)
        for j, part in enumerate(_parts(message))
        if isinstance(part, ImagePart)
    }


def joined_text(messages: Sequence[Message]) -> str:
    """Join the texts of a conversation, with a line break between its parts."""
    parts = [part for message in messages for part in _parts(message)]
    return "\n".join(part for part in parts if isinstance(part, str))


def _parts(message: Message) -> list[str | ImagePart]:
    if isinstance(message.content, str | None):
        return [message.content or ""]
    return [part if isinstance(part, ImagePart) else part.text for part in message.content]
