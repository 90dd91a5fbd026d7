"""`phi-vision export`: what it says, and the options that it refuses."""

from pathlib import Path

import pytest

from phi_vision.cli.main import main
from phi_vision.cli.options import listed_options
from phi_vision.export.onnx import PRECISIONS


def test_the_command_exports_and_reports_the_differences(
    tiny_checkpoint: Path, products: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(tiny_checkpoint), "--out", str(tmp_path / "out")]
    assert main([*words, "--data", str(products), "--samples", "1"]) == 0
    assert "out: 1 of 1 predictions identical; logits of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--precision", "int4"], "--precision has no effect with --format hf; leave it out, or"),
        (
            ["--format", "onnx", "--max-shard-size", "1GB"],
            "--max-shard-size has no effect with --format onnx",
        ),
        (["--format", "gguf"], "'gguf' is unknown; choose from hf, onnx"),
    ],
)
def test_an_option_without_effect_is_rejected(
    words: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "phi-vision-small", "--out", str(tmp_path / "out"), *words]) == 2
    assert complaint in capsys.readouterr().err


def test_the_help_knows_the_precisions() -> None:
    assert listed_options()["export"]["--precision"]["one_of"] == list(PRECISIONS)
