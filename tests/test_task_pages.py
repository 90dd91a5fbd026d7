"""The pages for a task, a first run and the Python API run as written, on a small scale."""

import re
from pathlib import Path

import pytest
from pages import FENCE, type_commands

DOCS = Path(__file__).parents[1] / "docs"
PAGES = (
    *("install", "first-run", "spreadsheet", "image-folder", "conversations", "gpu", "wandb"),
    *("accept-or-review", "deploy", "how-it-works", "python-api"),
)
SMALLER = {
    r"--rows \d+": "--rows 60",
    r"--num-train-epochs \d+": "--max-steps 2 --eval-samples 2",
    r"--eval-samples 2(.*) --eval-samples 0": r"--eval-samples 2\1",
    r"--max-steps 4": "--max-steps 2",
    r"--batch-size 16": "--batch-size 4",
    r"(phi-vision evaluate (?!.*--limit).*)": r"\1 --limit 4",
    r"(phi-vision evaluate (?!.*--skip).*)": r"\1 --skip boosting nearest probe base leakage",
}
"""What a page types -> what the test does instead."""


@pytest.mark.parametrize("name", PAGES)
def test_the_page_runs_as_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it but what needs the hub, an account or a GPU, which stands in fences of `sh`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for language, script in FENCE.findall(page):
        if language == "bash":
            type_commands(smaller(script))
        elif language == "python":
            exec(compile(script, f"{name}.md", "exec"), {})
    named = re.findall(r"`(runs/[\w./-]+)`", page)
    assert [path for path in named if not Path(path).exists()] == []


def smaller(script: str) -> str:
    """Write the commands for a small catalog and a few steps."""
    for large, small in SMALLER.items():
        script = re.sub(large, small, script)
    return script


def test_commands_are_made_smaller() -> None:
    typed = "phi-vision train lora --num-train-epochs 2 --r 8 --eval-samples 0\n"
    assert smaller(typed) == "phi-vision train lora --max-steps 2 --eval-samples 2 --r 8\n"
