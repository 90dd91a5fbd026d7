"""Rows of a batch while they are written: which token comes next, what it says, when it is enough.

Whoever generates (transformers, ONNX Runtime) only computes logits and appends; the choice is made
here, row by row, so that questions of all kinds can share a batch.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
from llguidance import LLMatcher
from transformers import LogitsProcessor, PreTrainedTokenizerFast

from phi_vision.generation.constrained import BYTE_TOKEN, allow, control_tokens
from phi_vision.generation.request import FinishReason, Generation, GenerationRequest


class Reader:
    """Reads tokens as words, leaving control tokens out.

    Args:
        tokenizer: Knows them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._decode = tokenizer.backend_tokenizer.decode_batch
        self._controls = control_tokens(tokenizer)
        names = tokenizer.get_vocab().items()
        self._bytes = frozenset(number for name, number in names if BYTE_TOKEN.fullmatch(name))

    def read(self, texts: Sequence[Sequence[int]]) -> list[str]:
        """Decode several texts, blanks around them included."""
        words = [[token for token in text if token not in self._controls] for text in texts]
        decoded: list[str] = self._decode(words, skip_special_tokens=False)
        return decoded

    def settled(self, tokens: Sequence[int]) -> Sequence[int]:
        """Leave out the last tokens if they write single bytes: more may make other letters."""
        end = len(tokens)
        while end and tokens[end - 1] in self._bytes:
            end -= 1
        return tokens[:end]


class Row:
    """One answer while it is written.

    Args:
        question: What is asked.
        reader: Reads the tokens.
        stops: The tokens that end an answer.
        matcher: Follows the question's grammar, if it has one.
        prompt_tokens: Length of the prompt, image tokens included.
        limit: Most tokens.
    """

    def __init__(
        self,
        question: GenerationRequest,
        reader: Reader,
        stops: Sequence[int],
        *,
        matcher: LLMatcher | None,
        prompt_tokens: int,
        limit: int,
    ) -> None:
        self.question = question
        self.matcher = matcher
        self.prompt_tokens = prompt_tokens
        self.limit = limit
        self.finish_reason: FinishReason | None = None
        self._reader = reader
        self._stops = frozenset(stops)
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._told = 0
        self._whole: Generation | None = None
        self._dice = _dice(question.seed)

    def choose(self, scores_V: torch.Tensor) -> int:
        """Choose the next token among those that have not been set to minus infinity."""
        if not self.question.temperature:
            return int(scores_V.argmax())
        # In double precision, and the likeliest at 0, so that no temperature is too low.
        scores_V = (scores_V - scores_V.max()).double().cpu() / self.question.temperature
        ordered_V, tokens_V = scores_V.softmax(-1).sort(descending=True, stable=True)
        # The first token stays, however small the share.
        ordered_V[1:][ordered_V.cumsum(-1)[:-1] >= self.question.top_p] = 0
        drawn = torch.multinomial(ordered_V, 1, generator=self._dice)
        return int(tokens_V[drawn])

    def take(self, token: int, logprob: float) -> None:
        """Write a token down, tell the on_token, and see whether the answer is over."""
        self._tokens.append(token)
        self._logprobs.append(logprob)
        if token in self._stops:
            self.finish_reason = "stop"
        elif len(self._tokens) >= self.limit:
            self.finish_reason = "length"
        if (
            self.matcher is not None
            and self.finish_reason is None
            and not self.matcher.consume_token(token)
        ):
            self.finish_reason = "length"
        self._tell()

    def give_up(self) -> None:
        """End the answer where its grammar has used up the work that it may take."""
        self.finish_reason = "length"
        self._tell()

    def generation(self) -> Generation:
        """Say what was written.

        A character of several tokens is written by the last of them: what stands before decodes as
        something else, which agrees with the whole only up to the character before.
        """
        if self._whole is not None:
            return self._whole
        counts = range(1, len(self._tokens) + 1)
        beginnings = self._reader.read([self._tokens[:count] for count in counts])
        whole = beginnings[-1] if beginnings else ""
        blanks = len(whole) - len(whole.lstrip())
        text = self._cut(whole.lstrip())
        ends = [min(max(_agreeing(each, whole) - blanks, 0), len(text)) for each in beginnings]
        # The decoder takes one torn character for a reason to tear those that touch it, too.
        rising = tuple(accumulate(ends, max))
        ended = self.finish_reason or "length"
        return Generation(text, rising, tuple(self._logprobs), ended, self.prompt_tokens)

    def _tell(self) -> None:
        """Look for stop words, and let those who listen hear what is new."""
        if self.question.stop or self.question.on_token:
            self._hear(self._words(self._tokens))
        if self.finish_reason and self.question.on_finish:
            self._whole = self.generation()
            self.question.on_finish(self._whole)

    def _hear(self, whole: str) -> None:
        if self.finish_reason is None and any(word in whole for word in self.question.stop):
            self.finish_reason = "stop"
        if self.question.on_token is None:
            return
        final = self._cut(whole) if self.finish_reason else self._settled()
        piece, self._told = final[self._told :], max(self._told, len(final))
        if not self.question.on_token(piece) and self.finish_reason is None:
            self.finish_reason = "cancelled"

    def _settled(self) -> str:
        """Give the part of the text that no further token can change."""
        words = self._words(self._reader.settled(self._tokens))
        begun = [
            length
            for word in self.question.stop
            for length in range(1, len(word))
            if words.endswith(word[:length])
        ]
        return words[: len(words) - max(begun, default=0)].rstrip()

    def _words(self, tokens: Sequence[int]) -> str:
        return self._reader.read([tokens])[0].lstrip()

    def _cut(self, words: str) -> str:
        """Leave out the first stop word and what follows it, and blanks at the end."""
        places = [place for word in self.question.stop if (place := words.find(word)) >= 0]
        return words[: min(places, default=len(words))].rstrip()


class Writing(LogitsProcessor):
    """Chooses the next token of each row; generation is then left no choice.

    Looks at the logits as they pass: keeping them would take (B, L, V) numbers.

    Args:
        rows: The rows of the batch, in its order.
        stop: A token with which a row that is over is ended.
    """

    def __init__(self, rows: Sequence[Row], stop: int) -> None:
        self.rows = rows
        self.stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Set every token but the chosen one to minus infinity.

        Input:  input_ids (B, L), scores (B, V)
        Output: (B, V)
        """
        matchers = [None if row.finish_reason else row.matcher for row in self.rows]
        allowed_BV = allow(matchers, scores)
        for row, matcher in zip(self.rows, matchers, strict=True):
            if matcher is not None and matcher.is_error():
                row.give_up()
        chosen = [
            self.stop if row.finish_reason else row.choose(allowed_V)
            for row, allowed_V in zip(self.rows, allowed_BV, strict=True)
        ]
        chosen_B1 = torch.tensor(chosen, device=scores.device)[:, None]
        logprobs_B = scores.gather(1, chosen_B1)[:, 0] - scores.logsumexp(dim=-1)
        for row, token, logprob in zip(self.rows, chosen, logprobs_B.tolist(), strict=True):
            if row.finish_reason is None:
                row.take(token, logprob)
        ending = [
            self.stop if row.finish_reason else token
            for row, token in zip(self.rows, chosen, strict=True)
        ]
        next_B1 = torch.tensor(ending, device=scores.device)[:, None]
        return torch.full_like(scores, -torch.inf).scatter(1, next_B1, 0.0)


@lru_cache(maxsize=2)  # Looks through the whole vocabulary.
def reader_of(tokenizer: PreTrainedTokenizerFast) -> Reader:
    """Make what reads a tokenizer's tokens."""
    return Reader(tokenizer)


def _dice(seed: int | None) -> torch.Generator:
    dice = torch.Generator()
    if seed is None:
        dice.seed()
        return dice
    return dice.manual_seed(seed)


def _agreeing(beginning: str, whole: str) -> int:
    """Count the characters with which both begin."""
    pairs = enumerate(zip(beginning, whole, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(beginning), len(whole)))
