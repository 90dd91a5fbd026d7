"""GenerationRequest and Generation: one row of a batch, and the text generated for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from PIL.Image import Image

MAX_NEW_TOKENS = 96  # default length limit: three times a record of a product
MAX_TURN_TOKENS = 256  # length limit of a conversation's completion: about 200 words

# Why generation ended: a stop token or stop word, the limit, or a cancelled request.
FinishReason = Literal["stop", "length", "cancelled"]

OnToken = Callable[[str], bool]
"""Called after each token, on the generating thread, with the new text, which is often empty;
returns whether to continue. All chunks joined are the text of the generation: partial characters,
whitespace that may be the last, and a possible beginning of a stop word are held back."""


class Generation(NamedTuple):
    """The text generated for one request, token by token."""

    text: str  # without control tokens and surrounding whitespace
    token_ends: tuple[int, ...]  # length of `text` with each token, the stop token included
    # For each token, the natural logarithm of its probability, before any grammar or temperature.
    logprobs: tuple[float, ...]
    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 0  # length of the prompt, image tokens included


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One prompt with its images and decoding options; callbacks run on the generating thread."""

    prompt: str  # text with `<|image_k|>` tags, in the model's chat format
    images: tuple[Image, ...] = ()  # in the order of the tags
    max_new_tokens: int = MAX_NEW_TOKENS  # stop token included
    grammar: str | None = None  # constrains the text: a grammar of llguidance
    # Whether the grammar has no unbounded texts: then `max_new_tokens` does not apply.
    finite_grammar: bool = False
    temperature: float = 0.0  # 0 decodes greedily
    top_p: float = 1.0  # nucleus sampling: only the likeliest tokens of this probability together
    seed: int | None = None  # of the sampling, independent of the batch; by default a random one
    stop: tuple[str, ...] = ()  # words that end the text; they are not part of it
    on_token: OnToken | None = None
    # Asked during each step, also within the prompt's, which may take minutes: where it is true of
    # all rows of a batch, the step is cancelled.
    is_cancelled: Callable[[], bool] | None = None
    # Called when this row ends; others of its batch may continue.
    on_finish: Callable[[Generation], object] | None = None
