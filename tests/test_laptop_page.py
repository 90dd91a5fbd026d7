"""docs/deploy-laptop.md: its commands run as written, small; its tables are those of the code."""

import re
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest
from pages import FENCE, type_commands

from phi_vision.cli.main import command_parser
from phi_vision.data.template import PRODUCT
from phi_vision.inference.batch import prediction_schema
from phi_vision.inference.batch_catalog import Reason

PAGE = (Path(__file__).parents[1] / "docs" / "deploy-laptop.md").read_text(encoding="utf-8")
SMALLER = {
    "--rows 3040": "--rows 40",
    "--num-train-epochs 2": "--max-steps 2",
    "--per-device-train-batch-size 16": "--per-device-train-batch-size 4",
}
"""What the page types -> what the test does instead."""


def test_the_page_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but servers, clusters and ONNX, which stand in fences marked `sh`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for language, script in FENCE.findall(smaller(PAGE)):
        if language == "bash":
            type_commands(script)
        elif language == "python":
            exec(compile(script, "deploy-laptop.md", "exec"), {})
    written, called = (
        pq.read_table(f"runs/laptop/{name}.parquet") for name in ("predictions", "called")
    )
    assert written["id"] == called["id"]
    assert written.num_rows > 0


def smaller(page: str) -> str:
    """Write the page's commands for a small catalog and a few steps."""
    for large, small in SMALLER.items():
        assert large in page, f"the page no longer types {large}"
        page = page.replace(large, small)
    return page


def test_the_columns_and_errors_are_those_of_the_code() -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", "".join(re.findall(r"^\| `.*$", PAGE, re.MULTILINE))))
    columns = set(prediction_schema(PRODUCT, has_splits=True).names)
    left_out = {"confidence_category3_code", "confidence_full_price"}  # behind the dots
    assert columns - named == left_out
    assert re.findall(r"^\| `([a-z]+ [a-z]+)` \|", PAGE, re.MULTILINE) == list(get_args(Reason))


def test_every_option_of_the_page_exists() -> None:
    offered = {
        option
        for command in ("sample", "train", "plan", "predict", "export")
        for action in command_parser(command)._actions
        for option in action.option_strings
    }
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= offered


def test_no_number_goes_unchecked() -> None:
    prose = re.sub(r"`[^`]*`|\([a-z-]+\.md\)", "", FENCE.sub("", PAGE))
    assert re.findall(r"\b\d\S*", re.sub(r"^\|.*\n", "", prose, flags=re.MULTILINE)) == []
