"""`phi-vision sample`: draw the sample catalog, or data like an existing dataset."""

import argparse
from functools import partial
from pathlib import Path

from phi_vision.cli.options import failure
from phi_vision.cli.progress import progress_bar


def run(options: argparse.Namespace) -> None:
    """Generate sample data: product images with their records."""
    if options.attributes and options.like is not None:
        raise failure("attributes_of_other_data", like=options.like)
    if options.faults is None:
        _draw(options, options.out)
        print(f"{options.rows} products are in {options.out}")
        if options.like is not None:
            print(f"Their fidelity to {options.like} is in {options.out / 'fidelity.md'}")
        return
    from phi_vision.io.atomic import temporary_folder
    from phi_vision.synthetic.corrupted_export import write_export

    with temporary_folder(options.out.parent) as folder:
        clean = folder / "clean"
        _draw(options, clean)
        table = write_export(clean, options.out, rate=options.faults, seed=options.seed)
    print(f"The export is {table}; its corruptions are listed in {table.parent / 'faults.jsonl'}")


def _draw(options: argparse.Namespace, out: Path) -> None:
    from phi_vision.synthetic.catalog import write_catalog
    from phi_vision.synthetic.sample_like import write_sample_like

    drawn = partial(write_catalog, with_attributes=options.attributes)
    write = partial(write_sample_like, options.like) if options.like else drawn
    with progress_bar("drawing") as advance:
        write(out, rows=options.rows, seed=options.seed, progress=advance)
