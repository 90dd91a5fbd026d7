"""Keeps what is written inside a grammar: of the next tokens, only those that it can go on with.

Knows no template (`phi_vision.data.template_grammar` makes the grammar of one).
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from transformers import PreTrainedTokenizerFast

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece vocabularies name the tokens that write one byte of a character."""

BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
"""What stands for a blank in SentencePiece vocabularies."""

BREAK = "\n"
"""A character that is part of no longer token."""

FUEL = 10**9
"""How much llguidance may work on one token. Its default, for servers that read grammars of
strangers, is used up by a bounded text that must not hold certain words."""

OF_STRANGERS = "%json"
"""What stands in a grammar that comes from a stranger's JSON schema, and in none of our own: that
one must do with the default, since a schema can ask for endless work."""


def allow(matchers: Sequence[LLMatcher | None], scores_BV: torch.Tensor) -> torch.Tensor:
    """Set what the grammars cannot go on with to minus infinity, row by row.

    Input:  scores (B, V), a matcher for each row that has a grammar
    Output: (B, V); a matcher that has used up its work (`is_error`) changes nothing
    """
    if not any(matchers):
        return scores_BV
    bits = allocate_token_bitmask(*scores_BV.shape)
    for row, matcher in enumerate(matchers):
        if matcher is None:
            bits[row] = -1
        else:
            fill_next_token_bitmask(matcher, bits, row)
            if matcher.is_error():
                bits[row] = -1
    allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    allowed_BV = torch.from_numpy(allowed[:, : scores_BV.shape[1]]).to(scores_BV.device)
    return scores_BV.masked_fill(allowed_BV == 0, -torch.inf)


@lru_cache(maxsize=16)  # Reading a grammar takes about as long as writing an answer under it.
def begin(
    tokenizer: PreTrainedTokenizerFast,
    grammar: str,
    vocabulary_size: int,
    stops: tuple[int, ...],
) -> LLMatcher:
    """Read a grammar for a vocabulary: give a matcher of which each row takes a `deep_copy`.

    Args:
        tokenizer: Says what each token writes.
        grammar: All that may be written, in llguidance's dialect of Lark.
        vocabulary_size: How many logits the model gives; may be more than there are tokens.
        stops: The tokens that end an answer.

    Raises:
        ValueError: The grammar cannot be read.
    """
    vocabulary = _vocabulary(tokenizer, vocabulary_size, stops)
    limits = LLParserLimits()
    if OF_STRANGERS not in grammar:
        limits = LLParserLimits(
            initial_lexer_fuel=FUEL,
            step_lexer_fuel=FUEL,
            step_max_items=FUEL,
            max_lexer_states=FUEL,
        )
    matcher = LLMatcher(vocabulary, grammar, limits=limits, log_level=0)
    if matcher.is_error():
        reason = matcher.get_error().strip().splitlines()[0]
        raise ValueError(
            f"the grammar cannot be read: {reason}; it begins {grammar[:80]!r}; make it with "
            "`phi_vision.data.template_grammar.grammar_of`, or write one in "
            "llguidance's dialect of Lark"
        )
    return matcher


@lru_cache(maxsize=2)  # Asked for every answer.
def control_tokens(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """List the tokens that write nothing, such as `<|end|>`.

    Some vocabularies flag the tokens that write one byte as control tokens, too. To take them for
    such would turn "Müller", whose "ü" is `<0xC3>` `<0xBC>`, into "Mller".
    """
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    return frozenset(
        number
        for number, token in added.items()
        if token.special and not BYTE_TOKEN.fullmatch(token.content)
    )


@lru_cache(maxsize=2)  # A tenth of a second for the official vocabulary of 32,064 tokens.
def _vocabulary(
    tokenizer: PreTrainedTokenizerFast, size: int, stops: tuple[int, ...]
) -> LLTokenizer:
    # llguidance can read the tokenizer itself, but then takes byte tokens that are flagged as
    # control tokens for their names: `<0x0A>` for six characters.
    return LLTokenizer(
        TokenizerWrapper(_Vocabulary(tokenizer, size, stops)), n_vocab=size, eos_token=list(stops)
    )


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, size: int, stops: tuple[int, ...]
    ) -> None:
        controls = control_tokens(tokenizer)
        names = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))
        self.eos_token_id = stops[0]
        self.bos_token_id = tokenizer.bos_token_id
        self.special_token_ids = sorted(
            {number for number in controls | set(stops) if number < size}
            | set(range(len(names), size))
        )
        self.tokens = [
            name.encode() if number in controls else _bytes_of(name)
            for number, name in enumerate(names)
        ]
        self.tokens += [b"<unused>"] * (size - len(names))
        self._tokenizer = tokenizer
        self._before = len(self._encode(BREAK))

    def __call__(self, text: str) -> list[int]:
        """Write text as tokens, where it goes on after other text.

        Alone it would begin with a blank, which SentencePiece puts in front.
        """
        return self._encode(BREAK + text)[self._before :]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


def _bytes_of(name: str) -> bytes:
    """Say what a token writes: `▁Coat` writes " Coat", `<0xC3>` the first byte of "ü"."""
    byte = BYTE_TOKEN.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.replace(BLANK, " ").encode()
