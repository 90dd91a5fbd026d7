"""`phi-vision compare`: paired comparison of evaluations."""

import argparse
import math
from typing import TYPE_CHECKING, Any

from phi_vision.cli.reporting import CommandReport

if TYPE_CHECKING:
    from phi_vision.metrics.bootstrap import Estimate


def run(options: argparse.Namespace) -> CommandReport:
    """Compare evaluations of the same samples by paired confidence intervals."""
    from phi_vision.evaluation.report import cautions, read_report, write_comparison
    from phi_vision.evaluation.sections import metrics_by_result
    from phi_vision.evaluation.terminal_tables import comparison_table
    from phi_vision.metrics.comparison import compare

    reports = [read_report(folder) for folder in options.runs]
    comparison = compare([report.system for report in reports], seed=options.seed)
    page = write_comparison(comparison, reports, options.out)
    text: list[Any] = [comparison_table(comparison)]
    for other in comparison.names[1:]:
        for result, metrics in metrics_by_result(comparison, other).items():
            if metrics:
                text.append(f"{other}, {result}: {', '.join(metrics)}")
    sentences = cautions(comparison, reports, {name: name for name in comparison.names})
    values = {
        "page": page,
        "samples": comparison.samples,
        "groups": comparison.groups,
        "seed": comparison.seed,
        "reference": comparison.reference,
        "left_out": comparison.left_out,
        "estimates": comparison.estimates,
        "differences": {
            name: {metric: _as_values(each) for metric, each in differences.items()}
            for name, differences in comparison.differences.items()
        },
        "cautions": sentences,
    }
    return CommandReport(values, [*text, *sentences, f"The comparison is {page}"])


def _as_values(difference: "Estimate") -> dict[str, Any]:
    from phi_vision.metrics.scores import significance

    is_known = not math.isnan(difference.low)
    return {**difference._asdict(), "result": significance(difference) if is_known else None}
