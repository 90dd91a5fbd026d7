"""`phi-vision prepare`: any source becomes a clean dataset."""

import argparse
from pathlib import Path

from phi_vision.cli.options import Parser, add_fields, add_listed, given_fields
from phi_vision.cli.progress import preparation_bars


def add_options(parser: Parser) -> None:
    """Declare the options: every field of a PrepareConfig."""
    from phi_vision.prepare.prepare_config import PrepareConfig

    add_listed(parser, "prepare")
    add_fields(parser, PrepareConfig, {"": PrepareConfig(out=Path())}, skip=["out"])


def run(options: argparse.Namespace) -> None:
    """Convert any source into a clean dataset, accounting for every row."""
    from phi_vision.prepare.pipeline import prepare as run_preparation
    from phi_vision.prepare.prepare_config import PrepareConfig

    given = given_fields(options, PrepareConfig)
    with preparation_bars() as callbacks:
        prepared = run_preparation(options.source, PrepareConfig(**given), callbacks)
    metadata = prepared.metadata
    for reason, rows in dict(metadata["rejected"]).items():
        print(f"  rejected: {rows:>6}  {reason}")
    for split, (samples, groups) in dict(metadata["splits"]).items():
        print(f"  {split + ':':<11}{samples:>6}  in {groups} groups")
    for field, (count, share) in dict(metadata.get("missing", {})).items():
        phrase = f"trained as “{metadata['template']['missing']}”"
        print(f"  missing:  {count:>6}  {field} ({share}), {phrase}")
    if answer := metadata["answer"]:
        print(f"  the answer's order is {answer['order']}: {answer['reason']}")
    for about, text in dict(metadata["warnings"]).items():
        print(f"  warning: {about}: {text}")
    changed = "" if prepared.changed else ", unchanged"
    counts = f"{metadata['samples']} samples of {metadata['rows']} rows"
    print(f"{counts} are in {prepared.folder}{changed}")
    print(f"The data card is {prepared.folder / 'card.html'}")
