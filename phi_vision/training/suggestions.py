"""Which settings make a run smaller, those first that change least of what is learnt.

Each takes a recipe and gives a smaller one with the words to type, or None where it has no effect.
"""

from collections.abc import Callable
from dataclasses import replace

from phi_vision.training.recipes import Recipe, lora

Smaller = tuple[Recipe, str] | None


def split_the_batch(recipe: Recipe) -> Smaller:
    """Take half as many samples at a time and twice as many times: learns the same.

    Input:  batches of 8, 1 of them per step
    Output: batches of 4, 2 of them per step
    """
    if recipe.per_device_train_batch_size == 1:
        return None
    size = recipe.per_device_train_batch_size // 2
    times = -(-recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps // size)
    words = f"--per-device-train-batch-size {size} --gradient-accumulation-steps {times}"
    return replace(
        recipe, per_device_train_batch_size=size, gradient_accumulation_steps=times
    ), words


def compute_twice(recipe: Recipe) -> Smaller:
    """Keep no activations: learns the same, a third slower."""
    if recipe.gradient_checkpointing:
        return None
    return replace(recipe, gradient_checkpointing=True), "--gradient-checkpointing"


def shrink_moments(recipe: Recipe) -> Smaller:
    """Hold AdamW's state in 8 bits."""
    if "8bit" in recipe.optim:
        return None
    return replace(recipe, optim="adamw_8bit"), "--optim adamw_8bit"


def train_adapters(recipe: Recipe) -> Smaller:
    """Train adapters instead of weights."""
    if recipe.method == "lora":
        return None
    start = lora()
    smaller = replace(
        recipe,
        method="lora",
        random_weights=False,
        r=start.r,
        lora_alpha=start.lora_alpha,
        lora_dropout=start.lora_dropout,
        target_modules=start.target_modules,
        train_language=True,
        train_vision=False,
        vision_learning_rate=None,
        train_projector=False,
        projector_learning_rate=None,
    )
    return smaller, "the recipe to lora"


def quantize(recipe: Recipe) -> Smaller:
    """Hold frozen weights in 4 bits."""
    if recipe.method != "lora" or recipe.quantization:
        return None
    return replace(recipe, quantization="nf4"), "the recipe to qlora (--quantization nf4)"


CHANGES: dict[str, Callable[[Recipe], Smaller]] = {
    "batch": split_the_batch,
    "checkpointing": compute_twice,
    "optimizer": shrink_moments,
    "adapters": train_adapters,
    "bits": quantize,
}
"""Name -> change, in the order in which they are tried."""
