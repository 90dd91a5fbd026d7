"""docs/evaluation.md: its commands run as written, on a small scale; its tables are the code's."""

import json
import math
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_server import Body, message, serving
from pages import FENCE, numbers_beside, type_commands

from phi_vision.cli.main import command_parser
from phi_vision.data.kinds import category_kind, list_kind, text_kind
from phi_vision.data.kinds.number_kind import DIGITS
from phi_vision.data.template import KINDS, PRODUCT, TEMPLATES
from phi_vision.evaluation.baselines import NEIGHBOURS
from phi_vision.evaluation.config import SKIPPABLE
from phi_vision.evaluation.labels import ARROWS
from phi_vision.export.onnx import PRECISIONS
from phi_vision.inference.local import resolve_template
from phi_vision.inference.openai_server import KEY_VARIABLE
from phi_vision.metrics.bootstrap import MIN_GROUPS, RESAMPLES
from phi_vision.metrics.calibration import BINS
from phi_vision.metrics.field_metrics import (
    DESCRIPTIONS,
    METRICS,
    OPTIONAL,
    PARSE_RATE,
    metrics_for,
)
from phi_vision.metrics.platt_scaling import (
    CERTAINTY,
    CERTAINTY_OF_ALL,
    FOLDS,
    binomial_bound,
    choose_threshold,
)
from phi_vision.metrics.scores import SYSTEMS
from phi_vision.metrics.slices import MAX_CATEGORIES, MIN_SAMPLES

PAGE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
SMALLER = {
    "--rows 3040": "--rows 40",
    "--num-train-epochs 5": "--max-steps 2 --eval-samples 0 --report-to none",
    "--per-device-train-batch-size 16": "--per-device-train-batch-size 4",
}
"""What the page types -> what the test does instead; and 4 samples are judged, no more."""

SERVER = "http://localhost:8000/v1"
SAID = "Product: Wool Coat, Category: COATS, Full Price: 390.0"
PROMISE = re.compile(r"^\| ([\d.]+) \| (\d+) \|$", re.MULTILINE)
FACTS = [
    "has its 95 % interval",
    "about 95 in 100 contain",
    "with 142 groups of equal size and no error, an accuracy of 1.000 (0.974 to 1.000)",
    "differ by 0.000 (−0.026 to +0.026)",
    f"in fewer than {MIN_GROUPS} groups is widened",
    f"of fewer than {MIN_GROUPS} groups is widened",
    f"with replacement, {RESAMPLES:,} times",
    f"median of {NEIGHBOURS}.",
    "counts as 0, so",
    "at most 10 % off",
    f"on {FOLDS} folds",
    f"over {BINS} bins",
    "if 95 % of that",
    f"at least {MIN_SAMPLES} samples, at most {MAX_CATEGORIES},",
    "more than 4 decimals",
    f"more than {text_kind.MAX_CHARACTERS} characters, categories of more than "
    f"{category_kind.MAX_CHARACTERS};",
    f"more than {list_kind.MAX_ITEMS} items, or with an item of more than "
    f"{list_kind.MAX_PART} characters",
    "a relative error of 1.",
    "10,000 paths take no longer per token than 100.",
    "from 0 to 1 for some",
    "after 300 correct predictions the error rate may still be 1 %",
]
"""Every number of the page's prose, in the words around it."""


def prose() -> str:
    """The page without fences and tables, and its lines joined where a sentence goes on."""
    return re.sub(r"^\|.*\n", "", FENCE.sub("", PAGE), flags=re.MULTILINE).replace("\n", " ")


def row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def metrics_table() -> str:
    lines = [row("any", f"`{PARSE_RATE.name}`", ARROWS[PARSE_RATE.better], PARSE_RATE.description)]
    lines += [
        row(kind, f"`{short}`", ARROWS[metric.better], DESCRIPTIONS[kind][short])
        for kind, metrics in {"optional": OPTIONAL, **METRICS}.items()
        for short, metric in metrics.items()
    ]
    return "".join(lines)


def test_the_metrics_are_those_of_the_code_in_its_words() -> None:
    assert f"|---|---|---|---|\n{metrics_table()}\n" in PAGE
    named = (
        "text is `{text}`, of a category `{category}`, of a number `{number}`, of a list `{list}`, "
        "of a quantity and of money `{money}`, of a boolean `{boolean}`, "
        "of a path `{path}`"
    )
    assert named.format(**{name: kind.headline for name, kind in KINDS.items()}) in prose()
    for name in re.findall(r"`((?:title|category3_code|full_price)_\w+)`", PAGE):
        assert name in metrics_for(PRODUCT)


def test_the_rivals_are_those_of_the_code_in_its_words() -> None:
    lines = re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE)
    asked = {system: words for system, words in lines if system in SYSTEMS}
    assert list(asked.items()) == [
        (system, SYSTEMS[system]) for system in SYSTEMS if system in SKIPPABLE
    ]
    assert {*asked, "leakage"} == set(SKIPPABLE)
    assert "twin" in SYSTEMS


def test_no_number_goes_unchecked() -> None:
    assert numbers_beside(prose().replace("Phi-3", ""), FACTS) == []


def test_a_target_precision_takes_as_many_predictions_as_documented() -> None:
    assert len(PROMISE.findall(PAGE)) == 3
    for target, needed in PROMISE.findall(PAGE):
        wanted, count = float(target), int(needed)
        assert count == math.ceil(math.log(1 - CERTAINTY_OF_ALL) / math.log(wanted))
        for predictions, is_enough in ((count, True), (count - 1, False)):
            sure, right = np.full(predictions, 0.99), np.ones(predictions, dtype=bool)
            groups = [str(number) for number in range(predictions)]
            found = choose_threshold(sure, right, groups, wanted)
            assert (found is not None) == is_enough
    assert round(1 - CERTAINTY_OF_ALL, 6) == 0.05
    # Half as many again where the threshold is chosen.
    assert math.log(1 - CERTAINTY) / math.log(1 - CERTAINTY_OF_ALL) == pytest.approx(1.5, abs=0.04)
    assert pytest.approx(0.974, abs=5e-4) == 0.025 ** (1 / 142)
    assert "holds its promise in at least nine evaluations of ten" in prose()
    assert binomial_bound(np.array([1.0]), np.array([300.0]), 0.05)[0] == pytest.approx(
        0.99, abs=1e-3
    )


def test_the_limits_of_the_grammar_are_the_documented_ones() -> None:
    amount = re.compile(DIGITS)
    assert amount.fullmatch("999999999.1234")
    for refused in ("-1.0", "1000000000.0", "0.12345", "1e-05"):
        assert not amount.fullmatch(refused)


def test_every_option_and_name_of_the_page_exists() -> None:
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE))
    offered = {
        option
        for command in ("sample", "train", "evaluate", "compare", "predict", "export")
        for action in command_parser(command)._actions
        for option in action.option_strings
    }
    assert named <= offered
    assert f"`{KEY_VARIABLE}`" in PAGE
    assert "`precision` is `{}`, `{}` or `{}`".format(*PRECISIONS) in PAGE
    assert "pass `--template`: {}, a YAML file".format(
        ", ".join(f"`{name}`" for name in TEMPLATES)
    ) in PAGE.replace("\n", " ")
    assert resolve_template("runs/evaluation/onnx", None) == "product"


def test_the_page_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but what writes ONNX, which takes long and stands in a fence marked `sh`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)

    async def say(_: Body) -> Body:
        return message(SAID)

    with serving(say) as server:
        for language, script in FENCE.findall(smaller(PAGE).replace(SERVER, server.address)):
            if language == "bash":
                type_commands(script)
            elif language == "python":
                exec(compile(script, "evaluation.md", "exec"), {})
    for name in re.findall(r"`(runs/evaluation/[\w./-]+)`", PAGE):
        assert Path(name).exists() or name == "runs/evaluation/onnx", name  # left out, see above
    kept = {file.name for file in Path("runs/evaluation/run/report").iterdir()}
    assert kept == set(re.findall(r"^\| `runs/evaluation/run/report/([\w.]+)`", PAGE, re.MULTILINE))
    shown = [questions(Path("runs/evaluation") / one) for one in ("run/report", "elsewhere")]
    listed = re.findall(r"^- ([A-Z].*\?|Summary|All metrics)$", PAGE, re.MULTILINE)
    for titles in shown:
        assert titles == [title for title in listed if title in titles]
    assert set(listed) == {title for titles in shown for title in titles}
    last = scores_of("runs/evaluation/served")
    assert last["estimates"]["model"]["parse_rate"]["value"] == 1
    assert set(last["metadata"]["left_out"]) == {"constrained", "base", "nearest", "probe"}
    assert set(scores_of("runs/evaluation/elsewhere")["calibrations"]) == {"full_price"}


def smaller(page: str) -> str:
    """Write the page's commands for a small catalog, a few steps and a few answers."""
    for large, small in SMALLER.items():
        assert large in page, f"the page no longer types {large}"
        page = page.replace(large, small)
    return re.sub(r"^(phi-vision evaluate .*)$", r"\1 --limit 4", page, flags=re.MULTILINE)


def questions(report: Path) -> list[str]:
    """Read the titles of a report's sections, in their order."""
    page = (report / "report.html").read_text(encoding="utf-8")
    return [unescape(title) for title in re.findall(r"<h2>(.*?)</h2>", page)]


def scores_of(report: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(report) / "scores.json").read_text(encoding="utf-8"))
    return found
