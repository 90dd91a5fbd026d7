"""The front door: `phi-vision COMMAND`, one short function for each of `COMMANDS`.

The rooms are opened inside the commands, so that `--help` answers at once. Only this file prints.
A user's mistake (ValueError, OSError) becomes one line on stderr and exit code 2.
"""

import argparse
import itertools
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision import __version__
from phi_vision.bars import preparation_bars, progress_bar
from phi_vision.options import (
    Parser,
    accepted_by,
    add_fields,
    at_least,
    given_fields,
    one_of,
    suggestion,
    value_of,
)

if TYPE_CHECKING:
    from phi_vision.deploy.predict import Prediction, Predictor
    from phi_vision.train.recipes import Recipe

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130
"""What shells report for Ctrl-C: 128 + SIGINT."""

PICTURE_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""What `predict` takes out of a folder."""

PLAIN_WORDING = "product"
"""Template for a model that is no run of ours."""

TABLE_WIDTH = 150
"""Columns of a table that does not go to a terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    Args:
        arguments: Words of the command line, without the program's name; those of this process
            by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        run(words)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (ValueError, OSError) as error:
        if words[:1] == ["--traceback"]:
            raise
        print("phi-vision: error:", *str(error).split(), file=sys.stderr)
        return EXIT_MISTAKE
    return 0


def run(words: Sequence[str]) -> None:
    """Read the command line and run the command it names."""
    flags = list(itertools.takewhile(lambda word: word.startswith("-"), words))
    name = front_parser().read(words[: len(flags) + 1]).command
    options = command_parser(name).read(words[len(flags) + 1 :])
    prepare_messages()
    COMMANDS[name].run(options)


def prepare_messages() -> None:
    """Show what the rooms log, and of the libraries only what a user can act on."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("phi_vision").setLevel(logging.INFO)
    # TRL would tell its makers which model is trained on how many devices.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Other libraries import bitsandbytes, which then misses a kernel that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)  # Told to programmers, about other libraries.
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def front_parser() -> Parser:
    """Build the parser of everything up to the command's name."""
    listing = "\n".join(f"  {name:<10}{command.run.__doc__}" for name, command in COMMANDS.items())
    parser = Parser(
        prog="phi-vision",
        usage="phi-vision [--traceback] COMMAND ...",
        description="Teach Phi-3-Vision to read a product photo and write its record.",
        epilog=f"commands:\n{listing}\n\nphi-vision COMMAND --help lists a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"phi-vision {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.add_argument("command", metavar="COMMAND", type=one_of(COMMANDS), help=argparse.SUPPRESS)
    return parser


def command_parser(name: str) -> Parser:
    """Build the parser of one command's own words."""
    parser = Parser(prog=f"phi-vision {name}", description=COMMANDS[name].run.__doc__)
    COMMANDS[name].add_options(parser)
    return parser


def add_prepare_options(parser: Parser) -> None:
    """Declare what `phi-vision prepare` takes: every field of a Preparation is an option."""
    from phi_vision.intake.prepare import Preparation

    parser.usage = "%(prog)s SOURCE --out DIR [--map PART=COLUMN ...] [an option ...]"
    source = "file, folder, pattern of tar shards, or hub id"
    parser.add_argument("source", metavar="SOURCE", help=source)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    add_fields(parser, Preparation, {"": Preparation(out=Path())}, skip=["out"])


def prepare(options: argparse.Namespace) -> None:
    """Turn any catalogue into a clean dataset of samples, and say what became of every row."""
    from phi_vision.intake.prepare import Preparation
    from phi_vision.intake.prepare import prepare as run_preparation

    given = given_fields(options, Preparation)
    with preparation_bars() as watcher:
        outcome = run_preparation(options.source, Preparation(**given), watcher)
    facts = outcome.facts
    for reason, rows in dict(facts["rejected"]).items():
        print(f"  rejected: {rows:>6}  {reason}")
    for split, (samples, groups) in dict(facts["splits"]).items():
        print(f"  {split + ':':<11}{samples:>6}  in {groups} groups")
    print(f"{facts['samples']} samples of {facts['rows']} rows are in {outcome.folder}", end="")
    print("" if outcome.changed else ", as they were before")
    print(f"The card is {outcome.folder / 'card.html'}")


def add_sample_options(parser: Parser) -> None:
    """Declare what `phi-vision sample` takes."""
    rows = "how many products to draw (default: %(default)s)"
    parser.add_argument("--rows", type=at_least(1), default=3040, metavar="N", help=rows)
    seed = "same seed, same bytes (default: %(default)s)"
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help=seed)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    like = "resemble this dataset, or the profile.json of one, without anything real in it"
    parser.add_argument("--like", type=Path, metavar="DATASET", help=like)
    faults = (
        "write the catalogue as a shop's export (products.csv and pictures) with faults planted in "
        "this share of the rows, listed in faults.jsonl"
    )
    parser.add_argument("--faults", type=value_of(float), metavar="RATE", help=faults)


def sample(options: argparse.Namespace) -> None:
    """Draw a sample catalogue: product pictures with their records."""
    if options.faults is None:
        draw_sample(options, options.out)
        return
    from phi_vision.likeness.export import write_export

    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out.parent) as folder:
        draw_sample(options, Path(folder) / "clean")
        table = write_export(
            Path(folder) / "clean", options.out, rate=options.faults, seed=options.seed
        )
    print(f"The export is {table}; its faults are listed in {table.parent / 'faults.jsonl'}")


def draw_sample(options: argparse.Namespace, out: Path) -> None:
    """Draw a catalogue of our own, or one like another."""
    with progress_bar("drawing") as advance:
        if options.like is None:
            from phi_vision.studio.catalog import write_catalog

            write_catalog(out, rows=options.rows, seed=options.seed, progress=advance)
        else:
            from phi_vision.likeness.likeness import write_likeness

            write_likeness(
                options.like, out, rows=options.rows, seed=options.seed, progress=advance
            )
    if out == options.out:
        print(f"{options.rows} products are in {out}")
        if options.like is not None:
            print(f"How close they are to {options.like} is told in {out / 'likeness.md'}")


def add_train_options(parser: Parser) -> None:
    """Declare what `phi-vision train` takes: every field of a recipe is an option."""
    dry_run = "check everything, print the recipe and the plan, write nothing"
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    resume = "go on from the last checkpoint of the run in --out"
    parser.add_argument("--resume", action="store_true", help=resume)
    parser.usage = "%(prog)s RECIPE --data DATA [--dry-run] [--resume] [a field of the recipe ...]"
    add_recipe_options(parser)


def train(options: argparse.Namespace) -> None:
    """Fine-tune a model on pictures with records."""
    recipe = chosen_recipe(options)
    if options.dry_run:
        from phi_vision.plan.plan import make_plan
        from phi_vision.train.preparing import prepare
        from phi_vision.train.recipe_file import to_yaml

        prepare(recipe)
        foretold = make_plan(recipe).as_text().splitlines()
        print(to_yaml(recipe) + "".join(f"# {line}\n" for line in foretold), end="")
        return
    from phi_vision.train.processes import is_main
    from phi_vision.train.trainer import train as run_recipe

    run = run_recipe(recipe, resume=options.resume)
    if is_main():
        print(f"The run is in {run.folder}, the model in {run.model}")


def add_plan_options(parser: Parser) -> None:
    """Declare what `phi-vision plan` takes: a recipe as for `train`, and a card."""
    card = "the card to train on, such as H100 or L4 (default: this machine)"
    parser.add_argument("--card", metavar="NAME", help=card)
    parser.usage = "%(prog)s RECIPE --data DATA [--card NAME] [a field of the recipe ...]"
    add_recipe_options(parser)


def plan(options: argparse.Namespace) -> None:
    """Say what a training will take before it is spent: tokens, steps, memory, time, cards."""
    from phi_vision.plan.plan import make_plan

    print(make_plan(chosen_recipe(options), card=options.card).as_text(), end="")


def add_pairs_options(parser: Parser) -> None:
    """Declare what `phi-vision pairs` takes."""
    from phi_vision.data.template import TEMPLATES, find_template

    parser.add_argument("data", type=Path, metavar="DATA", help="folder of samples")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    wording = f"{', '.join(TEMPLATES)} or a YAML file (default: the data's own, else product)"
    parser.add_argument("--template", type=accepted_by(find_template), metavar="NAME", help=wording)
    pairs = "wrong answers beside each right one (default: %(default)s)"
    parser.add_argument("--pairs-per-sample", type=at_least(1), default=1, metavar="N", help=pairs)
    seed = "same seed, same pairs (default: %(default)s)"
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help=seed)


def pairs(options: argparse.Namespace) -> None:
    """Put a plausible wrong answer beside each right one, to train preferences on (dpo)."""
    from phi_vision.intake.preferences import write_pairs

    with progress_bar("pairing") as advance:
        made = write_pairs(
            options.data,
            options.out,
            template=options.template,
            pairs_per_sample=options.pairs_per_sample,
            seed=options.seed,
            progress=advance,
        )
    for field, count in made.changed.items():
        print(f"  wrong {field + ':':<18}{count:>6}")
    if made.left_out:
        print(
            f"  left out: {made.left_out} samples for which the catalogue has nothing else to say"
        )
    print(f"{sum(made.splits.values())} pairs are in {made.folder}")


def add_recipe_options(parser: Parser) -> None:
    """Declare a recipe and, as options, each of its fields."""
    from phi_vision.train.recipes import RECIPES, Recipe

    names = ", ".join(RECIPES)
    parser.add_argument("recipe", metavar="RECIPE", help=f"{names}, or the recipe.yaml of a run")
    add_fields(parser, Recipe, {name: make() for name, make in RECIPES.items()})


def chosen_recipe(options: argparse.Namespace) -> "Recipe":
    """Take the recipe that was named, with the fields that were given."""
    from phi_vision.train.recipes import Recipe

    return replace(starting_recipe(options.recipe), **given_fields(options, Recipe))


def starting_recipe(name: str) -> "Recipe":
    """Take a recipe by its name, or from a YAML file.

    Raises:
        ValueError: It is neither a known name nor a readable file.
    """
    from phi_vision.train.recipe_file import load_recipe
    from phi_vision.train.recipes import RECIPES

    if name in RECIPES:
        return RECIPES[name]()
    if Path(name).exists() or Path(name).suffix in (".yaml", ".yml"):
        return load_recipe(Path(name))
    raise ValueError(
        f"no recipe {name!r}{suggestion(name, RECIPES)}; "
        f"choose from {', '.join(RECIPES)}, or give the recipe.yaml of a run"
    )


def add_evaluate_options(parser: Parser) -> None:
    """Declare what `phi-vision evaluate` takes."""
    add_model_options(parser)
    data = "folder of samples, with a train split for the baselines"
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help=data)
    split = "part of the data to judge on (default: %(default)s)"
    parser.add_argument("--split", default="test", metavar="NAME", help=split)
    report = "folder to write the report to"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=report)
    limit = "judge on the first samples only"
    parser.add_argument("--limit", type=at_least(1), metavar="N", help=limit)
    canary = "judge also with pictures swapped between samples: a model that looks then does badly"
    parser.add_argument(
        "--shuffled", action=argparse.BooleanOptionalAction, default=True, help=canary
    )


def evaluate(options: argparse.Namespace) -> None:
    """Judge a model on a held-out part of the data, beside baselines."""
    from rich.console import Console

    from phi_vision.data.loading import load_samples
    from phi_vision.evaluate.report import as_table, write_report
    from phi_vision.evaluate.score import score

    samples = load_samples(options.data, split=options.split)[: options.limit]
    training = load_samples(options.data, split="train")
    predictor = load_predictor(options)
    with progress_bar("answering") as advance:
        scores = score(
            predictor.answer,
            samples,
            predictor.template,
            baselines_from=training,
            shuffled=options.shuffled,
            floor=noise_floor(options.data, options.split),
            progress=advance,
        )
    page = write_report(scores, samples, options.out)
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(as_table(scores))
    print(scores.canary)
    print(f"The report is {page}")


def add_predict_options(parser: Parser) -> None:
    """Declare what `phi-vision predict` takes."""
    add_model_options(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture, folder or 'glob*.jpg'")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def predict(options: argparse.Namespace) -> None:
    """Read the record off each picture."""
    from phi_vision.data.sample import open_picture

    pictures = [picture for name in options.images for picture in find_pictures(name)]
    for picture in pictures:  # All of them, before the model is loaded and anything is printed.
        open_picture(picture)
    predictor = load_predictor(options)
    write = as_json if options.json else as_line
    for start in range(0, len(pictures), options.batch_size):
        for prediction in predictor.predict(pictures[start : start + options.batch_size]):
            print(write(prediction), flush=True)


def add_model_options(parser: Parser) -> None:
    """Declare which model answers, and how it is asked."""
    from phi_vision.data.template import TEMPLATES, find_template

    model = "run, checkpoint or adapter folder, hub id, or phi-vision-small"
    parser.add_argument("model", metavar="MODEL", help=model)
    template = (
        f"wording: {', '.join(TEMPLATES)} or a YAML file "
        f"(default: the one of the run, else {PLAIN_WORDING})"
    )
    parser.add_argument(
        "--template", type=accepted_by(find_template), metavar="NAME", help=template
    )
    batch = "pictures read together (default: %(default)s)"
    parser.add_argument("--batch-size", type=at_least(1), default=16, metavar="N", help=batch)


def load_predictor(options: argparse.Namespace) -> "Predictor":
    """Load the model that was asked for; a run is asked in the wording it was trained with."""
    from phi_vision.data.template import TEMPLATE_FILE
    from phi_vision.deploy.predict import Predictor

    is_run = (Path(options.model) / TEMPLATE_FILE).is_file()
    template = options.template or (options.model if is_run else PLAIN_WORDING)
    return Predictor(options.model, template=template, batch_size=options.batch_size)


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
    fields = {"image": prediction.source, "record": prediction.record, "text": prediction.text}
    return json.dumps(fields, ensure_ascii=False)


def as_line(prediction: "Prediction") -> str:
    """Write a prediction as one line to read.

    Output: coat.jpg: title=Wool Coat, category3_code=COATS, full_price=390.0
    """
    if prediction.record is None:
        return f"{prediction.source}: no record in the answer {prediction.text!r}"
    fields = ", ".join(f"{name}={value}" for name, value in prediction.record.items())
    return f"{prediction.source}: {fields}"


def noise_floor(data: Path, split: str) -> Mapping[str, float]:
    """Read the best reachable figures that `phi-vision sample` wrote beside its catalogue.

    Output: {"category_accuracy": 1.0, "price_median_ape": 0.05, "price_mae": 21.4}
    """
    file = data / "facts.json"
    if not file.is_file():
        return {}
    facts = json.loads(file.read_text(encoding="utf-8"))
    of_split = facts["splits"][split]
    return {
        "category_accuracy": facts["category_ceiling"],
        "price_median_ape": of_split["floor_median_ape"],
        "price_mae": of_split["floor_mae"],
    }


@dataclass(frozen=True, kw_only=True)
class Command:
    """One word after `phi-vision`."""

    add_options: Callable[[Parser], None]
    """Declares its options."""

    run: Callable[[argparse.Namespace], None]
    """Does its work; the docstring describes it in the help."""


COMMANDS = {
    "prepare": Command(add_options=add_prepare_options, run=prepare),
    "sample": Command(add_options=add_sample_options, run=sample),
    "pairs": Command(add_options=add_pairs_options, run=pairs),
    "plan": Command(add_options=add_plan_options, run=plan),
    "train": Command(add_options=add_train_options, run=train),
    "evaluate": Command(add_options=add_evaluate_options, run=evaluate),
    "predict": Command(add_options=add_predict_options, run=predict),
}
"""Name -> command."""
