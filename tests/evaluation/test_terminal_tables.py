"""The tables in the terminal."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from toy_evaluation import toy_evaluation
from toy_reports import toy_reports

from phi_vision.evaluation.terminal_tables import comparison_table, scores_table
from phi_vision.metrics.comparison import compare
from phi_vision.metrics.scores import Scores


@pytest.fixture(scope="module")
def scores() -> Scores:
    return toy_evaluation().scores


def printed(scores: Scores, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(scores_table(scores))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_hundred_columns_hold_each_system_and_an_estimate_for_each_field(scores: Scores):
    text = printed(scores, 100)
    assert "60 held-out samples in" in text
    assert re.search(r"│ the model +│ +0\.\d{3} │ +0\.\d{3} │", text)
    assert re.search(r"│ base model +│ +0\.\d{3} better │", text)
    assert re.search(r"│ category median +│ +– │", text)
    assert re.search(r"│ best achievable +│ +│ +│ +0\.030 │", text)
    assert "…" not in text


def test_an_unknown_noise_ceiling_is_not_shown(scores: Scores):
    assert "best achievable" not in printed(replace(scores, best_achievable={}), 100)


def test_the_model_alone_has_a_table_too():
    text = printed(toy_evaluation(minimal=True).scores, 100)
    assert "the model" in text
    assert "better" not in text.split("└")[0]


def test_a_comparison_has_one_metric_for_each_field():
    comparison = compare([report.system for report in toy_reports()])
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(comparison_table(comparison))
    text = console.export_text()
    assert "90 samples in 30 groups" in text
    assert re.search(r"category3[^│]*│ +0\.611 │ +0\.767 │ +0\.267", text)
    assert re.search(r"│ +0\.522 to 0\.711 │ +\+0\.156, better │ +−0\.344, worse", text)
    assert comparison_table(comparison).row_count == 4
