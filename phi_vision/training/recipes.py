"""How to train: a Recipe is everything that decides a run, `RECIPES` are the ones to start from.

Holds no training, and no reading of files: recipe_file.py writes and reads a recipe as YAML.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from phi_vision.data.template import find_template

LORA_TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
"""All linear layers of the Phi-3 decoder, and of nothing else: its query, key and value are fused.

`q_proj` and `v_proj`, which most examples name, exist only in the CLIP tower.
"""

VALIDATION_LOSS = "validation_loss"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run. Start from one of `RECIPES` and replace fields.

    Raises:
        ValueError: A value is out of range, or could not take effect.
    """

    method: Literal["full", "lora"]
    """What is trained: the weights themselves, or low-rank adapters beside frozen ones."""

    objective: Literal["sft", "dpo"] = "sft"
    """What is learnt: to give the right answers (sft), or to prefer them to the worse ones that
    `phi-vision pairs` puts beside them (dpo, arXiv:2305.18290)."""

    model: str = "phi-vision-small"
    """Checkpoint to start from: a folder, a hub id, or the packaged phi-vision-small."""

    data: str = ""
    """What to learn from: a folder or file of samples."""

    out: Path = Path("runs/new")
    """Folder of the run: recipe, log, checkpoints, best weights. Must be new or empty."""

    template: str | None = None
    """Wording of question and answer: a name from phi_vision.data.template.TEMPLATES, or a YAML
    file. By default the data's own `template.yaml`, or product if it has none."""

    group_column: str | None = None
    """Column whose equal values stay on one side of the split; by default the data's own choice."""

    validation_fraction: float | None = None
    """Share of groups held out from the training part; 0 holds out nothing. By default the data's
    own `validation` split, or 0.1 if it has none."""

    epochs: float = 3.0
    """Passes over the training samples."""

    max_steps: int | None = None
    """Stop after this many optimizer steps if the epochs are not over before."""

    batch_size: int = 8
    """Rows in one forward pass, on each process: samples, or what they are packed into."""

    gradient_accumulation: int = 1
    """Forward passes per optimizer step; 2 passes of 4 samples train like 1 of 8."""

    learning_rate: float = 2e-4
    """Highest learning rate, reached after the warm-up; then it falls to zero along a cosine."""

    warmup_fraction: float = 0.05
    """Share of the steps in which the learning rate rises from zero."""

    weight_decay: float = 0.0
    """Decay of AdamW; norms and biases are never decayed."""

    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it."""

    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = "adamw"
    """AdamW with its state in float32 or in 8 bits; paged ones move it to main memory when the
    card is full (on a CPU they are the plain ones). All but adamw need bitsandbytes."""

    train_language: bool = True
    """Train the decoder, word embeddings and head included: with lora adapters in its layers."""

    train_projector: bool = False
    """Train the projection from vision features to words too; with lora it is saved whole beside
    the adapters. With full also the learnt separators between rows of image tokens."""

    train_vision: bool = False
    """Train the CLIP tower too: with full its weights, with lora adapters in its layers."""

    projector_learning_rate: float | None = None
    """Highest learning rate of the projector; by default learning_rate."""

    vision_learning_rate: float | None = None
    """Highest learning rate of the CLIP tower; by default learning_rate."""

    lora_rank: int | None = None
    """Rank of the adapters (lora)."""

    lora_alpha: float | None = None
    """Adapters are scaled by alpha / rank (lora)."""

    lora_dropout: float | None = None
    """Share of an adapter's inputs dropped in training (lora)."""

    lora_targets: tuple[str, ...] | None = None
    """Names of the decoder's linear layers that get an adapter (lora)."""

    dora: bool = False
    """Train the length of each weight column beside its direction (DoRA, arXiv:2402.09353; lora).
    """

    rslora: bool = False
    """Scale by alpha / sqrt(rank), so that high ranks learn too (rsLoRA, arXiv:2312.03732; lora).
    """

    loraplus_ratio: float | None = None
    """Learn the second matrix of an adapter this many times faster than the first (LoRA+,
    arXiv:2402.12354; lora); 16 is usual."""

    quantization: Literal["nf4"] | None = None
    """Hold the decoder's frozen weights in 4 bits while it trains (QLoRA, arXiv:2305.14314; lora);
    afterwards the adapters are put on the whole weights. Needs bitsandbytes."""

    dpo_beta: float | None = None
    """How dearly leaving the model it started from is paid for (dpo)."""

    withhold_images: bool = False
    """Show no image at all: trains the twin that a model which looks must beat (evaluate
    --twin)."""

    random_weights: bool = False
    """Keep the architecture but start from random weights: what is the checkpoint worth? (full)"""

    pack_length: int | None = None
    """Join short samples into rows of up to this many tokens, in which they do not see each other:
    less padding. By default each sample is a row of its own."""

    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third more time."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the matrix products; auto is bf16 where the machine computes in it."""

    eval_every: int | None = None
    """Optimizer steps between two evaluations; by default one epoch. The end is evaluated too."""

    eval_samples: int = 32
    """Validation samples to write answers for at each evaluation, with their own images and with
    shuffled ones; 0 measures only the loss."""

    best_metric: str = "validation_loss"
    """What chooses the weights that are kept: validation_loss, or a metric of the written answers
    such as full_price_median_ape or category3_code_macro_f1."""

    early_stopping: int | None = None
    """Stop after this many evaluations in a row without a better one; by default never."""

    save_every: int | None = None
    """Optimizer steps between two checkpoints to resume from; by default one epoch."""

    num_workers: int = 0
    """Processes that prepare images beside the training; 0 prepares them in between."""

    seed: int = 0
    """Decides the split, the order of samples, fresh weights and dropout."""

    sharding: Literal["none", "fsdp"] = "none"
    """What several processes share: only the data (none: each holds the whole model, DDP), or the
    weights, gradients and optimizer state too (fsdp: FSDP2)."""

    tracker: Literal["wandb", "tensorboard", "none"] = "wandb"
    """Where curves go besides log.jsonl and plots/: Weights & Biases (offline unless logged in),
    TensorBoard, or nowhere."""

    max_length: int | None = None
    """Most tokens a sample may have, image tokens included; longer ones are an error, never cut."""

    def __post_init__(self) -> None:
        """Refuse values that are out of range or would be ignored."""
        _refuse_ranges(self)
        _refuse_what_cannot_take_effect(self)


def full() -> Recipe:
    """Train all weights, the CLIP tower included."""
    return Recipe(
        method="full",
        out=Path("runs/full"),
        learning_rate=2e-5,
        weight_decay=0.01,
        train_projector=True,
        train_vision=True,
    )


def lora() -> Recipe:
    """Train low-rank adapters in every linear layer of the decoder: a few megabytes."""
    return Recipe(
        method="lora",
        out=Path("runs/lora"),
        lora_rank=16,
        lora_alpha=32.0,
        lora_dropout=0.05,
        lora_targets=LORA_TARGETS,
    )


def qlora() -> Recipe:
    """Train adapters over a decoder held in 4 bits: least memory."""
    return replace(lora(), out=Path("runs/qlora"), quantization="nf4")


def dora() -> Recipe:
    """Train adapters that turn and stretch weights apart: nearer to full training, and slower."""
    return replace(lora(), out=Path("runs/dora"), dora=True)


def dpo() -> Recipe:
    """Train adapters to prefer right answers to plausible wrong ones; after one of the others."""
    return replace(
        lora(), out=Path("runs/dpo"), objective="dpo", dpo_beta=0.1, learning_rate=5e-5, epochs=1.0
    )


def _refuse_ranges(recipe: Recipe) -> None:
    if recipe.template is not None:
        find_template(recipe.template)
    least = {
        "batch_size": 1,
        "gradient_accumulation": 1,
        "max_steps": 1,
        "eval_every": 1,
        "save_every": 1,
        "max_length": 1,
        "pack_length": 1,
        "early_stopping": 1,
        "lora_rank": 1,
        "eval_samples": 0,
        "num_workers": 0,
        "seed": 0,
        "weight_decay": 0.0,
    }
    for name, minimum in least.items():
        value = getattr(recipe, name)
        if value is not None and not minimum <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be at least {minimum}")
    positive = (
        "epochs",
        "learning_rate",
        "projector_learning_rate",
        "vision_learning_rate",
        "max_grad_norm",
        "lora_alpha",
        "loraplus_ratio",
        "dpo_beta",
    )
    for name in positive:
        value = getattr(recipe, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be more than 0")
    for name in ("validation_fraction", "warmup_fraction", "lora_dropout"):
        value = getattr(recipe, name)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; it is a share: at least 0, less than 1")


def _refuse_what_cannot_take_effect(recipe: Recipe) -> None:
    for name, takes_effect, reason in NEEDS:
        value = getattr(recipe, name)
        if value not in (None, False, OFF.get(name)) and not takes_effect(recipe):
            raise ValueError(f"{name} is {value}, but {reason}")
    if recipe.method == "lora":
        _refuse_half_lora(recipe)
    if recipe.objective == "dpo" and recipe.dpo_beta is None:
        raise ValueError("dpo_beta is not set, but objective dpo needs it; start from dpo()")
    if not (recipe.train_language or recipe.train_projector or recipe.train_vision):
        raise ValueError(
            "train_language, train_projector and train_vision are all off, so nothing would learn"
        )


def _refuse_half_lora(recipe: Recipe) -> None:
    for name in ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"):
        if getattr(recipe, name) is None:
            raise ValueError(f"{name} is not set, but method lora needs it; start from lora()")
    if not recipe.lora_targets:
        raise ValueError(f"lora_targets is empty; name layers, as {', '.join(LORA_TARGETS)}")
    if not (recipe.train_language or recipe.train_vision):
        raise ValueError(
            "train_language and train_vision are off, so there would be no adapter; to train the "
            "projector alone use full without them"
        )


def _is_lora(recipe: Recipe) -> bool:
    return recipe.method == "lora"


def _holds_out(recipe: Recipe) -> bool:
    return recipe.validation_fraction != 0


_NO_ADAPTERS = "method full trains no adapters; leave it out or use lora"
_NOTHING_HELD_OUT = "validation_fraction 0 leaves nothing to evaluate"

OFF = {"best_metric": VALIDATION_LOSS}
"""Fields that are off with another value than None or False."""

NEEDS: tuple[tuple[str, Callable[[Recipe], bool], str], ...] = (
    ("lora_rank", _is_lora, _NO_ADAPTERS),
    ("lora_alpha", _is_lora, _NO_ADAPTERS),
    ("lora_dropout", _is_lora, _NO_ADAPTERS),
    ("lora_targets", _is_lora, _NO_ADAPTERS),
    ("dora", _is_lora, _NO_ADAPTERS),
    ("rslora", _is_lora, _NO_ADAPTERS),
    ("loraplus_ratio", _is_lora, _NO_ADAPTERS),
    ("quantization", _is_lora, "weights in 4 bits cannot be trained; use lora"),
    (
        "random_weights",
        lambda recipe: recipe.method == "full",
        "lora does not save the weights below its adapters; use full",
    ),
    (
        "projector_learning_rate",
        lambda recipe: recipe.train_projector,
        "the projector is not trained; set train_projector or leave it out",
    ),
    (
        "vision_learning_rate",
        lambda recipe: recipe.train_vision,
        "the CLIP tower is not trained; set train_vision or leave it out",
    ),
    (
        "dpo_beta",
        lambda recipe: recipe.objective == "dpo",
        "objective sft knows no preferences; leave it out or use dpo",
    ),
    (
        "withhold_images",
        lambda recipe: recipe.objective == "sft",
        "a twin without images is trained on answers, not on pairs; leave it out",
    ),
    (
        "withhold_images",
        lambda recipe: not (recipe.train_vision or recipe.train_projector),
        "no gradient would reach tower and projector; set train_vision and train_projector off",
    ),
    (
        "pack_length",
        lambda recipe: recipe.objective == "sft",
        "pairs are not packed; leave it out",
    ),
    ("eval_every", _holds_out, _NOTHING_HELD_OUT),
    ("early_stopping", _holds_out, _NOTHING_HELD_OUT),
    ("best_metric", _holds_out, _NOTHING_HELD_OUT),
    (
        "best_metric",
        lambda recipe: recipe.eval_samples > 0,
        "eval_samples 0 has no answers written; raise it",
    ),
)
"""Field, when it takes effect, and what to say when it is set and does not."""

RECIPES: dict[str, Callable[[], Recipe]] = {
    "full": full,
    "lora": lora,
    "qlora": qlora,
    "dora": dora,
    "dpo": dpo,
}
"""Name -> recipe. Another way to train is one function and one entry here."""
