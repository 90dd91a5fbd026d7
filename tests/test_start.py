"""What a process imports before its work, which is most of the time of a short command."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from phi_vision import __version__

# Libraries that a command may use, and that take long to import.
HEAVY = {
    *("peft", "bitsandbytes", "networkx", "torch._inductor.compile_fx", "trl", "datasets"),
    *("sklearn", "pandas", "scipy.stats", "matplotlib", "wandb", "tensorboard", "openai", "ray"),
    *("fastapi", "onnxruntime", "onnxruntime_genai", "onnx"),
}


def heavy_modules(code: str) -> set[str]:
    """Run code in a process of its own, and list the heavy modules that it has imported."""
    report = f"\nimport sys; print('imported', *(sys.modules.keys() & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_predicting_an_image_imports_no_heavy_library(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (60, 80), "white").save(image)
    words = ["predict", "phi-vision-small", str(image)]
    code = f"from phi_vision.cli.main import main\nassert main({words}) == 0"
    assert heavy_modules(code) == set()


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        # transformers' Trainer imports datasets, which imports pandas; every run draws its plots.
        (
            "phi_vision.training.trainer",
            {"datasets", "pandas", "matplotlib", "peft", "bitsandbytes", "networkx"}
            | {"torch._inductor.compile_fx"},
        ),
        ("phi_vision.serving.server", {"fastapi"}),
    ],
)
def test_a_command_imports_only_the_heavy_libraries_it_uses(module: str, needed: set[str]) -> None:
    assert heavy_modules(f"import {module}") <= needed


def test_imports_at_the_start_collect_no_garbage() -> None:
    code = (
        "import gc\n"
        "from phi_vision.io.process import importing\n"
        "with importing():\n"
        "    assert not gc.isenabled()\n"
        "    import torch\n"
        "frozen = gc.get_freeze_count()\n"
        "assert gc.isenabled() and frozen > 50_000\n"
        "with importing():\n"
        "    assert gc.isenabled(), 'later imports are few'\n"
        "assert gc.get_freeze_count() <= frozen\n"
    )
    heavy_modules(code)


def test_the_package_runs_as_a_module_without_being_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "phi_vision", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"phi-vision {__version__}\n")
