"""docs/use-from-your-program.md: its snippets run, its tables are the code's."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import FENCE, type_commands
from served_apps import running

from phi_vision.cli.main import EXIT_CODES, REPORTING
from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.server import create_app
from phi_vision.serving.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "use-from-your-program.md").read_text(encoding="utf-8")
SERVER = "http://127.0.0.1:8000"


@contextlib.contextmanager
def command_on_path(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a `phi-vision` first on the PATH that runs this checkout."""
    file = folder / "bin" / "phi-vision"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m phi_vision "$@"\n')
    file.chmod(0o755)
    patch.setenv("PYTHONPATH", str(ROOT))
    patch.setenv("PATH", str(file.parent), prepend=":")
    yield


def test_the_page_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(command_on_path(tmp_path, monkeypatch))
        for language, script in FENCE.findall(PAGE):
            if language == "bash":
                type_commands(script)
            elif language == "python":
                if SERVER in script:
                    app = create_app(LocalPredictor("phi-vision-small"), Settings())
                    script = script.replace(SERVER, stack.enter_context(running(app)))
                exec(compile(script, "use-from-your-program.md", "exec"), names)
    assert names["prediction"].record is not None
    assert names["explained"]["sample"] == names["sample"].id
    assert names["explained"]["tokens"]["supervised"] > 0
    assert names["answer"]["record"].keys() == names["prediction"].record.keys()
    assert (tmp_path / names["result"].page).is_file()
    with pytest.raises(ValueError, match="phi-vision: error: no data at lost"):
        names["phi_vision"]("explain", "--data", "lost")


def test_the_tables_list_every_command_and_exit_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert set(rows) == REPORTING | {"predict"}
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in PAGE
