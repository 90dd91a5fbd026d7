"""Refuses to train blind: what goes wrong silently elsewhere is an error here, before it costs.

Each guard looks at the very batch or model that training uses, and says what is wrong, what was
found and what to do. Those of gradients and loss look while it trains; the canary, which shuffles
the pictures, belongs to the evaluation (`evaluate/score.py`) and is sounded by `examiner.py`.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from phi_vision.data.collate import IGNORED, AnswerCollator, Batch
from phi_vision.data.sample import Sample
from phi_vision.model.processing_phi3_v import Phi3VProcessor

MOST_SUPERVISED = 0.9
"""An answer is a small part of its row. A larger share means that prompt or padding is learnt."""


def check_images_are_shown(
    batch: Batch, samples: Sequence[Sample], processor: Phi3VProcessor
) -> None:
    """Refuse a batch whose pictures the model would not see.

    Raises:
        ValueError: Samples have pictures, but the batch has no `pixel_values`, no `image_sizes`,
            or not as many image positions as the pictures have image tokens.
    """
    pictures = sum(len(sample.images) for sample in samples)
    if not pictures:
        return
    for name in ("pixel_values", "image_sizes"):
        if name not in batch:
            raise ValueError(
                f"the samples have {pictures} pictures but the batch has no {name}, so the model "
                "would train on words alone; pass everything that the processor returns"
            )
    sizes = batch["image_sizes"].tolist()
    expected = sum(processor.image_processor.count_tokens(*size) for size in sizes)
    found = int((batch["input_ids"] == processor.image_token_id).sum())
    if len(sizes) != pictures or found != expected:
        raise ValueError(
            f"{pictures} pictures need {expected} image positions but the text has {found} of them "
            f"for {len(sizes)} pictures; write one <|image_1|> tag per picture and never cut rows"
        )


def check_supervision(batch: Batch) -> None:
    """Refuse labels on padding, rows without labels, and a share that no answer has.

    Raises:
        ValueError: See above.
    """
    labelled = batch["labels"] != IGNORED
    real = batch["attention_mask"] == 1
    on_padding = int((labelled & ~real).sum())
    if on_padding:
        raise ValueError(
            f"{on_padding} labels are on padding, so the model would learn to pad; "
            f"set them to {IGNORED}"
        )
    empty = int((~labelled.any(dim=1)).sum())
    if empty:
        raise ValueError(
            f"{empty} of {len(labelled)} rows have no label, so nothing is learnt from them; "
            "label the answer and its <|end|>"
        )
    share = int(labelled.sum()) / int(real.sum())
    if share > MOST_SUPERVISED:
        raise ValueError(
            f"{share:.0%} of all tokens are labelled, more than {MOST_SUPERVISED:.0%}: the prompt "
            f"or the image is learnt too; set all but the answer to {IGNORED}"
        )


def check_prompt_is_inference_prompt(
    collator: AnswerCollator, sample: Sample, batch: Batch
) -> None:
    """Refuse a training row that does not begin with exactly what the model is asked later.

    Args:
        collator: What made the batch.
        sample: The first sample of the batch.
        batch: Its first row must be of `sample`.

    Raises:
        ValueError: The unlabelled part of the row is not what the processor gives for the prompt.
    """
    prompt = collator.pieces(sample)[0].text
    asked = collator.processor(text=prompt, images=sample.pictures() or None, return_tensors="pt")[
        "input_ids"
    ][0]
    first_label = int((batch["labels"][0] != IGNORED).int().argmax())
    learnt = batch["input_ids"][0, :first_label]
    if not torch.equal(asked, learnt):
        raise ValueError(
            f"sample {sample.id!r} trains after {len(learnt)} prompt tokens but the model is asked "
            f"with {len(asked)}, or with others; build both with template "
            f"{collator.template.name!r}"
        )


def check_samples(collator: AnswerCollator, samples: Sequence[Sample]) -> None:
    """Refuse samples that would fail in the middle of the training, or would have to be cut.

    Raises:
        ValueError: A record lacks a field of the template, a picture cannot be read or is too thin,
            or samples have more tokens than the collator's `max_length`.
    """
    lengths = [sum(collator.count_tokens(sample)) for sample in samples]
    if collator.max_length is None:
        return
    too_long = [length for length in lengths if length > collator.max_length]
    if too_long:
        raise ValueError(
            f"{len(too_long)} of {len(samples)} samples have more than max_length "
            f"{collator.max_length} tokens (the longest {max(too_long)}), and cutting them would "
            "cut image tokens; raise max_length or leave it out"
        )


def check_adapter_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Refuse adapter targets that miss the language model, or match nothing.

    Raises:
        ValueError: Says which names the language model has.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    of_decoder = sorted({_last(name) for name in linear if _is_decoder_layer(name)})
    unknown = [target for target in targets if target not in map(_last, linear)]
    if unknown:
        raise ValueError(
            f"no linear layer is named {', '.join(unknown)}; the language model has "
            f"{', '.join(of_decoder)}"
        )
    if not set(targets) & set(of_decoder):
        raise ValueError(
            f"adapters on {', '.join(targets)} reach no language-model layer, only the vision "
            f"tower; the language model has {', '.join(of_decoder)}"
        )


def check_adapter_is_attached(model: nn.Module) -> None:
    """Refuse a model whose language-model layers carry no adapter.

    Raises:
        ValueError: No decoder layer has LoRA weights.
    """
    if not any(
        _is_decoder_layer(name) and "lora_A" in name for name, _ in model.named_parameters()
    ):
        raise ValueError(
            "no language-model layer carries an adapter, so it would not learn; name its linear "
            "layers in lora_targets"
        )


class GradientGuard(TrainerCallback):
    """Stops after the first step if a trainable part got no gradient, later if the loss breaks."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.is_checked = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Look at the gradients of the first step."""
        if not self.is_checked:
            check_gradients(self.model)
            self.is_checked = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Look at the loss of a step."""
        check_loss(state.global_step, (logs or {}).get("loss", 0.0))


def check_gradients(model: nn.Module) -> None:
    """Refuse trainable parts that got no gradient.

    A layer's two LoRA matrices are one part: the second is zero at first, which leaves the first
    without gradient for one step. Biases of CLIP's keys shift all scores of a query alike and
    have no gradient by mathematics. Of an embedding only the rows that occurred have one.

    Raises:
        ValueError: Names the parts, layer numbers as `*`.
    """
    moved: dict[str, bool] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad and not name.endswith("k_proj.bias"):
            part = re.sub(r"\.lora_(A|B|embedding_A|embedding_B)\..*", ".lora", name)
            gradient = weight.grad is not None and bool(weight.grad.any())
            moved[part] = moved.get(part, False) or gradient
    still = sorted(
        {re.sub(r"\.\d+\.", ".*.", part) for part, has_moved in moved.items() if not has_moved}
    )
    if not moved or still:
        raise ValueError(
            f"no gradient reached {', '.join(still) or 'anything'} in the first step, so it would "
            "stay as it is; freeze it (train_vision, train_projector) or give samples that use it"
        )


def check_loss(step: int, loss: float) -> None:
    """Refuse to go on from a loss that is no number.

    Raises:
        ValueError: The loss is infinite or not a number.
    """
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} at step {step}: the training broke; lower learning_rate or try "
            "precision fp32, and start again from a checkpoint"
        )


def _is_decoder_layer(name: str) -> bool:
    """Tell `model.layers.0.mlp.down_proj`, also below PEFT's prefix, from the tower's layers."""
    return ".layers." in f".{name}" and "vision_embed_tokens" not in name


def _last(name: str) -> str:
    return name.rpartition(".")[2]
