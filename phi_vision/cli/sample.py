"""`phi-vision sample`: draw the sample catalog, or data like an existing dataset."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from phi_vision.cli.options import failure
from phi_vision.cli.progress import progress_bar
from phi_vision.cli.reporting import CommandReport


def run(options: argparse.Namespace) -> CommandReport:
    """Generate sample data: product images with their records."""
    if options.attributes and options.like is not None:
        raise failure("attributes_of_other_data", like=options.like)
    if options.faults is None:
        measured = _draw(options, options.out)
        text = [f"{options.rows} products are in {options.out}"]
        if options.like is not None:
            page = options.out / "fidelity.md"
            text.append(f"Their fidelity to {options.like} is in {page}")
        kind = "facts" if options.like is None else "fidelity"
        return CommandReport({"folder": options.out, "rows": options.rows, kind: measured}, text)
    from phi_vision.io.atomic import temporary_folder
    from phi_vision.synthetic.corrupted_export import write_export

    with temporary_folder(options.out.parent) as folder:
        clean = folder / "clean"
        _draw(options, clean)
        table = write_export(clean, options.out, rate=options.faults, seed=options.seed)
    faults = table.parent / "faults.jsonl"
    text = [f"The export is {table}; its corruptions are listed in {faults}"]
    return CommandReport({"table": table, "faults": faults, "rows": options.rows}, text)


def _draw(options: argparse.Namespace, out: Path) -> Any:
    from phi_vision.synthetic.catalog import write_catalog
    from phi_vision.synthetic.sample_like import write_sample_like

    drawn = partial(write_catalog, with_attributes=options.attributes)
    write = partial(write_sample_like, options.like) if options.like else drawn
    with progress_bar("drawing") as advance:
        return write(out, rows=options.rows, seed=options.seed, progress=advance)
