"""GenerationRequest and Generation: one row of a batch, and the text generated for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from PIL.Image import Image

MAX_NEW_TOKENS = 96
"""Longest answer in tokens where nothing else is asked: three times an answer about a product."""

FinishReason = Literal["stop", "length", "cancelled"]
"""Why an answer is over: the model (or a stop word) ended it, its limit cut it, nobody listens."""


class OnToken(Protocol):
    """Hears an answer while it is written, on the thread that writes it."""

    def __call__(self, piece: str) -> bool:
        """Take what was added since the last call, often nothing, and say whether to go on.

        All pieces joined are the answer's text: held back are halves of characters, blanks that may
        be the last, and what may become a stop word.
        """


class Generation(NamedTuple):
    """What was written in answer to one question, token by token."""

    text: str
    """Without control tokens and blanks around."""

    token_ends: tuple[int, ...]
    """For each token, how many characters of `text` are written after it. The token that ended the
    answer comes last, unless the answer was cut."""

    logprobs: tuple[float, ...]
    """For each token, the natural logarithm of the probability that the model gave it, whatever a
    grammar or a temperature made of it."""

    finish_reason: FinishReason = "stop"
    """Why there is no more."""

    prompt_tokens: int = 0
    """Length of the prompt, image tokens included."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One prompt with its images, and how the answer is to be written."""

    prompt: str
    """Text with `<|image_k|>` tags, in the model's chat format."""

    images: tuple[Image, ...] = ()
    """Its images, in the order in which the tags count them."""

    max_new_tokens: int = MAX_NEW_TOKENS
    """Most tokens of the answer, the one that ends it included."""

    grammar: str | None = None
    """All that may be written, as llguidance reads it; anything unless given."""

    finite_grammar: bool = False
    """Whether the grammar has no endless words: then `max_new_tokens` does not count."""

    temperature: float = 0.0
    """0 takes the likeliest token each time; above, tokens are drawn, the likelier the oftener."""

    top_p: float = 1.0
    """Drawn are only the likeliest tokens that together have this probability."""

    seed: int | None = None
    """Of the drawing, in whatever batch; another each time unless given."""

    stop: tuple[str, ...] = ()
    """Words that end the answer; they are not part of it."""

    on_token: OnToken | None = None
    """Hears the answer while it is written."""

    on_finish: Callable[[Generation], object] | None = None
    """Told of the whole answer as soon as it is over, while others of its batch may go on. Called
    on the thread that writes."""
