"""`phi-vision check`: tables to read, and an exit that says whether a folder can be used."""

import argparse
import json
import re
from pathlib import Path

import pytest

from phi_vision.cli import check as command
from phi_vision.cli.main import command_parser, main
from phi_vision.cli.options import listed_options
from phi_vision.export.compatibility import ENGINES
from phi_vision.model.checkpoint import load_model


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an export writes of a small checkpoint."""
    place = tmp_path_factory.mktemp("whole") / "model"
    model, processor = load_model(tiny_checkpoint)
    processor.image_processor.pad_crops = True
    model.save_pretrained(place)
    processor.save_pretrained(place)
    described = json.loads((place / "config.json").read_text())
    code = described["auto_map"]
    code["AutoModelForImageTextToText"] = code["AutoModelForCausalLM"]
    (place / "config.json").write_text(json.dumps(described))
    return place


def options(*words: str) -> argparse.Namespace:
    return command_parser("check").read(words)


def test_the_command_names_every_engine() -> None:
    assert listed_options()["check"]["--engine"]["one_of"] == list(ENGINES)


def test_a_folder_that_one_engine_can_use_is_enough(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "transformers: compatible" in printed
    assert "vllm: 2 of 25 missing" in printed
    assert "13 shared with other engines" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_a_requested_engine_must_have_all_its_packages(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(folder), "--engine", "transformers-alone"]) == 0
    assert main(["check", str(folder), "--engine", "vllm"]) == 2
    printed = capsys.readouterr()
    assert "vllm lacks 2 requirements" in printed.err
    assert "vllm: 2 of 25 missing" in printed.out
    assert "transformers: " not in printed.out


def test_an_unusable_folder_is_rejected(tmp_path: Path) -> None:
    problem = command.run(options(str(tmp_path))).problem
    assert re.search(r"transformers lacks 2, .*requirements; see the tables", problem)
    with pytest.raises(ValueError, match="no such folder"):
        command.run(options(str(tmp_path / "lost")))
