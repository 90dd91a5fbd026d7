"""`--json` of every command that reports, and the exit codes."""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from phi_vision.cli import main as cli
from phi_vision.cli.main import COMMANDS, EXIT_CODES, REPORTING, command_parser, front_parser, main
from phi_vision.cli.reporting import HELP, CommandReport
from phi_vision.io.formatting import as_plain

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "use-from-your-program.md").read_text(encoding="utf-8")
"""Lists the keys of each command's object."""


class Steps(NamedTuple):
    """What a NamedTuple becomes."""

    per_epoch: int
    total: int


def test_every_command_but_the_server_has_json() -> None:
    for name in COMMANDS.keys() - {"serve"}:
        options = command_parser(name)._option_string_actions
        assert "--json" in options, name
        assert (options["--json"].help == HELP) == (name in REPORTING)


def test_values_become_plain() -> None:
    values = {"folder": Path("runs/a"), "best": float("nan"), 3: [Steps(3, 9), (1.5, None, True)]}
    plain = {
        "folder": "runs/a",
        "best": None,
        "3": [{"per_epoch": 3, "total": 9}, [1.5, None, True]],
    }
    assert as_plain(values) == plain


def report_of(monkeypatch: pytest.MonkeyPatch, report: CommandReport) -> None:
    def run(options: object) -> CommandReport:
        print("a library greets")
        return report

    monkeypatch.setattr(COMMANDS["pairs"], "run", run)


def test_stdout_has_one_object_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report_of(monkeypatch, CommandReport({"folder": Path("größe")}, ["made größe"]))
    assert main(["pairs", "data", "--out", "x", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.out == '{"folder": "größe"}\n'
    assert printed.err == "a library greets\n"
    assert main(["pairs", "data", "--out", "x"]) == 0
    assert capsys.readouterr().out == "a library greets\nmade größe\n"


def test_a_problem_is_reported_with_the_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report_of(monkeypatch, CommandReport({"missing": 2}, [], "two are missing"))
    assert main(["pairs", "data", "--out", "x", "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == '{"missing": 2}\n'
    assert printed.err.splitlines()[-1] == "phi-vision: error: two are missing"


@pytest.mark.parametrize(
    "error",
    [None, RuntimeError(), ValueError("no"), KeyboardInterrupt()],
)
def test_the_exit_codes_are_those_of_the_help(
    error: BaseException | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(words: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(cli, "run", run)
    codes = {None: 0, RuntimeError: 1, ValueError: 2, KeyboardInterrupt: 130}
    expected = codes[None if error is None else type(error)]
    if expected == 1:
        with pytest.raises(RuntimeError):  # Python prints a traceback and exits with 1
            main([])
    else:
        assert main([]) == expected
    assert (capsys.readouterr().out, sys.stdout.isatty()) == ("", False)
    text = " ".join(front_parser().format_help().split())
    assert f"{expected} {EXIT_CODES[expected]}" in text
    assert set(EXIT_CODES) == {*codes.values(), 141}


def test_a_broken_pipe_that_is_not_stdout_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(cli, "run", run)
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("phi-vision: error: Broken pipe; a program that this one writes to has")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run a command and read the only thing on stdout."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    (row,) = re.findall(rf"^\| `{words[0]}` \| (.*) \|$", PAGE, re.MULTILINE)
    documented = set(re.findall(r"`(\w+)`", row))
    assert found.keys() <= documented or row.endswith("…"), found.keys() - documented
    return found


def test_the_commands_from_data_to_report_print_their_objects(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    made = printed(capsys, "sample", "--rows", "60", "--out", "shop")
    assert (made["folder"], made["rows"]) == ("shop", 60)
    assert made["facts"] == json.loads((tmp_path / "shop" / "facts.json").read_text())
    export = printed(capsys, "sample", "--rows", "60", "--out", "raw", "--faults", "0.1")
    assert Path(export["table"]).is_file()
    clean = printed(capsys, "prepare", export["table"], "--out", "clean", "--workers", "0")
    assert clean == {
        **json.loads((tmp_path / "clean" / "prepared.json").read_text()),
        **{"folder": "clean", "changed": True, "card": "clean/card.html"},
    }
    pairs = printed(capsys, "pairs", "shop", "--out", "pairs")
    assert pairs["pairs"] == sum(pairs["splits"].values())
    recipe = ["lora", "--model", str(tiny_checkpoint), "--data", "shop", "--max-steps", "2"]
    recipe += ["--eval-samples", "0", "--report-to", "none"]
    plan = printed(capsys, "plan", *recipe)
    assert plan["steps"]["total"] == 2
    dry = printed(capsys, "train", *recipe, "--dry-run")
    assert dry["recipe"]["max_steps"] == 2
    assert dry["plan"]["memory_bytes_by_part"].keys() == plan["memory_bytes_by_part"].keys()
    run = printed(capsys, "train", *recipe, "--output-dir", "run")
    assert (run["folder"], run["steps"]) == ("run", 2)
    assert run["best"] == run["evaluations"][-1]["validation_loss"]
    for out in ("a", "b"):
        words = ["evaluate", "run", "--data", "shop", "--limit", "4", "--out", out]
        scores = printed(capsys, *words, "--skip", "boosting", "nearest", "probe", "base")
        assert scores.pop("report") == f"{out}/report.html"
        assert scores == json.loads((tmp_path / out / "scores.json").read_text())
    compared = printed(capsys, "compare", "a", "b")
    assert compared["differences"]["b"]["parse_rate"]["value"] == 0
    assert compared["samples"] == 4
    exported = printed(capsys, "export", "run", "--out", "hf", "--samples", "1")
    assert exported["verification"]["samples"] == 1
    engines = printed(capsys, "check", "hf")["engines"]
    assert engines["transformers"]["compatible"]
    assert {*engines["vllm"]["requirements"][0]} == {"need", "found", "ok", "advice"}
