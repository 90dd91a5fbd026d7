"""`phi-vision predict`: records of images, or of all rows of a catalog."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision.cli.options import Parser, add_fields, add_listed, failure, given_fields
from phi_vision.cli.progress import progress_bar
from phi_vision.io.formatting import as_plain, format_count, format_percent, join_few, suggestion
from phi_vision.io.process import importing

if TYPE_CHECKING:
    from PIL.Image import Image

    from phi_vision.data.acceptance import Acceptance
    from phi_vision.data.prediction import Prediction
    from phi_vision.data.template import Template
    from phi_vision.inference.batch import BatchSummary
    from phi_vision.inference.batch_catalog import BatchConfig
    from phi_vision.inference.local import LocalPredictor

PROGRESS_INTERVAL = 30  # seconds between progress lines outside a terminal
TABLES = (".csv", ".tsv", ".xls", ".xlsx", ".json", ".jsonl")  # files of no image but of rows


def add_options(parser: Parser) -> None:
    """Declare the options, every field of a BatchConfig among them."""
    from phi_vision.inference.batch_catalog import BatchConfig

    add_listed(parser, "model")
    add_listed(parser, "predict")
    add_fields(parser, BatchConfig, {"": BatchConfig(out=Path())}, skip=["out"])


def run(options: argparse.Namespace) -> None:
    """Predict the record of each image, or of each row of a catalog."""
    from phi_vision.inference.batch_catalog import BatchConfig

    given = given_fields(options, BatchConfig)
    if options.out is not None:
        _predict_catalog(options, BatchConfig(**given))
    elif unused := [name.replace("_", "-") for name in given if name != "out"]:
        raise failure("unused_without_out", option=unused[0])
    else:
        _predict_images(options)


def load_predictor(options: argparse.Namespace) -> "LocalPredictor":
    """Load the selected model with its prompt template."""
    with importing():
        from phi_vision.inference.local import LocalPredictor

    return LocalPredictor(options.model, template=options.template, batch_size=options.batch_size)


def _predict_images(options: argparse.Namespace) -> None:
    from phi_vision.io.image_decoding import open_image

    if "://" in options.model:
        raise failure("server_without_out", model=options.model)
    images = [image for name in options.images for image in find_images(name)]
    # Unreadable images are named before the model is loaded.
    readable = [image for image, _ in _opened(images, open_image, len(images))]
    predictor = load_predictor(options) if readable else None
    missing = len(images)
    if predictor is not None:
        grammar = _chosen_grammar(options, predictor.template)
        acceptance = None
        if options.target_precision is not None:
            acceptance = _load_acceptance(options, predictor.template, grammar)
        write = _as_json if options.json else _as_line
        for start in range(0, len(readable), options.batch_size):
            some = readable[start : start + options.batch_size]
            usable = [*_opened(some, predictor.open_image, len(images))]
            pixels = [image for _, image in usable]
            predictions = predictor.predict(pixels, grammar=grammar) if pixels else []
            for (name, _), prediction in zip(usable, predictions, strict=True):
                print(write(replace(prediction, source=str(name)), acceptance), flush=True)
            missing -= len(usable)
    if missing:
        raise ValueError(f"{missing} of {len(images)} images have no prediction: see above")


def _opened(
    images: Iterable[Path], read: Callable[[Path], "Image"], given: int
) -> Iterator[tuple[Path, "Image"]]:
    """Read images; print why one is unusable, or raise it where no other was given."""
    for image in images:
        try:
            opened = read(image)
        except (ValueError, OSError) as error:
            if given == 1:
                raise
            print(f"error: {error}", file=sys.stderr)
        else:
            yield image, opened


def _predict_catalog(options: argparse.Namespace, job: "BatchConfig") -> None:
    with importing():
        from phi_vision.data.template import find_template
        from phi_vision.inference.batch import job_spec, predict_catalog
        from phi_vision.inference.local import resolve_template
        from phi_vision.prepare.sources.files import IMAGE_SUFFIXES

    if len(options.images) != 1 or Path(options.images[0]).suffix.lower() in IMAGE_SUFFIXES:
        raise failure("not_one_source", found=join_few(options.images))
    template = find_template(resolve_template(options.model, options.template))
    grammar, size = _chosen_grammar(options, template), options.batch_size
    acceptance = _load_acceptance(options, template, grammar)
    given = {"template": options.template, "grammar": grammar, "batch_size": size}
    spec = job_spec(options.model, **given, acceptance=acceptance)
    with _shown_progress() as progress:
        summary = predict_catalog(Path(options.images[0]), spec, job, progress)
    print(f"{job.out}: {_in_words(summary)}", file=sys.stderr)
    if options.json:
        target = acceptance.target if acceptance else None
        values = {"out": job.out, **vars(summary), "target_precision": target}
        print(json.dumps(as_plain(values), ensure_ascii=False))
    elif acceptance is not None and acceptance.target is not None:
        shares = [f"{name} {format_percent(share)}" for name, share in summary.coverage.items()]
        promise = f"no review needed at a precision of {acceptance.target:g}"
        print(f"{promise}: {', '.join(shares)} of the rows", file=sys.stderr)


@contextmanager
def _shown_progress() -> Iterator[Callable[[int, int], None]]:
    """Show progress: a bar on a terminal, else a line now and then; on Ctrl-C what is kept."""
    latest, told_at = (0, 0), 0.0
    with progress_bar("rows") as move:

        def show(done: int, total: int) -> None:
            nonlocal latest, told_at
            latest = done, total
            move(done, total)
            if not sys.stderr.isatty() and time.monotonic() - told_at > PROGRESS_INTERVAL:
                told_at = time.monotonic()
                print(f"{done:,} of {total:,} rows", file=sys.stderr, flush=True)

        try:
            yield show
        except KeyboardInterrupt:
            kept = f"{latest[0]:,} of {latest[1]:,} rows are predicted and kept"
            raise KeyboardInterrupt(f"{kept}; the same command resumes") from None


def _in_words(summary: "BatchSummary") -> str:
    """Format a summary.

    Output: 3,040 rows, 12 unparsed, 9 errors (5 no image, 4 unreadable image; see the column
            error_detail), 3,040 predicted now, 12.3 rows/s
    """
    errors = sum(summary.errors.values())
    reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(summary.errors.items()))
    reasons += "; see the column error_detail" if reasons else ""
    parts = [f"{summary.rows:,} rows", f"{summary.unparsed:,} unparsed"]
    parts.append(format_count(errors, "error") + (f" ({reasons})" if reasons else ""))
    if summary.predicted:
        speed = summary.predicted / summary.seconds
        parts.append(f"{summary.predicted:,} predicted now, {speed:.3g} rows/s")
    return ", ".join(parts)


def _load_acceptance(
    options: argparse.Namespace, template: "Template", grammar: str | None
) -> "Acceptance | None":
    from phi_vision.metrics.thresholds import load_acceptance

    target, constrained = options.target_precision, grammar is not None
    return load_acceptance(options.model, template, target=target, constrained=constrained)


def _chosen_grammar(options: argparse.Namespace, template: "Template") -> str | None:
    from phi_vision.data.dataset import load_samples
    from phi_vision.data.template_grammar import grammar_of, known_categories

    if options.categories_of is not None:
        training = load_samples(options.categories_of, split="train")
        return grammar_of(template, known_categories(training, template))
    return grammar_of(template) if options.constrained else None


def find_images(name: str) -> list[Path]:
    """Find the images that a command-line argument selects.

    Input:  coat.jpg     shoes/                           'shoes/*.png'
    Output: that file    all images in it, by name      the files that match, by name
    """
    from phi_vision.inference.batch_catalog import list_images
    from phi_vision.prepare.sources.files import IMAGE_SUFFIXES
    from phi_vision.runs import RECIPE_FILE

    if "://" in name:
        raise failure("link", name=name)
    path = Path(name)
    pattern = str(path.relative_to(path.anchor))  # Path.glob takes no absolute pattern
    if path.is_dir():
        found = [path / name for name in list_images(path)]
    else:
        found = [path] if path.exists() else sorted(Path(path.anchor).glob(pattern))
    ending, places = path.suffix.lower(), (path, path / "data")  # of a dataset's shards
    if ending == ".parquet" or (not found and any(any(at.glob("*.parquet")) for at in places)):
        raise failure("samples", name=name)
    if ending in TABLES:
        raise failure("table", name=name)
    if not found:
        what = "nothing" + suggestion(path)
        what = f"a folder without any ({', '.join(IMAGE_SUFFIXES)})" if path.is_dir() else what
        kept = path / RECIPE_FILE, path / "config.json"
        if name.startswith("phi-vision-") or any(map(Path.is_file, kept)):
            what = "a model, which stands before the images"
        raise failure("no_image", name=name, found=what)
    return found


def _as_json(prediction: "Prediction", acceptance: "Acceptance | None") -> str:
    fields: dict[str, object] = {"image": prediction.source, "record": prediction.record}
    fields |= {"confidence": dict(prediction.confidence), "text": prediction.text}
    if acceptance is not None:
        calibrated, accept, paths = acceptance.decide(prediction)
        fields |= {"target_precision": acceptance.target, "calibrated": calibrated}
        fields |= {"accept": accept, "accepted_path": paths}
    return json.dumps(fields, ensure_ascii=False)


def _as_line(prediction: "Prediction", acceptance: "Acceptance | None") -> str:
    """Format a prediction.

    Output: coat.jpg: shelf=Tops > Coats, full_price=390.0; accept full_price; review shelf, whole
            record; shelf as far as Tops
    """
    if prediction.record is None:
        return f"{prediction.source}: the output does not parse: {prediction.text!r}"
    fields = ", ".join(f"{name}={value}" for name, value in prediction.record.items())
    parts = []
    if acceptance is not None:
        from phi_vision.data.acceptance import RECORD

        _, accept, paths = acceptance.decide(prediction)
        for word, wanted in (("accept", True), ("review", False)):
            shown = (*acceptance.fields, RECORD) if accept else ()
            if names := [name for name in shown if accept[name] == wanted]:
                parts.append(f"{word} {', '.join(names)}")
        parts += [f"{path} as far as {part}" for path, part in paths.items() if part is not None]
    return f"{prediction.source}: {fields}" + ("; " + "; ".join(parts) if parts else "")
