"""The sections of the pages, and the page of a comparison."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from toy_reports import HOSTILE, toy_reports

from phi_vision.evaluation.report import Report, cautions, render_comparison, write_comparison
from phi_vision.evaluation.sections import (
    curve_points,
    differing,
    metrics_by_result,
    short_labels,
)
from phi_vision.metrics.comparison import Comparison, compare


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return toy_reports()


@pytest.fixture(scope="module")
def comparison(reports: list[Report]) -> Comparison:
    return compare([report.system for report in reports])


@pytest.fixture(scope="module")
def html(comparison: Comparison, reports: list[Report]) -> str:
    return render_comparison(comparison, reports)


def words_of(html: str, section: str) -> str:
    """The text of one section, without tags."""
    found = re.search(rf'<section id="{section}">(.*?)</section>', html, re.DOTALL)
    assert found, f"no section {section}"
    return " ".join(re.sub(r"<[^>]+>", " ", found.group(1)).split())


def test_the_page_states_which_run_is_better_with_confidence_intervals(
    html: str, comparison: Comparison
):
    words = words_of(html, "differences")
    difference = comparison.differences["runs/coats/full"]["category3_code_accuracy"]
    by = f"by {difference.value:.3f} ({difference.low:.3f} to {difference.high:.3f})"
    assert f"▲ better in category3 code: accuracy {by}" in words
    assert "about one difference in 20 is significant by chance; this page has 34." in words


def test_predictions_that_are_no_evidence_are_named(reports: list[Report]):
    check = "Not tested whether the images matter: 0 of 97 samples have predictions that parse"
    silent = [
        each.prediction.__class__(text="?", record=None) for each in reports[2].system.predictions
    ]
    predictions = tuple(
        replace(each, prediction=prediction)
        for each, prediction in zip(reports[2].system.predictions, silent, strict=True)
    )
    system = reports[2].system._replace(name="runs/coats/un_read", predictions=predictions)
    pair = [reports[0], replace(reports[2], system=system, image_check=check)]
    comparison = compare([each.system for each in pair])
    words = words_of(render_comparison(comparison, pair), "differences")
    assert "Fewer than half of the predictions parse: un_read. Differences from these" in words
    assert "are no evidence about the fields or the image." in words
    assert f"un_read: {check}" in words
    printed = cautions(comparison, pair, {name: name for name in comparison.names})
    assert [sentence.split(".")[0] for sentence in printed] == [
        "Fewer than half of the predictions parse: runs/coats/un_read",
        f"runs/coats/un_read: {check}",
    ]


def test_intervals_that_are_approximate_say_so_beside_the_metric(html: str):
    words = words_of(html, "metrics")
    for name in ("macro F1", "rank correlation"):
        assert f"{name}\xa0↑ approximate interval" in words.replace("&nbsp;", "\xa0")
    assert words.count("approximate interval") == 2
    assert "of metrics that are no mean, marked, it is approximate" in words


def test_the_page_counts_the_predictions_that_changed(html: str):
    assert "19 0 50 21" in words_of(html, "changes")
    assert "p-00001" in words_of(html, "disagreements")
    assert "✗ does not parse:" in words_of(html, "disagreements")


def test_the_page_shows_the_fields_of_the_recipes_that_differ_and_only_those(html: str):
    words = words_of(html, "recipes")
    assert "num_train_epochs 5.0 8.0 –" in words
    for same in ("learning_rate", "torch", "output_dir"):
        assert f" {same} " not in words
    assert "The recipe of &lt;script&gt;" in words


def test_equal_runs_have_no_differences(reports: list[Report]):
    twins = [
        replace(reports[0], system=reports[0].system._replace(name=name)) for name in ("a", "b")
    ]
    html = render_comparison(compare([twin.system for twin in twins]), twins)
    assert "No difference: the recipe" in words_of(html, "recipes")
    assert "≈ not significant in title: similarity" in words_of(html, "differences")
    assert 'id="disagreements"' not in html


def test_predictions_without_a_run_have_neither_curves_nor_cost(reports: list[Report]):
    alone = reports[2]
    pair = [replace(alone, system=alone.system._replace(name=name)) for name in ("a", "b")]
    html = render_comparison(compare([each.system for each in pair]), pair)
    assert 'id="learning"' not in html
    assert 'id="cost"' not in html
    assert "The recipe of a, b is unknown." in words_of(html, "recipes")


def test_the_page_makes_no_requests_and_runs_no_scripts(html: str):
    assert "http" not in html
    assert "<script" not in html
    assert "<img" not in html


def test_differing_fields_are_found_among_known_recipes():
    known = {"a": {"epochs": 5, "seed": 0}, "b": {"epochs": 8, "seed": 0, "new": True}, "c": {}}
    assert differing(known) == {"epochs": {"a": 5, "b": 8}, "new": {"b": True}}
    assert differing({"a": {"dora": False}, "b": {"dora": 0}}) == {"dora": {"a": False, "b": 0}}


def test_curves_run_by_epoch_without_unknown_values():
    lines = [{"epoch": 0.5, "loss": 2.5}, {"epoch": 1.0, "loss": None}, {"step": 3, "loss": 1.0}]
    assert curve_points(lines, "loss", x="epoch") == [(0.5, 2.5)]


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
def test_labels_are_shortened_as_far_as_they_stay_distinct(names: list[str], short: list[str]):
    assert list(short_labels(names).values()) == short


def test_metrics_are_grouped_by_the_result_of_their_difference(comparison: Comparison):
    shown = metrics_by_result(comparison, "runs/coats/full")
    assert "category3 code: accuracy" in shown["better"]
    assert shown["worse"] == []
    assert "parse rate" in shown["not significant"]


def test_a_file_is_written_and_a_folder_is_rejected(
    comparison: Comparison, reports: list[Report], tmp_path: Path
):
    page = write_comparison(comparison, reports, tmp_path / "new" / "page.html")
    assert HOSTILE.split()[-1] in page.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="found a folder; give a file"):
        write_comparison(comparison, reports, tmp_path)
