"""The image at the head of the README: held-out products, predictions and true records.

python -m benchmarks.example_figure runs/demo/run runs/demo/catalog docs/example.png
python -m benchmarks.example_figure runs/demo-photos/run runs/demo-photos/catalog docs/photos.png
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from phi_vision.data.dataset import load_samples
from phi_vision.data.samples import Sample
from phi_vision.inference.local import LocalPredictor

CARD, IMAGE, MARGIN = (920, 190), 150, 20
INK, QUIET, PAPER = (24, 24, 27), (113, 113, 122), (255, 255, 255)


def make_figure(run: Path, data: Path, out: Path, places: list[int]) -> None:
    """Draw a card for each chosen sample of the test split, one below the other."""
    samples = load_samples(data, split="test")
    chosen = [samples[place] for place in places]
    predictor = LocalPredictor(run)
    predictions = dict(predictor.predict_samples(chosen))
    figure = Image.new("RGB", (CARD[0], CARD[1] * len(chosen)), PAPER)
    for row, sample in enumerate(chosen):
        true = predictor.template.render(sample.record)
        figure.paste(_card(sample, predictions[row].text, true), (0, row * CARD[1]))
    figure.save(out)


def _card(sample: Sample, text: str, true: str) -> Image.Image:
    card = Image.new("RGB", CARD, PAPER)
    card.paste(ImageOps.pad(sample.open_images()[0], (IMAGE, IMAGE), color=PAPER), (MARGIN, MARGIN))
    draw = ImageDraw.Draw(card)
    lines = (("model", text, INK), ("true", true, QUIET))
    for row, (system, words, colour) in enumerate(lines):
        top = 52 + 50 * row
        draw.text((IMAGE + 2 * MARGIN, top), system, QUIET, ImageFont.load_default(15))
        draw.text((IMAGE + 5 * MARGIN, top), words, colour, ImageFont.load_default(15))
    return card


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the README's image.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("data", type=Path, help="folder of samples")
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("--places", type=int, nargs="+", default=[0, 9, 12], help="in the split")
    options = parser.parse_args()
    make_figure(options.run, options.data, options.out, options.places)
