"""Token selection, row by row: sampling, grammars, stop words, limits and streaming.

The model or ONNX Runtime only computes logits; the tokens are selected here, so that requests of
all kinds can share a batch. llguidance finds the tokens with which a grammar can continue;
`phi_vision.data.template_grammar` builds the grammar of a template.
"""

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from tokenizers.decoders import ByteLevel
from transformers import LogitsProcessor, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from phi_vision.generation.request import FinishReason, Generation, GenerationRequest

# In SentencePiece vocabularies: the tokens for one byte of a character, and the blank.
BYTE_TOKEN, BLANK = re.compile(r"<0x([0-9A-F]{2})>"), "\N{LOWER ONE EIGHTH BLOCK}"
# In byte-level vocabularies, as of phi-vision-photo, each character of a name is a byte.
BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
BREAK = "\n"  # a character that is part of no longer token
PLACE_MARGIN = 1e-9  # A place of 1 would be behind the last text.

# llguidance's computing budget for one token. Its default, for servers that accept foreign
# grammars, is too small for a bounded text that must not contain certain words.
FUEL = 10**9
# Occurs in a grammar made from a client's JSON schema, and in none of our own: the default budget
# applies, since a schema can require endless computation.
FOREIGN = "%json"


class TokenDecoder:
    """Decodes tokens to text, without control tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._decode = tokenizer.backend_tokenizer.decode_batch
        self._controls = control_tokens(tokenizer)
        names = enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
        if isinstance(tokenizer.backend_tokenizer.decoder, ByteLevel):
            texts = ((number, name) for number, name in names if number not in self._controls)
            partial = (number for number, name in texts if not _is_text(_byte_level(name)))
        else:
            partial = (number for number, name in names if BYTE_TOKEN.fullmatch(name))
        self._partial = frozenset(partial)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Decode several rows, surrounding whitespace included."""
        visible = [[token for token in row if token not in self._controls] for row in rows]
        decoded: list[str] = self._decode(visible, skip_special_tokens=False)
        return decoded

    def without_partial_bytes(self, tokens: Sequence[int]) -> Sequence[int]:
        """Drop parts of characters at the end: more of them may make other characters."""
        end = len(tokens)
        while end and tokens[end - 1] in self._partial:
            end -= 1
        return tokens[:end]


@dataclass(eq=False)
class RowState:
    """One row of a batch during generation."""

    request: GenerationRequest
    decoder: TokenDecoder
    stops: Sequence[int]
    _: KW_ONLY
    matcher: LLMatcher | None  # follows the request's grammar, if it has one
    prompt_tokens: int  # image tokens included
    limit: int  # maximum number of new tokens
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.tokens: list[int] = []
        self._logprobs: list[float] = []
        self._streamed = 0
        self._generation: Generation | None = None
        self._place = self.request.place
        self._random = torch.Generator()
        if self.request.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(self.request.seed)

    def sample(self, scores_V: torch.Tensor) -> int:
        """Draw the next token among those whose logit is not minus infinity."""
        # In double precision, and the likeliest at 0, so that no temperature is too low.
        scores_V = (scores_V - scores_V.max()).double().cpu() / self.request.temperature
        probabilities_V = scores_V.softmax(-1)
        if self.request.top_p < 1:
            ordered_V, tokens_V = probabilities_V.sort(descending=True, stable=True)
            # The first token stays, however small top_p is.
            ordered_V[1:][ordered_V.cumsum(-1)[:-1] >= self.request.top_p] = 0
            probabilities_V[tokens_V] = ordered_V
        if self._place is None:
            return int(torch.multinomial(probabilities_V, 1, generator=self._random))
        ends_V = probabilities_V.cumsum(-1)
        at = min(self._place, 1 - PLACE_MARGIN) * ends_V[-1]
        token = int(torch.searchsorted(ends_V, at, right=True))
        # The place among the texts that begin with this token.
        self._place = max(float((at - ends_V[token]) / probabilities_V[token] + 1), 0.0)
        return token

    def append(self, token: int, logprob: float) -> None:
        """Append a token, stream the new text, and decide whether the row has ended."""
        self.tokens.append(token)
        self._logprobs.append(logprob)
        if token in self.stops:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.limit or (
            self.matcher is not None and not self.matcher.consume_token(token)
        ):
            self.finish_reason = "length"
        self.report()

    def generation(self) -> Generation:
        """Return the text with the end of each token in it.

        A character of several tokens belongs to the last of them: its first tokens alone decode to
        something else, which agrees with the text only up to the character before.
        """
        if self._generation is not None:
            return self._generation
        counts = range(1, len(self.tokens) + 1)
        prefixes = self.decoder.decode([self.tokens[:count] for count in counts])
        whole = prefixes[-1] if prefixes else ""
        blanks = len(whole) - len(whole.lstrip())
        text = self._cut_at_stop_word(whole.lstrip())
        ends = [min(max(_common_length(each, whole) - blanks, 0), len(text)) for each in prefixes]
        # The decoder may garble complete characters beside a partial one, too.
        rising = tuple(accumulate(ends, max))
        reason = self.finish_reason or "length"
        logprobs, tokens = tuple(self._logprobs), tuple(self.tokens)
        return Generation(text, rising, logprobs, reason, self.prompt_tokens, tokens)

    def report(self) -> None:
        """Stream the new text, and finish a row that has ended; numbers may be drawn after it."""
        if self.request.stop or self.request.on_token:
            self._stream(self._text(self.tokens))
        if self.finish_reason and self.request.numbers is None:
            self.finish(self.generation())

    def finish(self, generation: Generation) -> None:
        """Set the generation of a row that has ended, and call its callback."""
        self._generation = generation
        if self.request.on_finish:
            self.request.on_finish(generation)

    def _stream(self, text: str) -> None:
        if self.finish_reason is None and any(word in text for word in self.request.stop):
            self.finish_reason = "stop"
        if self.request.on_token is None:
            return
        final = self._cut_at_stop_word(text) if self.finish_reason else self._settled_text()
        chunk, self._streamed = final[self._streamed :], max(self._streamed, len(final))
        if not self.request.on_token(chunk) and self.finish_reason is None:
            self.finish_reason = "cancelled"

    def _settled_text(self) -> str:
        """Return the part of the text that further tokens cannot change."""
        text = self._text(self.decoder.without_partial_bytes(self.tokens))
        starts = (word[:length] for word in self.request.stop for length in range(1, len(word)))
        partial = max((len(start) for start in starts if text.endswith(start)), default=0)
        return text[: len(text) - partial].rstrip()

    def _text(self, tokens: Sequence[int]) -> str:
        return self.decoder.decode([tokens])[0].lstrip()

    def _cut_at_stop_word(self, text: str) -> str:
        places = [place for word in self.request.stop if (place := text.find(word)) >= 0]
        return text[: min(places, default=len(text))].rstrip()


def select_tokens(rows: Sequence[RowState], scores_BV: torch.Tensor) -> list[int]:
    """Select and append the next token of each row that has not ended; -1 for the others.

    Input:  logits (B, V), on a device from which they are fetched once for all greedy rows
    Output: tokens (B)
    """
    matchers = [None if row.finish_reason else row.matcher for row in rows]
    allowed_BV = mask_logits(matchers, scores_BV)
    for row, matcher in zip(rows, matchers, strict=True):
        if matcher is not None and matcher.is_error():
            row.finish_reason = "length"  # Its grammar has used up its computing budget.
            row.report()
    selected_B = allowed_BV.argmax(-1)
    for place, row in enumerate(rows):
        if row.request.temperature and not row.finish_reason:
            selected_B[place] = row.sample(allowed_BV[place])
    logprobs_B = scores_BV.gather(1, selected_B[:, None])[:, 0] - scores_BV.logsumexp(dim=-1)
    # Together: each transfer waits for the device.
    tokens, logprobs = torch.stack([selected_B.double(), logprobs_B.double()]).tolist()
    selected = [
        -1 if row.finish_reason else int(token) for row, token in zip(rows, tokens, strict=True)
    ]
    for row, token, logprob in zip(rows, selected, logprobs, strict=True):
        if row.finish_reason is None:
            row.append(token, logprob)
    return selected


class TokenSelector(LogitsProcessor):
    """Selects tokens where ONNX Runtime appends them; `stop` fills ended rows."""

    def __init__(self, rows: Sequence[RowState], stop: int) -> None:
        self.rows, self.stop = rows, stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Set every logit (B, V) but that of the selected token to minus infinity."""
        selected = select_tokens(self.rows, scores)
        following = [
            self.stop if row.finish_reason else token
            for row, token in zip(self.rows, selected, strict=True)
        ]
        next_B1 = torch.tensor(following)[:, None]
        return torch.full_like(scores, -torch.inf).scatter(1, next_B1, 0.0)


decoder_for = lru_cache(maxsize=2)(TokenDecoder)  # Reads the whole vocabulary.


def _common_length(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


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

    `vocabulary_size` is the number of logits, which may exceed the number of tokens.
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
    """List the tokens without text, such as `<|end|>`, but not those of one byte.

    Some vocabularies flag them, too: "Müller", whose "ü" is two of them, would become "Mller".
    """
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().items()
    special = {number: token.content for number, token in added if token.special}
    return frozenset(n for n, text in special.items() if not BYTE_TOKEN.fullmatch(text))


@lru_cache(maxsize=2)  # A tenth of a second for the official vocabulary of 32,064 tokens.
def _vocabulary(
    tokenizer: PreTrainedTokenizerFast, size: int, stops: tuple[int, ...]
) -> LLTokenizer:
    wrapper = TokenizerWrapper(_Vocabulary(tokenizer, size, stops))
    return LLTokenizer(wrapper, n_vocab=size, eos_token=list(stops))


class _Vocabulary:
    """A tokenizer as llguidance expects it, which itself would take `<0x0A>` for six characters."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, size: int, stops: Sequence[int]) -> None:
        controls = control_tokens(tokenizer)
        names = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))
        self.eos_token_id = stops[0]
        self.bos_token_id = tokenizer.bos_token_id
        special = {number for number in controls | set(stops) if number < size}
        self.special_token_ids = sorted(special | set(range(len(names), size)))
        is_byte_level = isinstance(tokenizer.backend_tokenizer.decoder, ByteLevel)
        read = _byte_level if is_byte_level else _sentence_piece
        self.tokens = [n.encode() if i in controls else read(n) for i, n in enumerate(names)]
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


def _sentence_piece(name: str) -> bytes:  # `▁Coat` is " Coat", `<0xC3>` the first byte of "ü"
    byte = BYTE_TOKEN.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.replace(BLANK, " ").encode()


def _byte_level(name: str) -> bytes:  # `ĠCoat` is " Coat", `Ã` the first byte of "ü"
    return b"".join(
        bytes([BYTES[each]]) if each in BYTES else each.encode()  # in added tokens
        for each in name
    )


def _is_text(part: bytes) -> bool:
    try:
        return bool(part.decode())
    except UnicodeDecodeError:
        return False
