"""Axes and charts: where things are drawn, and what is said to those who cannot see them."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from phi_vision.evaluation.chart_axes import (
    Plane,
    Room,
    linear_axis,
    log_axis,
    share_axis,
    shorten,
    write_number,
)
from phi_vision.evaluation.figures import (
    Bar,
    Row,
    Series,
    draw_counts,
    draw_intervals,
    draw_lines,
    draw_numbers,
    draw_reliability,
)
from phi_vision.metrics.bootstrap import Estimate

NAN = math.nan


def read(html: str) -> ElementTree.Element:
    """Parse a chart: whatever was drawn must be well-formed, and its numbers finite."""
    assert not re.search(r"\b(nan|inf)\b", html)
    return ElementTree.fromstring(html.split("<ul")[0])


def texts(html: str) -> list[str]:
    return [text.text or "" for text in read(html).iter("text")]


def test_a_linear_axis_has_round_ticks_around_its_values():
    assert linear_axis([3.2, 11.8]).ticks == (2, 4, 6, 8, 10, 12)
    assert linear_axis([0.31, 0.29]).ticks == pytest.approx((0.29, 0.295, 0.3, 0.305, 0.31))
    assert [share_axis().words(tick) for tick in share_axis().ticks][1] == "20 %"


@pytest.mark.parametrize("values", [[], [NAN], [5.0], [0.0], [-1e308, 1e308], [math.inf, 2.0]])
def test_a_linear_axis_can_be_made_of_anything(values: list[float]):
    axis = linear_axis(values)
    assert 2 <= len(axis.ticks) <= 8
    assert math.isfinite(axis.high - axis.low)
    assert axis.high > axis.low


def test_a_logarithmic_axis_gives_equal_room_to_equal_ratios():
    axis = log_axis([12, 850])
    assert (axis.low, axis.high) == (10, 1000)
    assert axis.ticks == (10, 30, 100, 300, 1000)
    assert [axis.share(value) for value in (10, 100, 1000)] == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("values", [[], [3.0], [1.0, 1.1], [1e-300, 1e300], [0.0, -4.0, NAN]])
def test_a_logarithmic_axis_can_be_made_of_anything(values: list[float]):
    axis = log_axis(values)
    assert 1 <= len(axis.ticks) <= 7
    assert 0 < axis.low < axis.high < math.inf


def test_what_lies_outside_an_axis_is_drawn_at_its_end():
    assert log_axis([1, 100]).share(1e9) == 1
    assert linear_axis([0, 1]).share(-5) == 0


def test_upwards_is_up():
    plane = Plane(linear_axis([0, 1]), linear_axis([0, 1]), Room(10, 20, 110, 220))
    assert plane.place(0, 0) == (10, 220)
    assert plane.place(1, 0.5) == (110, 120)


@pytest.mark.parametrize(
    ("number", "written"),
    [(0.1 + 0.2, "0.3"), (1500, "1,500"), (2.5e6, "2.5M"), (0, "0"), (-3, "-3"), (1e-7, "1e-07")],
)
def test_ticks_are_short(number: float, written: str):
    assert write_number(number) == written


def test_long_names_are_cut_where_they_would_not_fit():
    assert shorten("Coats", 60) == "Coats"
    assert shorten("a\nb", 60) == "a b"
    assert shorten("Embroidered cotton jersey", 60).endswith("…")
    assert len(shorten("日本のコート" * 5, 60)) < len(shorten("illicit" * 5, 60))


def test_a_chart_says_what_it_shows():
    chart = read(
        draw_lines([Series(name="a & b", points=[(0, 1), (2, 3)])], title="<T>", x="x", y="y")
    )
    assert chart.get("role") == "img"
    assert [chart[0].text, chart[1].text] == ["<T>", "a & b: y 1 at x 0, 3 at 2"]


def test_several_lines_have_a_legend_without_the_faint_ones():
    series = [
        Series(name="steps", points=[(0, 1), (1, NAN), (2, 3)], faint=True),
        Series(name="one", points=[(0, 1), (2, 3)]),
        Series(name="two", points=[], marked=True),
    ]
    html = draw_lines(series, title="T", x="x", y="y")
    read(html)
    legend = html.split("<ul")[1]
    assert ["steps" in legend, "one" in legend, "two" in legend] == [False, True, True]


def test_more_lines_than_colours_are_told_apart_by_dashes():
    series = [Series(name=f"{at}", points=[(0, at), (1, at)]) for at in range(8)]
    assert draw_lines(series, title="T", x="x", y="y").count("stroke-dasharray") == 2


def test_intervals_stand_in_the_order_of_rows_with_their_values():
    rows = [
        Row("the model", Estimate(0.9, 0.8, 0.95), strong=True),
        Row("a rival", Estimate(0.5, NAN, NAN)),
        Row("nobody", Estimate(NAN, NAN, NAN)),
    ]
    html = draw_intervals(rows, title="T", decimals=2)
    assert [text for text in texts(html) if not text[0].isdigit()] == ["the model", "a rival"]
    assert texts(html)[-1] == "0.50"
    assert read(html)[1].text == "the model 0.90 (95 %: 0.80 to 0.95); a rival 0.50"
    assert html.count('stroke-width="3"') == 1


def test_points_within_ten_percent_are_counted():
    html = draw_numbers([(100, 109), (100, 120), (1000, 1000)], title="T", x="true", y="said")
    assert html.count("<circle") == 3
    assert read(html)[1].text == "3 points, of which 2 are within 10% of the diagonal."


def test_calibrated_answers_lie_on_the_diagonal():
    bars = [Bar(0.2, 0.2, 0.1, 0.3), Bar(0.8, 0.8, NAN, NAN)]
    html = draw_reliability(bars, bars, title="T")
    circles = [(c.get("cx"), c.get("cy")) for c in read(html).iter("circle")]
    plane = Plane(share_axis(), share_axis())
    drawn = [(float(x or 0), float(y or 0)) for x, y in circles]
    assert drawn == [plane.place(0.2, 0.2), plane.place(0.8, 0.8)] * 2
    assert "recalibrated" not in draw_reliability(bars, [], title="T")


def test_right_counts_wrong_counts_and_pooled_ones_have_colours_of_their_own():
    counts = np.array([[4, 1, 0], [0, 2, 1]])
    html = draw_counts(["A", "rest"], ["A", "rest", "?"], counts, title="T", pooled="rest")
    thresholds = re.findall(r'<rect[^>]* fill="var\(--([a-z0-9-]+)\)"', html)
    assert thresholds == ["series-1", "series-2", "line", "line", "series-6", "series-2"]
    assert [text for text in texts(html) if text.isdigit()] == ["4", "1", "2", "1"]
    assert read(html)[1].text == "6 of 8 samples lie on the diagonal, where said is true."
