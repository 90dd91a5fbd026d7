"""Scores in the terminal."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from toy_findings import toy_findings

from phi_vision.evaluation.report_table import as_table
from phi_vision.metrics.scores import Scores


@pytest.fixture(scope="module")
def scores() -> Scores:
    return toy_findings().scores


def printed(scores: Scores, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(as_table(scores))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_hundred_columns_are_enough_for_who_answered_and_a_figure_for_each_field(scores: Scores):
    text = printed(scores, 100)
    assert "60 held-out samples in" in text
    assert re.search(r"│ the model +│ +0\.\d{3} │ +0\.\d{3} │", text)
    assert re.search(r"│ the untuned model +│ +0\.\d{3} better │", text)
    assert re.search(r"│ the category's median +│ +– │", text)
    assert re.search(r"│ best possible +│ +│ +│ +0\.030 │", text)
    assert "…" not in text


def test_where_no_floor_is_known_none_is_shown(scores: Scores):
    assert "best possible" not in printed(replace(scores, best_achievable={}), 100)


def test_the_model_alone_has_a_table_too():
    text = printed(toy_findings(least=True).scores, 100)
    assert "the model" in text
    assert "better" not in text.split("└")[0]
