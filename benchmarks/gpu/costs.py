"""What a step or a token must compute and move, derived from the model's config alone.

FLOPs are those of the model, not of the program: activations that checkpointing recomputes do not
count, and causal attention counts half of the square. The backward pass of a frozen matrix costs
one product, the gradient of its input, that of a trained one two. So LoRA takes 4 FLOPs per weight
and token in the decoder, full training 6, and a frozen tower its forward pass alone. The last layer
of a training step is computed only where a next token is labelled.

docs/speed.md has the table for the official sizes; tests/benchmarks/test_gpu.py holds the formulas
against `torch.utils.flop_counter`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.training.memory import BatchShape

BF16_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """Everything about a batch that decides its FLOPs."""

    rows: int
    length: int  # tokens of the longest row, to which the others are padded
    crops: int  # of all images, global views included
    image_tokens: int
    supervised: int  # positions with logits
    last: int | None = None  # positions of all rows in the last layer, shorter rows filled up

    @property
    def tokens(self) -> int:
        """Positions of all rows, padding included."""
        return self.rows * self.length

    @property
    def skipped(self) -> int:
        """Positions that the last layer leaves out after their keys and values."""
        return 0 if self.last is None else self.tokens - self.last


@dataclass(frozen=True)
class Costs:
    """FLOPs and bytes of a model with adapters of rank `r` on all linear layers of its decoder."""

    config: Phi3VConfig
    r: int

    @property
    def _layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def _hidden(self) -> int:
        return int(self.config.hidden_size)

    @property
    def _kv_width(self) -> int:
        config = self.config
        return int(config.num_key_value_heads * self._hidden // config.num_attention_heads)

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of `qkv_proj`, `o_proj`, `gate_up_proj`, `down_proj` of a layer."""
        hidden, inner = self._hidden, int(self.config.intermediate_size)
        return [
            (hidden, hidden + 2 * self._kv_width),
            (hidden, hidden),
            (hidden, 2 * inner),
            (inner, hidden),
        ]

    def tower(self, crops: int) -> float:
        """Forward pass of the layers of CLIP that are run: all but the last."""
        tower = self.config.tower
        width, patches = tower.hidden_size, (tower.image_size // tower.patch_size) ** 2
        positions = patches + 1
        layer = 2 * positions * (4 * width**2 + 2 * width * tower.intermediate_size)
        layer += 4 * positions**2 * width
        return float(crops * (tower.num_hidden_layers - 1) * layer) + self.patching(crops)

    def patching(self, crops: int) -> float:
        """Forward pass of the convolution that cuts crops into patches."""
        tower = self.config.tower
        patches = (tower.image_size // tower.patch_size) ** 2
        return float(2 * crops * patches * 3 * tower.patch_size**2 * tower.hidden_size)

    def projector(self, image_tokens: int) -> float:
        """Forward pass from merged patches to embeddings."""
        merged, hidden = 4 * int(self.config.tower.hidden_size), self._hidden
        return 2.0 * image_tokens * (merged * hidden + hidden**2)

    def decoder(self, shape: StepShape) -> float:
        """Forward pass of the matrices of all layers."""
        weights = [inputs * outputs for inputs, outputs in self.matrices]
        whole = self._layers * shape.tokens * sum(weights)
        return 2.0 * (whole - shape.skipped * sum(weights[1:]))

    def adapters(self, shape: StepShape) -> float:
        """Forward pass of the adapters."""
        sizes = [self.r * (inputs + outputs) for inputs, outputs in self.matrices]
        whole = self._layers * shape.tokens * sum(sizes)
        return 2.0 * (whole - shape.skipped * sum(sizes[1:]))

    def attention(self, shape: StepShape, *, is_causal: bool = True) -> float:
        """Forward pass of the attention of all layers."""
        square = 4.0 * shape.tokens * shape.length * self._hidden
        whole = square * (0.5 if is_causal else 1.0)
        # What is labelled is the end of a row, which sees nearly all before.
        last = whole if shape.last is None else 4.0 * shape.last * shape.length * self._hidden
        return (self._layers - 1) * whole + last

    def head(self, positions: int) -> float:
        """Forward pass of the logits at so many positions."""
        return 2.0 * positions * self._hidden * int(self.config.vocab_size)

    def prefill(self, shape: StepShape) -> float:
        """Forward pass over the prompts, logits of each row's last token."""
        seen = self.tower(shape.crops) + self.projector(shape.image_tokens)
        read = self.decoder(shape) + self.attention(shape)
        return seen + read + self.head(shape.rows)

    def lora_step(self, shape: StepShape, *, is_causal: bool = True) -> float:
        """One training step with adapters: frozen matrices 1 + 1, attention and adapters 1 + 2."""
        (hidden, outputs), *_ = self.matrices
        # Nothing before the first layer is trained, so its input needs no gradient.
        unneeded = 2.0 * shape.tokens * (hidden * outputs + hidden * self.r)
        return (
            self.tower(shape.crops)
            + self.projector(shape.image_tokens)
            + 2 * self.decoder(shape)
            + 3 * self.attention(shape, is_causal=is_causal)
            + 2 * self.head(shape.supervised)
            + 3 * self.adapters(shape)
            - unneeded
        )

    def full_step(self, shape: StepShape, *, is_causal: bool = True) -> float:
        """One training step of all weights, the tower included: 1 + 2 everywhere."""
        forward = (
            self.tower(shape.crops)
            + self.projector(shape.image_tokens)
            + self.decoder(shape)
            + self.attention(shape, is_causal=is_causal)
            + self.head(shape.supervised)
        )
        return 3 * forward - self.patching(shape.crops)  # pixels need no gradient

    @property
    def cache_bytes(self) -> int:
        """Keys and values of one position in bf16."""
        return 2 * self._layers * self._kv_width * BF16_BYTES

    def token_bytes(self, rows: int, context: float) -> float:
        """Bytes that one new token of each row must read: weights once, each row's cache once."""
        weights = sum(inputs * outputs for inputs, outputs in self.matrices)
        weights = self._layers * weights + self._hidden * int(self.config.vocab_size)
        return BF16_BYTES * weights + rows * context * self.cache_bytes


def shape_of(batch: Mapping[str, Any], config: Phi3VConfig) -> StepShape:
    """Measure a batch of the collator."""
    rows, length = batch["input_ids"].shape
    kept = batch["logits_to_keep"].sum(dim=1)
    return StepShape(
        rows=rows,
        length=length,
        crops=len(batch["pixel_values"]),
        image_tokens=int((batch["input_ids"] == config.image_token_id).sum()),
        supervised=int(kept.sum()),
        last=rows * int(kept.max()),
    )


def planned_shape(batch: Mapping[str, Any], config: Phi3VConfig) -> BatchShape:
    """Describe a batch of the collator as `phi-vision plan` does."""
    shape = shape_of(batch, config)
    images = tuple((height, width) for height, width in batch["image_sizes"].tolist())
    return BatchShape(shape.rows, shape.length, shape.supervised, images)
