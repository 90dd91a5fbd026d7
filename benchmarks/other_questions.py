"""What becomes of a base's other answers: the same questions before and after a fine-tuning.

    python -m benchmarks.other_questions phi-vision-photo runs/photo --data samples

Asks about photographs of the test split in other words than the training did, and questions without
an image whose answers the base knows. Prints for each model how many answers about a photograph
have the form of the record, and the mean loss of the right answers to the others, in nats a token.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL.Image import Image

from benchmarks.tables import Table
from phi_vision.data.dataset import load_samples
from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.inference.local import LocalPredictor

SHOWN = (
    "What colour is it?",
    "Describe this image in one sentence.",
    "Is this a shoe? Answer yes or no.",
)
TEXTS = {
    "What is the capital of France?": "The capital of France is Paris.",
    "How many legs does a spider have?": "A spider has eight legs.",
    "What do bees make?": "Bees make honey.",
    "Which planet is the largest?": "Jupiter is the largest planet in our solar system.",
    "What is the opposite of hot?": "The opposite of hot is cold.",
    "Who wrote Hamlet?": "William Shakespeare wrote Hamlet.",
}
"""Question -> a right answer."""
FORM = "Category:"  # how each record of the recipe's template begins
TURN = "<|user|>\n{}<|end|>\n<|assistant|>\n"


def main() -> None:
    """Ask each model all questions, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="the base, and runs that started from it")
    parser.add_argument("--data", type=Path, required=True, help="folder of samples")
    parser.add_argument("--limit", type=int, default=16, help="photographs")
    options = parser.parse_args()
    photos = [sample.open_images()[0] for sample in load_samples(options.data, split="test")]
    rows = []
    for name in options.models:
        predictor = LocalPredictor(name)
        cells = [name]
        for question in SHOWN:
            texts = ask(predictor, question, photos[: options.limit])
            share = sum(text.startswith(FORM) for text in texts) / len(texts)
            cells.append(f"{share:.2f}, {len(set(texts))} different: {texts[0][:60]!r}")
        (first,) = ask(predictor, next(iter(TEXTS)), [None])
        cells.append(f"{loss(predictor):.2f}: {first[:60]!r}")
        rows.append(cells)
    print(Table(columns=[*SHOWN, "answers without an image: loss"], rows=rows).as_markdown())


def ask(predictor: LocalPredictor, question: str, photos: Sequence[Image | None]) -> list[str]:
    """Ask a question about each photograph, or once without one."""
    requests = [
        GenerationRequest(
            prompt=TURN.format(("<|image_1|>\n" if photo else "") + question),
            images=(photo,) if photo else (),
            max_new_tokens=32,
        )
        for photo in photos
    ]
    return [each.text for each in generate(predictor.model, predictor.processor, requests)]


@torch.inference_mode()
def loss(predictor: LocalPredictor) -> float:
    """Measure the mean loss of the right answers, in nats a token."""
    total, count, model = 0.0, 0, predictor.model
    assert isinstance(model, torch.nn.Module)
    tokenizer = predictor.processor.tokenizer
    for question, answer in TEXTS.items():
        before = tokenizer(TURN.format(question)).input_ids
        ids = tokenizer(TURN.format(question) + answer).input_ids
        tokens = torch.tensor([ids])
        logits = model(input_ids=tokens).logits[0, len(before) - 1 : -1].float()
        total += float(
            torch.nn.functional.cross_entropy(logits, tokens[0, len(before) :], reduction="sum")
        )
        count += len(ids) - len(before)
    return total / count


if __name__ == "__main__":
    main()
