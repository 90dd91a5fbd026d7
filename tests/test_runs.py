"""RunDir: names and readers of a run folder."""

import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from phi_vision import __version__, runs
from phi_vision.data.samples import Sample
from phi_vision.model.checkpoint import RUN_MODEL
from phi_vision.runs import (
    STATE_FILE,
    Curve,
    RunDir,
    collect_versions,
    curve,
    fingerprint,
    package_versions,
    smooth,
    thin,
)


def test_the_model_package_and_runs_agree_on_the_folder_of_the_best_weights() -> None:
    assert RunDir("run").model_dir == Path("run") / RUN_MODEL


def test_a_folder_without_files_reads_as_empty(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert not RunDir.is_run(tmp_path)
    assert (run.recipe(), run.recipe_text(), run.versions(), run.history()) == ({}, "", {}, None)
    assert run.checkpoints() == []
    assert run.last_checkpoint() is None
    assert run.recipe("method: dora") == {"method": "dora"}


def test_a_recipe_that_is_not_yaml_is_reported_with_its_path(tmp_path: Path) -> None:
    RunDir(tmp_path).recipe_file.write_text("method: [lora")
    with pytest.raises(ValueError, match=r"recipe\.yaml is no YAML: "):
        RunDir(tmp_path).recipe()


@pytest.mark.parametrize(("text", "problem"), [("{", "cannot read"), ("[]", "holds a list")])
def test_damaged_versions_are_reported(text: str, problem: str, tmp_path: Path) -> None:
    RunDir(tmp_path).versions_file.write_text(text)
    with pytest.raises(ValueError, match=problem):
        RunDir(tmp_path).versions()


def test_a_history_separates_steps_from_evaluations(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 2.5}, {"step": 1, "validation_loss": 2.0}, {"step": 2, "loss": 2}]
    RunDir(tmp_path).log_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    history = RunDir(tmp_path).history()
    assert history is not None
    assert (history.steps, history.evaluations) == ([lines[0], lines[2]], [lines[1]])


def test_the_last_checkpoint_is_the_last_complete_one_by_step(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step, state in ((9, "{}"), (10, "{}"), (11, '{"step'), (12, None)):
        folder = run.checkpoints_dir / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if state is not None:
            (folder / STATE_FILE).write_text(state)
    assert [folder.name for folder in run.checkpoints()][-2:] == ["checkpoint-11", "checkpoint-12"]
    assert run.last_checkpoint() == run.checkpoints_dir / "checkpoint-10"


def test_curves_are_extracted_smoothed_and_thinned() -> None:
    lines = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}, {"step": 3, "loss": 2.0}]
    assert curve(lines, "loss") == Curve([1, 3], [2.5, 2.0])
    assert smooth([0, 6, 3, 3], 3) == [3, 3, 4, 3]
    assert smooth([0, 6, 3], 0) == [0, 6, 3]
    assert thin(Curve([1, 2, 3, 4, 5], [1, 3, 5, 5, 9]), limit=3) == Curve([1.5, 3.5, 5], [2, 5, 9])
    assert thin(Curve([], [])) == Curve([], [])


def test_the_fingerprint_sees_ids_records_and_images() -> None:
    sample = Sample(id="a", group="g", images=(b"1",), record={"price": 1.0})
    others = [
        replace(sample, id="b"),
        replace(sample, images=(b"2",)),
        replace(sample, record={"price": 2.0}),
    ]
    assert fingerprint([sample]) == fingerprint([replace(sample)])
    assert len({fingerprint([each]) for each in [sample, *others]}) == 4


def test_versions_are_known_from_a_checkout_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def installed(name: str) -> str:
        if name == "phi-vision":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(runs, "version", installed)
    assert package_versions()["phi-vision"] == __version__


def test_versions_name_python_the_libraries_and_the_data() -> None:
    found = collect_versions([])
    assert list(found) == [
        "python",
        "torch",
        "transformers",
        "peft",
        "tokenizers",
        "phi-vision",
        "data_sha256",
    ]
