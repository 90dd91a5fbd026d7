"""Verification: the exported model must predict as the run does, on held-out samples.

ONNX graphs, which give no logits for the true answers, are compared by generations alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from peft import PeftModel

from phi_vision.data import dataset
from phi_vision.data.collator import CompletionCollator, select_labelled
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template, find_template
from phi_vision.generation.generate import GenerativeModel, generate
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.inference.local import resolve_template
from phi_vision.io.formatting import error_texts
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import IMAGE_TAG, Phi3VProcessor
from phi_vision.runs import RunDir

# Dtype of the weights -> difference of logits that rounding explains, as a share of their spread.
# In bfloat16 (8 bits) 0.03 was measured on 4 layers. Rounding adds up like a random walk: 32 layers
# make it 2.8 times as much, and another factor of three is a margin for weights never seen. float16
# is 8 times finer; in float32 and float64 the order of a sum decides.
LOGIT_ROUNDING = {torch.bfloat16: 0.25, torch.float16: 0.03, torch.float32: 1e-4}
# Difference of log-probabilities that float32 sums in another order explain: 1e-5 was measured on 8
# layers; 32 layers, four times as wide, make it ten times as much, and ten again is a margin.
LOGPROB_ROUNDING = 1e-3

failure = error_texts(__file__)
Model: TypeAlias = Phi3VForCausalLM | PeftModel


class ModelOutputs(NamedTuple):
    """Outputs of a model on the verification samples."""

    logits: list[torch.Tensor]  # of each sample (T, V), for the T tokens of its true answer
    generations: list[Generation]
    adapter_delta: float | None  # largest change of the logits by the adapter; None without one


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Differences between an exported model and its source."""

    samples: int = 0  # compared; 0 means not verified
    identical: int = 0  # samples with the same generated text
    near_ties: int = 0  # others that diverge where two tokens were equally likely within rounding
    compared: str = "logits"  # the values of each token that should be equal, or log-probabilities
    tokens: int = 0
    max_difference: float = 0.0
    tolerance: float | None = None  # what rounding explains; None where differences are expected
    adapter_delta: float | None = None  # largest change by the adapter; None without one

    def summary(self) -> str:
        """Format the result.

        Output: 4 of 4 predictions identical; logits of 96 tokens differ by at most 2e-05 (rounding
                explains 0.001; the adapter changes them by up to 14.2)
        """
        if not self.samples:
            return "not verified: no samples were compared"
        notes = {
            "rounding explains {:.2g}": self.tolerance,
            "the adapter changes them by up to {:.3g}": self.adapter_delta,
        }
        note = "; ".join(text.format(x) for text, x in notes.items() if x is not None)
        ties = f", {self.near_ties} diverge at a near tie" if self.near_ties else ""
        found = f"{self.identical} of {self.samples} predictions identical{ties}; {self.compared} "
        found += f"of {self.tokens} tokens differ by at most {self.max_difference:.2g}"
        return f"{found} ({note})" if note else found

    def check(self) -> None:
        """Check that the differences are within the tolerance, or raise ValueError."""
        if self.tolerance is None or not self.samples:
            return
        # A difference of NaN is not small.
        is_near = self.max_difference <= self.tolerance
        if not is_near or self.identical + self.near_ties < self.samples:
            raise failure("differs", summary=self.summary())


def verification_samples(
    source: str | Path, data: Path | None, count: int
) -> tuple[list[Sample], Template]:
    """Return samples that the model was not trained on, and its prompt template.

    They are the first of the test split, else of the validation split, else of the groups that
    the run's recipe held out, else any; `data` is that of the recipe by default. The template is
    that of the run, else of the data, else the default one. Without data, a ValueError.
    """
    recipe = RunDir(source).recipe()
    place = data or (Path(recipe["data"]) if recipe.get("data") else None)
    if place and (place / TEMPLATE_FILE).is_file() and not (Path(source) / TEMPLATE_FILE).is_file():
        template = find_template(str(place))
    else:
        template = find_template(resolve_template(str(source), None))
    if count <= 0:
        return [], template
    if place is None or not place.exists():
        reason = f"the run's data {place} does not exist" if place else "no data given"
        raise failure("no_samples", source=source, reason=reason)
    samples = [*_held_out(place, recipe)[:count]]
    if recipe.get("withhold_images"):
        samples = [replace(sample, images=()) for sample in samples]
    return samples, template


def _held_out(data: Path, recipe: Mapping[str, Any]) -> Sequence[Sample]:
    splits = dataset.available_splits(data)
    split = next((name for name in ("test", "validation", "train") if name in splits), None)
    if split in ("test", "validation"):
        return dataset.load_samples(data, split=split)
    samples = dataset.load_samples(data, split=split, group_column=recipe.get("group_column"))
    if not recipe:
        return samples
    fraction = recipe.get("validation_fraction")
    fraction = dataset.VALIDATION_FRACTION if fraction is None else fraction
    _, held_out = dataset.split_by_group(
        samples, validation_fraction=fraction, seed=recipe.get("seed", 0)
    )
    return held_out or samples


def collect_outputs(
    model: Model, processor: Phi3VProcessor, samples: Sequence[Sample], template: Template
) -> ModelOutputs:
    """Compute the logits of the true answers, and generate predictions."""
    collator = CompletionCollator(processor=processor, template=template)
    logits = [answer_logits(model, collator, sample) for sample in samples]
    generations = generate_predictions(model, processor, samples, template)
    if not isinstance(model, PeftModel):
        return ModelOutputs(logits, generations, None)
    with model.disable_adapter():
        without = [answer_logits(model, collator, sample) for sample in samples]
    return ModelOutputs(logits, generations, _max_difference(logits, without))


@torch.inference_mode()
def answer_logits(model: Model, collator: CompletionCollator, sample: Sample) -> torch.Tensor:
    """Return the logits (T, V) of the T tokens of a sample's true answer, in float32."""
    batch = select_labelled(collator([sample]))
    names = ("input_ids", "attention_mask", "pixel_values", "image_sizes", "logits_to_keep")
    inputs = {name: values for name, values in batch.items() if name in names}
    logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits.flatten(end_dim=-2).float()


def generate_predictions(
    model: GenerativeModel, processor: Phi3VProcessor, samples: Sequence[Sample], template: Template
) -> list[Generation]:
    """Generate a prediction for the first prompt of each sample, with its images."""
    collator = CompletionCollator(processor=processor, template=template)
    requests = []
    for sample in samples:
        prompt = collator.segments(sample)[0].text
        images = sample.open_images()[: len(IMAGE_TAG.findall(prompt))]
        requests.append(GenerationRequest(prompt=prompt, images=tuple(images)))
    # One at a time: the cache of several full-size rows takes as much memory as many layers.
    return generate(model, processor, requests, batch_size=1)


def compare_outputs(
    expected: ModelOutputs, found: ModelOutputs, *, dtype: torch.dtype
) -> Verification:
    """Compare outputs; the dtype of the exported weights sets the tolerance."""
    if not expected.logits:
        return Verification()
    spread = torch.cat([logits.flatten() for logits in expected.logits]).std().item()
    tolerance = LOGIT_ROUNDING.get(dtype, 1e-4) * spread
    pairs = list(zip(expected.generations, found.generations, strict=True))
    return Verification(
        samples=len(pairs),
        identical=sum(one.text == other.text for one, other in pairs),
        near_ties=sum(is_near_tie(one, other, tolerance) for one, other in pairs),
        tokens=sum(len(logits) for logits in expected.logits),
        max_difference=_max_difference(expected.logits, found.logits),
        tolerance=tolerance,
        adapter_delta=expected.adapter_delta,
    )


def is_near_tie(expected: Generation, found: Generation, tolerance: float) -> bool:
    """Whether two generations diverge where both tokens were equally likely, within rounding.

    If each logit changes by at most d, another token can only overtake the first where the first
    leads by at most 2 d, and so has a probability of at most 1 / (1 + exp(-2 d)).
    """
    at = _first_difference(expected, found)
    if expected.text == found.text or at == min(len(expected.token_ends), len(found.token_ends)):
        return False
    return expected.logprobs[at] <= -math.log1p(math.exp(-2 * tolerance))


def compare_generations(
    expected: Sequence[Generation], found: Sequence[Generation], *, tolerance: float | None
) -> Verification:
    """Compare log-probabilities up to where texts diverge; no tolerance for quantized weights."""
    identical, tokens, near_ties, largest = 0, 0, 0, 0.0
    for one, other in zip(expected, found, strict=True):
        shared = _first_difference(one, other)
        apart = [abs(a - b) for a, b in zip(one.logprobs, other.logprobs, strict=False)]
        tokens += shared
        largest = max([largest, *apart[:shared]])
        if one.text == other.text:
            identical += 1
        elif tolerance is not None:
            # Two tokens, each the likeliest of its model, with the same probability.
            near_ties += any(difference <= tolerance for difference in apart[shared : shared + 1])
    return Verification(
        samples=len(expected),
        identical=identical,
        near_ties=near_ties,
        compared="log-probabilities",
        tokens=tokens,
        max_difference=largest,
        tolerance=tolerance,
    )


def _first_difference(one: Generation, other: Generation) -> int:
    """Count the tokens after which two generations still have the same text."""
    ends = list(zip(one.token_ends, other.token_ends, strict=False))
    pairs = enumerate(ends)
    return next((at for at, (a, b) in pairs if one.text[:a] != other.text[:b]), len(ends))


def _max_difference(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    """Return the largest absolute difference; NaN where a value is NaN."""
    apart = [(one - other).abs().max() for one, other in zip(some, others, strict=True)]
    return torch.stack(apart).max().item() if apart else 0.0
