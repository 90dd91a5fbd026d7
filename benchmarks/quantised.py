"""The cost of quantisation: a run and its ONNX exports, scored by the same `evaluate`.

    python -m benchmarks.quantised RUN --data DATA --out FOLDER --limit 305

Exports the run as fp32, int8 and int4, scores all four on the same samples, and prints one table:
bytes of weights on disk, seconds per prediction, and metrics with their paired differences and 95 %
intervals. The run itself uses the precision that `phi-vision evaluate` chooses here. Existing
exports and evaluations are reused.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.tables import Table, lay_out
from phi_vision.evaluation.config import SKIPPABLE, EvaluationConfig
from phi_vision.evaluation.evaluator import run_evaluation
from phi_vision.evaluation.labels import format_difference
from phi_vision.evaluation.report import Report, read_report
from phi_vision.export.onnx import PRECISIONS, export_onnx
from phi_vision.io.formatting import format_number
from phi_vision.metrics.comparison import Comparison, compare
from phi_vision.model.checkpoint import adapter_base, resolve

TORCH = "torch"
METRICS = {
    "title_exact": "titles exactly right",
    "title_chrf": "titles: chrF",
    "category3_code_accuracy": "categories right",
    "full_price_median_ape": "price: median error",
    "full_price_within_10": "prices within 10 %",
}
"""The rows of the table, for the template `product`; `compare` prints all metrics."""

WEIGHTS = ("*.safetensors", "*.onnx", "*.onnx.data")


def export_all(run: str, data: Path, out: Path) -> dict[str, str]:
    """Export the missing folders, and list the systems to evaluate."""
    systems = {TORCH: run}
    for precision in PRECISIONS:
        folder = out / precision
        if not folder.exists():
            verification = export_onnx(run, folder, precision=precision, data=data)
            print(f"{precision}: {verification.summary()}", flush=True)
        systems[precision] = str(folder)
    return systems


def evaluate_all(
    systems: Mapping[str, str], data: Path, out: Path, *, limit: int | None, batch_size: int
) -> dict[str, Report]:
    """Evaluate all systems on the same samples, with the run's template."""
    reports = {}
    for name, model in systems.items():
        folder = out / f"report-{name}"
        config = EvaluationConfig(
            data=data,
            out=folder,
            limit=limit,
            template=systems[TORCH],
            batch_size=batch_size,
            skip=SKIPPABLE,
        )
        run_evaluation(model, config)
        reports[name] = read_report(folder)
        print(f"{name}: {reports[name].cost['prediction']}", flush=True)
    return reports


def lay_out_figures(
    comparison: Comparison, reports: Mapping[str, Report], systems: Mapping[str, str]
) -> Table:
    """Tabulate sizes, times and metrics."""
    names = dict(zip(reports, comparison.names, strict=True))
    first = [answer.prediction.text for answer in comparison.predictions[comparison.reference]]
    columns = {}
    for name, system in names.items():
        answers = [answer.prediction.text for answer in comparison.predictions[system]]
        same = sum(one == other for one, other in zip(first, answers, strict=True))
        estimates = [_figure(comparison, system, metric) for metric in METRICS]
        seconds = reports[name].cost["prediction"].split()[0]
        size = f"{_bytes_of_weights(systems[name]) / 1e6:.0f} MB"
        columns[name] = [size, seconds, f"{same} of {len(answers)}", *estimates]
    rows = ["weights on disk", "seconds a reply", f"answers as {TORCH}'s", *METRICS.values()]
    return lay_out(rows, columns)


def _figure(comparison: Comparison, system: str, name: str) -> str:
    """Format a metric, and its difference from the first system's."""
    metric = comparison.metrics[name]
    value = format_number(comparison.estimates[system][name].value, metric.decimals)
    if system == comparison.reference:
        return value
    by, interval = format_difference(comparison.differences[system][name], metric.decimals)
    return f"{value} ({by}; {interval})" if interval else f"{value} ({by})"


def _bytes_of_weights(model: str) -> int:
    """Sum the bytes of a model's weights, those of an adapter's base included."""
    place = resolve(model)
    folders = [Path(place), *([Path(base)] if (base := adapter_base(place)) else [])]
    return sum(
        file.stat().st_size for folder in folders for kind in WEIGHTS for file in folder.glob(kind)
    )


def main() -> None:
    """Export, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run, checkpoint or adapter folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of samples")
    parser.add_argument("--out", type=Path, required=True, help="folder for exports and reports")
    parser.add_argument("--limit", type=int, help="evaluate on the first samples only")
    parser.add_argument("--batch-size", type=int, default=16, help="images read together")
    options = parser.parse_args()
    systems = export_all(options.run, options.data, options.out)
    reports = evaluate_all(
        systems, options.data, options.out, limit=options.limit, batch_size=options.batch_size
    )
    comparison = compare([report.system for report in reports.values()])
    print(f"{comparison.samples} samples in {comparison.groups} groups")
    print(lay_out_figures(comparison, reports, systems).as_markdown(), end="")


if __name__ == "__main__":
    main()
