"""`phi-vision sample`: draw the sample catalog, or data like an existing dataset."""

import argparse
from pathlib import Path

from phi_vision.cli.options import Parser, at_least, value_of
from phi_vision.cli.progress import progress_bar


def add_options(parser: Parser) -> None:
    """Declare the options of `phi-vision sample`."""
    rows = "number of products (default: %(default)s)"
    parser.add_argument("--rows", type=at_least(1), default=3040, metavar="N", help=rows)
    seed = "random seed; the same seed gives the same bytes (default: %(default)s)"
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help=seed)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    like = "model the data on this dataset, or on a profile.json, without any real value in it"
    parser.add_argument("--like", type=Path, metavar="DATASET", help=like)
    faults = (
        "write the catalog as a shop's export (products.csv and images) with corruptions in "
        "this fraction of the rows, listed in faults.jsonl"
    )
    parser.add_argument("--faults", type=value_of(float), metavar="RATE", help=faults)


def run(options: argparse.Namespace) -> None:
    """Generate sample data: product images with their records."""
    if options.faults is None:
        draw_sample(options, options.out)
        print(f"{options.rows} products are in {options.out}")
        if options.like is not None:
            print(f"Their fidelity to {options.like} is in {options.out / 'fidelity.md'}")
        return
    from phi_vision.io.atomic import temporary_folder
    from phi_vision.synthetic.corrupted_export import write_export

    with temporary_folder(options.out.parent) as folder:
        clean = folder / "clean"
        draw_sample(options, clean)
        table = write_export(clean, options.out, rate=options.faults, seed=options.seed)
    print(f"The export is {table}; its corruptions are listed in {table.parent / 'faults.jsonl'}")


def draw_sample(options: argparse.Namespace, out: Path) -> None:
    """Draw the sample catalog, or data like another."""
    with progress_bar("drawing") as advance:
        if options.like is None:
            from phi_vision.synthetic.catalog import write_catalog

            write_catalog(out, rows=options.rows, seed=options.seed, progress=advance)
        else:
            from phi_vision.synthetic.sample_like import write_sample_like

            sizes = {"rows": options.rows, "seed": options.seed}
            write_sample_like(options.like, out, **sizes, progress=advance)
