"""Proof: that what was written answers as the run does, on samples it did not learn from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel

from phi_vision.data.collator import AnswerCollator, select_answers
from phi_vision.data.dataset import (
    VALIDATION_FRACTION,
    available_splits,
    load_samples,
    split_by_group,
)
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template, find_template
from phi_vision.generation.generate import generate
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.inference.predictor import resolve_template
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import IMAGE_TAG, Phi3VProcessor
from phi_vision.runs import RunDir

HELD_OUT = ("test", "validation")
"""Splits that no training learns from, the better one first."""

ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.25}
"""Number a weight is stored in -> by what share of their spread logits may differ.

In bfloat16 (8 bits) 0.03 was measured on 4 layers. Rounding adds up like a random walk: 32 layers
make it 2.8 times as much, and three times more is left for weights that nobody has seen. float16
has 8 times finer numbers; those of float32 are so fine that the order of a sum decides."""


class Seen(NamedTuple):
    """What a model made of samples."""

    logits: list[torch.Tensor]
    """For each sample (T, V): where the T tokens of its true answer are predicted."""

    answers: list[Generation]
    """What it answered itself, always taking the likeliest token."""

    effect: float | None
    """How far its adapter moves the logits; None where it has none."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How near the written model comes to the one it was made from."""

    samples: int
    """How many were asked about; 0: nothing was compared."""

    same_answers: int
    """How many of them were answered alike, character for character."""

    tokens: int
    """Tokens of answers whose figures were compared."""

    largest_difference: float
    """Between two figures that should be the same."""

    allowed: float | None
    """The largest difference that rounding explains; None where differences are expected."""

    compared: str = "logits"
    """What the figures are."""

    torn: int = 0
    """How many of the other answers part where the model itself held two words for equally likely,
    so that rounding decides."""

    effect: float | None = None
    """How far the adapter moves the same figures; None where there is no adapter."""

    def words(self) -> str:
        """Say what was compared and what was found.

        Output: 4 samples: 4 answered alike; logits of 96 tokens differ by 0.00002 at most
                (rounding explains 0.001; the adapter moves them by up to 14.2)
        """
        if not self.samples:
            return "not verified: no sample was asked about"
        notes = []
        if self.allowed is not None:
            notes.append(f"rounding explains {self.allowed:.2g}")
        if self.effect is not None:
            notes.append(f"the adapter moves them by up to {self.effect:.3g}")
        alike = f"{self.same_answers} of {self.samples} samples answered alike"
        torn = f", {self.torn} where two words were equally likely" if self.torn else ""
        note = f" ({'; '.join(notes)})" if notes else ""
        return (
            f"{alike}{torn}; {self.compared} of {self.tokens} tokens differ by "
            f"{self.largest_difference:.2g} at most{note}"
        )

    def refuse(self) -> None:
        """Refuse a folder that does not answer as its run does.

        Raises:
            ValueError: More differs than rounding explains.
        """
        if self.allowed is None or not self.samples:
            return
        # NaN is no small difference.
        near = self.largest_difference <= self.allowed
        if not near or self.same_answers + self.torn < self.samples:
            raise ValueError(
                f"what was written does not answer as the model does: {self.words()}. Nothing was "
                "kept; check the adapter and its base, and please report this"
            )


def proof_samples(
    source: str | Path, data: Path | None, count: int
) -> tuple[list[Sample], Template]:
    """Choose samples that the model did not learn from, and the template it answers in.

    They are the first of the data's test split, else of its validation split, else of the groups
    that the run's recipe held out. Where nothing was held out, any will do.

    Args:
        source: Run, checkpoint or adapter folder, or hub id.
        data: Folder or file of samples; that of the run's recipe unless given.
        count: How many; 0 for none, and then no data is needed.

    Raises:
        ValueError: There is no data, or it lacks what the template asks for.
    """
    recipe = RunDir(source).recipe()
    place = data or (Path(str(recipe["data"])) if recipe.get("data") else None)
    template = _template(source, place)
    if count <= 0:
        return [], template
    if place is None or not place.exists():
        learnt_from = (
            f"the run learnt from {place}, which is not here" if place else "no data given"
        )
        raise ValueError(
            f"nothing to verify {source} with: {learnt_from}; name samples with --data, or leave "
            "the check out with --samples 0"
        )
    samples = _held_out(place, recipe)[:count]
    if recipe.get("withhold_images"):
        samples = [replace(sample, images=()) for sample in samples]
    return samples, template


def observe(
    model: Phi3VForCausalLM | PeftModel,
    processor: Phi3VProcessor,
    samples: Sequence[Sample],
    template: Template,
) -> Seen:
    """Have a model read the true answers, and answer itself.

    Raises:
        ValueError: A sample lacks what the template asks for, or has an image that cannot be read.
    """
    collator = AnswerCollator(processor=processor, template=template)
    logits = [predict_truth(model, collator, sample) for sample in samples]
    questions = [_question(collator, sample) for sample in samples]
    # One at a time: keys and values of several full-size rows weigh as much as many layers.
    answers = generate(model, processor, questions, batch_size=1)
    if not isinstance(model, PeftModel):
        return Seen(logits, answers, None)
    with model.disable_adapter():
        plain = [predict_truth(model, collator, sample) for sample in samples]
    return Seen(logits, answers, largest_difference(logits, plain))


@torch.inference_mode()
def predict_truth(
    model: Phi3VForCausalLM | PeftModel, collator: AnswerCollator, sample: Sample
) -> torch.Tensor:
    """Give the logits of each token of a sample's true answer, in float32.

    Output: (T, V)
    """
    batch = select_answers(collator([sample]))
    shown = ("input_ids", "attention_mask", "pixel_values", "image_sizes", "logits_to_keep")
    inputs = {name: values for name, values in batch.items() if name in shown}
    logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits.flatten(end_dim=-2).float()


def compare(before: Seen, after: Seen, *, dtype: torch.dtype) -> Proof:
    """Hold what the written model made of samples against what the first one did.

    Args:
        before: What the model to be exported made of them.
        after: What the one that was written did.
        dtype: Numbers that the weights are stored in: what rounding explains depends on them.
    """
    if not before.logits:
        return Proof(samples=0, same_answers=0, tokens=0, largest_difference=0.0, allowed=None)
    spread = torch.cat([each.flatten() for each in before.logits]).std().item()
    allowed = ROUNDING[dtype] * spread
    pairs = list(zip(before.answers, after.answers, strict=True))
    return Proof(
        samples=len(pairs),
        same_answers=sum(one.text == other.text for one, other in pairs),
        torn=sum(is_torn(one, other, allowed) for one, other in pairs),
        tokens=sum(len(each) for each in before.logits),
        largest_difference=largest_difference(before.logits, after.logits),
        allowed=allowed,
        effect=before.effect,
    )


def largest_difference(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    """Find the largest difference between two models' figures; NaN where one is no number."""
    apart = [(one - other).abs().max() for one, other in zip(some, others, strict=True)]
    return torch.stack(apart).max().item() if apart else 0.0


def is_torn(before: Generation, after: Generation, allowed: float) -> bool:
    """Whether two answers part where both words were as likely, as far as rounding can tell.

    If each logit moves by at most d, the second word can only overtake the first where the first
    had at most 2 d more, and so a probability of at most 1 / (1 + exp(-2 d)).
    """
    if before.text == after.text:
        return False
    pairs = zip(_pieces(before), _pieces(after), before.logprobs, strict=False)
    parted = next((logprob for one, other, logprob in pairs if one != other), 0.0)
    return parted <= -math.log1p(math.exp(-2 * allowed))


def _pieces(said: Generation) -> list[str]:
    """Cut an answer into what each of its tokens wrote."""
    starts = (0, *said.token_ends[:-1])
    return [said.text[start:end] for start, end in zip(starts, said.token_ends, strict=True)]


def _question(collator: AnswerCollator, sample: Sample) -> GenerationRequest:
    """Ask what the sample asks first, with the images it shows up to there."""
    prompt = collator.pieces(sample)[0].text
    shown = len(IMAGE_TAG.findall(prompt))
    return GenerationRequest(prompt=prompt, images=tuple(sample.open_images()[:shown]))


def _template(source: str | Path, data: Path | None) -> Template:
    """Take the run's wording, else the data's own, else the one of products."""
    own = data is not None and (data / TEMPLATE_FILE).is_file()
    if not (Path(source) / TEMPLATE_FILE).is_file() and own:
        return find_template(str(data))
    return find_template(resolve_template(str(source), None))


def _held_out(data: Path, recipe: Mapping[str, Any]) -> list[Sample]:
    splits = available_splits(data)
    for split in HELD_OUT:
        if split in splits:
            return load_samples(data, split=split)
    rest = "train" if "train" in splits else None
    samples = load_samples(data, split=rest, group_column=recipe.get("group_column"))
    if not recipe:
        return samples
    fraction = recipe.get("validation_fraction")
    _, held_out = split_by_group(
        samples,
        validation_fraction=VALIDATION_FRACTION if fraction is None else fraction,
        seed=recipe.get("seed", 0),
    )
    return held_out or samples
