"""docs/deploy-server.md: its commands run as written; its tables are the code's."""

import os
import re
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import docstring_parser
from pages import FENCE

from phi_vision.cli.main import command_parser
from phi_vision.serving.settings import Settings
from phi_vision.serving.telemetry import ServerMetrics

PAGE = (Path(__file__).parents[1] / "docs" / "deploy-server.md").read_text(encoding="utf-8")


def script_of(page: str) -> str:
    """Put what a page types into one script, so that its processes and variables live on."""
    parts = ["set -e", 'trap "kill $(jobs -p) 2>/dev/null || true" EXIT']
    for language, text in FENCE.findall(page):
        if language == "bash":
            parts.append(text)
        elif language == "python":
            parts.append(f"python - <<'END'\n{text}END\n")
    return "\n".join(parts)


def test_the_page_runs_as_written(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    page = PAGE.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    page = page.replace("--key-file", f"--port {port} --key-file")
    here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script_of(page)],
        cwd=tmp_path,
        env=os.environ | {"PATH": here, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert f"serving phi-vision-small at http://127.0.0.1:{port}" in done.stdout
    assert '"object":"record"' in done.stdout
    assert "Product: " in done.stdout.splitlines()[-1]
    assert '"event": "drained"' in done.stderr


def test_the_table_of_limits_equals_the_settings() -> None:
    assert limits_table() in PAGE, f"write\n{limits_table()}"


def limits_table() -> str:
    described = docstring_parser.parse_from_object(Settings).params
    words = {field.arg_name: " ".join((field.description or "").split()) for field in described}
    rows = ["| option | default | what |", "|---|---|---|"]
    for field in fields(Settings):
        if field.name != "key":
            default = field.default if field.default not in (None, ()) else "none"
            option = f"--{field.name.replace('_', '-')}"
            rows.append(f"| `{option}` | {default} | {words[field.name].rstrip('.')} |")
    return "\n".join(rows)


def test_the_table_of_metrics_equals_the_counted_ones() -> None:
    assert figures_table() in PAGE, f"write\n{figures_table()}"


def figures_table() -> str:
    rows = ["| metric | what |", "|---|---|"]
    for metric in ServerMetrics().registry.collect():
        if metric.name.startswith("phi_vision_"):
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            rows.append(f"| `{name}` | {metric.documentation.rstrip('.')} |")
    return "\n".join(rows)


def test_every_option_of_the_page_exists() -> None:
    offered = {
        option
        for command in ("sample", "serve")
        for action in command_parser(command)._actions
        for option in action.option_strings
    }
    curl = {"--silent", "--fail", "--header", "--data-binary"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) <= offered | curl


def test_every_alert_watches_a_figure_that_exists() -> None:
    counted = set(re.findall(r"^# TYPE (\w+)", ServerMetrics().text(), re.MULTILINE))
    watched = {name.removesuffix("_bucket") for name in re.findall(r"\bphi_vision_\w+", PAGE)}
    assert watched - {"phi_vision"} <= counted
