"""`phi-vision pairs`: preference pairs for DPO."""

import argparse

from phi_vision.cli.progress import progress_bar
from phi_vision.cli.reporting import CommandReport


def run(options: argparse.Namespace) -> CommandReport:
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
    text = [f"  wrong {field + ':':<18}{count:>6}" for field, count in made.changed.items()]
    if made.left_out:
        text.append(
            f"  skipped: {made.left_out} samples without an alternative value in the catalog"
        )
    pairs = sum(made.splits.values())
    text.append(f"{pairs} pairs are in {made.folder}")
    return CommandReport({"pairs": pairs, **made._asdict()}, text)
