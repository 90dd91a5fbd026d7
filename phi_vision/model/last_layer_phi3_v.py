"""The last decoder layer, computed only where a next token is labelled.

Most positions of a training row are image tokens and prompt. What the last layer makes of them only
the logits would read; other positions need no more than their keys and values. Shapes: B rows,
L positions, K places in a row whose logits are needed, H hidden size.
"""

from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.phi3.modeling_phi3 import (
    Phi3DecoderLayer,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

ATTENTION = ("blockwise", "eager", "sdpa")
"""Kinds of attention that take a mask of any shape."""


class LastDecoderLayer(Phi3DecoderLayer):
    """The layer of transformers, which can leave out positions."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        *given: Any,
        places: torch.Tensor | None = None,
        **named: Any,
    ) -> torch.Tensor:
        """Compute the layer, (B, L, H) -> (B, L, H); with `places` (B, K) only there: (B, K, H)."""
        out_BKH: torch.Tensor
        if places is None:
            out_BKH = super().forward(hidden_states, *given, **named)
            return out_BKH
        attended_BKH = self._attend(self.input_layernorm(hidden_states), places, **named)
        hidden_BKH = torch.take_along_dim(hidden_states, places[..., None], dim=1)
        hidden_BKH = hidden_BKH + self.resid_attn_dropout(attended_BKH)
        out_BKH = self.mlp(self.post_attention_layernorm(hidden_BKH))
        out_BKH = hidden_BKH + self.resid_mlp_dropout(out_BKH)
        return out_BKH

    def _attend(
        self,
        hidden_BLH: torch.Tensor,
        places_BK: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        **_: Any,
    ) -> torch.Tensor:
        """Attend from some places to all before: (B, K, H)."""
        layer, kinds = self.self_attn, self.config
        heads, groups = kinds.num_attention_heads, kinds.num_key_value_heads
        sizes = [each * layer.head_dim for each in (heads, groups, groups)]
        query, key, value = (
            part.unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)
            for part in layer.qkv_proj(hidden_BLH).split(sizes, dim=-1)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        where = places_BK[:, None, :, None]
        query = torch.take_along_dim(query, where, dim=2)
        if attention_mask is None:
            sees = where >= torch.arange(hidden_BLH.shape[1], device=where.device)
        else:
            sees = torch.take_along_dim(attention_mask, where, dim=2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = layer.attention_dropout if self.training else 0.0
        out, _ = attend(layer, query, key, value, sees, dropout=dropout, scaling=layer.scaling)
        projected: torch.Tensor = layer.o_proj(out.flatten(2))
        return projected


def find_places(keep_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the marked places of each row, and which of them are not there to fill shorter rows.

    Input:  [[0, 1, 0, 1], [0, 0, 1, 0]]
    Output: places [[1, 3], [2, 0]], and [[True, True], [True, False]]
    """
    counts = keep_BL.sum(dim=1, keepdim=True)
    width = int(counts.max())
    places_BK = keep_BL.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    return places_BK, torch.arange(width, device=counts.device) < counts


# Sharding and offloading find layers by transformers' own name.
LastDecoderLayer.__name__ = Phi3DecoderLayer.__name__
