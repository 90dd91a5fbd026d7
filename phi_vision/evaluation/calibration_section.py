"""How far the model's confidence can be trusted, and what can be filled in without a human."""

import math
from collections.abc import Mapping
from html import escape

from phi_vision.evaluation.figures import Bar, Series, draw_lines, draw_reliability
from phi_vision.evaluation.labels import (
    join_words,
    name_field,
    write_interval,
    write_number,
    write_percent,
    write_percents,
)
from phi_vision.evaluation.metadata import Findings
from phi_vision.evaluation.page_components import (
    Section,
    write_chart,
    write_charts,
    write_list,
    write_table,
)
from phi_vision.metrics.calibration import RECORD, Bin, Calibration, SelectiveThreshold
from phi_vision.metrics.scores import Scores


def report_confidence(findings: Findings) -> Section | None:
    """Show calibration, risk over coverage, and the threshold for a wanted precision."""
    scores = findings.scores
    if not scores.calibrations:
        return None
    found = {name_judged(name, scores): each for name, each in scores.calibrations.items()}
    told = [*explain_thresholds(scores), *_missing(found)]
    charts = [chart for name, each in found.items() for chart in _charts(name, each)]
    return Section(
        anchor="confidence",
        title="Does it know when it is wrong?",
        short="Confidence",
        lead="How sure the model is of a field is the probability it gave to what it wrote there. "
        "A confidence can be trusted if, of the answers given with 80 %, 80 % are right. A text or "
        "a category is right if it is the same, a number within 10 %. On the left, points on the "
        "dashed line mean just that; on the right, using fewer, surer answers should mean fewer "
        "mistakes.",
        html=write_list([escape(sentence) for sentence in told])
        + write_charts(charts)
        + _table(found),
    )


def name_judged(name: str, scores: Scores) -> str:
    """Say what a calibration is of: a field, or the whole record."""
    whole = name == RECORD
    return "all fields at once" if whole else name_field(name)


def explain_thresholds(scores: Scores) -> list[str]:
    """Say of all fields what share can be filled without a human; [] where no precision was wanted.

    Output: ["At 95 % precision, 71.0 % of category … .", "At 95 % precision, nothing of title and
            full price can be filled automatically."]
    """
    thresholds = {
        name_judged(name, scores): each.auto_accept
        for name, each in scores.calibrations.items()
        if each.auto_accept is not None
    }
    empty = [name for name, auto_accept in thresholds.items() if auto_accept.threshold is None]
    told = [
        explain_threshold(name, auto_accept)
        for name, auto_accept in thresholds.items()
        if name not in empty
    ]
    return told + [explain_threshold(join_words(empty), thresholds[name]) for name in empty[:1]]


def explain_threshold(name: str, auto_accept: SelectiveThreshold) -> str:
    """Say what share of a field can be filled without a human.

    Output: At 95 % precision, 71.0 % of category (65.0 to 77.0 %) can be filled automatically, from
            a recalibrated confidence of 0.83 on; 96.1 % of those were right (92.0 to 98.4 %).
    """
    wanted = f"At {100 * auto_accept.target:.4g} % precision, "
    if auto_accept.threshold is None:
        return f"{wanted}nothing of {name} can be filled automatically."
    interval = write_percents(auto_accept.coverage)
    words = (
        f"{wanted}{write_percent(auto_accept.coverage.value)} of {name} "
        f"{f'({interval}) ' if interval else ''}can be filled automatically, from a recalibrated "
        f"confidence of {auto_accept.threshold:.2f} on"
    )
    if math.isfinite(auto_accept.precision.value):
        interval = write_percents(auto_accept.precision)
        words += f"; {write_percent(auto_accept.precision.value)} of those were right"
        words += f" ({interval})" if interval else ""
    return f"{words}."


def _missing(found: Mapping[str, Calibration]) -> list[str]:
    """Say what could not be found out, once for all fields of which the same is true."""
    of: dict[str, list[str]] = {}
    for name, each in found.items():
        of.setdefault(each.limitations, []).append(name)
    return [f"{join_words(names)}: {words}" for words, names in of.items() if words]


def _charts(name: str, found: Calibration) -> list[str]:
    if not found.bins:
        return []
    bars, later = (tuple(map(_bar, bins)) for bins in (found.bins, found.recalibrated_bins))
    title = f"{name}: how sure, how often right"
    charts = [
        write_chart(
            draw_reliability(bars, later, title=title),
            title=title,
        )
    ]
    if len(found.risk_curve) > 1:
        title = f"{name}: mistakes among the surest answers"
        curve = [(point.coverage, point.risk) for point in found.risk_curve]
        # Among the very first answers one mistake is half of all; the curve says nothing yet.
        steady = [point for point in curve if point[0] * found.samples >= 10] or curve
        chart = draw_lines(
            [Series(name=name, points=steady)],
            title=title,
            x="share of the samples that is used",
            y="wrong among those",
            shares=True,
            mark=_mark(found),
        )
        charts.append(write_chart(chart, title=title))
    return charts


def _bar(found: Bin) -> Bar:
    return Bar(found.confidence, found.accuracy, found.low, found.high)


def _mark(found: Calibration) -> tuple[float, float] | None:
    """Mark what can be used for the wanted precision."""
    auto_accept = found.auto_accept
    if (
        auto_accept is None
        or auto_accept.threshold is None
        or not math.isfinite(auto_accept.precision.value)
    ):
        return None
    return auto_accept.coverage.value, 1 - auto_accept.precision.value


def _table(found: Mapping[str, Calibration]) -> str:
    rows = []
    for name, each in found.items():
        cells = [f"{each.with_confidence:,}", write_percent(each.accuracy)]
        for estimate in (each.raw_error, each.error):
            cells.append(
                f"{write_number(estimate.value, 3)}<small>{write_interval(estimate, 3)}</small>"
            )
        cells += [write_number(each.chance_error, 3), write_number(each.brier.value, 3)]
        rows.append([escape(name), *cells, write_number(each.aurc, 3)])
    heads = [
        "",
        "answers with a confidence",
        "of them right",
        "calibration error",
        "the same, recalibrated",
        "the same, by chance alone",
        "Brier score, recalibrated",
        "mean risk (area under the curve)",
    ]
    return write_table(heads, rows, about="How far the confidence can be trusted")
