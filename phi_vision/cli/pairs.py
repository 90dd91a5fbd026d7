"""`phi-vision pairs`: preference pairs for DPO."""

import argparse
from pathlib import Path

from phi_vision.cli.options import Parser, accepted_by, at_least
from phi_vision.cli.progress import progress_bar


def add_options(parser: Parser) -> None:
    """Declare the options."""
    from phi_vision.data.template import TEMPLATES, find_template

    parser.add_argument("data", type=Path, metavar="DATA", help="folder of samples")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    template = f"{', '.join(TEMPLATES)} or a YAML file (default: the data's own, else product)"
    known = accepted_by(find_template)
    parser.add_argument("--template", type=known, metavar="NAME", help=template)
    pairs = "rejected completions per sample (default: %(default)s)"
    parser.add_argument("--pairs-per-sample", type=at_least(1), default=1, metavar="N", help=pairs)
    seed = "random seed (default: %(default)s)"
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help=seed)


def run(options: argparse.Namespace) -> None:
    """Pair each true completion with a plausible wrong one, for preference training (dpo)."""
    from phi_vision.prepare.preference_pairs import write_pairs

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
        print(f"  skipped: {made.left_out} samples without an alternative value in the catalog")
    print(f"{sum(made.splits.values())} pairs are in {made.folder}")
