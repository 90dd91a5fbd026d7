"""Charts: what is drawn, in which colours, and their text alternatives."""

import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import pytest

from phi_vision.evaluation.figures import (
    Chart,
    Series,
    draw_intervals,
    draw_lines,
    draw_reliability,
    draw_scatter,
    fit,
)
from phi_vision.evaluation.report import render
from phi_vision.evaluation.sections import OTHERS, Confusion
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.calibration import Bin

NAN = math.nan


def read(chart: Chart) -> ElementTree.Element:
    """Parse a chart: it must be well-formed, themable, and its numbers finite."""
    assert not re.search(r"\b(nan|inf)\b", chart.svg)
    assert "#0000" not in chart.svg
    assert "font-family" not in chart.svg
    return ElementTree.fromstring(f"<svg>{chart.svg}</svg>")


def texts(chart: Chart) -> list[str]:
    return [text.text or "" for text in read(chart).iter("text")]


def markers(chart: Chart) -> list[tuple[float, float]]:
    return [(float(use.get("x") or 0), float(use.get("y") or 0)) for use in read(chart).iter("use")]


def lines(values: Sequence[float]) -> Chart:
    points = list(enumerate(values))
    return draw_lines([Series(name="a", points=points)], title="T", x="x", y="y")


def test_axes_have_few_round_ticks():
    assert texts(lines([3.2, 11.8]))[-8:-2] == ["2", "4", "6", "8", "10", "12"]
    assert "1,500" in texts(lines([0, 1500]))
    assert "−5" in texts(lines([-5, 5]))


@pytest.mark.parametrize("values", [[], [NAN], [5.0], [0.0], [-1e308, 1e308], [math.inf, 2.0]])
def test_lines_of_any_values_can_be_drawn(values: list[float]):
    assert 5 <= len(texts(lines(values))) <= 18


@pytest.mark.parametrize("values", [[], [3.0], [1.0, 1.1], [1e-300, 1e300], [12, 850]])
def test_scatters_of_any_positive_values_can_be_drawn(values: list[float]):
    chart = draw_scatter([(value, value) for value in values], title="T", x="true", y="predicted")
    assert len(markers(chart)) == len(values)
    assert 4 <= len(texts(chart)) <= 22


def test_a_logarithmic_axis_gives_equal_room_to_equal_ratios():
    points = [(10.0, 10.0), (100.0, 100.0), (1000.0, 1000.0)]
    chart = draw_scatter(points, title="T", x="true", y="predicted")
    (x1, y1), (x2, y2), (x3, y3) = markers(chart)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert y1 > y2, "larger values are higher"
    assert {"10", "100", "1,000"} <= set(texts(chart))


def test_long_names_are_shortened_and_control_characters_dropped():
    assert fit("Coats", 60) == "Coats"
    assert fit("a\nb\x00c", 60) == "a b c"
    assert fit("Embroidered cotton jersey", 60).endswith("…")
    assert len(fit("日本のコート" * 5, 60)) < len(fit("illicit" * 5, 60))


def test_markup_and_formulas_in_names_are_text():
    rows = {"<b>&$x^2$</b>": Estimate(0.5, 0.4, 0.6)}
    assert "<b>&$x^2$</b>" in texts(draw_intervals(rows, title="T", decimals=1))


def test_the_charts_of_a_page_share_no_ids():
    first, second = lines([1.0]), lines([2.0])
    ids = [re.findall(r' id="(\w+)"', chart.svg) for chart in (first, second)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    assert lines([1.0]).svg == first.svg, "drawn twice it is the same"


def test_a_chart_has_a_text_alternative():
    series = [Series(name="a & b", points=[(0, 1), (2, 3)])]
    chart = draw_lines(series, title="<T>", x="x", y="y")
    assert (chart.title, chart.description) == ("<T>", "a & b: y 1 at x 0, 3 at 2")


def test_several_lines_have_a_legend_without_the_faint_ones():
    series = [
        Series(name="steps", points=[(0, 1), (1, NAN), (2, 3)], faint=True),
        Series(name="one", points=[(0, 1), (2, 3)]),
        Series(name="two", points=[], markers=True),
    ]
    chart = draw_lines(series, title="T", x="x", y="y")
    read(chart)
    assert chart.legend == (("one", "series-2"), ("two", "series-3"))


def test_more_lines_than_colours_are_dashed():
    series = [Series(name=f"{at}", points=[(0, at), (1, at)]) for at in range(8)]
    assert draw_lines(series, title="T", x="x", y="y").svg.count("stroke-dasharray") == 2


def test_intervals_stand_in_the_order_of_rows_with_their_values():
    rows = {
        "the model": Estimate(0.9, 0.8, 0.95),
        "a baseline": Estimate(0.5, NAN, NAN),
        "nothing": Estimate(NAN, NAN, NAN),
    }
    chart = draw_intervals(rows, title="T", decimals=2)
    assert texts(chart)[-4:] == ["the model", "0.90", "a baseline", "0.50"]
    assert chart.description == "the model 0.90 (95 %: 0.80 to 0.95); a baseline 0.50"
    assert chart.svg.count("stroke-width:3") == 1


def test_points_within_ten_percent_are_counted():
    points = [(100.0, 109.0), (100.0, 120.0), (1000.0, 1000.0)]
    chart = draw_scatter(points, title="T", x="true", y="predicted")
    assert len(markers(chart)) == 3
    assert chart.description == "3 points, 2 of them within 10% of the diagonal."


def test_calibrated_predictions_lie_on_the_diagonal():
    bins = [Bin(0.2, 0.2, 0.1, 0.3, 9), Bin(0.8, 0.8, NAN, NAN, 9)]
    chart = draw_reliability(bins, bins, title="T")
    (x1, y1), (x2, y2) = markers(chart)[:2]
    assert markers(chart)[2:] == [(x1, y1), (x2, y2)]
    left, top, width, height = 46, 24, 294, 188
    assert (x1 - left) / width == pytest.approx(0.2, abs=0.001)
    assert (top + height - y1) / height == pytest.approx(0.2, abs=0.001)
    assert [name for name, _ in chart.legend] == ["raw confidence", "recalibrated"]
    assert [name for name, _ in draw_reliability(bins, [], title="T").legend] == ["raw confidence"]


def test_correct_wrong_and_pooled_counts_have_colours_of_their_own():
    counts = np.array([[4, 1, 0], [0, 2, 1]])
    labels = ("A", OTHERS)
    matrix = Confusion(labels=labels, predicted=(*labels, "<?>"), counts=counts)
    svg = ElementTree.fromstring(render("confusion.html.j2", matrix=matrix, title="T").strip())
    fills = [rect.get("style", "").partition("fill:var(--")[2] for rect in svg.iter("rect")]
    assert [fill.partition(")")[0] for fill in fills] == [
        *("series-1", "series-2", "line"),
        *("line", "series-6", "series-2"),
    ]
    words = [text.text or "" for text in svg.iter("text")]
    assert [text for text in words if text.isdigit()] == ["4", "1", "2", "1"]
    assert "<?>" in words
    assert svg.findtext("title") == "T"
    assert svg.findtext("desc") == "6 of 8 samples lie on the diagonal: predicted correctly."
