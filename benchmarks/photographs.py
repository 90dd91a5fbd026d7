"""Real photographs, split by group with several seeds: a fine-tuned model beside every baseline.

Each seed splits the data anew (`prepare --resplit`), trains, trains a twin without images, and
evaluates. Prints each metric's mean over the seeds, its range, and how often the model was
significantly better or worse than a baseline.

    python -m benchmarks.photographs ../shared/data/storefront-fashion runs/small
    python -m benchmarks.photographs ../shared/data/storefront-fashion runs/photo --recipe photo

`--model` takes a checkpoint of that kind in another place, and `--options` changes the recipe.
"""

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.tables import Table
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.scores import significance
from phi_vision.runs import RunDir

RECIPES = {
    "small": "full --num-train-epochs 6 --per-device-train-batch-size 16 --learning-rate 5e-4 "
    "--eval-samples 128",
    "photo": "photo",  # as `phi_vision.training.recipes.photo` and `make demo-photos` have it
}
"""Base, phi-vision-small or phi-vision-photo -> recipe and options of `phi-vision train`."""
BLIND = "--withhold-images --no-train-vision --no-train-projector"
SHOWN = (
    "parse_rate",
    "title_exact",
    "title_similarity",
    "category3_code_accuracy",
    "category3_code_hierarchical_f1",
    "full_price_median_ape",
    "full_price_mae",
)

Report = Mapping[str, Any]
"""The content of a scores.json."""


def main() -> None:
    """Prepare, train, evaluate and summarize."""
    parser = argparse.ArgumentParser(description="Evaluate a model on real photographs.")
    parser.add_argument("data", type=Path, help="folder of samples with photographs")
    parser.add_argument("out", type=Path, help="folder for data, runs and reports")
    parser.add_argument("--seeds", type=int, default=5, help="how many splits")
    parser.add_argument("--recipe", choices=RECIPES, default="small", help="how to train")
    parser.add_argument("--model", help="base to train (default: phi-vision-RECIPE)")
    parser.add_argument("--options", default="", help="further options of the training, as text")
    options = parser.parse_args()
    model = options.model or f"phi-vision-{options.recipe}"
    recipe = f"{RECIPES[options.recipe]} --model {model} {options.options} --report-to none"
    reports = []
    for seed in range(options.seeds):
        folder = options.out / str(seed)
        report = RunDir(folder / "run").report
        if not report.scores_file.is_file():
            run_split(options.data, folder, recipe, seed)
        reports.append(report.scores())
    print(as_markdown(reports))


def run_split(data: Path, folder: Path, recipe: str, seed: int) -> None:
    """Split, train a model and its twin, and evaluate, with the commands of the CLI."""
    samples, run, twin = (folder / name for name in ("samples", "run", "twin"))
    if not samples.is_dir():
        phi_vision(f"prepare {data} --numbers median --resplit --seed {seed} --out {samples}")
    for options, out in (("", run), (BLIND, twin)):
        if not out.is_dir():
            phi_vision(
                f"train {recipe} {options} --data {samples} --seed {seed} --output-dir {out}"
            )
    phi_vision(
        f"evaluate {run} --twin {twin} --data {samples} --seed {seed} "
        "--known-categories --target-precision 0.9"
    )


def phi_vision(words: str) -> None:
    """Run one command of this project."""
    print("phi-vision", words, file=sys.stderr, flush=True)
    call = "import sys; from phi_vision.cli.main import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", call, *words.split()], check=True, stdout=sys.stderr)


def as_markdown(reports: Sequence[Report]) -> str:
    """Format the means over the seeds: a row per metric, a column per system."""
    estimates = [report["estimates"] for report in reports]
    systems = [name for name in estimates[0] if all(name in each for each in estimates)]
    rows = [[metric, *(cell(reports, name, metric) for name in systems)] for metric in SHOWN]
    sizes = [f"{report['samples']} in {report['groups']} groups" for report in reports]
    table = Table(columns=systems, rows=rows).as_markdown()
    return f"{table}\nEvaluated on {'; '.join(sizes)}."


def cell(reports: Sequence[Report], system: str, metric: str) -> str:
    """Format a mean, its range, and the number of splits where the model was better or worse.

    Output: 0.152 (0.09–0.21), model better 3, worse 0
    """
    values = [report["estimates"][system].get(metric, {}).get("value") for report in reports]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    words = f"{fmean(known):.3f} ({min(known):.2f}–{max(known):.2f})"
    if system == "model":
        return words
    differences = [report["differences"][system].get(metric) for report in reports]
    found = Counter(
        significance(as_estimate(difference)) for difference in differences if difference
    )
    return f"{words}, model better {found['better']}, worse {found['worse']}"


def as_estimate(fields: Mapping[str, float | None]) -> Estimate:
    """Read a value of a scores.json; NaN for null."""
    value, low, high = (
        float("nan") if fields[name] is None else float(fields[name] or 0.0)
        for name in ("value", "low", "high")
    )
    return Estimate(value, low, high)


if __name__ == "__main__":
    main()
