"""`phi-vision predict`: reads the record off pictures, or off all rows of a catalogue."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision.commands.bars import progress_bar
from phi_vision.commands.model import add_model_options, load_predictor
from phi_vision.commands.options import Parser, add_fields, given_fields

if TYPE_CHECKING:
    from phi_vision.bulk.job import Job
    from phi_vision.bulk.predicting import Outlook
    from phi_vision.data.template import Template
    from phi_vision.deploy.predict import Prediction

SECONDS_APART = 30
"""Between two lines that say how far a catalogue is, where no terminal shows a bar."""


def add_options(parser: Parser) -> None:
    """Declare what `phi-vision predict` takes; every field of a Job is an option as well."""
    from phi_vision.bulk.job import Job

    parser.usage = (
        "%(prog)s MODEL IMAGE ... [an option ...]\n"
        "       %(prog)s MODEL DATASET --out FILE [an option ...]"
    )
    add_model_options(parser)
    images = "picture, folder or 'glob*.jpg'; with --out one dataset or folder of pictures"
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=images)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    constrained = "write nothing but the template's form, so that every answer can be read"
    parser.add_argument("--constrained", action="store_true", help=constrained)
    known = "as --constrained, and no category that this data's train split does not know"
    parser.add_argument("--categories-of", type=Path, metavar="DATA", help=known)
    out = (
        "write predictions of a whole catalogue to this Parquet file; MODEL may then be a server's "
        "http://HOST:PORT/v1, and the options below take effect"
    )
    parser.add_argument("--out", type=Path, default=argparse.SUPPRESS, metavar="FILE", help=out)
    add_fields(parser, Job, {"": Job(out=Path())}, skip=["out"])


def run(options: argparse.Namespace) -> None:
    """Read the record off each picture, or off each row of a catalogue."""
    from phi_vision.bulk.job import Job

    given = given_fields(options, Job)
    if "out" in given:
        predict_catalogue(options, Job(**given))
    elif given:
        raise ValueError(
            f"--{next(iter(given)).replace('_', '-')} takes effect only where --out names a "
            "Parquet file for the predictions of a whole catalogue"
        )
    else:
        predict_pictures(options)


def predict_pictures(options: argparse.Namespace) -> None:
    """Print the record of each picture."""
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


def predict_catalogue(options: argparse.Namespace, job: "Job") -> None:
    """Write the records of a whole catalogue, and say what became of its rows."""
    from phi_vision.bulk.inquiry import inquire_of
    from phi_vision.bulk.predicting import predict_catalogue as run_job
    from phi_vision.data.template import find_template
    from phi_vision.deploy.answerers import find_wording

    if len(options.images) != 1 or options.json:
        found = "--json" if options.json else f"{len(options.images)} sources"
        raise ValueError(f"--out takes one dataset or folder of pictures: found {found}")
    template = find_template(find_wording(options.model, options.template))
    inquiry = inquire_of(
        options.model,
        template=options.template,
        grammar=chosen_grammar(options, template),
        batch_size=options.batch_size,
    )
    with shown_progress() as progress:
        outlook = run_job(Path(options.images[0]), inquiry, job, progress)
    print(f"{job.out}: {in_words(outlook)}", file=sys.stderr)


@contextmanager
def shown_progress() -> Iterator[Callable[[int, int], None]]:
    """Show how far a catalogue is: a bar on a terminal, else a line now and then.

    Who presses Ctrl-C is told what is kept.
    """
    latest, told_at = (0, 0), 0.0
    with progress_bar("rows") as move:

        def show(done: int, total: int) -> None:
            nonlocal latest, told_at
            latest = done, total
            move(done, total)
            if not sys.stderr.isatty() and time.monotonic() - told_at > SECONDS_APART:
                told_at = time.monotonic()
                print(f"{done:,} of {total:,} rows", file=sys.stderr, flush=True)

        try:
            yield show
        except KeyboardInterrupt:
            kept = f"{latest[0]:,} of {latest[1]:,} rows are answered and kept"
            print(f"Interrupted: {kept}; the same command goes on from there.", file=sys.stderr)
            raise


def in_words(outlook: "Outlook") -> str:
    """Say what became of a catalogue, in one line.

    Output: 3,040 rows, 12 not in the template's form, 9 errors (5 no picture, 4 unreadable
            picture), 3,040 answered now, 12.3 rows/s
    """
    errors = sum(outlook.errors.values())
    reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(outlook.errors.items()))
    told = [f"{outlook.rows:,} rows", f"{outlook.unreadable:,} not in the template's form"]
    told.append(f"{errors:,} error{'s' * (errors != 1)}" + (f" ({reasons})" if reasons else ""))
    if outlook.asked:
        speed = outlook.asked / outlook.seconds
        told.append(f"{outlook.asked:,} answered now, {speed:.3g} rows/s")
    return ", ".join(told)


def chosen_grammar(options: argparse.Namespace, template: "Template") -> str | None:
    """Say what may be written: anything, unless the user limits it."""
    from phi_vision.data.grammar import grammar_of, known_categories
    from phi_vision.data.loading import iterate_samples

    if options.categories_of is not None:
        # Without pictures: only what the records say counts, and it may be millions.
        training = iterate_samples(options.categories_of, split="train")
        records = [replace(sample, images=()) for sample in training]
        return grammar_of(template, known_categories(records, template))
    return grammar_of(template) if options.constrained else None


def find_pictures(name: str) -> list[Path]:
    """Find the pictures that a word of the command line means.

    Input:  coat.jpg     shoes/                           'shoes/*.png'
    Output: that file    the pictures in it, by name      the files that match, by name

    Raises:
        ValueError: There is none.
    """
    from phi_vision.bulk.catalogue import PICTURE_ENDINGS

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
