"""Images and text -> the inputs of the model: `input_ids`, `pixel_values`, `image_sizes`.

    processor(text="<|user|>\\n<|image_1|>\\nWhat is it?<|end|>\\n<|assistant|>\\n", images=photo)

Each tag `<|image_k|>` becomes as many placeholder ids as its image has image tokens, followed by
`<s>`: the official processor tokenizes the text between tags piece by piece, and its tokenizer
begins each piece with `<s>`. The model was trained on that.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import is_valid_image
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

# `<|image_1|>` is a numbered image of its text; `<|image|>` the next one.
IMAGE_TAG = re.compile(r"<\|image(?:_(\d+))?\|>")

STOP_TOKENS = ("<|end|>", "<|endoftext|>", "</s>")

# Options of a call that concern rows of ids alone; with others the whole text is tokenized.
ROW_OPTIONS = {"add_special_tokens", "padding", "padding_side", "return_tensors"}

# More images than a context holds.
MAX_IMAGES = 1000

# The official template, for contents that are strings or lists of blocks. It begins with `<s>`,
# since trainers tokenize its text without adding special tokens.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% set shown = namespace(images=0) %}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ (message['content'] if message['content'] is string"
    " else message['content'] | map(attribute='text') | join('')) + '<|end|>\n' }}"
    "{% endgeneration %}"
    "{% elif message['content'] is string %}{{ message['content'] + '<|end|>\n' }}"
    "{% else %}{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}{% set shown.images = shown.images + 1 %}"
    "{{ '<|image_' + shown.images | string + '|>\n' }}"
    "{% else %}{{ block['text'] }}{% endif %}"
    "{% endfor %}{{ '<|end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
    "{{ '<|assistant|>\n' }}{% endif %}"
)


class Phi3VProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Defaults of a call: a list of texts is padded to its longest."""

    _defaults = {"text_kwargs": {"padding": True}}  # noqa: RUF012


class Phi3VProcessor(ProcessorMixin):
    """Joins image processor and tokenizer; the chat template is by default the official one.

    Rows are padded on the left, so that a batch can generate; `padding_side` in a call changes it.
    """

    valid_processor_kwargs = Phi3VProcessorKwargs
    image_token = "<|image|>"
    # The official name, under which other engines look the tags up.
    img_tokens = tuple(f"<|image_{number}|>" for number in range(1, MAX_IMAGES + 1))

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        tokenizer.padding_side = "left"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @property
    def unused_input_names(self) -> list[str]:
        """Outputs of the image processor that are not inputs of the model."""
        return ["num_img_tokens"]

    @property
    def model_input_names(self) -> list[str]:
        """The outputs of a call."""
        return ["input_ids", "attention_mask", "pixel_values", "image_sizes"]

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Convert texts and their images to inputs of the model.

        For tensors an image is one placeholder while its text is tokenized, and is repeated among
        the ids: a tokenizer takes a millisecond for a thousand of them.
        """
        is_padded = kwargs.get("return_tensors") == "pt" and kwargs.get("padding", True) is True
        if images is None or text is None or not is_padded or kwargs.keys() - ROW_OPTIONS:
            return super().__call__(images=images, text=text, **kwargs)
        shown, texts, *_ = self.prepare_inputs_layout(images=images, text=text, **kwargs)
        made = self.image_processor(shown) if shown else BatchFeature()
        once = self.replace_image_token({"num_img_tokens": [1]}, 0)
        ids = self.tokenizer(
            [words.replace(self.image_token, once) for words in texts],
            add_special_tokens=kwargs.get("add_special_tokens", True),
        )["input_ids"]
        counts = iter(made.pop("num_img_tokens").tolist() if shown else ())
        rows = [self.repeat_image_token(row, counts) for row in ids]
        side = kwargs.get("padding_side", self.tokenizer.padding_side)
        return BatchFeature({**self.pad_rows(rows, side), **made})

    def repeat_image_token(self, ids: Sequence[int], counts: Iterator[int]) -> list[int]:
        """Repeat the placeholder of each image.

        Input:  `1 32044 1 9 32044 1`, counts 2, 3
        Output: `1 32044 32044 1 9 32044 32044 32044 1`
        """
        repeated = list[int]()
        for token in ids:
            repeated += [token] * (next(counts) if token == self.image_token_id else 1)
        return repeated

    def pad_rows(self, rows: Sequence[Sequence[int]], side: str) -> dict[str, torch.Tensor]:
        """Pad rows of ids to the longest: `input_ids` and `attention_mask`, (B, L) each."""
        ids = [torch.tensor(row) for row in rows]
        pad = partial(pad_sequence, batch_first=True, padding_side=side)
        mask = pad([torch.ones_like(row) for row in ids])
        return {
            "input_ids": pad(ids, padding_value=self.tokenizer.pad_token_id),
            "attention_mask": mask,
        }

    def prepare_inputs_layout(
        self,
        images: Any = None,
        text: Any = None,
        videos: Any = None,
        audio: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Sort the images by the tags of the texts; what does not match is an error.

        Input:  `["<|image_2|> or <|image_1|>?", "Hello"]`, `[[a, b], []]`
        Output: `["<|image|> or <|image|>?", "Hello"]`, `[b, a]`
        """
        if text is None:
            laid_out: tuple[Any, ...] = super().prepare_inputs_layout(images=images, **kwargs)
            return laid_out
        texts = [text] if isinstance(text, str) else list(text)
        if images is not None:
            images = self.image_processor.fetch_images(images)
        ordered = self.order_images(texts, _group_by_text(images, len(texts)))
        texts = [IMAGE_TAG.sub(self.image_token, words) for words in texts]
        options = {"add_special_tokens": True, **kwargs.get("text_kwargs", {}), **kwargs}
        if options["add_special_tokens"]:
            texts = [words.removeprefix(self.tokenizer.bos_token) for words in texts]
        return ordered or None, texts, None, None

    @staticmethod
    def order_images(texts: Sequence[str], images: Sequence[Sequence[Any]]) -> list[Any]:
        """Sort the images of each text by its tags; what does not match is an error.

        Input:  `["<|image_2|> or <|image_1|>?", "Hello"]`, `[[a, b], []]`
        Output: `[b, a]`
        """
        rows = enumerate(zip(texts, images, strict=True))
        return [image for row, shown in rows for image in _order_by_tags(row, *shown)]

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
        """Return the placeholders of an image and the `<s>` before the following text."""
        count = int(image_inputs["num_img_tokens"][image_idx])
        return self.image_token * count + str(self.tokenizer.bos_token)

    def calc_num_image_tokens_from_image_size(self, width: int, height: int) -> int:
        """Count the image tokens of an image of `width` x `height` pixels, without the image."""
        return int(self.image_processor.calc_num_image_tokens_from_image_size(width, height))

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Write the processor, and `preprocessor_config.json` for engines that read only that."""
        saved = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        self.image_processor.save_pretrained(save_directory)
        return saved


def _group_by_text(images: Any, texts: int) -> list[list[Any]]:
    """Group the images by text.

    Input:  `photo`, `[a, b]` beside one text, or `[[a, b], []]` beside two
    Output: `[[photo]]`, `[[a, b]]`, `[[a, b], []]`
    """
    if images is None:
        return [[] for _ in range(texts)]
    if is_valid_image(images):
        images = [images]
    if any(isinstance(entry, (list, tuple)) for entry in images):
        rows = [[] if entry is None else list(entry) for entry in images]
    elif texts == 1:
        rows = [list(images)]
    else:
        raise ValueError(
            f"Got {texts} texts and a flat list of {len(images)} images; give a list of lists, "
            "one list of images for each text (an empty one for a text without)."
        )
    if len(rows) != texts:
        raise ValueError(f"Got {texts} texts but {len(rows)} lists of images; give one for each.")
    return rows


def _order_by_tags(row: int, words: str, images: Sequence[Any]) -> list[Any]:
    tags = [match.group(1) for match in IMAGE_TAG.finditer(words)]
    if None in tags and any(tags):
        raise ValueError(f"Text {row} mixes <|image|> with numbered tags; number all of them.")
    numbers = [place if tag is None else int(tag) for place, tag in enumerate(tags, start=1)]
    given = range(1, len(images) + 1)
    for number in (number for number in numbers if number not in given):
        raise ValueError(
            f"Text {row} shows <|image_{number}|> but was given {len(images)} image(s); "
            "give the image or remove the tag."
        )
    for number in (number for number in given if number not in numbers):
        raise ValueError(
            f"Text {row} was given {len(images)} image(s) but never shows image "
            f"{number}; write <|image_{number}|> where it belongs."
        )
    return [images[number - 1] for number in numbers]


Phi3VProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["Phi3VProcessor"]
