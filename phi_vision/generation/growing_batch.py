"""GrowingBatch: rows that the model reads once, and that then grow together token by token.

    _ _ a b c x y      keys and values of rows of 3 and 5 tokens, with 2 new ones, in columns that
    d e f g h x y      were allocated once

Rows of equal length are read together, others one after the other: so no prompt has padding, the
causal kernels need no mask, and the vision tower sees a few crops at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.models.phi3.modeling_phi3 import Phi3Model

from phi_vision.generation.cpu_attention import cpu_attention

# Tokens of prompts that are read at once: more would be no faster.
TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 16_384}

# Columns for new tokens that are allocated at once: more than a record of a product has.
COLUMNS_AT_ONCE = 128

Inputs = dict[str, torch.Tensor]  # of one row: input_ids (1, L), pixel_values, image_sizes


@dataclass
class _Window:
    """The part of the cache that the model sees and extends: rows, and columns start..end."""

    rows: slice
    start: int
    end: int


class _Layer(CacheLayerMixin):
    """Keys and values of one layer, written where they stay."""

    is_sliding = False

    def __init__(
        self, window: _Window, rows: int, columns: int, allocate: Callable[..., torch.Tensor]
    ) -> None:
        super().__init__()
        self.window, self.rows, self.columns, self.allocate = window, rows, columns, allocate

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the columns."""
        # Under autocast keys are wider than they will be read.
        self.keys, self.values = (self._allocate(value_states) for _ in range(2))
        self.is_initialized = True

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        _, heads, _, width = like.shape
        size = (self.rows, heads, self.columns, width)
        return self.allocate(size, dtype=like.dtype, device=like.device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the window's next columns, (B, H, L, D); return all of the window's."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window, end = self.window, self.window.end + key_states.shape[2]
        if end > self.columns:
            self._grow()
        assert self.keys is not None
        assert self.values is not None
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            held[window.rows, :, window.end : end] = new
        return (
            self.keys[window.rows, :, window.start : end],
            self.values[window.rows, :, window.start : end],
        )

    def _grow(self) -> None:
        filled, self.columns = self.columns, self.columns + COLUMNS_AT_ONCE
        held = [self.keys, self.values]
        self.keys, self.values = grown = [self._allocate(each) for each in held]
        for new, old in zip(grown, held, strict=True):
            new[:, :, :filled] = old

    def get_seq_length(self) -> int:
        """Count the window's columns."""
        return self.window.end - self.window.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the columns after the next step, and that none of them is left out."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """Return the allocated columns."""
        return self.columns

    def repeat(self, counts: torch.Tensor) -> None:
        """Repeat each row."""
        assert self.keys is not None
        assert self.values is not None
        counts = counts.to(self.keys.device)
        self.rows = int(counts.sum())
        self.keys = self.keys.repeat_interleave(counts, dim=0)
        self.values = self.values.repeat_interleave(counts, dim=0)

    def move(self, source: int, target: int) -> None:
        """Put a row in the place of another."""
        assert self.keys is not None
        assert self.values is not None
        for held in (self.keys, self.values):
            held[target] = held[source]


def join_images(rows: Sequence[Inputs]) -> Inputs:
    """Concatenate the images of rows: {} where none has one."""
    return {
        name: torch.cat(parts) if len(parts) > 1 else parts[0]
        for name in ("pixel_values", "image_sizes")
        if (parts := [row[name] for row in rows if name in row])
    }


class GrowingBatch:
    """Rows with their cached keys and values; they share the column of the next token.

    Args:
        model: Whose rows they are, also as a PEFT model.
        rows: Inputs of each, on any device; those of equal length are best side by side.
        new_tokens: Maximum number of tokens by which the rows grow.
    """

    def __init__(self, model: Any, rows: Sequence[Inputs], new_tokens: int) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.decoder = next(each for each in model.modules() if isinstance(each, Phi3Model))
        self.rows = list(rows)
        self.texts = [each["input_ids"][0].tolist() for each in rows]
        longest = max(map(len, self.texts))
        self.firsts = [longest - len(text) for text in self.texts]
        # The last token is read with every row's next step.
        self.window = _Window(slice(0, len(rows)), 0, longest - 1)
        config = self.decoder.config
        self.context: int = config.original_max_position_embeddings
        self.is_within = longest <= self.context
        # A window of attention that hides older tokens needs masks.
        self.has_own_attention = self.device.type == "cpu" and config.sliding_window is None
        # Kernels with a mask multiply padding by zero, so it must be finite.
        allocate = torch.empty if self.has_own_attention else torch.zeros
        columns = longest + min(new_tokens, COLUMNS_AT_ONCE)
        layers = range(config.num_hidden_layers)
        self.cache = Cache([_Layer(self.window, len(rows), columns, allocate) for _ in layers])

    def attention(self) -> AbstractContextManager[None]:
        """Choose the attention with which the batch is read and extended."""
        return cpu_attention(self.decoder) if self.has_own_attention else nullcontext()

    def groups(self) -> Iterator[range]:
        """List the rows that are read together."""
        most = TOKENS_AT_ONCE["cpu" if self.device.type == "cpu" else "cuda"]
        places = range(len(self.rows))
        for length, equal in groupby(places, key=lambda place: len(self.texts[place])):
            group, size = list(equal), max(1, most // length)
            for first in range(group[0], group[-1] + 1, size):
                yield range(first, min(first + size, group[-1] + 1))

    def read(self, group: range) -> None:
        """Store the keys and values of the whole texts of rows of equal length."""
        inputs = join_images([self.rows[place] for place in group])
        ids = torch.tensor([self.texts[place] for place in group])
        positions = torch.arange(ids.shape[1]).expand(len(group), -1)
        first, end = self.firsts[group.start], self.window.end
        self._look_at(group, first, first)
        try:
            with _storing_only(self.decoder.layers[-1]):
                self._forward(ids, positions, **inputs)
        finally:
            self._look_at(range(len(self.rows)), min(self.firsts), end)

    def repeat(self, counts: Sequence[int]) -> None:
        """Continue each row that has been read as so many rows, side by side."""
        if max(counts) == 1:
            return
        places = [place for place, count in enumerate(counts) for _ in range(count)]
        for layer in self.cache.layers:
            layer.repeat(torch.tensor(counts))
        self._take(places)

    def append(self, tokens: Sequence[int]) -> None:
        """Append a token to each row."""
        self.window.end += 1
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)

    def logits(self) -> torch.Tensor:
        """Return the logits (B, V) of each row's next token.

        Beyond the original context the rotary factors of all positions change, so cached keys are
        stale: the texts are read again.
        """
        longest = max(map(len, self.texts))
        if longest == self.context + 1 and self.is_within:
            for group in self.groups():
                self.read(group)
        self.is_within = longest <= self.context
        ids = torch.tensor([text[-1:] for text in self.texts])
        positions = torch.tensor([[len(text) - 1] for text in self.texts])
        start, end = self.window.start, self.window.end
        options: dict[str, Any] = {}
        if self.has_own_attention:
            options["first_columns"] = [first - start for first in self.firsts]
        elif max(self.firsts) > start:
            firsts_B1 = torch.tensor(self.firsts)[:, None]
            options["attention_mask"] = torch.arange(start, end + 1) >= firsts_B1
        return self._forward(ids, positions, **options)

    def keep(self, places: Sequence[int]) -> list[int]:
        """Drop the other rows; return the places in the new order, which moves few rows."""
        order = [place if place in places else -1 for place in range(len(places))]
        moved = iter(place for place in places if place >= len(places))
        for target, source in enumerate(order):
            if source < 0:
                order[target] = source = next(moved)
                for layer in self.cache.layers:
                    layer.move(source, target)
        self._take(order)
        return order

    def _take(self, places: Sequence[int]) -> None:
        """Follow the cache, whose rows are those of these places now."""
        self.rows = [self.rows[place] for place in places]
        self.texts = [[*self.texts[place]] for place in places]
        self.firsts = [self.firsts[place] for place in places]
        self._look_at(range(len(places)), min(self.firsts), self.window.end)

    def _look_at(self, rows: range, start: int, end: int) -> None:
        self.window.rows = slice(rows.start, rows.stop)
        self.window.start, self.window.end = start, end

    def _forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, **inputs: Any
    ) -> torch.Tensor:
        inputs |= {"input_ids": input_ids, "position_ids": position_ids}
        on_device = {
            name: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
        }
        logits: torch.Tensor = self.model(
            **on_device, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        ).logits
        return logits[:, -1].float()


@contextmanager
def _storing_only(layer: Any) -> Iterator[None]:
    """Store keys and values of a decoder's last layer, and compute nothing from them.

    Only the last token's logits are needed, and that token is read once more with the next step.
    """

    def store(hidden_states: torch.Tensor, **inputs: Any) -> torch.Tensor:
        layer.self_attn(layer.input_layernorm(hidden_states), stores_only=True, **inputs)
        return hidden_states

    usual = vars(layer).get("forward")  # where a hook has replaced it
    layer.forward = store
    try:
        yield
    finally:
        del layer.forward
        if usual is not None:
            layer.forward = usual
