"""Runs side by side, as a page and in the terminal."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from toy_reports import HOSTILE, toy_reports

from phi_vision.evaluation.comparison_report import (
    as_comparison_page,
    short_names,
    write_comparison,
)
from phi_vision.evaluation.comparison_runs import along, differences
from phi_vision.evaluation.comparison_table import as_comparison_table, sum_up
from phi_vision.evaluation.report_reader import Report
from phi_vision.metrics.comparison import Comparison, compare


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return toy_reports()


@pytest.fixture(scope="module")
def comparison(reports: list[Report]) -> Comparison:
    return compare([report.system for report in reports])


@pytest.fixture(scope="module")
def html(comparison: Comparison, reports: list[Report]) -> str:
    return as_comparison_page(comparison, reports)


def words_of(html: str, section: str) -> str:
    """The words of one section, tags left out."""
    found = re.search(rf'<section id="{section}">(.*?)</section>', html, re.DOTALL)
    assert found, f"no section {section}"
    return " ".join(re.sub(r"<[^>]+>", " ", found.group(1)).split())


def test_the_page_says_who_is_better_and_how_sure_that_is(html: str, comparison: Comparison):
    words = words_of(html, "better")
    difference = comparison.differences["runs/coats/full"]["category3_code_accuracy"]
    by = f"by {difference.value:.3f} ({difference.low:.3f} to {difference.high:.3f})"
    assert f"▲ better in category3 code: accuracy {by}" in words
    assert "about one margin in 20 is told apart by chance; here are 34." in words


def test_the_page_counts_who_reads_what(html: str):
    assert "19 0 50 21" in words_of(html, "changes")
    assert "p-00001" in words_of(html, "disagreements")
    assert "✗ not readable:" in words_of(html, "disagreements")


def test_the_page_shows_the_fields_of_the_recipes_that_differ_and_only_those(html: str):
    words = words_of(html, "recipes")
    assert "epochs 5.0 8.0 –" in words
    for same in ("learning_rate", "torch", "out"):
        assert f" {same} " not in words
    assert "It is not known how &lt;script&gt;" in words


def test_equal_runs_are_said_to_be_equal(reports: list[Report]):
    twins = [
        replace(reports[0], system=replace(reports[0].system, name=name)) for name in ("a", "b")
    ]
    html = as_comparison_page(compare([twin.system for twin in twins]), twins)
    assert "Nothing differs: the same recipe" in words_of(html, "recipes")
    assert "≈ not significant in title: similarity" in words_of(html, "better")
    assert 'id="disagreements"' not in html


def test_answers_alone_have_neither_curves_nor_cost(reports: list[Report]):
    alone = reports[2]
    pair = [replace(alone, system=replace(alone.system, name=name)) for name in ("a", "b")]
    html = as_comparison_page(compare([each.system for each in pair]), pair)
    assert 'id="learning"' not in html
    assert 'id="cost"' not in html
    assert "It is not known how a, b learnt" in words_of(html, "recipes")


def test_the_page_needs_nothing_else_and_runs_nothing(html: str):
    assert "http" not in html
    assert "<script" not in html
    assert "<img" not in html


def test_what_differs_is_found_among_those_of_whom_something_is_known():
    told = {"a": {"epochs": 5, "seed": 0}, "b": {"epochs": 8, "seed": 0, "new": True}, "c": {}}
    assert differences(told) == {"epochs": {"a": 5, "b": 8}, "new": {"b": True}}
    assert differences({"a": {"dora": False}, "b": {"dora": 0}}) == {"dora": {"a": False, "b": 0}}


def test_curves_run_along_passes_and_leave_out_what_is_not_known():
    lines = [{"epoch": 0.5, "loss": 2.5}, {"epoch": 1.0, "loss": None}, {"step": 3, "loss": 1.0}]
    assert along(lines, "loss") == ([0.5], [2.5])


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["runs/coats/lora", "runs/coats/full"], ["lora", "full"]),
        (["runs/a", "runs/a/old"], ["a", "a/old"]),
        (["/x/one/run", "/x/two/run"], ["one/run", "two/run"]),
        (["one", "two"], ["one", "two"]),
        (["r/" + "a" * 40, "r/b"], ["a" * 27 + "…", "b"]),
        (["r/" + "a" * 40, "r/" + "a" * 41], ["a" * 40, "a" * 41]),
    ],
)
def test_names_are_shortened_as_far_as_they_stay_apart(names: list[str], short: list[str]):
    assert list(short_names(names).values()) == short


def test_metrics_are_sorted_by_what_their_margins_show(comparison: Comparison):
    shown = sum_up(comparison, "runs/coats/full")
    assert "category3 code: accuracy" in shown["better"]
    assert shown["worse"] == ()
    assert "readable answers" in shown["not significant"]


def test_the_terminal_has_one_metric_for_each_field_or_all(comparison: Comparison):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(as_comparison_table(comparison))
    text = console.export_text()
    assert "90 samples in 30 groups" in text
    assert re.search(r"category3[^│]*│ +0\.611 │ +0\.767 │ +0\.267", text)
    assert re.search(r"│ +0\.522 to 0\.711 │ +\+0\.156, better │ +−0\.344, worse", text)
    assert as_comparison_table(comparison).row_count == 4


def test_a_file_is_written_and_a_folder_refused(
    comparison: Comparison, reports: list[Report], tmp_path: Path
):
    page = write_comparison(comparison, reports, tmp_path / "new" / "page.html")
    assert HOSTILE.split()[-1] in page.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="found a folder; give a file"):
        write_comparison(comparison, reports, tmp_path)
