"""What image augmentation and the number of crops change: errors on held-out products, CPU-seconds.

    OMP_NUM_THREADS=1 python -m benchmarks.recipes_effect
    OMP_NUM_THREADS=1 python -m benchmarks.recipes_effect --rows 120 --epochs 1 --only plain

Draws a catalog, fine-tunes phi-vision-small on it for each variant and seed, all variants of a seed
in turn, and predicts products of another drawn catalog. A training has a feature cache of its own.
Prints a line for each run, and the mean over the seeds of each variant.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean

from phi_vision.data.augmentation import CHANGES
from phi_vision.data.dataset import load_samples
from phi_vision.inference.local import LocalPredictor
from phi_vision.io.process import CACHE_VARIABLE
from phi_vision.metrics.field_metrics import metrics_for
from phi_vision.synthetic.catalog import write_catalog
from phi_vision.training.recipes import Recipe, lora
from phi_vision.training.trainer import train

HELD_OUT_SEED = 1000
METRICS = ("category3_code_accuracy", "full_price_median_ape", "title_similarity")
BASE = lora(
    num_train_epochs=3.0,
    per_device_train_batch_size=8,
    learning_rate=2e-3,
    r=32,
    lora_alpha=64.0,
    train_projector=True,
    eval_samples=0,
    report_to="none",
)
"""As `make demo` trains, but for the epochs."""

VARIANTS: Mapping[str, Recipe] = {
    "plain": BASE,
    **{change: replace(BASE, augmentation=(change,)) for change in CHANGES},
    "all but hue": replace(BASE, augmentation=tuple(c for c in CHANGES if c != "hue")),
    **{f"num_crops {n}": replace(BASE, num_crops=n) for n in (1, 16)},
}
"""Name -> recipe; where no number of crops is named it is that of the base, 4."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The errors of a run on held-out products, and CPU-seconds of training and prediction."""

    category_accuracy: float
    price_error: float
    title_similarity: float
    training: float
    prediction: float


def measure(recipe: Recipe, held_out: Path, limit: int, scratch: Path) -> Effect:
    """Train, and predict the first products of the held-out catalog."""
    os.environ[CACHE_VARIABLE] = str(scratch / "cache")
    started = time.process_time()
    run = train(replace(recipe, output_dir=scratch / "run")).folder
    trained = time.process_time()
    predictor = LocalPredictor(run)
    samples = load_samples(held_out)[:limit]
    found = dict(predictor.predict_samples(samples))
    predicted = [found[place].record for place in range(len(samples))]
    ended = time.process_time()
    metrics, true = metrics_for(predictor.template), [sample.record for sample in samples]
    errors = [metrics[name](predicted, true) for name in METRICS]
    return Effect(
        category_accuracy=errors[0],
        price_error=errors[1],
        title_similarity=errors[2],
        training=trained - started,
        prediction=ended - trained,
    )


def show(name: str, effect: Effect) -> None:
    """Print the line of a run."""
    shown = "  ".join(f"{each.name} {getattr(effect, each.name):.3f}" for each in fields(effect))
    print(f"{name:16} {shown}", flush=True)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--held-out", type=int, default=300, help="products to predict")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    given = parser.parse_args()
    effects: dict[str, list[Effect]] = {name: [] for name in given.only}
    with tempfile.TemporaryDirectory() as scratch:
        catalogs = {seed: Path(scratch, str(seed)) for seed in (*given.seeds, HELD_OUT_SEED)}
        for seed, folder in catalogs.items():
            rows = given.held_out if seed == HELD_OUT_SEED else given.rows
            write_catalog(folder, rows=rows, seed=seed)
        for seed in given.seeds:
            for name, measured in effects.items():
                with tempfile.TemporaryDirectory(dir=scratch) as own:
                    recipe = replace(
                        VARIANTS[name],
                        data=str(catalogs[seed]),
                        seed=seed,
                        num_train_epochs=given.epochs,
                    )
                    try:
                        effect = measure(recipe, catalogs[HELD_OUT_SEED], given.held_out, Path(own))
                    except ValueError as problem:  # such as hue where titles name colours
                        print(f"{name:16} {problem}")
                        continue
                measured.append(effect)
                show(f"{name}, seed {seed}", effect)
    for name, measured in effects.items():
        if measured:
            means = {
                each.name: fmean(getattr(effect, each.name) for effect in measured)
                for each in fields(Effect)
            }
            show(name, Effect(**means))


if __name__ == "__main__":
    main()
