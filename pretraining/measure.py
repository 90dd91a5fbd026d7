"""Accuracy of `phi-vision-small` on visible attributes of new images, and of shuffled ones.

    python -m pretraining.measure --images 200

Draws new garments, asks for each attribute, and asks again with another image of the batch. Skips
attributes that a kind does not vary (the length of a sweater).
"""

import argparse
import random

import torch

from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.model.checkpoint import SMALL, fast_dtype, load_model
from phi_vision.synthetic.drawing import CHOICES, Garment, draw, random_garment, random_scene
from pretraining.market import facts

FIELDS = {
    "kind": "kind",
    "colour": "colours",
    "material": "materials",
    "pattern": "patterns",
    "trim": "trims",
    "length": "lengths",
    "metal": "hardware",
    "buttons": "buttons",
}
"""Last word of the question -> the field of `Choices` with the possible values."""


def measure(count: int, seed: int) -> None:
    """Print the accuracy per attribute, with the true and with another image."""
    model, processor = load_model(SMALL, dtype=fast_dtype(torch.device("cpu")))
    rng = random.Random(f"measure {seed}")
    garments = [random_garment(rng) for _ in range(count)]
    images = [draw(garment, random_scene(rng)) for garment in garments]
    questions = [question for question, _ in facts(garments[0])]
    for place, question in enumerate(questions):
        name = question.split()[-1].rstrip("?")
        chosen = [at for at, garment in enumerate(garments) if _varies(garment, name)]
        truth = [facts(garments[at])[place][1] for at in chosen]
        message = {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": question}],
        }
        prompt = processor.apply_chat_template([message], add_generation_prompt=True)
        figures = []
        for shown in (chosen, chosen[1:] + chosen[:1]):
            answers = generate(
                model,
                processor,
                [
                    GenerationRequest(prompt=prompt, images=(images[at],), max_new_tokens=8)
                    for at in shown
                ],
            )
            pairs = zip(answers, truth, strict=True)
            figures.append(sum(each.text == words for each, words in pairs) / len(truth))
        print(f"{name:<9} {figures[0]:.2f} of {len(chosen)}; with another image {figures[1]:.2f}")


def _varies(garment: Garment, name: str) -> bool:
    return name == "kind" or len(getattr(CHOICES[garment.kind], FIELDS[name])) > 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure phi-vision-small.")
    parser.add_argument("--images", type=int, default=200, help="garments to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the garments")
    chosen = parser.parse_args()
    measure(chosen.images, chosen.seed)
