"""A checkpoint of the official layout from a pre-trained tower and decoder, without any fitting.

    DINOv2 -> CLIP tower, a Llama-shaped decoder -> Phi-3 decoder, its tokenizer -> control tokens

A pre-norm ViT differs from CLIP's tower in four ways, each of which has an exact form in CLIP's
layers:

- CLIP has a norm before its layers, DINOv2 has none. A norm is linear where the variance is far
  below its epsilon, so its input is scaled down to there (`BELOW_EPSILON`).
- DINOv2 scales what a layer adds (LayerScale): multiplied into the weights.
- A norm does not see the scale of its input, so the whole stream may be small (`STREAM`), as long
  as the epsilon is small, too.
- The features are taken after DINOv2's last norm, CLIP's after a layer: one more layer holds this
  norm, since gelu(x) - gelu(-x) = x.

Only the projection between the two is new: its weights are random until it is trained.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, processors
from transformers import Dinov2Model, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from phi_vision.io.formatting import error_texts, read_yaml

from .checkpoint import UNTRAINED
from .configuration_phi3_v import CLIP_VIT_L_14_336, Phi3VConfig, describe_tower
from .image_processing_phi3_v import Phi3VImageProcessor
from .modeling_phi3_v import Phi3VForCausalLM
from .processing_phi3_v import STOP_TOKENS, Phi3VProcessor

failure = error_texts(__file__)
Weights = dict[str, torch.Tensor]

KNOWN = read_yaml(__file__, "known_parts.yaml")
"""Tower and decoder of the base `photo`, and the form that others must have."""

STREAM = 2.0**-13  # of the residual stream: too small to change what the last norm makes of it
BELOW_EPSILON = 2.0**-20  # further scale of the input of the first norm
TOKEN_SCALE = 0.9  # of a new token's row: with tied embeddings an equal row would tie in the logits

BEGIN, END = "<s>", STOP_TOKENS[0]
# New token -> texts whose mean row it starts from, those that the vocabulary has.
STARTS = {
    BEGIN: ("\n",),
    "</s>": (END,),
    "<|endoftext|>": (END,),
    "<|user|>": ("<|im_start|>", "user"),
    "<|assistant|>": ("<|im_start|>", "assistant"),
    "<|system|>": ("<|im_start|>", "system"),
    "<|image|>": ("image",),
}


def assemble(
    tower: Dinov2Model,
    decoder: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    crop_size: int,
    num_crops: int = 1,
) -> tuple[Phi3VForCausalLM, Phi3VProcessor]:
    """Assemble a checkpoint of the official layout; parts that do not fit are a ValueError.

    Args:
        tower: With GELU and without SwiGLU; its positions are resized to the crops.
        decoder: With SiLU and plain rotary positions, without biases.
        tokenizer: Of the decoder; its end-of-turn token becomes `<|end|>`.
        crop_size: Side of a crop in pixels, a multiple of two patches.
        num_crops: Maximum crops of an image, besides its global view.
    """
    check_form("tower", tower.config)
    check_form("decoder", decoder.config)
    context = decoder.config.max_position_embeddings
    check_crops(crop_size, num_crops, tower.config.patch_size, context)
    adapted = adapt_tokenizer(tokenizer)
    vision_config = CLIP_VIT_L_14_336 | {
        "hidden_act": "gelu",
        "hidden_size": tower.config.hidden_size,
        "image_size": crop_size,
        "intermediate_size": tower.config.hidden_size * int(tower.config.mlp_ratio),
        "layer_norm_eps": STREAM**2 * tower.config.layer_norm_eps,
        "num_attention_heads": tower.config.num_attention_heads,
        # One with the last norm, and the official last one, which is never run.
        "num_hidden_layers": tower.config.num_hidden_layers + 2,
        "patch_size": tower.config.patch_size,
        "projection_dim": tower.config.hidden_size,
    }
    config = _make_config(decoder.config, vision_config, adapted)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same folder each time
        model = Phi3VForCausalLM(config)
    weights = {
        f"model.vision_embed_tokens.img_processor.vision_model.{name}": weight
        for name, weight in convert_tower(tower, vision_config).items()
    }
    weights |= convert_decoder(decoder, adapted, len(tokenizer))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("img_projection" in name or name.endswith("_GN") for name in missing), missing
    # About the mean patch, until the projection is trained.
    separator = tower.layernorm.bias.detach().repeat(4)
    embedding = model.model.vision_embed_tokens
    for parameter in (embedding.glb_GN, embedding.sub_GN):
        parameter.data.copy_(separator.expand_as(parameter))
    side = crop_size // tower.config.patch_size // 2
    crops = Phi3VImageProcessor(num_crops=num_crops, crop_size=crop_size, num_img_tokens=side**2)
    return model.eval(), Phi3VProcessor(crops, adapted)


def check_crops(crop_size: int, num_crops: int, patch: int | None, context: int | None) -> None:
    """Check the size of a crop by that of a patch and by the context, each where it is known."""
    if patch is None:
        return
    side, rest = divmod(crop_size, 2 * patch)
    if rest:
        raise failure("crop_size", size=crop_size, patch=patch, step=2 * patch)
    views = num_crops + 1  # as a column, with the most rows: 1 crop of 1,764 has 8,065 tokens
    if context is not None and (tokens := views * side * (side + 1) + 1) >= context:
        most = (math.isqrt(4 * ((context - 2) // views) + 1) - 1) // 2
        sizes = {"size": crop_size, "num_crops": num_crops, "most": most * 2 * patch}
        raise failure("many_tokens", tokens=tokens, context=context, **sizes)


def _make_config(
    decoder: LlamaConfig, vision_config: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> Phi3VConfig:
    names = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"),
    )
    return Phi3VConfig(
        **{name: getattr(decoder, name) for name in names},
        original_max_position_embeddings=decoder.max_position_embeddings,
        rope_theta=decoder.rope_parameters["rope_theta"],
        vocab_size=len(tokenizer),
        img_processor={**describe_tower(vision_config), "vision_config": vision_config},
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.convert_tokens_to_ids(token) for token in STOP_TOKENS],
        image_token_id=tokenizer.convert_tokens_to_ids(Phi3VProcessor.image_token),
        **{UNTRAINED: True},
    )


def check_form(part: str, config: Any, where: str = "") -> None:
    """Check that a part has the form of the official layers, or raise a ValueError."""
    named = {"part": part, "where": where, "example": KNOWN[part]["hub"]}
    for name, expected in KNOWN[part]["form"].items():
        if (found := getattr(config, name, None)) != expected:
            raise failure("other_form", name=name, found=found, expected=expected, **named)
    width, heads = config.hidden_size, config.num_attention_heads
    if heads < 1 or width % heads:
        raise failure("heads", width=width, heads=heads, **named)
    if part == "decoder":
        if config.head_dim != width // heads:
            raise failure("head_dim", found=config.head_dim, expected=width // heads, **named)
        kind = config.rope_parameters["rope_type"]
        if kind != "default":
            raise failure("rope", kind=kind, **named)


def convert_tower(tower: Dinov2Model, vision_config: Mapping[str, Any]) -> Weights:
    """Convert DINOv2's weights to those of a CLIP tower, in float32, by CLIP's names.

    Its features, patch by patch, are those of `tower(...).last_hidden_state` on images normalised
    with ImageNet's mean and deviation, though it is given images with CLIP's.
    """
    given = {name: weight.float() for name, weight in tower.state_dict().items()}
    width = vision_config["hidden_size"]
    patches, patch_bias = _take_clip_pixels(
        given["embeddings.patch_embeddings.projection.weight"],
        given["embeddings.patch_embeddings.projection.bias"],
    )
    size = vision_config["image_size"]
    shape = torch.empty(1, 1 + (size // vision_config["patch_size"]) ** 2, width)
    resized = tower.embeddings.interpolate_pos_encoding(shape, size, size).detach()[0].float()
    class_position, positions = resized.tensor_split([1])
    class_token = given["embeddings.cls_token"][0] + class_position
    small, epsilon = STREAM * BELOW_EPSILON, vision_config["layer_norm_eps"]
    converted = {
        "embeddings.patch_embedding.weight": small * patches,
        "embeddings.position_embedding.weight": small
        * torch.cat([torch.zeros(1, width), positions + patch_bias]),
        "embeddings.class_embedding": small * class_token[0],
        "pre_layrnorm.weight": torch.full((width,), epsilon**0.5 / BELOW_EPSILON),
        "pre_layrnorm.bias": torch.zeros(width),
        "post_layernorm.weight": torch.ones(width),
        "post_layernorm.bias": torch.zeros(width),
    }
    layers = [_convert_layer(given, at) for at in range(tower.config.num_hidden_layers)]
    layers.append(_norm_layer(given["layernorm.weight"], given["layernorm.bias"], layers[0]))
    layers.append({name: torch.zeros_like(weight) for name, weight in layers[0].items()})
    for at, layer in enumerate(layers):
        converted |= {f"encoder.layers.{at}.{name}": weight for name, weight in layer.items()}
    return converted


def _take_clip_pixels(
    weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewrite a patch embedding of ImageNet's pixels for CLIP's: another mean and deviation."""
    crops = Phi3VImageProcessor()
    mean, std = torch.tensor([crops.image_mean, crops.image_std])
    other_mean, other_std = torch.tensor([IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD])
    shift = (weight.sum(dim=(2, 3)) * ((mean - other_mean) / other_std)).sum(dim=1)
    return weight * (std / other_std).view(1, 3, 1, 1), bias + shift


def _convert_layer(given: Mapping[str, torch.Tensor], at: int) -> Weights:
    """Convert one layer; what it adds is scaled by LayerScale and the scale of the stream."""
    names = {
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "self_attn.q_proj": "attention.q_proj",
        "self_attn.k_proj": "attention.k_proj",
        "self_attn.v_proj": "attention.v_proj",
        "self_attn.out_proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    scales = {"self_attn.out_proj": "layer_scale1", "mlp.fc2": "layer_scale2"}
    prefix, converted = f"encoder.layer.{at}.", Weights()
    for name, source in names.items():
        weight, bias = (given[f"{prefix}{source}.{kind}"] for kind in ("weight", "bias"))
        if name in scales:
            scale = STREAM * given[f"{prefix}{scales[name]}.lambda1"]
            weight, bias = scale[:, None] * weight, scale * bias
        converted |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return converted


def _norm_layer(weight: torch.Tensor, bias: torch.Tensor, like: Weights) -> Weights:
    """Make a layer that adds the norm of its input, beside which the small stream vanishes."""
    layer = {name: torch.zeros_like(each) for name, each in like.items()}
    identity = torch.eye(len(weight))
    layer["layer_norm2.weight"], layer["layer_norm2.bias"] = weight, bias
    layer["mlp.fc1.weight"][: 2 * len(weight)] = torch.cat([identity, -identity])
    layer["mlp.fc2.weight"][:, : 2 * len(weight)] = torch.cat([identity, -identity], dim=1)
    return layer


def convert_decoder(
    decoder: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, size: int
) -> Weights:
    """Convert a Llama-shaped decoder's weights to Phi-3's names, in float32.

    `tokenizer` is the adapted one, `size` the number of tokens before.
    """
    given = {name: weight.float() for name, weight in decoder.state_dict().items()}
    embedding = token_rows(tokenizer, given["model.embed_tokens.weight"], size)
    is_tied = decoder.config.tie_word_embeddings
    head = embedding if is_tied else token_rows(tokenizer, given["lm_head.weight"], size)
    converted = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": head,
        "model.norm.weight": given["model.norm.weight"],
    }
    fused = {
        "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj": ("self_attn.o_proj",),
        "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down_proj": ("mlp.down_proj",),
        "input_layernorm": ("input_layernorm",),
        "post_attention_layernorm": ("post_attention_layernorm",),
    }
    for at in range(decoder.config.num_hidden_layers):
        for name, parts in fused.items():
            weights = [given[f"model.layers.{at}.{part}.weight"] for part in parts]
            converted[f"model.layers.{at}.{name}.weight"] = torch.cat(weights)
    return converted


def adapt_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Add the official control tokens to a tokenizer; texts keep their ids.

    Its end-of-turn token is renamed to `<|end|>`; the others are added at the end, unless they are
    there. Each text begins with `<s>`, as with the official tokenizer.
    """
    example = KNOWN["decoder"]["hub"]
    if not getattr(tokenizer, "is_fast", False) or tokenizer.eos_token is None:
        raise failure("no_tokenizer", kind=type(tokenizer).__name__, example=example)
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary, added = described["model"]["vocab"], described["added_tokens"]
    if not isinstance(vocabulary, dict):
        raise failure("no_vocabulary", kind=described["model"]["type"], example=example)
    for token in added:
        if token["content"] == tokenizer.eos_token:
            token["content"] = END
    if tokenizer.eos_token in vocabulary:
        vocabulary[END] = vocabulary.pop(tokenizer.eos_token)
    ids = {**vocabulary, **{token["content"]: token["id"] for token in added}}
    for token in (token for token in STARTS if token not in ids):
        ids[token] = 1 + max(ids.values())
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added.append({"id": ids[token], "content": token, **plain, "special": True})
    adapted = Tokenizer.from_str(json.dumps(described))
    adapted.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, ids[BEGIN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=adapted,
        bos_token=BEGIN,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def token_rows(tokenizer: PreTrainedTokenizerFast, weight: torch.Tensor, size: int) -> torch.Tensor:
    """Return a row for each token: the decoder's, and a start for the added ones.

    Input:  an adapted tokenizer of 49,158 tokens, and rows of the first `size`, 49,152
    Output: (49158, H)
    """
    if len(weight) < size:
        raise failure("vocabulary", rows=len(weight), tokens=size)
    rows = [weight[:size]]
    for token in tokenizer.convert_ids_to_tokens(range(size, len(tokenizer))):
        texts = (tokenizer(text, add_special_tokens=False).input_ids for text in STARTS[token])
        known = [ids[0] for ids in texts if len(ids) == 1 and ids[0] < size]
        rows.append(TOKEN_SCALE * weight[known or slice(size)].mean(dim=0, keepdim=True))
    return torch.cat(rows)
