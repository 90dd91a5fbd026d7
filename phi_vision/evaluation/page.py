"""Findings -> one self-contained HTML page. Here is the order of its sections; knows no files."""

from collections.abc import Callable
from html import escape

from phi_vision.evaluation.calibration_section import report_confidence
from phi_vision.evaluation.data_section import report_leakage, report_slices
from phi_vision.evaluation.errors_section import report_categories, report_numbers
from phi_vision.evaluation.metadata import Findings
from phi_vision.evaluation.page_components import Section, write_page
from phi_vision.evaluation.prediction_cards import report_cases
from phi_vision.evaluation.provenance_section import report_learning, report_origin
from phi_vision.evaluation.results_section import (
    report_baselines,
    report_constrained,
    report_estimates,
    report_headline,
    report_looking,
)


def as_page(findings: Findings) -> str:
    """Write the page of an evaluation."""
    sections = [report(findings) for report in SECTIONS]
    return write_page(
        title=f"Evaluation of {findings.metadata.model}",
        html_header=_write_header(findings),
        sections=[section for section in sections if section is not None],
    )


def _write_header(findings: Findings) -> str:
    scores, metadata = findings.scores, findings.metadata
    groups = "" if scores.groups == scores.samples else f" in {scores.groups:,} groups"
    return (
        f'<p class="eyebrow">Evaluation</p><h1>{escape(metadata.model)}</h1>'
        f"<p>Asked about {scores.samples:,} held-out samples{groups} (split "
        f"{escape(metadata.split)} of {escape(metadata.data)}): "
        f"“{escape(scores.template.question)}” "
        "What it wrote was read back into records and compared with the true ones.</p>"
    )


SECTIONS: tuple[Callable[[Findings], Section | None], ...] = (
    report_headline,
    report_baselines,
    report_estimates,
    report_constrained,
    report_looking,
    report_leakage,
    report_learning,
    report_confidence,
    report_categories,
    report_numbers,
    report_cases,
    report_slices,
    report_origin,
)
"""What a page tells, in this order; a section that has nothing to tell is left out."""
