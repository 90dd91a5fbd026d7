r"""The ways of the public recipe, one mistake at a time, beside the right one.

The public recipe tokenizes its text as words, so that `<|image_1|>` becomes a few ordinary tokens;
labels every position of a row that is padded to 512; and reads a "prediction" off a forward pass
that was given the answer. Each is a function here; what becomes of it is for `public_recipe.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.plain_training import (
    BATCH_SIZE,
    FAST,
    Student,
    compute_loss,
    start_full,
    start_lora,
)
from phi_vision.data.collator import IGNORED, Batch, select_answers
from phi_vision.data.samples import Sample
from phi_vision.data.template import END, TEMPLATES, Template
from phi_vision.training.recipes import LORA_TARGETS

PADDED_TO = 512
CLIP_NAMES = ("q_proj", "v_proj")

Prompts = Callable[[Student, Sequence[Sample]], list[dict[str, torch.Tensor]]]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to train and to ask."""

    start: Callable[[Template], Student]
    rows: Callable[[Student, Sequence[Sample]], Batch]
    prompts: Prompts
    template: Template = TEMPLATES["product"]


def shown_rows(student: Student, samples: Sequence[Sample]) -> Batch:
    """Show the images and label the answers, nothing else."""
    return select_answers(_collate(student, samples))


def shown_prompts(student: Student, samples: Sequence[Sample]) -> list[dict[str, torch.Tensor]]:
    """Ask about each sample's image as the template words it."""
    prompt = student.template.prompt(student.processor)
    return [
        dict(student.processor(text=prompt, images=sample.open_images(), return_tensors="pt"))
        for sample in samples
    ]


def word_rows(student: Student, samples: Sequence[Sample]) -> Batch:
    """Label the answers, but tokenize `<|image_1|>` as words: no image reaches the model."""
    rows = [(*_words(student, sample),) for sample in samples]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    batch = _pad(student, [prompt + answer for prompt, answer in rows], longest)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for place, (prompt, answer) in enumerate(rows):
        labels[place, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return select_answers({**batch, "labels": labels})


def word_prompts(student: Student, samples: Sequence[Sample]) -> list[dict[str, torch.Tensor]]:
    """Ask without the image: the same words for every sample."""
    prompt = student.template.prompt(student.processor)
    return [student.processor.tokenizer(prompt, return_tensors="pt") for _ in samples]


def padded_rows(student: Student, samples: Sequence[Sample]) -> Batch:
    """Show the images, but label all of a padded row. Image tokens cannot be labels: no words."""
    batch = _collate(student, samples)
    missing = PADDED_TO - batch["input_ids"].shape[1]
    padding = student.processor.tokenizer.pad_token_id
    ids = nn.functional.pad(batch["input_ids"], (0, missing), value=padding)
    mask = nn.functional.pad(batch["attention_mask"], (0, missing))
    is_image = ids == student.processor.image_token_id
    labels = ids.masked_fill(is_image, IGNORED)
    return {**batch, "input_ids": ids, "attention_mask": mask, "labels": labels}


def recipe_rows(student: Student, samples: Sequence[Sample]) -> Batch:
    """Do both, as the public recipe does: words only, and every position a label."""
    rows = [prompt + answer for prompt, answer in (_words(student, each) for each in samples)]
    batch = _pad(student, rows, PADDED_TO)
    return {**batch, "labels": batch["input_ids"].clone()}


@torch.inference_mode()
def read_fed_answers(
    student: Student,
    rows: Callable[[Student, Sequence[Sample]], Batch],
    samples: Sequence[Sample],
) -> list[str]:
    """Read "predictions" off a pass that holds the answer: each token given all true ones before.

    Input:  the row `... Full Price: 390.0`, of which the model guesses 490.0
    Output: `... Full Price: 490.0`, or `... 390.0` if it needs to be told the 3 to find the rest
    """
    student.model.eval()
    texts = []
    for start in range(0, len(samples), BATCH_SIZE):
        batch = rows(student, samples[start : start + BATCH_SIZE])
        answers_per_row = (batch["labels"] != IGNORED).sum(dim=1).tolist()
        with torch.autocast("cpu", dtype=FAST, enabled=torch.bfloat16 == FAST):
            logits = student.model(**batch, use_cache=False).logits
        guesses = logits.flatten(0, -2).argmax(dim=-1).split(answers_per_row)
        texts += [student.processor.decode(ids, skip_special_tokens=True) for ids in guesses]
    return texts


def _collate(student: Student, samples: Sequence[Sample]) -> Batch:
    """Collate as the product does, without the names that only its guards read."""
    batch = student.collator(samples)
    batch.pop("sample_ids", None)
    return batch


def label_shares(
    student: Student, way: str, samples: Sequence[Sample]
) -> tuple[float, float, float]:
    """Measure which shares of the labels lie on padding, on the prompt and on the answer."""
    padding = answer = everything = 0
    for start in range(0, len(samples), BATCH_SIZE):
        some = samples[start : start + BATCH_SIZE]
        batch = WAYS[way].rows(student, some)
        is_label = batch["labels"] != IGNORED
        everything += int(is_label.sum())
        padding += int((is_label & (batch["attention_mask"] == 0)).sum())
        answer += int((student.collator(some)["labels"] != IGNORED).sum())
    parts = (padding, everything - padding - answer, answer)
    return parts[0] / everything, parts[1] / everything, parts[2] / everything


def count_hits(model: nn.Module, targets: Sequence[str], *, is_clip: bool) -> int:
    """Count linear layers of these names, in the CLIP tower or in the language model."""
    return sum(
        name.rpartition(".")[2] in targets and ("img_processor" in name) is is_clip
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    )


def count_moved(student: Student, samples: Sequence[Sample]) -> tuple[int, int]:
    """Count trained tensors that get a gradient from rows without images, and all of them."""
    student.model.zero_grad()
    loss = compute_loss(student.model, word_rows(student, samples))
    if loss.requires_grad:
        loss.backward()
    trained = [weight for weight in student.model.parameters() if weight.requires_grad]
    moved = sum(weight.grad is not None and bool(weight.grad.any()) for weight in trained)
    return moved, len(trained)


def _words(student: Student, sample: Sample) -> tuple[list[int], list[int]]:
    """Tokenize prompt and answer as words."""
    tokenizer = student.processor.tokenizer
    prompt = student.template.prompt(student.processor).removeprefix(tokenizer.bos_token)
    whole = prompt + student.template.render(sample.record) + END
    before, ids = tokenizer(prompt)["input_ids"], tokenizer(whole)["input_ids"]
    return before, ids[len(before) :]


def _pad(student: Student, rows: Sequence[list[int]], length: int) -> Batch:
    padding = student.processor.tokenizer.pad_token_id
    ids = torch.tensor([row + [padding] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


WAYS: dict[str, Way] = {
    "right": Way(start=start_full, rows=shown_rows, prompts=shown_prompts),
    "words": Way(start=start_full, rows=word_rows, prompts=word_prompts),
    "padded": Way(start=start_full, rows=padded_rows, prompts=shown_prompts),
    "recipe": Way(
        start=start_full,
        rows=recipe_rows,
        prompts=word_prompts,
        template=TEMPLATES["walkthrough"],
    ),
    "lora": Way(
        start=lambda template: start_lora(template, LORA_TARGETS),
        rows=shown_rows,
        prompts=shown_prompts,
    ),
    "clip": Way(
        start=lambda template: start_lora(template, CLIP_NAMES),
        rows=shown_rows,
        prompts=shown_prompts,
    ),
}
"""Name -> way."""
