"""Phi-3-Vision: transformers' CLIP tower and Phi-3 decoder, joined as in the official code.

    crops -> CLIP, all layers but the last -> 2x2 merge -> rows with separators -> projection
          -> in the place of the placeholders among the token embeddings -> Phi-3 decoder -> logits

Every module has its official name, so official weights load, save and take adapters without any
renaming. Shapes: N crops, B rows, L positions, D width of a feature, H hidden size of the decoder,
P patches along a side of a crop, R and C rows and columns of crops, T image tokens.
"""

from typing import Any, TypeGuard

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.models.clip.modeling_clip import CLIPVisionModel
from transformers.models.phi3.modeling_phi3 import (
    Phi3Attention,
    Phi3DecoderLayer,
    Phi3Model,
    Phi3PreTrainedModel,
)
from transformers.utils import can_return_tuple
from transformers.utils.import_utils import is_tracing

from .configuration_phi3_v import Phi3VConfig
from .last_layer_phi3_v import ATTENTION, LastDecoderLayer, find_places


class Phi3VPreTrainedModel(Phi3PreTrainedModel):
    """Shared settings of the two classes below."""

    config: Phi3VConfig
    config_class = Phi3VConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    _no_split_modules = ["Phi3DecoderLayer", "CLIPEncoderLayer"]  # noqa: RUF012
    # An alias of the embedding that the official module tree holds, and a buffer of old CLIP files.
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"vision_embed_tokens\.wte\.weight",
        r"embeddings\.position_ids",
    ]
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": Phi3DecoderLayer,
        "attentions": Phi3Attention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Phi3VImageEmbedding):
            nn.init.normal_(module.glb_GN, std=self.config.initializer_range)
            nn.init.normal_(module.sub_GN, std=self.config.initializer_range)


class Phi3VTower(nn.Module):
    """Holds the CLIP tower under its official name, `img_processor.vision_model`."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__()
        self.vision_model = CLIPVisionModel._from_config(config.tower)
        self.gradient_checkpointing = False

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode crops.

        Input:  pixel_values (N, 3, S, S)
        Output: (N, P*P, D), the input of the last layer without the class token. The last layer and
                the final norm are in every checkpoint, but have no effect: they are never run.
        """
        tower = self.vision_model
        hidden_NPD: torch.Tensor = tower.pre_layrnorm(tower.embeddings(pixel_values))
        for layer in tower.encoder.layers[:-1]:
            hidden_NPD = layer(hidden_NPD, None)
        return hidden_NPD[:, 1:]


class Phi3VImageEmbedding(nn.Module):
    """From crops to embeddings among those of the tokens: `vision_embed_tokens`."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__()
        tower = config.tower
        self.crop_size = tower.image_size
        self.patches = tower.image_size // tower.patch_size
        merged = 4 * tower.hidden_size
        self.img_processor = Phi3VTower(config)
        self.glb_GN = nn.Parameter(torch.empty(1, 1, merged))
        self.sub_GN = nn.Parameter(torch.empty(1, 1, 1, merged))
        self.img_projection = nn.Sequential(
            nn.Linear(merged, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )

    def forward(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor) -> list[torch.Tensor]:
        """Embed images.

        Input:  pixel_values (N, 3, S, S), per image its global view and then its crops, and
                image_sizes (images, 2), height and width after padding in pixels. The official
                (images, num_crops + 1, 3, S, S) with zero crops at the end is accepted as well.
                A single crop equals the global view; only the view is encoded then.
        Output: per image its image tokens (T, H).
        """
        grids = [(h // self.crop_size, w // self.crop_size) for h, w in image_sizes.tolist()]
        if pixel_values.ndim == 5:
            pixel_values = torch.cat(
                [crops[: r * c + 1] for crops, (r, c) in zip(pixel_values, grids, strict=True)]
            )
        counts = [r * c + 1 for r, c in grids]
        if sum(counts) != pixel_values.shape[0]:
            raise ValueError(
                f"image_sizes describe {sum(counts)} crops (global views included) but "
                f"pixel_values hold {len(pixel_values)}; pass both as the processor returned them."
            )
        # With one crop the global view equals it, bit for bit, and the tower need not run twice.
        encoded = [1 if count == 2 else count for count in counts]
        if encoded != counts:
            pieces = zip(pixel_values.split(counts), encoded, strict=True)
            pixel_values = torch.cat([crops[:used] for crops, used in pieces])
        features_NPD = self.img_processor(pixel_values)
        arranged = [
            self._arrange(crops_NPD, *grid)
            for crops_NPD, grid in zip(features_NPD.split(encoded), grids, strict=True)
        ]
        dtype = next(self.img_projection.parameters()).dtype
        projected = self.img_projection(torch.cat(arranged).to(dtype))
        return list(projected.split([rows.shape[0] for rows in arranged]))

    def _arrange(self, features_NPD: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Arrange the merged patches of one image as a sequence.

        Input:  (1 + R*C, P*P, D), global view first, or (1, P*P, D) if it is the crop as well
        Output: (T, 4D): the crops as one image, each row of merged patches ended by `sub_GN`; one
                `glb_GN`; the global view the same way.
        """
        merged = self._merge_2x2(features_NPD)
        side, width = merged.shape[1], merged.shape[-1]
        crops = merged[-rows * columns :].reshape(rows, columns, side, side, width).transpose(1, 2)
        crops = crops.reshape(rows * side, columns * side, width)
        parts = [self._end_rows(crops), self.glb_GN[0], self._end_rows(merged[0])]
        return torch.cat([part.to(merged.dtype) for part in parts])

    def _merge_2x2(self, features_NPD: torch.Tensor) -> torch.Tensor:
        """Join squares of four patches: (N, P*P, D) -> (N, P/2, P/2, 4D), order dy, dx, D."""
        (crops, _, depth), half = features_NPD.shape, self.patches // 2
        squares = features_NPD.reshape(crops, half, 2, half, 2, depth).permute(0, 1, 3, 2, 4, 5)
        return squares.reshape(crops, half, half, 4 * depth)

    def _end_rows(self, grid: torch.Tensor) -> torch.Tensor:
        """End rows with the separator, flatten: (rows, columns, 4D) -> (rows*(columns+1), 4D)."""
        ends = self.sub_GN[0].to(grid.dtype).expand(grid.shape[0], 1, -1)
        return torch.cat([grid, ends], dim=1).flatten(0, 1)


class Phi3VModel(Phi3VPreTrainedModel, Phi3Model):
    """The Phi-3 decoder, with images among its tokens."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)
        self.vision_embed_tokens = Phi3VImageEmbedding(config)
        self.layers[-1].__class__ = LastDecoderLayer
        self.post_init()

    def get_image_features(
        self, pixel_values: torch.Tensor, image_sizes: torch.Tensor | None = None, **_: Any
    ) -> BaseModelOutputWithPooling:
        """Embed images; `pooler_output` holds one (T, H) tensor for each."""
        if image_sizes is None:
            raise ValueError(
                "pixel_values came without image_sizes, so the images would be ignored; pass "
                "both as the processor returned them."
            )
        return BaseModelOutputWithPooling(
            pooler_output=self.vision_embed_tokens(pixel_values, image_sizes)
        )

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the decoder over tokens (B, L) and images; see `Phi3VForCausalLM.forward`."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if pixel_values is not None:
            mm_encoder_outputs = {"image": self.get_image_features(pixel_values, image_sizes)}
        if mm_encoder_outputs and mm_encoder_outputs.get("image") is not None:
            features = torch.cat(list(mm_encoder_outputs["image"]["pooler_output"]))
            inputs_embeds = self._insert_images(features, input_ids, inputs_embeds)
        elif input_ids is not None and not (past_key_values and past_key_values.get_seq_length()):
            self._find_placeholders(input_ids, 0)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            cached = kwargs.get("use_cache", self.config.use_cache) or past_key_values
            if not cached and _is_padded_behind(attention_mask):
                attention_mask = None
            else:
                position_ids = _positions(attention_mask)[:, -inputs_embeds.shape[1] :]
        return Phi3Model.forward(
            self,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )

    def _insert_images(
        self, features_TH: torch.Tensor, input_ids: torch.Tensor | None, embeds_BLH: torch.Tensor
    ) -> torch.Tensor:
        """Replace the placeholders by image features."""
        if input_ids is None:
            raise ValueError(
                "Images came with inputs_embeds but without input_ids, so nothing says where "
                "they belong; pass input_ids, or embeddings that already hold the images."
            )
        where_BL = self._find_placeholders(input_ids, features_TH.shape[0])
        features_TH = features_TH.to(embeds_BLH.device, embeds_BLH.dtype)
        return embeds_BLH.masked_scatter(where_BL[..., None], features_TH)

    def _find_placeholders(self, input_ids: torch.Tensor, features: int) -> torch.Tensor:
        """Find the placeholders, as many as features: otherwise the output would be a guess."""
        where_BL: torch.Tensor = input_ids == self.config.image_token_id
        if (found := int(where_BL.sum())) != features:
            advice = "Was the text cut, or built without the processor?"
            if not features:
                advice = "Pass pixel_values and image_sizes as the processor returned them."
            raise ValueError(
                f"Image features and image tokens do not match: {features} features for {found} "
                f"placeholders (id {self.config.image_token_id}). {advice}"
            )
        return where_BL


class Phi3VForCausalLM(Phi3VPreTrainedModel, GenerationMixin):
    """Phi-3-Vision with its language-model head: the official architecture name."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)
        self.model = Phi3VModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_image_features(
        self, pixel_values: torch.Tensor, image_sizes: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Embed images; see `Phi3VModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, image_sizes, **kwargs)

    def enable_input_require_grads(self) -> None:
        """Enable gradients of the inputs of recomputed layers, except in a frozen tower.

        Otherwise gradient checkpointing would run the tower again, and backward, for nothing.
        """
        super().enable_input_require_grads()
        tower = self.model.vision_embed_tokens.img_processor
        if not any(weight.requires_grad for weight in tower.parameters()):
            embeddings = tower.vision_model.get_input_embeddings()
            for hook in self._require_grads_hooks:
                if hook.id in embeddings._forward_hooks:
                    hook.remove()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next token at each position; placeholders without images are an error.

        Args:
            input_ids: (B, L); `config.image_token_id` where an image token belongs.
            attention_mask: (B, L); 0 at padding, on either side.
            position_ids: (B, L); counted from the mask unless given. Restarting positions without a
                mask pack several samples into one row.
            past_key_values: Cache of earlier positions.
            inputs_embeds: (B, L, H) instead of `input_ids`.
            pixel_values, image_sizes: The crops of all images in order; see `Phi3VImageEmbedding`.
            mm_encoder_outputs: Result of `get_image_features`, to encode images once.
            labels: (B, L); -100 where there is no supervision. The loss is the mean cross-entropy.
            logits_to_keep: How many of the last positions get logits (0: all), or a (B, L) mask.
            **kwargs: Passed to the decoder and the loss, such as `shift_labels`.
        """
        given = dict(kwargs)
        if self._are_others_unread(logits_to_keep, past_key_values, kwargs):
            given["places"], logits_to_keep = find_places(logits_to_keep)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            image_sizes=image_sizes,
            mm_encoder_outputs=mm_encoder_outputs,
            **given,
        )
        logits = self.lm_head(_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _are_others_unread(
        self, kept: int | torch.Tensor, past_key_values: Cache | None, given: dict[str, Any]
    ) -> TypeGuard[torch.Tensor]:
        """Whether nothing but the kept positions is needed of the last layer."""
        if not isinstance(kept, torch.Tensor) or kept.dtype != torch.bool or kept.ndim != 2:
            return False
        outputs = ("output_hidden_states", "output_attentions")
        is_shown = any(given.get(name, getattr(self.config, name)) for name in outputs)
        is_able = self.config._attn_implementation in ATTENTION
        return is_able and not is_shown and past_key_values is None and bool(kept.any())

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Prepare one step; past the original context, reset the cache once and read all again.

        There the rotary factors of all positions change, so cached keys are stale; Phi-3.5's
        official code resets them, too (Phi-3's keeps them).
        """
        cached = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        whole = input_ids.shape[1] > cached
        step = kwargs.get("next_sequence_length") or input_ids.shape[1]
        length = input_ids.shape[1] if whole else cached + step
        mask = kwargs.get("attention_mask")
        if past_key_values is not None and self._crosses(mask, cached, length):
            if not whole:
                raise ValueError(
                    f"The text grows past {self.config.original_max_position_embeddings} tokens, "
                    "where all of it must be read again, but only a part of its input_ids is here. "
                    "Pass the whole text as input_ids, without prefill_chunk_size."
                )
            past_key_values.reset()
            kwargs["position_ids"] = None if mask is None else _positions(mask)
            kwargs["next_sequence_length"] = None
            is_first_iteration = True
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        return inputs

    def _crosses(self, attention_mask_BL: torch.Tensor | None, before: int, after: int) -> bool:
        """Whether growing from `before` to `after` columns, padding aside, leaves the context."""
        limit: int = self.config.original_max_position_embeddings
        if before == 0 or after <= limit:
            return False
        if attention_mask_BL is not None and attention_mask_BL.ndim == 2:
            before = int(attention_mask_BL[:, :before].sum(dim=1).max())
            after = int(attention_mask_BL[:, :after].sum(dim=1).max())
        return before <= limit < after

    def adjust_generation_fn(self, generation_config: Any, *args: Any, **kwargs: Any) -> None:
        """Add the model's stop tokens; official files list only `</s>`, which never occurs."""
        super().adjust_generation_fn(generation_config, *args, **kwargs)
        stops = _as_list(self.generation_config.eos_token_id)
        missing = [token for token in _as_list(self.config.eos_token_id) if token not in stops]
        self.generation_config.eos_token_id = missing + stops
        if self.generation_config.pad_token_id is None:
            self.generation_config.pad_token_id = self.config.pad_token_id


def _keep(hidden_BLH: torch.Tensor, kept: int | torch.Tensor) -> torch.Tensor:
    """Keep the positions whose logits are needed, as transformers does from 5.21 on.

    Input:  (B, L, H) and how many of the last (0: all), a (B, L) mask, or places (K) or (B, K)
    Output: (B, K, H); under a mask (kept of all rows, H)
    """
    if isinstance(kept, int):
        last = hidden_BLH[:, -kept:]
        # A slice is multiplied row by row, each by its own copy of the weight: 0.1 s and 57 MB a
        # row, on a CPU in bf16, of 49,158 tokens.
        return last.clone(memory_format=torch.contiguous_format) if kept else last
    if kept.ndim == 2 and kept.dtype != torch.bool:
        return torch.take_along_dim(hidden_BLH, kept[..., None], dim=1)
    return hidden_BLH[kept] if kept.ndim == 2 else hidden_BLH[:, kept]


def _positions(attention_mask_BL: torch.Tensor) -> torch.Tensor:
    """Count positions from the first real token: `[[0, 0, 1, 1]]` -> `[[0, 0, 0, 1]]`."""
    return (attention_mask_BL.long().cumsum(-1) - 1).clamp(min=0)


def _is_padded_behind(attention_mask_BL: torch.Tensor) -> bool:
    """Whether padding only follows the tokens, where none of them sees it, in a causal decoder.

    Then the mask is superfluous, and attention need not compute what lies above the diagonal.
    """
    if is_tracing(attention_mask_BL):
        return False
    mask_BL = attention_mask_BL.bool()
    return bool((mask_BL[:, 1:] <= mask_BL[:, :-1]).all() & mask_BL[:, -1].any())


def _as_list(token_ids: int | list[int] | None) -> list[int]:
    return [token_ids] if isinstance(token_ids, int) else list(token_ids or ())


Phi3VForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["Phi3VForCausalLM", "Phi3VModel", "Phi3VPreTrainedModel"]
