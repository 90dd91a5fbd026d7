"""How to train: a Recipe is everything that decides a run, `RECIPES` are the ones to start from.

A recipe is saved beside its weights as YAML, and that file trains again. Holds no training.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from phi_vision.data.template import find_template

LORA_TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
"""All linear layers of the Phi-3 decoder, and of nothing else: its query, key and value are fused.

`q_proj` and `v_proj`, which most examples name, exist only in the CLIP tower.
"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run. Start from one of `RECIPES` and replace fields.

    Raises:
        ValueError: A value is out of range, or could not take effect.
    """

    method: Literal["full", "lora"]
    """What is trained: all weights, or low-rank adapters in the decoder's linear layers."""

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
    """Samples in one forward pass."""

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

    lora_rank: int | None = None
    """Rank of the adapters (lora)."""

    lora_alpha: float | None = None
    """Adapters are scaled by alpha / rank (lora)."""

    lora_dropout: float | None = None
    """Share of an adapter's inputs dropped in training (lora)."""

    lora_targets: tuple[str, ...] | None = None
    """Names of the linear layers that get an adapter; at least one in the decoder (lora)."""

    train_projector: bool = False
    """Train the projection from vision features to words too; with lora it is saved whole beside
    the adapters. With full also the learnt separators between rows of image tokens."""

    train_vision: bool = False
    """Train the CLIP tower too (full)."""

    random_weights: bool = False
    """Keep the architecture but start from random weights: what is the checkpoint worth? (full)"""

    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third more time."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the matrix products; auto is bf16 where the machine computes in it."""

    eval_every: int | None = None
    """Optimizer steps between two evaluations; by default one epoch. The end is evaluated too."""

    eval_samples: int = 32
    """Validation samples to write answers for at each evaluation, with their own pictures and with
    shuffled ones; 0 measures only the loss."""

    save_every: int | None = None
    """Optimizer steps between two checkpoints to resume from; by default one epoch."""

    num_workers: int = 0
    """Processes that prepare pictures beside the training; 0 prepares them in between."""

    seed: int = 0
    """Decides the split, the order of samples, fresh weights and dropout."""

    tracker: Literal["wandb", "none"] = "wandb"
    """Where curves go besides log.jsonl: Weights & Biases (offline unless logged in) or nowhere."""

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


def to_yaml(recipe: Recipe) -> str:
    """Write a recipe so that `load_recipe` gives it back.

    Output: method: lora
            model: phi-vision-small
            data: catalog
            …
    """
    plain = {
        name: list(value)
        if isinstance(value, tuple)
        else str(value)
        if isinstance(value, Path)
        else value
        for name, value in dataclasses.asdict(recipe).items()
    }
    return yaml.safe_dump(
        plain, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1000
    )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML. Fields that are not given keep the values of its method's recipe.

    Raises:
        ValueError: There is no such file, it is no YAML mapping, it names an unknown field or
            method, or a value has the wrong type.
    """
    if not path.is_file():
        raise ValueError(f"no recipe at {path}; give a recipe.yaml, or one of {', '.join(RECIPES)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} is no YAML: {reason}; a recipe is `field: value` lines"
        ) from error
    if not isinstance(values, dict):
        found = type(values).__name__
        raise ValueError(f"{path} holds a {found}, not fields; a recipe is `field: value` lines")
    try:
        return _from_values(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _from_values(values: Mapping[str, object]) -> Recipe:
    kinds = get_type_hints(Recipe)
    for name in values:
        if name not in kinds:
            near = difflib.get_close_matches(str(name), kinds, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(kinds)}"
            raise ValueError(f"a recipe has no field {name!r}; {hint}")
    typed = {name: _convert(name, value, kinds[name]) for name, value in values.items()}
    method = typed.get("method")
    if method not in RECIPES:
        raise ValueError(f"field 'method' is missing; choose one of {', '.join(RECIPES)}")
    return replace(RECIPES[method](), **typed)


def _convert(name: str, value: object, kind: Any) -> Any:
    """Give a value of YAML the type of its field, where that loses nothing.

    Input:  "learning_rate", "1e-4" (YAML 1.1 reads 1e-4 as text), float
    Output: 0.0001
    """
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for choice in choices:
        if choice is type(None) and value is None:
            return None
        if get_origin(choice) is Literal and value in get_args(choice):
            return value
        if get_origin(choice) is tuple and isinstance(value, list) and _all_text(value):
            return tuple(value)
        if choice is Path and isinstance(value, str):
            return Path(value)
        if choice is float and not isinstance(value, bool) and isinstance(value, int | float | str):
            number = _number(value)
            if number is not None:
                return number
        # bool is an int to Python, but `batch_size: true` is a mistake.
        if choice in (int, bool, str) and type(value) is choice:
            return value
    wanted = " or ".join(_describe(choice) for choice in choices)
    raise ValueError(f"field {name!r} is {value!r}; it takes {wanted}")


def _all_text(values: list[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _number(value: int | float | str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of names"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return {**names, Path: "a path", type(None): "null"}[kind]


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
    for name in ("epochs", "learning_rate", "max_grad_norm", "lora_alpha"):
        value = getattr(recipe, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be more than 0")
    for name in ("validation_fraction", "warmup_fraction", "lora_dropout"):
        value = getattr(recipe, name)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; it is a share: at least 0, less than 1")


def _refuse_what_cannot_take_effect(recipe: Recipe) -> None:
    lora_fields = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets")
    if recipe.method == "full":
        for name in lora_fields:
            if getattr(recipe, name) is not None:
                raise ValueError(
                    f"{name} is {getattr(recipe, name)}, but method full trains no adapters; "
                    "leave it out or use lora"
                )
    if recipe.method == "lora":
        for name in lora_fields:
            if getattr(recipe, name) is None:
                raise ValueError(f"{name} is not set, but method lora needs it; start from lora()")
        if not recipe.lora_targets:
            raise ValueError(f"lora_targets is empty; name layers, as {', '.join(LORA_TARGETS)}")
        if recipe.train_vision:
            raise ValueError("train_vision is set, but lora trains only adapters; use full")
        if recipe.random_weights:
            raise ValueError(
                "random_weights is set, but lora does not save the weights below its adapters; "
                "use full"
            )
    if recipe.validation_fraction == 0 and recipe.eval_every is not None:
        raise ValueError("eval_every is set, but validation_fraction 0 leaves nothing to evaluate")


RECIPES: dict[str, Callable[[], Recipe]] = {"full": full, "lora": lora}
"""Name -> recipe. Another way to train is one function and one entry here."""
