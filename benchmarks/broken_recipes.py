r"""The mistakes of the public recipe, one at a time, beside the correct recipe.

The public recipe tokenizes its text as words, so that `<|image_1|>` becomes a few ordinary tokens;
labels every position of a row that is padded to 512; and takes "predictions" from a forward pass
that contains the answer. Each is a function here; `public_recipe.py` measures its cost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.baseline_loop import (
    BATCH_SIZE,
    FAST,
    Setup,
    compute_loss,
    start_full,
    start_lora,
)
from phi_vision.data.collator import IGNORED, Batch, select_labelled
from phi_vision.data.samples import Sample
from phi_vision.data.template import END, TEMPLATES, Template
from phi_vision.training.recipes import LORA_TARGETS

PADDED_TO = 512
CLIP_NAMES = ("q_proj", "v_proj")

Prompts = Callable[[Setup, Sequence[Sample]], list[dict[str, torch.Tensor]]]


@dataclass(frozen=True, kw_only=True)
class BrokenRecipe:
    """How to train and how to prompt."""

    start: Callable[[Template], Setup]
    rows: Callable[[Setup, Sequence[Sample]], Batch]
    prompts: Prompts
    template: Template = TEMPLATES["product"]


def shown_rows(setup: Setup, samples: Sequence[Sample]) -> Batch:
    """Include the images and label only the answers."""
    return select_labelled(_collate(setup, samples))


def shown_prompts(setup: Setup, samples: Sequence[Sample]) -> list[dict[str, torch.Tensor]]:
    """Build the template's prompt about each sample's image."""
    prompt = setup.template.prompt(setup.processor)
    return [
        dict(setup.processor(text=prompt, images=sample.open_images(), return_tensors="pt"))
        for sample in samples
    ]


def word_rows(setup: Setup, samples: Sequence[Sample]) -> Batch:
    """Label the answers, but tokenize `<|image_1|>` as words: no image reaches the model."""
    rows = [(*_words(setup, sample),) for sample in samples]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    batch = _pad(setup, [prompt + answer for prompt, answer in rows], longest)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for place, (prompt, answer) in enumerate(rows):
        labels[place, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return select_labelled({**batch, "labels": labels})


def word_prompts(setup: Setup, samples: Sequence[Sample]) -> list[dict[str, torch.Tensor]]:
    """Prompt without the image: the same words for every sample."""
    prompt = setup.template.prompt(setup.processor)
    return [setup.processor.tokenizer(prompt, return_tensors="pt") for _ in samples]


def padded_rows(setup: Setup, samples: Sequence[Sample]) -> Batch:
    """Include the images, but label all positions of a padded row except image tokens."""
    batch = _collate(setup, samples)
    missing = PADDED_TO - batch["input_ids"].shape[1]
    padding = setup.processor.tokenizer.pad_token_id
    ids = nn.functional.pad(batch["input_ids"], (0, missing), value=padding)
    mask = nn.functional.pad(batch["attention_mask"], (0, missing))
    is_image = ids == setup.processor.image_token_id
    labels = ids.masked_fill(is_image, IGNORED)
    return {**batch, "input_ids": ids, "attention_mask": mask, "labels": labels}


def recipe_rows(setup: Setup, samples: Sequence[Sample]) -> Batch:
    """Make both mistakes, as the public recipe does: words only, and every position a label."""
    rows = [prompt + answer for prompt, answer in (_words(setup, each) for each in samples)]
    batch = _pad(setup, rows, PADDED_TO)
    return {**batch, "labels": batch["input_ids"].clone()}


@torch.inference_mode()
def read_fed_answers(
    setup: Setup,
    rows: Callable[[Setup, Sequence[Sample]], Batch],
    samples: Sequence[Sample],
) -> list[str]:
    """Take "predictions" from a forward pass that contains the answer (teacher forcing).

    Input:  the row `... Full Price: 390.0`, of which the model guesses 490.0
    Output: `... Full Price: 490.0`, or `... 390.0` if the true 3 lets it predict the rest
    """
    setup.model.eval()
    texts = []
    for start in range(0, len(samples), BATCH_SIZE):
        batch = rows(setup, samples[start : start + BATCH_SIZE])
        answers_per_row = (batch["labels"] != IGNORED).sum(dim=1).tolist()
        with torch.autocast("cpu", dtype=FAST, enabled=torch.bfloat16 == FAST):
            logits = setup.model(**batch, use_cache=False).logits
        guesses = logits.flatten(0, -2).argmax(dim=-1).split(answers_per_row)
        texts += [setup.processor.decode(ids, skip_special_tokens=True) for ids in guesses]
    return texts


def _collate(setup: Setup, samples: Sequence[Sample]) -> Batch:
    """Collate as the package does, without the ids that only its checks read."""
    batch = setup.collator(samples)
    batch.pop("sample_ids", None)
    return batch


def label_shares(
    setup: Setup, recipe: str, samples: Sequence[Sample]
) -> tuple[float, float, float]:
    """Measure the shares of labels on padding, on the prompt and on the answer."""
    padding = answer = everything = 0
    for start in range(0, len(samples), BATCH_SIZE):
        some = samples[start : start + BATCH_SIZE]
        batch = RECIPES[recipe].rows(setup, some)
        is_label = batch["labels"] != IGNORED
        everything += int(is_label.sum())
        padding += int((is_label & (batch["attention_mask"] == 0)).sum())
        answer += int((setup.collator(some)["labels"] != IGNORED).sum())
    parts = (padding, everything - padding - answer, answer)
    return parts[0] / everything, parts[1] / everything, parts[2] / everything


def count_hits(model: nn.Module, targets: Sequence[str], *, is_clip: bool) -> int:
    """Count the linear layers of these names in the CLIP encoder or in the language model."""
    return sum(
        name.rpartition(".")[2] in targets and ("img_processor" in name) is is_clip
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    )


def count_moved(setup: Setup, samples: Sequence[Sample]) -> tuple[int, int]:
    """Count the trained tensors that get a gradient from rows without images, and all of them."""
    setup.model.zero_grad()
    loss = compute_loss(setup.model, word_rows(setup, samples))
    if loss.requires_grad:
        loss.backward()
    trained = [weight for weight in setup.model.parameters() if weight.requires_grad]
    moved = sum(weight.grad is not None and bool(weight.grad.any()) for weight in trained)
    return moved, len(trained)


def _words(setup: Setup, sample: Sample) -> tuple[list[int], list[int]]:
    """Tokenize prompt and answer as words."""
    tokenizer = setup.processor.tokenizer
    prompt = setup.template.prompt(setup.processor).removeprefix(tokenizer.bos_token)
    whole = prompt + setup.template.render(sample.record) + END
    before, ids = tokenizer(prompt)["input_ids"], tokenizer(whole)["input_ids"]
    return before, ids[len(before) :]


def _pad(setup: Setup, rows: Sequence[list[int]], length: int) -> Batch:
    padding = setup.processor.tokenizer.pad_token_id
    ids = torch.tensor([row + [padding] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


RECIPES: dict[str, BrokenRecipe] = {
    "right": BrokenRecipe(start=start_full, rows=shown_rows, prompts=shown_prompts),
    "words": BrokenRecipe(start=start_full, rows=word_rows, prompts=word_prompts),
    "padded": BrokenRecipe(start=start_full, rows=padded_rows, prompts=shown_prompts),
    "recipe": BrokenRecipe(
        start=start_full,
        rows=recipe_rows,
        prompts=word_prompts,
        template=TEMPLATES["walkthrough"],
    ),
    "lora": BrokenRecipe(
        start=lambda template: start_lora(template, LORA_TARGETS),
        rows=shown_rows,
        prompts=shown_prompts,
    ),
    "clip": BrokenRecipe(
        start=lambda template: start_lora(template, CLIP_NAMES),
        rows=shown_rows,
        prompts=shown_prompts,
    ),
}
"""Name -> recipe."""
