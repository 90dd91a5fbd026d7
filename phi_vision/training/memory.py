"""The memory of a training step by part, found by running one step on fake tensors.

The model is built and trained as a run would do it, but PyTorch computes only shapes and lifetimes:
4 billion weights are planned in seconds on a laptop, and the plan follows the code.
"""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers.initialization import no_init_weights

from phi_vision.model.blockwise_attention import BLOCKWISE, use_blockwise_attention
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.decoder_functions import use_decoder_functions
from phi_vision.model.image_processing_phi3_v import count_crops
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.training.adapters import select_trained_parts
from phi_vision.training.lora_function import use_lora_function
from phi_vision.training.recipes import Recipe

# bitsandbytes keeps the optimizer state of smaller weights in float32, and one scale per block; of
# nf4 an 8-bit scale for 64 weights, and a float32 scale for 256 of these.
MIN_8_BIT, BLOCK_8_BIT, BLOCK_4_BIT, BLOCK_OF_SCALES = 4096, 256, 64, 256
# Bytes from which glibc gives a tensor pages of its own, and takes them back at once.
MMAP_THRESHOLD = 32 * 2**20

# Fused attention of a CPU, which PyTorch does not count -> that of a GPU, which it does.
_ATTENTION = "_scaled_dot_product_flash_attention"
FUSED = {
    getattr(torch.ops.aten, f"{_ATTENTION}_for_cpu{end}"): getattr(
        torch.ops.aten, f"{_ATTENTION}{end}"
    )
    for end in ("", "_backward")
}


class BatchShape(NamedTuple):
    """Everything about a batch that decides its memory."""

    rows: int
    length: int  # tokens of the longest row, to which the others are padded
    supervised: int  # labelled tokens of all rows: only these get logits
    images: tuple[tuple[int, int], ...]  # height and width in pixels, padded to whole crops


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Memory and operations of an optimizer step."""

    parts: dict[str, int]  # part -> bytes at the peak of their sum
    flops: int  # floating-point operations of the matrix products
    operations: int  # dispatched by Python to PyTorch
    parameters: int
    trained: int  # weights
    packed: int  # weights in 4 bits
    scattered: int  # bytes of the weights, unpacked, in tensors smaller than MMAP_THRESHOLD


@dataclass(frozen=True)
class Setting:
    """The model, arithmetic and attention (`sdpa`, or `blockwise` on a CPU) of a run."""

    recipe: Recipe
    config: Phi3VConfig = field(compare=False)
    precision: torch.dtype
    attention: str

    @property
    def stored_dtype(self) -> torch.dtype:
        """Of the weights in the checkpoint."""
        return self.config.dtype or torch.float32


def count_flops(operation: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Count the FLOPs of an operation; causal attention computes half of the square."""
    count = flop_registry.get(FUSED.get(operation, operation))
    flops = int(count(*args, **kwargs, out_val=out)) if count else 0
    is_causal = operation in FUSED and any(argument is True for argument in args)
    return flops // 2 if is_causal else flops


class MemoryTracker(TorchDispatchMode):
    """Counts bytes held by the parts in which they were made, their peak, operations and FLOPs."""

    def __init__(self) -> None:
        super().__init__()
        self.part = "activations"
        self.held: Counter[str] = Counter()
        self.peak: Mapping[str, int] = {}
        self.operations = self.flops = 0
        self._part_of: dict[int, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record its outputs."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.operations += 1
        self.flops += count_flops(func._overloadpacket, args, kwargs, out)
        is_copy = func is torch.ops.aten._to_copy.default
        source = self._part_of.get(args[0].untyped_storage()._cdata) if is_copy else None
        part = "copies" if source == "weights" else self.part
        self.record((leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)), part)
        return out

    def record(self, tensors: Iterable[torch.Tensor], part: str) -> None:
        """Record storages that are not known yet."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            # The address of PyTorch's own object: Python's wrappers of it come and go.
            key, size = storage._cdata, storage.nbytes()
            if key not in self._part_of:
                self._part_of[key] = part
                weakref.finalize(storage, self._release, key, size)
                self.held[part] += size
                if self.held.total() > sum(self.peak.values()):
                    self.peak = dict(self.held)

    def move(self, tensor: torch.Tensor, part: str) -> None:
        """Count a storage for another part."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._part_of:
            self._release(storage._cdata, storage.nbytes())
            self.held[part] += storage.nbytes()
            self._part_of[storage._cdata] = part

    @contextmanager
    def counting_for(self, part: str) -> Iterator[None]:
        """Count new storages for `part` meanwhile."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def _release(self, key: int, size: int) -> None:
        self.held[self._part_of.pop(key)] -= size


@cache
def training_cost(setting: Setting, batch: BatchShape) -> Cost:
    """Run the passes of an optimizer step whose optimizer state exists already."""
    accumulated = setting.recipe.gradient_accumulation_steps
    passes = min(accumulated, 2)  # the second finds gradients; later ones are like it
    # One batch is fetched ahead of those that make a step.
    with _tracked_model(setting, batch, batches=accumulated + 1) as (tracker, model, forward):
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        for weight in trained:
            weight.register_post_accumulate_grad_hook(lambda w: tracker.move(w.grad, "gradients"))
        for _ in range(passes):
            forward().backward()
    # Tensor -> unpacked number of weights in 4 bits, or 0.
    weights = {
        weight: math.prod(module.shape) if isinstance(module, FourBitLinear) else 0
        for module in model.modules()
        for weight in module.parameters(recurse=False)
    }
    stored = [n * setting.stored_dtype.itemsize or weight.nbytes for weight, n in weights.items()]
    return Cost(
        parts=dict(tracker.peak),
        flops=round(tracker.flops * accumulated / passes),
        operations=round(tracker.operations * accumulated / passes),
        parameters=sum(count or weight.numel() for weight, count in weights.items()),
        trained=sum(weight.numel() for weight in trained),
        packed=sum(weights.values()),
        scattered=sum(size for size in stored if size < MMAP_THRESHOLD),
    )


@cache
def evaluation_cost(setting: Setting, batch: BatchShape, *, new_tokens: int) -> dict[str, int]:
    """Run one forward pass of an evaluation, with a cache if it generates so many new tokens."""
    config = setting.config
    width = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    shape = (batch.rows, batch.length + new_tokens, 2 * config.num_hidden_layers * width)
    with _tracked_model(setting, batch, batches=2) as (tracker, model, forward), torch.no_grad():
        model.eval()
        with tracker.counting_for("cache"):
            held = torch.empty(shape if new_tokens else 0, dtype=setting.precision)
        forward()
        del held
    return dict(tracker.peak)


@contextmanager
def _tracked_model(
    setting: Setting, batch: BatchShape, *, batches: int
) -> Iterator[tuple[MemoryTracker, Any, Callable[[], torch.Tensor]]]:
    """Build and track a model with optimizer state and images; yield it with its forward pass."""
    with torch.device("meta"):
        model = _build(setting)
    sizes = torch.tensor(batch.images)  # real numbers, made outside of the fake mode
    side = setting.config.tower.image_size
    crops = sum(count_crops(*size, side) for size in batch.images)
    tracker = MemoryTracker()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        model.to_empty(device="cpu")
        model.tie_weights()
        with tracker:
            tracker.record([*model.parameters(), *model.buffers()], "weights")
            trained = [weight.numel() for weight in model.parameters() if weight.requires_grad]
            with tracker.counting_for("optimizer"):
                held: list[Any] = [_adamw_state(setting.recipe, size) for size in trained]
            with tracker.counting_for("images"):
                held += [torch.zeros((crops, 3, side, side)) for _ in range(batches)]
            images = (held[-1], sizes)
            yield tracker, model, partial(_forward, setting, model, batch, images, tracker)


def _build(setting: Setting) -> Any:
    recipe = setting.recipe
    with no_init_weights():
        model = Phi3VForCausalLM(setting.config).to(setting.stored_dtype)
    if setting.attention == BLOCKWISE:
        use_blockwise_attention(model)
        use_decoder_functions(model)
    if recipe.quantization:  # of the decoder alone, as `adapters.describe_quantization` has it
        for name, layer in list(model.model.layers.named_modules()):
            if isinstance(layer, nn.Linear):
                model.model.layers.set_submodule(name, FourBitLinear(layer))
    # Rotation needs values, to see whether a row exceeds the original context; the shapes of cosine
    # and sine, (B, L, width) each, do not.
    width = setting.config.hidden_size // setting.config.num_attention_heads
    rotary = model.model.rotary_emb = nn.Module()
    rotary.forward = lambda hidden, position_ids: tuple(
        hidden.new_empty((*position_ids.shape, width)) for _ in range(2)
    )
    if recipe.pack_length is None:
        # Whether a mask is superfluous depends on values; see `Phi3VModel.forward`.
        for layer in model.model.layers:
            layer.register_forward_pre_hook(_without_mask, with_kwargs=True)
    # Adapters are put into the model itself; the wrapper around it is not needed.
    select_trained_parts(model, recipe, setting.precision)
    if setting.attention == BLOCKWISE:
        use_lora_function(model)
    if recipe.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model.train()


def _without_mask(_: nn.Module, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return given, {**named, "attention_mask": None}


def _forward(
    setting: Setting,
    model: Any,
    batch: BatchShape,
    images: tuple[torch.Tensor, torch.Tensor],
    tracker: MemoryTracker,
) -> torch.Tensor:
    """Compute the loss as `Phi3VForCausalLM.forward` does, without looking at values."""
    is_mixed = setting.precision != torch.float32
    ids_BL = torch.zeros((batch.rows, batch.length), dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_mixed):
        embeds_BLH = model.model.embed_tokens(ids_BL)
        if batch.images:
            features = model.model.vision_embed_tokens(*images)
            where = torch.zeros((*ids_BL.shape, 1), dtype=torch.bool)
            features_TH = torch.cat(features).to(embeds_BLH.dtype)
            del features
            embeds_BLH = embeds_BLH.masked_scatter(where, features_TH)
            del where, features_TH
        # Only samples packed into one row need a mask: padding is behind, where nothing sees it.
        is_packed = setting.recipe.pack_length is not None
        mask_shape = (batch.rows, 1, batch.length, batch.length) if is_packed else (1, 1, 1, 1)
        hidden_BLH = model.model(
            inputs_embeds=embeds_BLH,
            attention_mask=torch.zeros(mask_shape, dtype=torch.bool),
            position_ids=ids_BL,
            places=torch.zeros((batch.rows, -(-batch.supervised // batch.rows)), dtype=torch.long),
            use_cache=False,
        ).last_hidden_state
        del embeds_BLH
        keep = torch.zeros(batch.supervised, dtype=torch.long)
        kept_KH = hidden_BLH.flatten(0, 1).index_select(0, keep)
        del hidden_BLH
        tracker.part = "logits"
        logits_KV = model.lm_head(kept_KH)
        loss: torch.Tensor = model.loss_function(
            logits=logits_KV, labels=ids_BL, vocab_size=model.config.vocab_size, shift_labels=keep
        )
    if is_mixed:
        # accelerate converts the outputs of a mixed-precision model to float32.
        logits_KV = logits_KV.float()
    if kept_KH.requires_grad:
        kept_KH.register_hook(lambda _: setattr(tracker, "part", "activations"))
    else:
        tracker.part = "activations"
    return loss


def _adamw_state(recipe: Recipe, size: int) -> list[torch.Tensor]:
    """Make AdamW's two moments of a weight, in float32 or in blocks of 8 bits."""
    if "8bit" not in recipe.optim or size < MIN_8_BIT:
        return [torch.zeros(size) for _ in range(2)]
    scales = [torch.zeros(-(-size // BLOCK_8_BIT)) for _ in range(2)]
    return [*(torch.zeros(size, dtype=torch.uint8) for _ in range(2)), *scales]


class FourBitLinear(nn.Linear):
    """Stands in for bitsandbytes' 4-bit layers, which pack real numbers: same bytes and copies."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.shape = (layer.out_features, layer.in_features)
        size = math.prod(self.shape)
        self.weight = nn.Parameter(torch.zeros(size // 2, 1, dtype=torch.uint8), False)
        scales = size // BLOCK_4_BIT
        self.scales = nn.Buffer(torch.zeros(scales, dtype=torch.uint8))
        self.scales_of_scales = nn.Buffer(torch.zeros(-(-scales // BLOCK_OF_SCALES)))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Multiply with the weights, unpacked temporarily here and in the backward pass."""
        if torch.is_autocast_enabled("cpu"):
            hidden = hidden.to(torch.get_autocast_dtype("cpu"))
        product: torch.Tensor = _UnpackedProduct.apply(hidden, self.shape)
        # PEFT copies the result before it adds the adapter's.
        return product.clone()


class _UnpackedProduct(torch.autograd.Function):
    """Product with a weight that exists only while it is computed."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.shape = shape
        return nn.functional.linear(hidden, hidden.new_empty(shape))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] @ gradients[0].new_empty(ctx.shape), None
