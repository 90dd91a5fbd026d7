"""`phi-vision compare`: paired comparison of evaluations."""

import argparse

from phi_vision.cli.progress import table_console


def run(options: argparse.Namespace) -> None:
    """Compare evaluations of the same samples by paired confidence intervals."""
    from phi_vision.evaluation.report import cautions, read_report, write_comparison
    from phi_vision.evaluation.sections import metrics_by_result
    from phi_vision.evaluation.terminal_tables import comparison_table
    from phi_vision.metrics.comparison import compare

    reports = [read_report(folder) for folder in options.runs]
    comparison = compare([report.system for report in reports], seed=options.seed)
    page = write_comparison(comparison, reports, options.out)
    table_console().print(comparison_table(comparison))
    for other in comparison.names[1:]:
        for result, metrics in metrics_by_result(comparison, other).items():
            if metrics:
                print(f"{other}, {result}: {', '.join(metrics)}")
    for sentence in cautions(comparison, reports, {name: name for name in comparison.names}):
        print(sentence)
    print(f"The comparison is {page}")
