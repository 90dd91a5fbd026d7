"""`phi-vision pairs`: preference pairs for DPO."""

import argparse

from phi_vision.cli.progress import progress_bar


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
