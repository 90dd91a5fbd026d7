"""`phi-vision evaluate`: scores a predictor and writes a report."""

import argparse
from pathlib import Path
from typing import Any

from phi_vision.cli.options import Parser, add_fields, add_listed, given_fields
from phi_vision.cli.progress import progress_bar
from phi_vision.cli.reporting import CommandReport
from phi_vision.io.process import importing


def add_options(parser: Parser) -> None:
    """Declare the options: every field of an EvaluationConfig."""
    from phi_vision.evaluation.config import EvaluationConfig

    add_listed(parser, "evaluate")
    add_fields(parser, EvaluationConfig, {"": EvaluationConfig(data=Path())}, skip=["data"])


def run(options: argparse.Namespace) -> CommandReport:
    """Score a model on held-out samples beside baselines, and write a report."""
    with importing():
        from phi_vision.evaluation.config import EvaluationConfig
        from phi_vision.evaluation.evaluator import run_evaluation
        from phi_vision.evaluation.report import explain
        from phi_vision.evaluation.terminal_tables import scores_table
        from phi_vision.runs import ReportDir

    config = EvaluationConfig(**given_fields(options, EvaluationConfig))
    try:
        outcome = run_evaluation(options.model, config, bar=progress_bar)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("predictions so far are kept; the same command resumes") from None
    scores = outcome.scores
    topics = ("missing", "unseen", "unparsed", "thresholds")
    sentences = [sentence for topic in topics for sentence in explain(scores, topic)]
    text: list[Any] = [scores_table(scores), scores.shuffled_image_check, *sentences]
    if config.target_precision is not None and not scores.calibrations:
        text.append("No threshold for the target precision: no prediction has a confidence.")
    text.append(f"The report is {outcome.page}")
    return CommandReport({"report": outcome.page, **ReportDir(outcome.page.parent).scores()}, text)
