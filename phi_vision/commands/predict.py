"""`phi-vision predict`: reads the record off pictures."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision.commands.model import add_model_options, load_predictor
from phi_vision.commands.options import Parser

if TYPE_CHECKING:
    from phi_vision.data.template import Template
    from phi_vision.deploy.predict import Prediction

PICTURE_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""What `predict` takes out of a folder."""


def add_options(parser: Parser) -> None:
    """Declare what `phi-vision predict` takes."""
    add_model_options(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture, folder or 'glob*.jpg'")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    constrained = "write nothing but the template's form, so that every answer can be read"
    parser.add_argument("--constrained", action="store_true", help=constrained)
    known = "as --constrained, and no category that this data's train split does not know"
    parser.add_argument("--categories-of", type=Path, metavar="DATA", help=known)


def run(options: argparse.Namespace) -> None:
    """Read the record off each picture."""
    from phi_vision.data.sample import open_picture

    pictures = [picture for name in options.images for picture in find_pictures(name)]
    for picture in pictures:  # All of them, before the model is loaded and anything is printed.
        open_picture(picture)
    predictor = load_predictor(options)
    grammar = chosen_grammar(options, predictor.template)
    write = as_json if options.json else as_line
    for start in range(0, len(pictures), options.batch_size):
        some = pictures[start : start + options.batch_size]
        for prediction in predictor.predict(some, grammar=grammar):
            print(write(prediction), flush=True)


def chosen_grammar(options: argparse.Namespace, template: "Template") -> str | None:
    """Say what may be written: anything, unless the user limits it."""
    from phi_vision.data.grammar import grammar_of, known_categories
    from phi_vision.data.loading import load_samples

    if options.categories_of is not None:
        training = load_samples(options.categories_of, split="train")
        return grammar_of(template, known_categories(training, template))
    return grammar_of(template) if options.constrained else None


def find_pictures(name: str) -> list[Path]:
    """Find the pictures that a word of the command line means.

    Input:  coat.jpg     shoes/                           'shoes/*.png'
    Output: that file    the pictures in it, by name      the files that match, by name

    Raises:
        ValueError: There is none.
    """
    path = Path(name)
    pattern = str(
        path.relative_to(path.anchor)
    )  # Path.glob takes no pattern that begins at the root.
    if path.is_dir():
        found = sorted(f for f in path.iterdir() if f.suffix.lower() in PICTURE_ENDINGS)
    else:
        found = [path] if path.exists() else sorted(Path(path.anchor).glob(pattern))
    if not found:
        what = f"a folder without any ({', '.join(sorted(PICTURE_ENDINGS))})"
        raise ValueError(
            f"no picture at {name}: found {what if path.is_dir() else 'nothing'}; "
            "give a picture, a folder of pictures or a pattern like 'shoes/*.jpg'"
        )
    return found


def as_json(prediction: "Prediction") -> str:
    """Write a prediction as one line of JSON."""
    fields = {
        "image": prediction.source,
        "record": prediction.record,
        "confidence": dict(prediction.confidence),
        "text": prediction.text,
    }
    return json.dumps(fields, ensure_ascii=False)


def as_line(prediction: "Prediction") -> str:
    """Write a prediction as one line to read.

    Output: coat.jpg: title=Wool Coat, category3_code=COATS, full_price=390.0
    """
    if prediction.record is None:
        return f"{prediction.source}: no record in the answer {prediction.text!r}"
    fields = ", ".join(f"{name}={value}" for name, value in prediction.record.items())
    return f"{prediction.source}: {fields}"
