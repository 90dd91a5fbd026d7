"""`phi-vision prepare`: any source becomes a clean dataset."""

import argparse
from pathlib import Path

from phi_vision.cli.options import Parser, add_fields, add_listed, given_fields
from phi_vision.cli.progress import preparation_bars
from phi_vision.cli.reporting import CommandReport


def add_options(parser: Parser) -> None:
    """Declare the options: every field of a PrepareConfig."""
    from phi_vision.prepare.prepare_config import PrepareConfig

    add_listed(parser, "prepare")
    add_fields(parser, PrepareConfig, {"": PrepareConfig(out=Path())}, skip=["out"])


def run(options: argparse.Namespace) -> CommandReport:
    """Convert any source into a clean dataset, accounting for every row."""
    from phi_vision.prepare.pipeline import prepare as run_preparation
    from phi_vision.prepare.prepare_config import PrepareConfig

    given = given_fields(options, PrepareConfig)
    with preparation_bars() as callbacks:
        prepared = run_preparation(options.source, PrepareConfig(**given), callbacks)
    metadata, text = prepared.metadata, list[str]()
    for reason, rows in dict(metadata["rejected"]).items():
        text.append(f"  rejected: {rows:>6}  {reason}")
    for split, (samples, groups) in dict(metadata["splits"]).items():
        text.append(f"  {split + ':':<11}{samples:>6}  in {groups} groups")
    for field, (count, share) in dict(metadata.get("missing", {})).items():
        phrase = f"trained as “{metadata['template']['missing']}”"
        text.append(f"  missing:  {count:>6}  {field} ({share}), {phrase}")
    if answer := metadata["answer"]:
        text.append(f"  the answer's order is {answer['order']}: {answer['reason']}")
    for about, words in dict(metadata["warnings"]).items():
        text.append(f"  warning: {about}: {words}")
    changed = "" if prepared.changed else ", unchanged"
    counts = f"{metadata['samples']} samples of {metadata['rows']} rows"
    text.append(f"{counts} are in {prepared.folder}{changed}")
    card = prepared.folder / "card.html"
    text.append(f"The data card is {card}")
    values = {"folder": prepared.folder, "changed": prepared.changed, "card": card, **metadata}
    return CommandReport(values, text)
