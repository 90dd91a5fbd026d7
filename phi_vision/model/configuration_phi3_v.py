"""Configuration of Phi-3-Vision: reads and writes the official `config.json`, field for field.

Flat, like the official one: the decoder's fields lie at the top, the CLIP tower's in
`vision_config`, which the file either omits (ViT-L/14 at 336 pixels) or carries inside
`img_processor`.
"""

import copy
import math
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import SubConfigSpec
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.phi3.configuration_phi3 import Phi3Config

# The tower the official code hard-codes: openai/clip-vit-large-patch14-336.
CLIP_VIT_L_14_336 = {
    "attention_dropout": 0.0,
    "hidden_act": "quick_gelu",
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-05,
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}
SCALED_DOWN = 1e-9  # an epsilon of the tower's norms that only `assembly` makes

OFFICIAL_VOCAB_SIZE = 32064
# The official config.json names `</s>` (2), which the model was never trained to generate; its
# turns end with `<|end|>` (32007), and `<|endoftext|>` (32000) is the tokenizer's own end.
OFFICIAL_STOP_TOKENS = (32007, 32000, 2)


@strict
class Phi3VConfig(Phi3Config):
    r"""
    Configuration of Phi-3-Vision and Phi-3.5-Vision.

    Args:
        img_processor: The official description of the tower. `image_dim_out` must equal the tower's
            width; a `vision_config` inside gives a tower other than ViT-L/14-336.
        embd_layer: How features enter the text; only the released arrangement exists.
        vision_config: The tower's configuration, derived from `img_processor`.
        image_token_id: The id that marks an image token in `input_ids`: `<|image|>` in the official
            vocabulary, unused by the official code, whose own placeholders are negative.
    """

    if TYPE_CHECKING:  # inherited from transformers, which is not typed
        eos_token_id: int | list[int] | None
        sliding_window: int | None
        rope_parameters: dict[str, Any]

    model_type = "phi3_v"
    sub_configs_defaults = {"vision_config": SubConfigSpec(CLIPVisionConfig, optional=True)}  # noqa: RUF012

    max_position_embeddings: int = 131072
    img_processor: dict[str, Any] | None = None
    embd_layer: dict[str, Any] | None = None
    vision_config: dict[str, Any] | CLIPVisionConfig | None = None
    image_token_id: int = 32044

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the defaults of the official code, and drop fields that would break loading."""
        # The official file asks for flash attention by name, which fails where it is not installed,
        # even when the caller asks for another kind.
        kwargs.pop("_attn_implementation", None)
        self.img_processor = dict(self.img_processor or describe_tower(CLIP_VIT_L_14_336))
        self.embd_layer = dict(self.embd_layer or _RELEASED_EMBD_LAYER)
        self.vision_config = dict(self.img_processor.get("vision_config") or CLIP_VIT_L_14_336)
        if self.eos_token_id == 2 and self.vocab_size == OFFICIAL_VOCAB_SIZE:
            self.eos_token_id = list(OFFICIAL_STOP_TOKENS)
        # A window at least as long as the context never hides anything, but it would choose
        # sliding-window caches and masks.
        if self.sliding_window is not None and self.sliding_window >= self.max_position_embeddings:
            self.sliding_window = None
        super().__post_init__(**kwargs)
        self._check_tower()

    @property
    def tower(self) -> CLIPVisionConfig:
        """The tower's configuration, as an object."""
        assert isinstance(self.vision_config, CLIPVisionConfig)
        return self.vision_config

    def convert_rope_params_to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Translate the official `rope_scaling` to transformers' `rope_parameters`.

        Input:  `{"type": "su", "short_factor": [...], "long_factor": [...]}` beside `rope_theta`
        Output: `{"rope_type": "longrope", ..., "factor": 32.0, "rope_theta": 10000.0}`

        `yarn` is the same table with the attention factor `0.1 ln(factor) + 1` instead of
        `sqrt(1 + ln(factor) / ln(original))`, as in the official `Phi3VYarnScaledRotaryEmbedding`.
        """
        given = dict(kwargs.pop("rope_scaling", None) or self.rope_parameters or {})
        theta = kwargs.pop("rope_theta", None) or 10000.0
        kind = given.pop("type", None) or given.get("rope_type", "default")
        self.rope_parameters = {"rope_theta": theta, "partial_rotary_factor": 1.0, **given}
        self.rope_parameters["rope_type"] = "longrope" if kind in ("su", "yarn") else kind
        if self.rope_parameters["rope_type"] == "longrope":
            original = self.original_max_position_embeddings
            factor = max(1.0, self.max_position_embeddings / original)
            self.rope_parameters.setdefault("original_max_position_embeddings", original)
            self.rope_parameters.setdefault("factor", factor)
            if kind == "yarn":
                self.rope_parameters["attention_factor"] = 0.1 * math.log(factor) + 1.0
        return kwargs

    @property
    def is_scaled_down(self) -> bool:
        """Whether the tower's stream is far below 1, as that of an assembled one.

        float16 cannot hold the weights that write to it, and a step of an optimizer is larger than
        they are. Only as small an epsilon in the norms allows that; CLIP's is 1e-5.
        """
        return bool(self.tower.layer_norm_eps < SCALED_DOWN)

    def _check_tower(self) -> None:
        """Check that tower and projection fit, before any weight is read."""
        tower, width = self.tower, (self.img_processor or {}).get("image_dim_out")
        if width != tower.hidden_size:
            raise ValueError(
                f"img_processor.image_dim_out is {width} but the CLIP tower is {tower.hidden_size} "
                "wide; write the same number in both."
            )
        if tower.image_size % (2 * tower.patch_size):
            raise ValueError(
                f"A crop of {tower.image_size} pixels does not hold an even number of patches of "
                f"{tower.patch_size} pixels, which the 2x2 merge needs."
            )
        order = (self.embd_layer or {}).get("hd_transform_order", "sub_glb")
        if order != "sub_glb":
            raise ValueError(
                f"embd_layer.hd_transform_order is {order!r}; only 'sub_glb', the order of the "
                "released checkpoints, exists."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the official file: `rope_scaling` and `rope_theta`, tower inside."""
        fields: dict[str, Any] = super().to_dict()
        fields.pop("vision_config", None)
        rope = copy.deepcopy(fields.pop("rope_parameters", None) or {})
        fields["rope_theta"] = rope.get("rope_theta", 10000.0)
        fields["rope_scaling"] = None
        if rope.get("rope_type") == "longrope":  # in the three keys the official code accepts
            factors = {name: rope[name] for name in ("short_factor", "long_factor")}
            kind = "yarn" if "attention_factor" in rope else "su"
            fields["rope_scaling"] = {"type": kind, **factors}
        return fields


_RELEASED_EMBD_LAYER = {
    "embedding_cls": "image",
    "hd_transform_order": "sub_glb",
    "projection_cls": "mlp",
    "use_hd_transform": True,
    "with_learnable_separator": True,
}


def describe_tower(vision_config: dict[str, Any]) -> dict[str, Any]:
    """Describe a tower the way the official `img_processor` field does."""
    merged_side = vision_config["image_size"] // vision_config["patch_size"] // 2
    return {
        "image_dim_out": vision_config["hidden_size"],
        "model_name": "openai/clip-vit-large-patch14-336",
        "name": "clip_vision_model",
        "num_img_tokens": merged_side * merged_side,
    }


Phi3VConfig.register_for_auto_class("AutoConfig")

__all__ = ["Phi3VConfig"]
