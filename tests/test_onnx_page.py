"""docs/deploy-onnx.md runs as written; its C++ where the header of onnxruntime-genai is at hand."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pages import FENCE, type_commands

pytest.importorskip("onnxruntime_genai", reason="pip install 'phi-vision[onnx]'")

import onnxruntime
import onnxruntime_genai

from phi_vision.cli.main import command_parser
from phi_vision.export.onnx import PRECISIONS
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor, resized_size

PAGE = (Path(__file__).parents[1] / "docs" / "deploy-onnx.md").read_text(encoding="utf-8")
HEADERS = "GENAI_HEADERS"
"""Names the folder of ort_genai.h, which Python's packages leave out."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all of the page was typed but its fences of `sh`."""
    scratch = tmp_path_factory.mktemp("page")
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(scratch)
        for language, script in FENCE.findall(PAGE):
            if language == "bash":
                type_commands(script)
            elif language == "python":
                exec(compile(script, "deploy-onnx.md", "exec"), names)
    return scratch


def test_the_page_runs_as_written(place: Path) -> None:
    folder = place / "runs" / "onnx" / "small"
    for name in re.findall(r"^\| (`.*`) \|", PAGE, re.MULTILINE):
        assert all((folder / file).exists() for file in re.findall(r"`([\w.-]+)`", name)), name
    assert (place / "runs/onnx/expected.txt").read_text()


@pytest.mark.skipif(
    HEADERS not in os.environ or shutil.which("g++") is None,
    reason=f"{HEADERS} names no folder with ort_genai.h, or there is no g++",
)
def test_the_program_in_cpp_writes_what_python_writes(place: Path) -> None:
    (script,) = [script for language, script in FENCE.findall(PAGE) if language == "cpp"]
    (place / "application.cpp").write_text(script)
    library = Path(onnxruntime_genai.__file__).parent / "libonnxruntime-genai.so"
    runtime = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"))
    build = ["g++", "-std=c++17", "-I", os.environ[HEADERS], "application.cpp", "-o", "application"]
    subprocess.run([*build, str(library)], cwd=place, check=True)
    said = subprocess.run(
        ["./application", "runs/onnx/small", "runs/onnx"],
        cwd=place,
        env={"LD_LIBRARY_PATH": str(library.parent), "ORT_LIB_PATH": str(runtime)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == (place / "runs/onnx/expected.txt").read_text()


def test_the_documented_example_equals_the_image_processors_output() -> None:
    cutter = Phi3VImageProcessor(num_crops=4)
    assert resized_size(500, 333, 4, 336) == (672, 447)
    assert cutter.count_tokens(672, 672) == 757
    words = " ".join(PAGE.split())
    for step in ("width `scale * S` = 672", "/ ratio)` = 447", "rounded down: 112", "12 = 757"):
        assert step in words, step


def test_every_option_and_precision_of_the_page_exists() -> None:
    offered = {
        option
        for command in ("sample", "export", "check", "evaluate")
        for action in command_parser(command)._actions
        for option in action.option_strings
    }
    typed = "\n".join(re.findall(r"^phi-vision .*$", PAGE, re.MULTILINE))
    assert set(re.findall(r"--[a-z][a-z-]+", typed)) <= offered
    assert set(re.findall(r"--precision (\w+)", PAGE)) <= set(PRECISIONS)
