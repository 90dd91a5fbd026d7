"""Which samples entries read differently: counted, and shown in words."""

from collections.abc import Mapping, Sequence
from html import escape

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.evaluation.labels import name_field, write_value
from phi_vision.evaluation.page_components import Section, write_details, write_table
from phi_vision.metrics.comparison import (
    Comparison,
    Disagreement,
    count_correct,
    find_disagreements,
    is_field_correct,
)

SHOWN, FOLDED = 8, 32
"""How many samples are shown at once, a screen or two, and how many more when asked for."""


def show_correct_counts(comparison: Comparison, labels: Mapping[str, str]) -> Section:
    """Count, field by field, what an entry reads right that the first does not, and the reverse."""
    first = labels[comparison.reference]
    rows = []
    for name, label in labels.items():
        if name == comparison.reference:
            continue
        if len(labels) > 2:
            rows.append([escape(f"{label} against {first}")])
        rows += [
            [
                escape(name_field(field)),
                *map(str, (c.only_other, c.only_reference, c.both, c.neither)),
            ]
            for field, c in count_correct(comparison, name).items()
        ]
    other = "the other" if len(labels) > 2 else [*labels.values()][1]
    heads = ["", f"only {other} right", f"only {first} right", "both right", "neither right"]
    return Section(
        anchor="changes",
        title="What changed",
        short="What changed",
        lead="Samples by who reads the field right: a text or a category letter for letter, a "
        "number within 10 %.",
        html=write_table(heads, rows, about="Samples by who reads a field right"),
    )


def show_disagreements(comparison: Comparison, labels: Mapping[str, str]) -> Section | None:
    """Show samples that some read right and others wrong; None where there are none."""
    found = find_disagreements(comparison)
    if not found:
        return None
    shown, folded = found[:SHOWN], found[SHOWN : SHOWN + FOLDED]
    html = _lay_out(comparison, labels, shown)
    if folded:
        html += write_details(f"{len(folded)} more", _lay_out(comparison, labels, folded))
    count = "1 sample is" if len(found) == 1 else f"{len(found):,} samples are"
    return Section(
        anchor="disagreements",
        title="Where they disagree",
        short="Where they disagree",
        lead=f"{count} read right by some and wrong by others. Those with the most such fields "
        "come first.",
        html=html,
    )


def _lay_out(
    comparison: Comparison, labels: Mapping[str, str], found: Sequence[Disagreement]
) -> str:
    return write_table(
        ["", "truth", *labels.values()],
        [row for each in found for row in _rows(comparison, each)],
        about="Samples that are read right by some and wrong by others",
        kind="words",
    )


def _rows(comparison: Comparison, found: Disagreement) -> list[list[str]]:
    """A heading with the sample's name, and a row for each field that is read differently."""
    sample = found.predictions[comparison.reference].id
    rows = [[escape(sample)]]
    for field in found.fields:
        predicted = [
            _predicted(comparison, field, found.predictions[name]) for name in comparison.names
        ]
        rows.append(
            [escape(name_field(field)), escape(write_value(found.truth[field])), *predicted]
        )
    return rows


def _predicted(comparison: Comparison, field: str, answer: ScoredPrediction) -> str:
    sign = "✓" if is_field_correct(comparison.template, field, answer) else "✗"
    if answer.prediction.record is None:
        return f"{sign} not readable: {escape(answer.prediction.text[:80]) or '(nothing)'}"
    return f"{sign} {escape(write_value(answer.prediction.record.get(field)))}"
