"""GenerationRequest and Generation: one row of a batch, and the text generated for it."""

from collections.abc import Callable, Sequence
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
    tokens: tuple[int, ...] = ()


class NumberSpan(NamedTuple):
    """A number in a generated text, to be written as the median of several draws."""

    start: int  # characters start..end of the text
    end: int
    stop: str  # what follows it; nothing at the end of the text
    median: Callable[[Sequence[str]], str | None]  # of drawn texts; None if none is a number


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
    # Instead of a seed: the text at this place of all texts side by side in the order of their
    # tokens, each as wide as its probability, from 0 to 1. Evenly spaced places draw evenly
    # (arithmetic sampling, https://arxiv.org/abs/2210.15458).
    place: float | None = None
    stop: tuple[str, ...] = ()  # words that end the text; they are not part of it
    prefix: tuple[int, ...] = ()  # tokens that the completion begins with; not part of the text
    # Finds the numbers of the finished text that are drawn again, see `number_draws`; a streamed
    # text keeps the likeliest ones.
    numbers: Callable[[str], Sequence[NumberSpan]] | None = None
    on_token: OnToken | None = None
    # Asked during each step, also within the prompt's, which may take minutes: where it is true of
    # all rows of a batch, the step is cancelled.
    is_cancelled: Callable[[], bool] | None = None
    # Called when this row ends; others of its batch may continue.
    on_finish: Callable[[Generation], object] | None = None
