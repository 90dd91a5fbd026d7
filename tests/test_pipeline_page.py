"""docs/deploy-pipeline.md runs as written, the last part on a machine without phi-vision."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import FENCE, type_commands

from phi_vision.inference.local import LocalPredictor

PAGE = (Path(__file__).parents[1] / "docs" / "deploy-pipeline.md").read_text(encoding="utf-8")
ALONE = "\n## Without phi-vision\n"
NOBODY = "import sys\nsys.modules.update(dict.fromkeys(['phi_vision', 'torchvision']))\n"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the page; what its Python left, and what it printed where phi-vision is missing."""
    folder = tmp_path_factory.mktemp("pipeline")
    found: dict[str, Any] = {"folder": folder}
    together, alone = PAGE.split(ALONE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HOME", str(folder / "hub"))
        # A question at the keyboard would be an error.
        patch.setattr("sys.stdin", None)
        for language, script in FENCE.findall(together):
            if language == "bash":
                type_commands(script)
            elif language == "python":
                exec(compile(script, "deploy-pipeline.md", "exec"), found)
        ((_, script),) = FENCE.findall(alone)
        script = script.replace("What is shown in this image?", found["template"].question)
        command = [sys.executable, "-c", NOBODY + script]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return found | {"printed": done.stdout}


def test_the_pipeline_answers_as_predict_does(names: dict[str, Any]) -> None:
    folder = names["folder"] / "runs" / "pipeline"
    predictor = LocalPredictor(folder / "whole", device="cpu", dtype=names["ask"].model.dtype)
    (prediction,) = predictor.predict([folder / "photo0.png"])
    assert names["answer"].strip() == prediction.text.strip()
    assert names["record"] == prediction.record


def test_answers_of_a_batch_are_those_of_each_alone(names: dict[str, Any]) -> None:
    assert names["answers"][0][0]["generated_text"] == names["answer"]
    assert names["records"][0] == names["record"]


def test_sampling_several_images_and_earlier_turns_work(names: dict[str, Any]) -> None:
    for said in (names["sampled"][0]["generated_text"], names["went_on"]):
        assert isinstance(said, str)
    assert names["compared"][0]["generated_text"]


def test_the_prediction_is_the_same_without_phi_vision(names: dict[str, Any]) -> None:
    assert names["printed"].strip() == names["answer"].strip()
