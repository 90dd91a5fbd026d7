"""How to train: a Recipe holds everything that decides a run, `RECIPES` are the presets.

Saved as YAML in its run folder, a recipe trains the same run again. A field that feeds
TrainingArguments, LoraConfig or DPOConfig has its name there; further ones are checked against the
class and passed on to it (further_fields.py).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_type_hints

import yaml

from phi_vision.data.augmentation import Change
from phi_vision.data.template import find_template
from phi_vision.io.formatting import error_texts, read_yaml, yaml_fault
from phi_vision.io.process import usable_cores
from phi_vision.training.further_fields import (
    check_further,
    convert,
    convert_further,
    further_fields,
)

failure = error_texts(__file__)

# All linear layers of the Phi-3 decoder: its query, key and value projections are fused. `q_proj`
# and `v_proj`, which most examples name, exist only in the CLIP tower.
LORA_TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
VALIDATION_LOSS = "validation_loss"
MAX_WORKERS = 8  # by default

TorchOptimizer: TypeAlias = Literal["adamw_torch_fused", "adamw_torch"]
BitsAndBytesOptimizer: TypeAlias = Literal[
    "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit"
]

# Of a preset; a test checks them, as to do so here would import transformers for every --help.
PHOTO_FURTHER = {"adam_beta2": 0.98}

# Ranges of fields, and combinations that are refused.
RULES = read_yaml(__file__, "recipe_rules.yaml")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run. Start from one of `RECIPES` and replace fields.

    Raises ValueError if a value is out of range, or could not take effect.
    """

    method: Literal["full", "lora"]
    """Train the weights themselves, or low-rank adapters beside frozen weights."""
    objective: Literal["sft", "dpo"] = "sft"
    """Supervised fine-tuning (sft), or preference optimization on the pairs that `phi-vision pairs`
    writes (dpo, arXiv:2305.18290)."""
    model: str = "phi-vision-small"
    """Checkpoint to start from: a folder, a hub id, phi-vision-small (packaged), or
    phi-vision-photo (built on first use)."""
    data: str = ""
    """Training data: a folder or file of samples."""
    output_dir: Path = Path("runs/new")
    """Folder of the run: recipe, log, checkpoints, best weights. Must be new or empty."""
    template: str | None = None
    """Prompt template: a name from phi_vision.data.template.TEMPLATES, or a YAML file. By default
    the data's own `template.yaml`, or product if it has none."""
    group_column: str | None = None
    """Column whose equal values stay on one side of the split; by default the data's own choice."""
    validation_fraction: float | None = None
    """Fraction of groups held out from the train split; 0 holds out nothing. By default the data's
    own `validation` split, or 0.1 if it has none."""

    streaming: bool = False
    """Read the samples as a stream, for data that do not fit on the disk: `data` may be the name of
    a dataset on the hub. Needs max_steps; an own `validation` split is evaluated."""

    num_train_epochs: float = 3.0
    """Passes over the training samples."""
    max_steps: int | None = None
    """Maximum number of optimizer steps, if the epochs take more."""
    per_device_train_batch_size: int = 8
    """Rows per forward pass and process: samples, or packs of samples."""
    gradient_accumulation_steps: int = 1
    """Forward passes per optimizer step; 2 passes of 4 samples train like 1 of 8."""
    learning_rate: float = 2e-4
    """Peak learning rate, reached after the warm-up."""
    lr_scheduler_type: Literal[
        "cosine",
        "linear",
        "constant",
        "constant_with_warmup",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
    ] = "cosine"
    """Learning rate schedule after the warm-up."""
    warmup_steps: float = 0.05
    """Steps of linear warm-up; below 1 a fraction of all steps."""
    weight_decay: float = 0.0
    """Weight decay of AdamW; norms and biases are never decayed."""
    max_grad_norm: float = 1.0
    """Gradient-norm clipping threshold."""
    optim: Literal[TorchOptimizer, BitsAndBytesOptimizer] = "adamw_torch_fused"
    """AdamW with its state in float32 or in 8 bits; paged ones move it to main memory when the
    GPU is full (not on a CPU). 8-bit and paged ones need bitsandbytes."""

    train_language: bool = True
    """Train the decoder, word embeddings and head included; with lora adapters in its layers."""
    train_projector: bool = False
    """Train the projection from vision features to embeddings; with lora it is saved whole beside
    the adapters, with full the learned separators between rows of image tokens are trained too."""
    train_vision: bool = False
    """Train the CLIP tower: with full its weights, with lora adapters in its layers."""
    projector_start: Literal["stored", "closed-form"] | None = None
    """Where the projector starts: as the checkpoint has it, or in closed form, by a regression from
    the training images to the words of their categories; by default in closed form where it is
    untrained, as in phi-vision-photo."""
    projector_learning_rate: float | None = None
    """Peak learning rate of the projector; by default learning_rate. 0 leaves it as it starts."""
    vision_learning_rate: float | None = None
    """Peak learning rate of the CLIP tower; by default learning_rate."""
    vision_layers: int | None = None
    """How many of the tower's last layers are trained; by default all, with what is before them."""

    num_crops: int | None = None
    """Maximum crops of an image besides its global view, such as 1, 4 or 16: finer detail for more
    tokens. By default as in the checkpoint; saved with the weights, and used wherever they are."""
    augmentation: tuple[Change, ...] = ()
    """Random changes of the training images: flip, crop, rotation, brightness, hue and jpeg
    (compression), new ones in each epoch; hue only where no field names a colour. By default
    none."""
    feature_noise: float = 0.0
    """Gaussian noise on the vision features in training, in their standard deviations, so
    that few photographs are not learned by heart."""
    image_token_dropout: float = 0.0
    """Fraction of the image tokens that a training step leaves out (as zeros)."""

    r: int | None = None
    """Rank of the adapters (lora)."""
    lora_alpha: float | None = None
    """Adapters are scaled by lora_alpha / r (lora)."""
    lora_dropout: float | None = None
    """Dropout probability of the adapters' inputs (lora)."""
    target_modules: tuple[str, ...] | None = None
    """Names of the decoder's linear layers that get an adapter (lora)."""
    use_dora: bool = False
    """Decompose weights into magnitude and direction (DoRA, arXiv:2402.09353; lora)."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r), for high ranks (rsLoRA, arXiv:2312.03732; lora)."""
    loraplus_ratio: float | None = None
    """Learning rate of an adapter's B matrix over that of its A matrix (LoRA+, arXiv:2402.12354;
    lora); 16 is usual."""

    quantization: Literal["nf4"] | None = None
    """Hold the decoder's frozen weights in 4 bits during training (QLoRA, arXiv:2305.14314; lora);
    the adapters fit the unquantized weights too. Needs bitsandbytes."""
    beta: float | None = None
    """Strength of the KL penalty towards the reference model (DPO β)."""
    withhold_images: bool = False
    """Train without images: the text-only baseline that a model must beat (evaluate --twin)."""
    random_weights: bool = False
    """Keep the architecture but start from random weights, to measure what the checkpoint
    contributes (full)."""

    pack_length: int | None = None
    """Pack short samples into rows of up to this many tokens, in which they do not attend to each
    other: less padding. By default each sample is a row of its own."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them: less memory, about a
    third more time."""
    bf16: bool | None = None
    """Compute matrix products in bfloat16; by default where the machine does so natively."""

    eval_steps: int | None = None
    """Optimizer steps between two evaluations; by default one epoch. The last step is evaluated
    too."""
    eval_samples: int = 32
    """Validation samples to generate predictions for at each evaluation, with their own and with
    shuffled images; 0 computes only the loss."""
    metric_for_best_model: str | None = None
    """Metric that selects the weights to keep: validation_loss, or a metric of the generated
    predictions such as full_price_median_ape or category3_code_macro_f1. By default the loss, which
    also counts titles that no image shows; of answers that begin with a category, its accuracy."""
    early_stopping_patience: int | None = None
    """Stop after this many evaluations in a row without improvement; by default never."""
    save_steps: int | None = None
    """Optimizer steps between two checkpoints; by default one epoch."""

    dataloader_num_workers: int | None = None
    """Processes that prepare batches beside the training; 0 prepares them in between. By default
    one for each core but one, at most 8, beside a GPU; 0 on a CPU, whose cores train."""
    seed: int = 0
    """Seed of the split, the order of samples, new weights and dropout."""
    sharding: Literal["none", "fsdp"] = "none"
    """What several processes share: only the data (none: each holds the whole model, DDP), or also
    the weights, gradients and optimizer state (fsdp: FSDP2)."""
    report_to: Literal["wandb", "tensorboard", "none"] = "wandb"
    """Tracker beside log.jsonl and plots/: Weights & Biases (offline unless logged in),
    TensorBoard, or none."""
    max_length: int | None = None
    """Maximum number of tokens per sample, image tokens included; longer ones are an error, never
    truncated."""
    further: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of TrainingArguments, LoraConfig or DPOConfig, such as {"adam_beta2": 0.95}.
    On the command line and in YAML they stand beside the others."""

    def __post_init__(self) -> None:
        """Check ranges, and that every value takes effect; a text is as good as a path."""
        for name, kind in {"model": str, "data": str, "output_dir": Path}.items():
            object.__setattr__(self, name, kind(vars(self)[name]))
        if self.template is not None:
            find_template(self.template)
        if self.target_modules == ():
            raise ValueError(f"target_modules is empty; name layers, as {', '.join(LORA_TARGETS)}")
        _check_rules(vars(self))
        if self.further and self.further != PHOTO_FURTHER:
            check_further(self.further, method=self.method, objective=self.objective)


def full() -> Recipe:
    """Train all weights, the CLIP tower included."""
    return Recipe(
        method="full",
        output_dir=Path("runs/full"),
        learning_rate=2e-5,
        weight_decay=0.01,
        train_projector=True,
        train_vision=True,
    )


def lora(name: str = "lora", **changes: Any) -> Recipe:
    """Train low-rank adapters in every linear layer of the decoder: a few megabytes."""
    fields = {"r": 16, "lora_alpha": 32.0, "lora_dropout": 0.05, "target_modules": LORA_TARGETS}
    return Recipe(method="lora", output_dir=Path("runs", name), **{**fields, **changes})


def qlora() -> Recipe:
    """Train adapters over a decoder held in 4 bits: least memory."""
    return lora("qlora", quantization="nf4")


def dora() -> Recipe:
    """Train adapters of magnitude and direction: closer to full fine-tuning, and slower."""
    return lora("dora", use_dora=True)


def dpo() -> Recipe:
    """Train adapters to prefer right to plausible wrong predictions; after one of the others."""
    return lora("dpo", objective="dpo", beta=0.1, learning_rate=5e-5, num_train_epochs=1.0)


def photo() -> Recipe:
    """Train the projector and adapters, also in the tower's last layers, of phi-vision-photo."""
    return lora(
        "photo",
        model="phi-vision-photo",
        num_train_epochs=4.0,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=7e-4,
        train_projector=True,
        projector_learning_rate=5e-4,
        train_vision=True,
        vision_learning_rate=3e-4,
        vision_layers=4,
        augmentation=("flip", "crop", "brightness"),
        feature_noise=0.3,
        image_token_dropout=0.3,
        lora_alpha=16.0,
        eval_samples=128,
        further=PHOTO_FURTHER,
    )


def _check_rules(fields: Mapping[str, Any]) -> None:
    open_range = {"at_least": -math.inf, "above": -math.inf, "below": math.inf}
    for rule in RULES["ranges"]:
        at_least, above, below = (open_range | rule["bounds"]).values()
        for name in rule["fields"].split():
            value = fields[name]
            if value is not None and not (at_least <= value and above < value < below):
                option = name.replace("_", "-")
                raise failure("out_of_range", name=name, value=value, option=option, **rule)
    for rule in RULES["refused"]:
        if _applies(rule, fields):
            reason = rule["reason"].format(**fields)
            if "fields" not in rule:
                raise ValueError(reason)
            for name in rule["fields"].split():
                if fields[name] not in (None, False, VALIDATION_LOSS, "none", ()):
                    raise ValueError(f"{name} is {fields[name]}, but {reason}")


_PRESETS: tuple[Callable[[], Recipe], ...] = (full, lora, qlora, dora, dpo, photo)
RECIPES: Mapping[str, Callable[[], Recipe]] = {each.__name__: each for each in _PRESETS}
"""Name -> recipe. Another way to train is one function, named in the line above."""


def _applies(rule: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    return all(fields[name] in values for name, values in rule["when"].items())


def change(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Replace fields; others that have no effect any more go back to their defaults.

    Input:  photo(), {"train_vision": False}
    Output: photo() with it, and without vision_learning_rate and vision_layers
    """
    fields = {**vars(recipe), **changes}
    defaults = {each.name: each.default for each in dataclasses.fields(Recipe)}
    for rule in RULES["refused"]:
        if "is_idle" in rule and rule["when"].keys() & changes.keys() and _applies(rule, fields):
            idle = set(rule["fields"].split()) - changes.keys()
            fields |= {name: defaults[name] for name in idle}
    return Recipe(**fields)


def loader_workers(recipe: Recipe, *, on_gpu: bool, processes: int = 1) -> int:
    """Choose the number of processes that prepare batches for each that trains on this machine."""
    if recipe.dataloader_num_workers is not None:
        return recipe.dataloader_num_workers
    return max(1, min(MAX_WORKERS, usable_cores() // processes - 1)) if on_gpu else 0


def recipe_fields(recipe: Recipe) -> dict[str, Any]:
    """Return the fields as plain values, further ones beside the others."""
    fields = dataclasses.asdict(recipe)
    further: dict[str, Any] = fields.pop("further")
    return fields | further


def to_yaml(recipe: Recipe) -> str:
    """Format a recipe so that `load_recipe` reads it back: "method: lora", "data: catalog", …"""
    fields = recipe_fields(recipe) | {"output_dir": str(recipe.output_dir)}
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=1000)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML, or raise ValueError; the method's preset has the other fields."""
    recipes = ", ".join(RECIPES)
    if not path.is_file():
        raise failure("no_file", path=path, recipes=recipes)
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        events = [*yaml.parse(text)]
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise failure("no_yaml", path=path, fault=yaml_fault(error)) from error
    # References to references would be written out: a short file as gigabytes.
    if any(isinstance(event, yaml.AliasEvent) for event in events):
        raise failure("references", path=path)
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise failure("no_mapping", path=path, kind=kind)
    # Before anything else, so that no field of a file that is no recipe is quoted.
    if "method" not in values:
        raise failure("no_method", path=path, recipes=recipes)
    kinds = {name: kind for name, kind in get_type_hints(Recipe).items() if name != "further"}
    try:
        convert("method", values["method"], kinds["method"])
        own = {n: convert(n, value, kinds[n]) for n, value in values.items() if n in kinds}
        further = {n: convert_further(n, v, kinds) for n, v in values.items() if n not in kinds}
        return dataclasses.replace(RECIPES[own["method"]](), **own, further=further)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def further_of(recipe: Recipe, owner: str) -> dict[str, Any]:
    """Select the further fields of one class: TrainingArguments, LoraConfig or DPOConfig."""
    fields = further_fields() if recipe.further else {}
    return {name: value for name, value in recipe.further.items() if fields[name][0] == owner}
