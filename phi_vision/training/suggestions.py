"""Which settings make a run smaller, those first that change least of what is learnt.

Each takes a recipe and gives a smaller one with the words to type, or None where it has no effect.
"""

from collections.abc import Callable
from dataclasses import replace

from phi_vision.training.recipes import Recipe, lora

Smaller = tuple[Recipe, str] | None


def split_the_batch(recipe: Recipe) -> Smaller:
    """Take half as many samples at a time and twice as many times: learns the same.

    Input:  batch_size 8, gradient_accumulation 1
    Output: batch_size 4, gradient_accumulation 2
    """
    if recipe.batch_size == 1:
        return None
    size = recipe.batch_size // 2
    times = -(-recipe.batch_size * recipe.gradient_accumulation // size)
    words = f"--batch-size {size} --gradient-accumulation {times}"
    return replace(recipe, batch_size=size, gradient_accumulation=times), words


def compute_twice(recipe: Recipe) -> Smaller:
    """Keep no activations: learns the same, a third slower."""
    if recipe.gradient_checkpointing:
        return None
    return replace(recipe, gradient_checkpointing=True), "--gradient-checkpointing"


def shrink_moments(recipe: Recipe) -> Smaller:
    """Hold AdamW's state in 8 bits."""
    if "8bit" in recipe.optimizer:
        return None
    return replace(recipe, optimizer="adamw_8bit"), "--optimizer adamw_8bit"


def train_adapters(recipe: Recipe) -> Smaller:
    """Train adapters instead of weights."""
    if recipe.method == "lora":
        return None
    start = lora()
    smaller = replace(
        recipe,
        method="lora",
        random_weights=False,
        lora_rank=start.lora_rank,
        lora_alpha=start.lora_alpha,
        lora_dropout=start.lora_dropout,
        lora_targets=start.lora_targets,
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
