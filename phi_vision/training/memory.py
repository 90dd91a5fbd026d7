"""What a step holds in memory, part by part, found by taking one step without numbers.

The model is built and trained as a run would do it, on fake tensors: PyTorch computes every shape
and lifetime, and no number. So a model of 4 billion weights is planned in seconds on a laptop, and
what is planned is what the code does: the fused attention or the plain one, what autocast copies,
what checkpointing throws away.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.training.adapters import choose_trained_parts
from phi_vision.training.fourbit import FourBitLinear, hold_in_four_bits
from phi_vision.training.memory_tracker import Ledger
from phi_vision.training.recipes import Recipe

NEW_TOKENS = 96
"""Longest answer that is written at an evaluation, which the cache of keys and values must hold."""


SMALLEST_IN_8_BITS, BLOCK_OF_8_BITS = 4096, 256
"""bitsandbytes keeps the moments of smaller weights in float32, and a scale for each block of
those of others."""


SMALL_TENSOR = 32 * 2**20
"""Bytes from which on glibc gives a tensor pages of its own, and takes them back at once."""


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """Everything about a batch that decides its memory."""

    rows: int
    length: int
    """Tokens of the longest row, to which the others are padded."""
    learnt: int
    """Labelled tokens of all rows: only these get logits."""
    images: tuple[tuple[int, int], ...]
    """Height and width of each image of the batch in pixels, padded to whole crops."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a step takes."""

    parts: dict[str, int]
    """Part -> bytes at the moment when all parts together are most."""
    flops: int
    """Floating-point operations of the matrix products of one optimizer step."""
    operations: int
    """Operations that Python hands to PyTorch in one optimizer step."""
    parameters: int
    trained: int
    packed: int
    """Weights held in 4 bits."""
    scattered: int
    """Bytes of the weights, unpacked, that lie in tensors of less than `SMALL_TENSOR`."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The model and arithmetic that a plan is made for."""

    recipe: Recipe
    config: Phi3VConfig = field(compare=False)
    precision: torch.dtype
    attention: str
    """`sdpa`, or `eager` as on a CPU in bf16."""
    is_on_cpu: bool = True


def cost_of_training(setting: Setting, batch: BatchShape) -> Cost:
    """Take the passes of an optimizer step, as if the optimizer's state were there already."""
    recipe = setting.recipe
    sizes = torch.tensor(batch.images)
    with _books(setting) as (ledger, model):
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        with ledger.under("optimizer"):
            state = [_optimizer_state(recipe, weight) for weight in trained]
        for weight in trained:
            weight.register_post_accumulate_grad_hook(
                lambda w: ledger.move(w.grad, "gradients") if w.grad is not None else None
            )
        # One batch is fetched ahead of those that make a step.
        with ledger.under("images"):
            pixels = [
                _pixels(setting, batch) for _ in range(recipe.gradient_accumulation_steps + 1)
            ]
        # The second pass finds gradients; later ones are like it.
        passes = min(recipe.gradient_accumulation_steps, 2)
        for _ in range(passes):
            _pass(setting, model, batch, (pixels[0], sizes), ledger).backward()
        del state
    share = recipe.gradient_accumulation_steps / passes
    return Cost(
        parts=dict(ledger.most),
        flops=round(ledger.flops * share),
        operations=round(ledger.operations * share),
        parameters=_count_weights(model),
        trained=sum(weight.numel() for weight in trained),
        packed=sum(_count_unpacked(module) for module in model.modules()),
        scattered=_count_scattered(model, _stored_dtype(setting)),
    )


def cost_of_evaluation(setting: Setting, batch: BatchShape, *, writes: bool) -> dict[str, int]:
    """Take one forward pass as an evaluation does, with a cache where answers are written."""
    recipe, config = setting.recipe, setting.config
    sizes = torch.tensor(batch.images)
    with _books(setting) as (ledger, model):
        model.eval()
        with ledger.under("optimizer"):
            state = [_optimizer_state(recipe, w) for w in model.parameters() if w.requires_grad]
        with ledger.under("images"):
            pixels = [_pixels(setting, batch) for _ in range(2)]
        with torch.no_grad():
            if writes:
                heads = config.num_key_value_heads * config.hidden_size
                width = 2 * config.num_hidden_layers * heads // config.num_attention_heads
                shape = (batch.rows, batch.length + NEW_TOKENS, width)
                with ledger.under("cache"):
                    cache = torch.empty(shape, dtype=setting.precision)
            loss = _pass(setting, model, batch, (pixels[0], sizes), ledger)
        del state, loss
        if writes:
            del cache
    return dict(ledger.most)


@contextmanager
def _books(setting: Setting) -> Iterator[tuple[Ledger, nn.Module]]:
    """Build the model without storage and open the books on it."""
    with torch.device("meta"):
        model = _build(setting)
    ledger = Ledger()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        _pretend_to_store(model)
        with ledger:
            ledger.put_down([*model.parameters(), *model.buffers()], "weights")
            yield ledger, model


def _build(setting: Setting) -> nn.Module:
    recipe = setting.recipe
    with no_init_weights(), _default_dtype(_stored_dtype(setting)):
        bare = Phi3VForCausalLM(setting.config)
        bare.set_attn_implementation(setting.attention)
        if recipe.quantization:
            hold_in_four_bits(bare)
    # Rotation needs values, to see whether a row leaves the original context; shapes do not.
    width = setting.config.hidden_size // setting.config.num_attention_heads
    bare.model.rotary_emb = _Rotation(width)
    model: Any = choose_trained_parts(bare, recipe, setting.precision)
    if recipe.gradient_checkpointing:
        bare.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    return cast(nn.Module, model)


def _pretend_to_store(model: nn.Module) -> None:
    """Exchange tensors without a device for such as pretend to lie on one."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            stored = torch.empty(weight.shape, dtype=weight.dtype)
            setattr(module, name, nn.Parameter(stored, requires_grad=weight.requires_grad))
        for name, values in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(values.shape, dtype=values.dtype))


def _pass(
    setting: Setting,
    model: Any,
    batch: BatchShape,
    images: tuple[torch.Tensor | None, torch.Tensor],
    ledger: Ledger,
) -> torch.Tensor:
    """Run the model as `Phi3VForCausalLM.forward` does, without looking at values."""
    bare = model.base_model.model if hasattr(model, "peft_config") else model
    is_mixed = setting.precision != torch.float32
    ids_BL = torch.zeros((batch.rows, batch.length), dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_mixed):
        embeds_BLH = bare.model.embed_tokens(ids_BL)
        if images[0] is not None:
            features = bare.model.vision_embed_tokens(*images)
            where = torch.zeros((*ids_BL.shape, 1), dtype=torch.bool)
            features_TH = torch.cat(features).to(embeds_BLH.dtype)
            del features
            embeds_BLH = embeds_BLH.masked_scatter(where, features_TH)
            del where, features_TH
        hidden_BLH = bare.model(
            inputs_embeds=embeds_BLH,
            attention_mask=_mask(setting, batch, embeds_BLH.dtype),
            position_ids=ids_BL,
            use_cache=False,
        ).last_hidden_state
        del embeds_BLH
        keep = torch.zeros(batch.learnt, dtype=torch.long)
        kept_KH = hidden_BLH.flatten(0, 1).index_select(0, keep)
        del hidden_BLH
        ledger.part = "logits"
        logits_KV = bare.lm_head(kept_KH)
        loss: torch.Tensor = bare.loss_function(
            logits=logits_KV, labels=ids_BL, vocab_size=bare.config.vocab_size, shift_labels=keep
        )
    if is_mixed:
        # accelerate hands the outputs of a mixed model on in float32.
        logits_KV = logits_KV.float()
    if kept_KH.requires_grad:
        kept_KH.register_hook(lambda _: setattr(ledger, "part", "activations"))
    else:
        ledger.part = "activations"
    return loss


def _mask(setting: Setting, batch: BatchShape, dtype: torch.dtype) -> torch.Tensor:
    """Make the mask of a batch with padding: truth values for the fused attention, else numbers."""
    shape = (batch.rows, 1, batch.length, batch.length)
    return torch.zeros(shape, dtype=torch.bool if setting.attention == "sdpa" else dtype)


def _pixels(setting: Setting, batch: BatchShape) -> torch.Tensor | None:
    side = setting.config.tower.image_size
    crops = sum((h // side) * (w // side) + 1 for h, w in batch.images)
    return torch.zeros((crops, 3, side, side)) if crops else None


class _Rotation(nn.Module):
    """Gives the shapes of the rotary table."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(
        self, hidden: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give cosine and sine: (B, L, width) each."""
        table = hidden.new_empty((*position_ids.shape, self.width))
        return table, table.clone()


def _optimizer_state(recipe: Recipe, weight: nn.Parameter) -> list[torch.Tensor]:
    """Make what AdamW keeps of a weight: two moments, in float32 or in blocks of 8 bits."""
    size = weight.numel()
    if "8bit" not in recipe.optim or size < SMALLEST_IN_8_BITS:
        return [torch.zeros(size) for _ in range(2)]
    scales = -(-size // BLOCK_OF_8_BITS)
    return [
        *(torch.zeros(size, dtype=torch.uint8) for _ in range(2)),
        *(torch.zeros(scales) for _ in range(2)),
    ]


def _stored_dtype(setting: Setting) -> torch.dtype:
    return setting.config.dtype or torch.float32


def _count_unpacked(module: nn.Module) -> int:
    """Count the weights of a layer that holds them in 4 bits; none of any other."""
    if not isinstance(module, FourBitLinear):
        return 0
    return module.in_features * module.out_features


def _count_weights(model: nn.Module) -> int:
    """Count the weights of a model, packed ones one by one."""
    return sum(
        _count_unpacked(module)
        or sum(weight.numel() for weight in module.parameters(recurse=False))
        for module in model.modules()
    )


def _count_scattered(model: nn.Module, stored: torch.dtype) -> int:
    sizes = [
        _count_unpacked(module) * stored.itemsize or weight.nbytes
        for module in model.modules()
        for weight in module.parameters(recurse=False)
    ]
    return sum(size for size in sizes if size < SMALL_TENSOR)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
