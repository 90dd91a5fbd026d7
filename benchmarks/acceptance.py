"""The promised precision on held-out products: simulated evaluations of an evaluated run.

    python -m benchmarks.acceptance RUN CATALOG [SIMULATIONS]

RUN predicts CATALOG, a drawn one of another seed than its data, into acceptance.parquet beside it.
Each simulation draws groups of products, chooses thresholds on them as `phi-vision predict
--target-precision` does, and measures the precision of what they accept of all other products.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phi_vision.data.acceptance import Acceptance
from phi_vision.data.dataset import load_samples
from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.template import Template, find_template
from phi_vision.inference.batch import job_spec, predict_catalog
from phi_vision.inference.batch_catalog import BatchConfig
from phi_vision.inference.local import resolve_template
from phi_vision.metrics.field_metrics import is_field_correct
from phi_vision.metrics.thresholds import choose_acceptance

GROUPS = (71, 142, 284)  # of an evaluation; the run of `make demo` has 142, of 305 products
TARGETS = (0.7, 0.8, 0.9, 0.95)


def main(run: str, catalog: str, simulations: str = "200") -> None:
    """Predict the catalog unless that is done, and print a table of simulations."""
    template = find_template(resolve_template(run))
    pool = predict_pool(run, Path(catalog), template)
    print(f"{len(pool)} products in {len({each.group for each in pool})} groups")
    print("groups  target  name            chosen  held  lowest  precision  coverage")
    for groups in GROUPS:
        for target in TARGETS:
            simulate(pool, template, groups, target, int(simulations))


def predict_pool(run: str, catalog: Path, template: Template) -> list[ScoredPrediction]:
    """Predict all products of a catalog; an interruption resumes."""
    out = catalog.with_name("acceptance.parquet")
    predict_catalog(catalog, job_spec(run), BatchConfig(out=out))
    samples = {sample.id: sample for sample in load_samples(catalog)}
    pool = []
    for row in pq.read_table(out).to_pylist():
        confidence = {field: row[f"confidence_{field}"] for field in template.fields}
        known = {field: each for field, each in confidence.items() if each is not None}
        prediction = Prediction.parse(row["text"] or "", template, confidence=known)
        sample = samples[row["id"]]
        truth = template.select(sample.record)
        pool.append(
            ScoredPrediction(id=sample.id, group=sample.group, truth=truth, prediction=prediction)
        )
    return pool


def simulate(
    pool: list[ScoredPrediction], template: Template, groups: int, target: float, simulations: int
) -> None:
    """Print for each field how often a threshold was chosen, and how often it kept its promise."""
    names, group_of = np.unique([each.group for each in pool], return_inverse=True)
    confidence, correct = as_columns(pool, template)
    precisions: dict[str, list[float]] = {}
    coverages: dict[str, list[float]] = {}
    draw = np.random.default_rng(0)
    for _ in range(simulations):
        is_evaluated = np.isin(group_of, draw.permutation(len(names))[:groups])
        some = [pool[place] for place in np.flatnonzero(is_evaluated)]
        acceptance = choose_acceptance(some, template, target=target)
        for name, accepted in accept(acceptance, confidence).items():
            rest = accepted & ~is_evaluated
            if rest.any():
                precisions.setdefault(name, []).append(float(correct[name][rest].mean()))
                coverages.setdefault(name, []).append(float(rest.sum() / (~is_evaluated).sum()))
    for name, measured in precisions.items():
        # Where nothing is accepted, nothing wrong is: the promise holds.
        missed = sum(precision < target for precision in measured)
        print(
            f"{groups:6}  {target:6}  {name:14}  {len(measured) / simulations:6.2f}  "
            f"{1 - missed / simulations:.3f}  {min(measured):6.3f}  {np.mean(measured):9.3f}  "
            f"{np.mean(coverages[name]):8.3f}",
            flush=True,
        )


def accept(
    acceptance: Acceptance, confidence: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.bool_]]:
    """Decide as the table of `phi-vision predict --out` does."""
    return acceptance.accept(acceptance.calibrate(confidence))


def as_columns(
    pool: list[ScoredPrediction], template: Template
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.bool_]]]:
    """Return by field the raw confidence, NaN where unknown, and whether each is right."""
    confidence = {
        field: np.array([each.prediction.confidence.get(field, np.nan) for each in pool])
        for field in template.fields
    }
    correct = {
        field: np.array([is_field_correct(template, field, each) for each in pool])
        for field in template.fields
    }
    return confidence, correct | {"whole record": np.all([*correct.values()], axis=0)}


if __name__ == "__main__":
    main(*sys.argv[1:])
