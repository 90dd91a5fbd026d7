"""Constrained decoding with llguidance: only tokens with which the grammar can continue.

Knows no template (`phi_vision.data.template_grammar` builds the grammar of one).
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from transformers import PreTrainedTokenizerFast

# In SentencePiece vocabularies: the tokens for one byte of a character, and the blank.
BYTE_TOKEN, BLANK = re.compile(r"<0x([0-9A-F]{2})>"), "\N{LOWER ONE EIGHTH BLOCK}"
BREAK = "\n"  # a character that is part of no longer token

# llguidance's computing budget for one token. Its default, for servers that accept foreign
# grammars, is too small for a bounded text that must not contain certain words.
FUEL = 10**9
# Occurs in a grammar made from a client's JSON schema, and in none of our own: the default budget
# applies, since a schema can require endless computation.
FOREIGN = "%json"


def mask_logits(matchers: Sequence[LLMatcher | None], scores_BV: torch.Tensor) -> torch.Tensor:
    """Set the logits of tokens that the grammars forbid to minus infinity, row by row.

    Input:  scores (B, V), a matcher for each row that has a grammar
    Output: (B, V); a matcher that has used up its budget (`is_error`) changes nothing
    """
    if not any(matchers):
        return scores_BV
    bits = allocate_token_bitmask(*scores_BV.shape)
    for row, matcher in enumerate(matchers):
        if matcher is not None:
            fill_next_token_bitmask(matcher, bits, row)
        if matcher is None or matcher.is_error():
            bits[row] = -1
    allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    allowed_BV = torch.from_numpy(allowed[:, : scores_BV.shape[1]]).to(scores_BV.device)
    return scores_BV.masked_fill(allowed_BV == 0, -torch.inf)


@lru_cache(maxsize=16)  # Compiling takes about as long as generating a text.
def compile_grammar(
    tokenizer: PreTrainedTokenizerFast, grammar: str, vocabulary_size: int, stops: tuple[int, ...]
) -> LLMatcher:
    """Compile a grammar to a matcher, of which each row takes a `deep_copy`.

    The grammar is in llguidance's dialect of Lark; `vocabulary_size` is the number of logits, which
    may exceed the number of tokens.
    """
    vocabulary = _vocabulary(tokenizer, vocabulary_size, stops)
    names = ("initial_lexer_fuel", "step_lexer_fuel", "step_max_items", "max_lexer_states")
    limits = LLParserLimits(**dict.fromkeys(() if FOREIGN in grammar else names, FUEL))
    matcher = LLMatcher(vocabulary, grammar, limits=limits, log_level=0)
    if matcher.is_error():
        reason = matcher.get_error().strip().splitlines()[0]
        raise ValueError(
            f"the grammar is invalid: {reason}; it begins {grammar[:80]!r}; make one with "
            "`phi_vision.data.template_grammar.grammar_of`, or in llguidance's dialect of Lark"
        )
    return matcher


@lru_cache(maxsize=2)  # Needed for every row.
def control_tokens(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """List the tokens without text, such as `<|end|>`.

    Some vocabularies flag the tokens of one byte as control tokens, too. Treated as such, "Müller",
    whose "ü" is `<0xC3>` `<0xBC>`, would become "Mller".
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
    wrapper = TokenizerWrapper(_Vocabulary(tokenizer, size, stops))
    return LLTokenizer(wrapper, n_vocab=size, eos_token=list(stops))


class _Vocabulary:
    """A tokenizer in the form that llguidance expects.

    llguidance can read it itself, but then takes byte tokens that are flagged as control tokens for
    their names: `<0x0A>` for six characters.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, size: int, stops: tuple[int, ...]
    ) -> None:
        controls = control_tokens(tokenizer)
        names = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))
        self.eos_token_id = stops[0]
        self.bos_token_id = tokenizer.bos_token_id
        special = {number for number in controls | set(stops) if number < size}
        self.special_token_ids = sorted(special | set(range(len(names), size)))
        pairs = enumerate(names)
        self.tokens = [n.encode() if i in controls else _token_bytes(n) for i, n in pairs]
        self.tokens += [b"<unused>"] * (size - len(names))
        self._tokenizer = tokenizer
        self._prefix = len(self._encode(BREAK))

    def __call__(self, text: str) -> list[int]:
        """Tokenize text as it continues other text: alone, SentencePiece prepends a blank."""
        return self._encode(BREAK + text)[self._prefix :]

    def _encode(self, text: str) -> list[int]:
        # Names of control tokens are spelled: as tokens the decoded text would lack them.
        spelled = {"add_special_tokens": False, "split_special_tokens": True}
        ids: list[int] = self._tokenizer.encode(text, **spelled)
        return ids


def _token_bytes(name: str) -> bytes:
    """Return the bytes of a token: `▁Coat` is " Coat", `<0xC3>` the first byte of "ü"."""
    byte = BYTE_TOKEN.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.replace(BLANK, " ").encode()
