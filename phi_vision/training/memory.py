"""The memory of a training step by part, found by running one step on fake tensors.

The model is built and trained as a run would do it, but PyTorch computes only shapes and lifetimes.
So a model of 4 billion weights is planned in seconds on a laptop, and the plan follows the code:
fused or eager attention, the copies of autocast, gradient checkpointing.
"""

import math
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers.initialization import no_init_weights

from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.training.adapters import select_trained_parts
from phi_vision.training.recipes import Recipe

MAX_NEW_TOKENS = 96
"""Tokens of a generated prediction at an evaluation: the cache of keys and values holds them."""

MIN_8_BIT, BLOCK_8_BIT = 4096, 256
"""bitsandbytes keeps the optimizer state of smaller weights in float32, and one scale per block."""

BLOCK_4_BIT, BLOCK_OF_SCALES = 64, 256
"""nf4 keeps an 8-bit scale for 64 weights, and a float32 scale for 256 of these."""

MMAP_THRESHOLD = 32 * 2**20
"""Bytes from which glibc gives a tensor pages of its own, and takes them back at once."""


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """Everything about a batch that decides its memory."""

    rows: int
    length: int
    """Tokens of the longest row, to which the others are padded."""
    supervised: int
    """Labelled tokens of all rows: only these get logits."""
    images: tuple[tuple[int, int], ...]
    """Height and width of each image in pixels, padded to whole crops."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Memory and operations of an optimizer step."""

    parts: dict[str, int]
    """Part -> bytes at the peak of their sum."""
    flops: int
    """Floating-point operations of the matrix products."""
    operations: int
    """Operations that Python dispatches to PyTorch."""
    parameters: int
    trained: int
    packed: int
    """Weights held in 4 bits."""
    scattered: int
    """Bytes of the weights, unpacked, in tensors smaller than `MMAP_THRESHOLD`."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The model and arithmetic that a plan is made for."""

    recipe: Recipe
    config: Phi3VConfig = field(compare=False)
    precision: torch.dtype
    attention: str
    """`sdpa`, or `eager` as on a CPU in bf16."""
    is_on_cpu: bool = True


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes held by each part, operations, and FLOPs of matrix products.

    Every storage that an operation makes counts for the current part until its last tensor is
    freed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = "activations"
        self.held: Counter[str] = Counter()
        self.peak: Mapping[str, int] = {}
        """Part -> bytes at the peak of their sum."""
        self.operations = 0
        self.flops = 0
        self._total = 0
        self._peak_total = 0
        self._part_of: dict[int, str] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and record its outputs."""
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        if func._overloadpacket in flop_registry:
            count = flop_registry[func._overloadpacket]
            self.flops += int(count(*args, **(kwargs or {}), out_val=out))
        part = self.part
        if func is torch.ops.aten._to_copy.default:
            source = self._part_of.get(args[0].untyped_storage()._cdata)
            part = "copies" if source == "weights" else part
        self.record((leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)), part)
        return out

    def record(self, tensors: Iterable[torch.Tensor], part: str) -> None:
        """Record storages that are not known yet."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            # The address of PyTorch's own object: Python's wrappers of it come and go.
            key = storage._cdata
            if key not in self._part_of:
                self._part_of[key] = part
                self._add(part, storage.nbytes())
                weakref.finalize(storage, self._release, key, storage.nbytes())

    def move(self, tensor: torch.Tensor, part: str) -> None:
        """Count a storage for another part."""
        storage = tensor.untyped_storage()
        former = self._part_of.get(storage._cdata)
        if former is not None:
            self.held[former] -= storage.nbytes()
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

    def _add(self, part: str, size: int) -> None:
        self.held[part] += size
        self._total += size
        if self._total > self._peak_total:
            self._peak_total = self._total
            self.peak = dict(self.held)

    def _release(self, key: int, size: int) -> None:
        self.held[self._part_of.pop(key)] -= size
        self._total -= size


def training_cost(setting: Setting, batch: BatchShape) -> Cost:
    """Run the passes of an optimizer step whose optimizer state exists already."""
    recipe = setting.recipe
    # The second pass finds gradients; later ones are like it.
    passes = min(recipe.gradient_accumulation_steps, 2)
    sizes = torch.tensor(batch.images)  # real numbers, made outside of the fake mode
    with _tracked_model(setting) as (tracker, model):
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        state = _optimizer_states(recipe, model, tracker)
        for weight in trained:
            weight.register_post_accumulate_grad_hook(
                lambda w: tracker.move(w.grad, "gradients") if w.grad is not None else None
            )
        # One batch is fetched ahead of those that make a step.
        pixels = _pixels(setting, batch, tracker, recipe.gradient_accumulation_steps + 1)
        for _ in range(passes):
            _forward(setting, model, batch, (pixels[0], sizes), tracker).backward()
        del state
    share = recipe.gradient_accumulation_steps / passes
    packed = {name: _count_unpacked(module) for name, module in model.named_modules()}
    own = [
        (packed[name], weight)
        for name, module in model.named_modules()
        for weight in module.parameters(recurse=False)
    ]
    stored = _stored_dtype(setting).itemsize
    stored_bytes = [count * stored or weight.nbytes for count, weight in own]
    return Cost(
        parts=dict(tracker.peak),
        flops=round(tracker.flops * share),
        operations=round(tracker.operations * share),
        parameters=sum(count or weight.numel() for count, weight in own),
        trained=sum(weight.numel() for weight in trained),
        packed=sum(packed.values()),
        scattered=sum(size for size in stored_bytes if size < MMAP_THRESHOLD),
    )


def evaluation_cost(setting: Setting, batch: BatchShape, *, generates: bool) -> dict[str, int]:
    """Run one forward pass of an evaluation, with a cache if it generates predictions."""
    config = setting.config
    sizes = torch.tensor(batch.images)
    with _tracked_model(setting) as (tracker, model):
        model.eval()
        state: Any = _optimizer_states(setting.recipe, model, tracker)
        pixels = _pixels(setting, batch, tracker, 2)
        with torch.no_grad():
            if generates:
                heads = config.num_key_value_heads * config.hidden_size
                width = 2 * config.num_hidden_layers * heads // config.num_attention_heads
                shape = (batch.rows, batch.length + MAX_NEW_TOKENS, width)
                with tracker.counting_for("cache"):
                    state = [state, torch.empty(shape, dtype=setting.precision)]
            _forward(setting, model, batch, (pixels[0], sizes), tracker)
        del state
    return dict(tracker.peak)


@contextmanager
def _tracked_model(setting: Setting) -> Iterator[tuple[MemoryTracker, nn.Module]]:
    with torch.device("meta"):
        model = _build(setting)
    tracker = MemoryTracker()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        _allocate(model)
        with tracker:
            tracker.record([*model.parameters(), *model.buffers()], "weights")
            yield tracker, model


def _build(setting: Setting) -> nn.Module:
    recipe = setting.recipe
    with no_init_weights(), _default_dtype(_stored_dtype(setting)):
        bare = Phi3VForCausalLM(setting.config)
        bare.set_attn_implementation(setting.attention)
        if recipe.quantization:
            _quantize(bare)
    # Rotation needs values, to see whether a row exceeds the original context; shapes do not.
    width = setting.config.hidden_size // setting.config.num_attention_heads
    bare.model.rotary_emb = _RotaryShapes(width)
    model: Any = select_trained_parts(bare, recipe, setting.precision)
    if recipe.gradient_checkpointing:
        bare.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    return cast(nn.Module, model)


def _allocate(model: nn.Module) -> None:
    """Replace tensors without a device by fake ones on a device."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            stored = torch.empty(weight.shape, dtype=weight.dtype)
            setattr(module, name, nn.Parameter(stored, requires_grad=weight.requires_grad))
        for name, values in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(values.shape, dtype=values.dtype))


def _forward(
    setting: Setting,
    model: Any,
    batch: BatchShape,
    images: tuple[torch.Tensor | None, torch.Tensor],
    tracker: MemoryTracker,
) -> torch.Tensor:
    """Compute the loss as `Phi3VForCausalLM.forward` does, without looking at values."""
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
        # A batch with padding: truth values for the fused attention, else numbers.
        is_fused = setting.attention == "sdpa"
        mask_shape = (batch.rows, 1, batch.length, batch.length)
        hidden_BLH = bare.model(
            inputs_embeds=embeds_BLH,
            attention_mask=torch.zeros(
                mask_shape, dtype=torch.bool if is_fused else embeds_BLH.dtype
            ),
            position_ids=ids_BL,
            use_cache=False,
        ).last_hidden_state
        del embeds_BLH
        keep = torch.zeros(batch.supervised, dtype=torch.long)
        kept_KH = hidden_BLH.flatten(0, 1).index_select(0, keep)
        del hidden_BLH
        tracker.part = "logits"
        logits_KV = bare.lm_head(kept_KH)
        loss: torch.Tensor = bare.loss_function(
            logits=logits_KV, labels=ids_BL, vocab_size=bare.config.vocab_size, shift_labels=keep
        )
    if is_mixed:
        # accelerate converts the outputs of a mixed-precision model to float32.
        logits_KV = logits_KV.float()
    if kept_KH.requires_grad:
        kept_KH.register_hook(lambda _: setattr(tracker, "part", "activations"))
    else:
        tracker.part = "activations"
    return loss


def _pixels(
    setting: Setting, batch: BatchShape, tracker: MemoryTracker, batches: int
) -> list[torch.Tensor | None]:
    side = setting.config.tower.image_size
    crops = sum((h // side) * (w // side) + 1 for h, w in batch.images)
    with tracker.counting_for("images"):
        return [torch.zeros((crops, 3, side, side)) if crops else None for _ in range(batches)]


def _optimizer_states(
    recipe: Recipe, model: nn.Module, tracker: MemoryTracker
) -> list[list[torch.Tensor]]:
    """Make AdamW's two moments of every trained weight, in float32 or in blocks of 8 bits."""

    def state_of(size: int) -> list[torch.Tensor]:
        if "8bit" not in recipe.optim or size < MIN_8_BIT:
            return [torch.zeros(size) for _ in range(2)]
        scales = -(-size // BLOCK_8_BIT)
        return [
            *(torch.zeros(size, dtype=torch.uint8) for _ in range(2)),
            *(torch.zeros(scales) for _ in range(2)),
        ]

    with tracker.counting_for("optimizer"):
        return [state_of(w.numel()) for w in model.parameters() if w.requires_grad]


class _RotaryShapes(nn.Module):
    """Computes the shapes of the rotary table: cosine and sine, (B, L, width) each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(
        self, hidden: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        table = hidden.new_empty((*position_ids.shape, self.width))
        return table, table.clone()


class FourBitLinear(nn.Linear):
    """Stands in for bitsandbytes' 4-bit layers, which pack real numbers: same bytes, same copies.

    A frozen layer of half a byte per weight; an `nn.Linear`, so that adapters can be attached.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        size = layer.in_features * layer.out_features
        packed = torch.zeros((size // 2, 1), dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        scales = size // BLOCK_4_BIT
        self.scales = nn.Buffer(torch.zeros(scales, dtype=torch.uint8))
        self.scales_of_scales = nn.Buffer(torch.zeros(-(-scales // BLOCK_OF_SCALES)))
        self.shape = (layer.out_features, layer.in_features)

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


def _quantize(model: nn.Module) -> None:
    """Replace the decoder's linear layers, as `adapters.describe_quantization` configures it."""
    for name, layer in list(model.named_modules()):
        is_decoder = ".layers." in name and "vision_embed_tokens" not in name
        if is_decoder and isinstance(layer, nn.Linear):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, FourBitLinear(layer))


def _count_unpacked(module: nn.Module) -> int:
    """Count the weights of a 4-bit layer; 0 for any other."""
    return math.prod(module.shape) if isinstance(module, FourBitLinear) else 0


def _stored_dtype(setting: Setting) -> torch.dtype:
    return setting.config.dtype or torch.float32


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
