"""The proof of an ONNX folder: model and graphs are asked the same, and their answers compared.

Graphs tell no logits of a text that is given, only what they would say: so what is compared are
answers, and the probabilities of their tokens.
"""

from collections.abc import Sequence

from phi_vision.data.samples import Sample
from phi_vision.data.template import Template
from phi_vision.export.verify import Proof
from phi_vision.generation.generate import GenerativeModel, generate
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.model.processing_phi3_v import Phi3VProcessor

ROUNDING = 1e-3
"""Difference of two log-probabilities that computing in float32 in another order explains: 1e-5 was
measured on 8 layers; of 32, with hidden states four times as wide, ten times as much is expected,
and ten times more is left for weights that nobody has seen."""

ASKED_TOGETHER = 4
"""Samples of a proof that are read together."""


def ask(
    model: GenerativeModel, processor: Phi3VProcessor, samples: Sequence[Sample], template: Template
) -> list[Generation]:
    """Ask about each sample's images in the template's words."""
    questions = []
    for sample in samples:
        images = tuple(sample.open_images())
        prompt = template.prompt(processor, images=len(images))
        questions.append(GenerationRequest(prompt=prompt, images=images))
    return generate(model, processor, questions, batch_size=ASKED_TOGETHER)


def compare_answers(
    expected: Sequence[Generation], found: Sequence[Generation], *, allowed: float | None
) -> Proof:
    """Compare what two answered to the same questions, token by token up to where they part.

    Args:
        expected: What the model answered.
        found: What the graphs answered.
        allowed: Difference of log-probabilities that rounding explains; None where the weights
            themselves were rounded.
    """
    tokens = torn = 0
    largest = 0.0
    for one, other in zip(expected, found, strict=True):
        shared = _shared_tokens(one, other)
        pairs = list(zip(one.logprobs, other.logprobs, strict=False))
        tokens += shared
        largest = max([largest, *(abs(a - b) for a, b in pairs[:shared])])
        if one.text != other.text and allowed is not None:
            # Two different tokens, each the likeliest, of the same probability.
            torn += any(abs(a - b) <= allowed for a, b in pairs[shared : shared + 1])
    return Proof(
        samples=len(expected),
        same_answers=sum(a.text == b.text for a, b in zip(expected, found, strict=True)),
        tokens=tokens,
        largest_difference=largest,
        allowed=allowed,
        compared="log-probabilities",
        torn=torn,
    )


def _shared_tokens(one: Generation, other: Generation) -> int:
    """Count the tokens up to which two answers say the same."""
    pairs = enumerate(zip(one.token_ends, other.token_ends, strict=False))
    shorter = min(len(one.token_ends), len(other.token_ends))
    return next((at for at, (a, b) in pairs if one.text[:a] != other.text[:b]), shorter)
