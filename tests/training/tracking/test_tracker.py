"""What a run writes down, in its folder, in W&B and in TensorBoard: read back from the files."""

import functools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import pytest
import wandb
from PIL import Image

from phi_vision.data.dataset import load_samples
from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES, write_template
from phi_vision.metrics.constant_baselines import constant
from phi_vision.metrics.scores import Scores, score
from phi_vision.runs import RunDir
from phi_vision.training.recipes import RECIPES, Recipe, to_yaml
from phi_vision.training.tracking import plots, wandb_run
from phi_vision.training.tracking.tracker import (
    TRACKERS,
    Tracking,
    best_evaluation,
    rename_evaluation,
    truncate_log,
)
from phi_vision.training.tracking.wandb_run import is_logged_in
from phi_vision.training.trainer import train

MakeRun = Callable[[str], Recipe]
OWN_SERVER = urlparse(wandb.Settings().base_url).netloc
TEMPLATE = TEMPLATES["product"]


class OfflineRun(NamedTuple):
    """A run that W&B wrote without a login: where it lies, and what W&B's own reader finds."""

    recipe: Recipe
    folder: Path
    home: Path
    records: dict[str, list[Any]]


@pytest.fixture(scope="module")
def samples(products: Path) -> list[Sample]:
    return load_samples(products)[:6]


@pytest.fixture(scope="module")
def scores(samples: list[Sample]) -> Scores:
    """Answers that name each title and category, and prices that are 50 % too high."""
    prices = [100.0, 250.0, 390.0, 45.5, 100.0, 250.0]
    texts = [
        TEMPLATE.render({**sample.record, "full_price": 1.5 * price})
        for sample, price in zip(samples, prices, strict=True)
    ]
    given = [Prediction.parse(text, TEMPLATE) for text in texts]
    baselines = {"constant": constant(samples, TEMPLATE, len(samples))}
    replies = {"model": given, "shuffled": given}
    return score(replies, samples, TEMPLATE, training=samples, baselines=baselines)


@pytest.fixture(scope="module")
def make_run(products: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Make a recipe and the folder of its run as a training leaves it before the first step."""

    def make(tracker: str) -> Recipe:
        out = tmp_path_factory.mktemp("run")
        (out / "model").mkdir()
        (out / "model" / "adapter_model.safetensors").write_bytes(b"weights")
        (out / "versions.json").write_text('{"data_sha256": "abc"}')
        write_template(TEMPLATE, out / "template.yaml")
        return replace(RECIPES["lora"](), data=str(products), output_dir=out, report_to=tracker)  # type: ignore[arg-type]

    return make


@pytest.fixture
def write_down(samples: list[Sample], scores: Scores) -> Callable[..., None]:
    return functools.partial(track, samples, scores)


def track(
    samples: Sequence[Sample],
    scores: Scores,
    recipe: Recipe,
    *,
    first_step: int = 0,
    kill_after: int = 4,
    writes: bool = True,
) -> None:
    """Track steps up to the fourth, evaluated at the second and fourth; a kill is an exception."""
    with Tracking(
        RunDir(recipe.output_dir),
        recipe=to_yaml(recipe),
        report_to=recipe.report_to,
        first_step=first_step,
        total_steps=4,
        writes=writes,
    ) as tracking:
        for step in range(first_step + 1, 5):
            if step > kill_after:
                raise KeyboardInterrupt
            tracking.step(step, {"loss": 5.0 / step, **OTHER_FIGURES})
            if step % 2 == 0:
                figures = {"validation_loss": 6.0 / step, "is_best": True, "seconds": 1.0}
                tracking.evaluation(step, figures, scores, samples)


OTHER_FIGURES = {
    "grad_norm": 1.0,
    "learning_rate": 1e-4,
    "samples_per_second": 5.0,
    "tokens_per_second": 600.0,
    "cpu_percent": 90.0,
    "memory_mib": 700.0,
}


def logged_steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]


def inspect_wandb(run: Path) -> dict[str, list[Any]]:
    """Read an offline run with W&B's own reader: kind of record -> records."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(run)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    records: dict[str, list[Any]] = {}
    for record in map(json.loads, lines):
        records.setdefault(record["type"], []).append(record[record["type"]])
    return records


def leave_wandb_alone(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Take W&B's login away, and give it a home in which whatever it leaves outside would lie; no
    plots are drawn, which take most of the time of such a run."""
    patch.setattr(plots, "draw_plots", lambda run: [])
    patch.setattr(plots, "save_figure", lambda figure, path: path)
    patch.setenv("HOME", str(home))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        patch.delenv(name, raising=False)
    patch.chdir(home)
    wandb.teardown()  # W&B reads its variables once per process


@pytest.fixture(scope="module")
def offline_run(
    make_run: MakeRun,
    samples: list[Sample],
    scores: Scores,
    tmp_path_factory: pytest.TempPathFactory,
) -> OfflineRun:
    recipe, home = make_run("wandb"), tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        leave_wandb_alone(patch, home)
        track(samples, scores, recipe)
    (folder,) = (recipe.output_dir / "wandb").glob("offline-run-*")
    return OfflineRun(recipe, folder, home, inspect_wandb(folder))


def test_wandb_offline_has_the_curves_and_the_recipe(offline_run: OfflineRun) -> None:
    recipe, records = offline_run.recipe, offline_run.records
    config = records["run"][0]["config"]["update"]
    assert config["learning_rate"] == recipe.learning_rate
    assert config["target_modules"] == list(recipe.target_modules or ())
    history = [record["item"] for record in records["history"]]
    assert [item["_step"] for item in history] == [1, 2, 3, 4]
    # An evaluation shares its step with the training's own figures, and does not replace them.
    assert [item["train/loss"] for item in history] == [5.0 / step for step in (1, 2, 3, 4)]
    assert [item.get("validation/loss") for item in history] == [None, 3.0, None, 1.5]
    assert history[0]["machine/cpu_percent"] == 90.0
    assert history[1]["validation/category3_code_accuracy"] == 1.0
    assert history[1]["shuffled/full_price_within_10"] == 0.0
    assert records["exit"][0]["exit_code"] == 0


def test_wandb_offline_has_data_and_best_model_as_artifacts(offline_run: OfflineRun) -> None:
    artifacts = {record["type"]: record for record in offline_run.records["artifact"]}
    assert "best" in artifacts["model"]["aliases"]
    assert json.loads(artifacts["model"]["metadata"])["step"] == 4
    assert json.loads(artifacts["dataset"]["metadata"])["data_sha256"] == "abc"
    names = {
        kind: [file["path"] for file in artifacts[kind]["manifest"]["contents"]]
        for kind in ("dataset", "model")
    }
    assert names["dataset"] == ["fingerprint.json", "train-00000-of-00001.parquet"]
    assert names["model"] == ["adapter_model.safetensors"]


def test_every_file_that_wandb_will_send_is_there_and_nothing_lies_outside(
    offline_run: OfflineRun,
) -> None:
    for artifact in offline_run.records["artifact"]:
        for file in artifact["manifest"]["contents"]:
            assert Path(file["local_path"]).stat().st_size == int(file["size"])
    sent = [file["path"] for record in offline_run.records["files"] for file in record["files"]]
    assert [path for path in sent if not (offline_run.folder / "files" / path).is_file()] == []
    outside = [path for path in offline_run.home.rglob("*") if path.is_file()]
    assert [path for path in outside if path.name != "settings"] == []


def test_wandb_shows_each_evaluation_in_one_table(
    offline_run: OfflineRun, samples: list[Sample]
) -> None:
    history = [record["item"] for record in offline_run.records["history"]]
    key = "validation/answers"
    assert [item.get(f"{key}._type") for item in history] == [None, "table-file"] * 2
    table = json.loads((offline_run.folder / "files" / history[1][f"{key}.path"]).read_text())
    right = [f"{field} right" for field in ("title", "category3_code", "full_price")]
    assert table["columns"] == ["Image", "Ground truth", "Predicted", *right, "Sample", "Step"]
    assert table["data"][0][1:] == [
        "Product: red hats, Category: HATS, Full Price: 100.0",
        "Product: red hats, Category: HATS, Full Price: 150.0",
        True,
        True,
        False,
        "p0",
        2,
    ]
    # The table's own images wait beside it, and plain ones can be looked at right away.
    tables = [a for a in offline_run.records["artifact"] if a["type"] == "run_table"]
    assert len(tables) == 2
    waiting = [f for f in tables[0]["manifest"]["contents"] if f["path"].startswith("media/images")]
    assert len(waiting) == len({sample.images for sample in samples})
    plain = sorted(offline_run.folder.glob("files/media/images/validation/images_2_*.jpg"))
    images = [*plain, *(file["local_path"] for file in waiting)]
    assert {Image.open(path).size for path in images} == {(224, 224)}


def test_a_resumed_run_goes_on_in_the_same_wandb_run(
    make_run: MakeRun,
    write_down: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave_wandb_alone(monkeypatch, tmp_path)
    recipe = make_run("wandb")
    with pytest.raises(KeyboardInterrupt):
        write_down(recipe, kill_after=3)
    write_down(recipe, first_step=2)
    runs = sorted((recipe.output_dir / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    records = [inspect_wandb(run) for run in runs]
    assert len({each["run"][0]["run_id"] for each in records}) == 1
    steps = [[record["item"]["_step"] for record in each["history"]] for each in records]
    assert steps == [[1, 2, 3], [3, 4]]
    assert [each["exit"][0].get("exit_code", 0) for each in records] == [1, 0]
    # Of the stopped run no weights are the best yet.
    kinds = [{artifact["type"] for artifact in each["artifact"]} for each in records]
    assert ["model" in each for each in kinds] == [False, True]
    assert logged_steps(recipe.output_dir) == [1, 2, 2, 3, 4, 4]


def test_wandb_variables_take_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_wandb_alone(monkeypatch, tmp_path)
    started: list[dict[str, Any]] = []
    monkeypatch.setattr("wandb.init", lambda **given: started.append(given))
    start = wandb_run._start
    start(tmp_path, {})
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    monkeypatch.setenv("WANDB_CONSOLE", "wrap")
    start(tmp_path, {})
    monkeypatch.setenv("WANDB_DISABLED", "true")
    (tmp_path / "new").mkdir()
    start(tmp_path / "new", {})
    first, second, third = started
    assert first["id"] == (tmp_path / "wandb" / "id").read_text().strip() != second["id"]
    assert (second["id"], second["mode"]) == ("chosen", "offline")
    assert ("console" in first["settings"], "console" in second["settings"]) == (True, False)
    assert third["mode"] == "disabled"
    # A resumed run without the variable continues the same run.
    assert (tmp_path / "new" / "wandb" / "id").read_text() == "chosen\n"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("WANDB_MODE", "ofline", "; choose one of 'online', 'offline'"),
        ("WANDB_RESUME", "ofline", "; choose one of 'allow', 'must'"),
        ("WANDB_CONSOLE", "on", "; choose one of 'auto', 'off'"),
        ("WANDB_SILENT", "flase", "; Input should be a valid boolean"),
        ("WANDB_SILENT", "maybe", "; Input should be a valid boolean.*unset it"),
        ("WANDB_DISABLED", "ture", "; choose one of 'true' and 'false'"),
        ("WANDB_INIT_TIMEOUT", "soon", "; Input should be a valid number"),
        ("WANDB_BASE_URL", "my-server", "; Input should be a valid URL"),
        ("WANDB_TAGS", "coats,", ".*Tag at index 1 is empty"),
        ("WANDB_PROJECT", "a/b", ": Invalid project name"),
        ("WANDB_RUN_ID", "a/b", ": Run ID cannot contain"),
    ],
)
def test_a_misspelt_wandb_variable_is_an_error_before_anything_is_written(
    make_recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    problem: str,
) -> None:
    monkeypatch.setenv(name, value)
    recipe = make_recipe("lora", report_to="wandb")
    with pytest.raises(ValueError, match=f"{name} is '{value}'{problem}"):
        train(recipe)
    assert not recipe.output_dir.exists()


def test_the_variables_of_wandb_come_before_what_is_set_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leave_wandb_alone(monkeypatch, tmp_path)
    given = {"ENTITY": "team", "PROJECT": "shop", "NAME": "one", "NOTES": "first", "TAGS": "a,b"}
    given |= {"RUN_GROUP": "coats", "JOB_TYPE": "tune", "SILENT": "false", "CONSOLE": "wrap"}
    given |= {"DIR": str(tmp_path / "elsewhere"), "RESUME": "allow"}
    given |= {"MODE": "", "BASE_URL": "", "DISABLED": "", "LOG_MODEL": "checkpoint"}
    for name, value in given.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "versions.json").write_text("{}")
    wandb_run.check_variables()
    assert "WANDB_LOG_MODEL has no effect: the best weights are logged" in caplog.text
    logged = wandb_run.WandbRun(RunDir(tmp_path / "run"), f"data: {tmp_path / 'none'}\n")
    run, settings = logged.run, logged.run.settings
    logged.close(failed=False)
    assert (run.entity, run.project, run.name, run.notes) == ("team", "shop", "one", "first")
    assert (run.tags, run.group, run.job_type) == (("a", "b"), "coats", "tune")
    assert (settings.silent, settings.console, settings.mode) == (False, "wrap", "offline")
    assert len(list((tmp_path / "elsewhere" / "wandb").glob("offline-run-*"))) == 1
    assert not list((tmp_path / "run" / "wandb").glob("*run-*"))


def test_wandb_is_silent_also_before_it_has_read_its_settings(tmp_path: Path) -> None:
    (tmp_path / "versions.json").write_text("{}")
    code = (
        "import sys, types; sys.modules['openai'] = types.ModuleType('openai')\n"
        "from pathlib import Path; from phi_vision.runs import RunDir\n"
        "from phi_vision.training.tracking.wandb_run import WandbRun\n"
        f"WandbRun(RunDir(Path({str(tmp_path)!r})), 'data: none').close(failed=False)"
    )
    env = {**os.environ, "WANDB_MODE": "offline"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert found.returncode == 0
    assert "wandb:" not in found.stdout + found.stderr


def test_without_a_network_a_run_with_a_key_is_recorded_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leave_wandb_alone(monkeypatch, tmp_path)
    given = {"API_KEY": "k" * 40, "BASE_URL": "http://127.0.0.1:9", "INIT_TIMEOUT": "1"}
    for name, value in given.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "versions.json").write_text("{}")
    run = wandb_run.WandbRun(RunDir(tmp_path), f"data: {tmp_path / 'none'}\n")
    run.close(failed=False)
    assert "W&B did not respond" in caplog.text
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1


def test_a_disabled_wandb_writes_nothing_of_its_own(
    make_run: MakeRun,
    write_down: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    leave_wandb_alone(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    recipe = make_run("wandb")
    write_down(recipe)
    assert not list((recipe.output_dir / "wandb").glob("*run*"))
    assert logged_steps(recipe.output_dir) == [1, 2, 2, 3, 4, 4]
    assert "failed" not in caplog.text


def test_tensorboard_has_curves_images_and_the_table(
    make_run: MakeRun, write_down: Callable[..., None]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = make_run("tensorboard")
    with pytest.raises(KeyboardInterrupt):
        write_down(recipe, kill_after=3)
    write_down(recipe, first_step=2)
    events = EventAccumulator(str(recipe.output_dir / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    # The third step was done twice: what the stopped run wrote of it is hidden.
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.value for event in events.Scalars("validation/loss")] == [3.0, 1.5]
    assert [event.value for event in events.Scalars("shuffled/full_price_within_10")] == [0.0, 0.0]
    sheets = events.Images("validation/images")
    assert [(sheet.step, sheet.width) for sheet in sheets] == [(2, 1152), (4, 1152)]
    (words, _) = events.Tensors("validation/answers/text_summary")
    lines = words.tensor_proto.string_val[0].decode().splitlines()
    assert lines[0] == "| Sample | Ground truth | Predicted | title | category3_code | full_price |"
    assert lines[2].startswith("| p0 | Product: red hats")
    assert lines[2].endswith("| ✓ | ✓ | ✗ |")
    assert events.Tensors("recipe/text_summary")
    assert events.Tensors("best/text_summary")


def test_without_a_tracker_the_folder_has_it_all(
    make_run: MakeRun, write_down: Callable[..., None]
) -> None:
    recipe = make_run("none")
    with pytest.raises(KeyboardInterrupt):
        write_down(recipe, kill_after=3)
    write_down(recipe, first_step=2)
    lines = [
        json.loads(line) for line in (recipe.output_dir / "log.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4, 4]
    assert lines[2]["model"]["category3_code_accuracy"] == 1.0
    assert lines[2]["constant"].keys() == lines[2]["shuffled"].keys() == lines[2]["model"].keys()
    names = {path.name for path in (recipe.output_dir / "plots").iterdir()}
    curves = {"loss.png", "learning.png", "speed.png", "machine.png", "validation.png"}
    assert names == curves | {"answers.png"}


class BrokenTracker:
    """Breaks at whatever it is told."""

    def log(self, *_: object, **__: object) -> None:
        raise ConnectionError("the cable is cut")

    show = finish = close = log


def test_a_broken_tracker_is_left_out_and_the_run_goes_on(
    make_run: MakeRun,
    write_down: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", lambda tracking: BrokenTracker())
    recipe = make_run("wandb")
    with caplog.at_level(logging.WARNING):
        write_down(recipe)
    assert logged_steps(recipe.output_dir) == [1, 2, 2, 3, 4, 4]
    assert caplog.text.count("wandb failed (ConnectionError: the cable is cut)") == 1


def test_a_tracker_that_cannot_start_is_left_out(
    make_run: MakeRun,
    write_down: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(tracking: Tracking) -> None:
        raise OSError("no room for a socket")

    monkeypatch.setitem(TRACKERS, "wandb", fail)
    recipe = make_run("wandb")
    write_down(recipe)
    assert logged_steps(recipe.output_dir) == [1, 2, 2, 3, 4, 4]
    assert "wandb failed (OSError: no room for a socket)" in caplog.text


def test_plots_that_cannot_be_written_do_not_stop_a_run(
    make_run: MakeRun, write_down: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_run("none")
    (recipe.output_dir / "plots").write_text("a file where the folder should be")
    write_down(recipe)
    assert logged_steps(recipe.output_dir) == [1, 2, 2, 3, 4, 4]
    assert "drawing the plots failed" in caplog.text


def test_tracking_on_a_second_process_writes_nothing(
    make_run: MakeRun, write_down: Callable[..., None]
) -> None:
    recipe = make_run("tensorboard")
    before = sorted(recipe.output_dir.rglob("*"))
    write_down(recipe, writes=False)
    assert sorted(recipe.output_dir.rglob("*")) == before


@pytest.mark.parametrize(
    ("environment", "netrc", "expected"),
    [
        ({}, "", False),
        ({"WANDB_API_KEY": "k" * 40}, "", True),
        ({}, "machine api.wandb.ai login user password kkk", True),
        ({}, f"machine {OWN_SERVER} login user password kkk", True),
        ({}, "machine example.org login user password kkk", False),
        ({"WANDB_BASE_URL": "https://example.org"}, "machine example.org login u password k", True),
        ({"WANDB_BASE_URL": "http://a:8080"}, "machine a:8080 login user password k", True),
        ({"WANDB_BASE_URL": "http://a:8080"}, "machine api.wandb.ai login u password k", False),
        ({}, "no netrc at all", False),
    ],
)
def test_a_login_is_found_in_the_environment_or_in_netrc(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    netrc: str,
    expected: bool,
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "netrc"
    file.write_text(netrc)
    monkeypatch.setenv("NETRC", str(file))
    assert is_logged_in() == expected


def test_trackers_get_figures_in_groups() -> None:
    line = {
        "validation_loss": 1.5,
        "model": {"full_price_mae": 80.0, "title_exact": None},
        "shuffled": {"full_price_mae": 90.0},
        "uses_image": True,
        "shuffled_image_check": "The images matter",
    }
    assert rename_evaluation(line) == {
        "validation/loss": 1.5,
        "validation/full_price_mae": 80.0,
        "shuffled/full_price_mae": 90.0,
        "validation/uses_image": True,
    }


def test_the_best_evaluation_is_the_last_that_was_kept(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [
        {"step": 2, "validation_loss": 3.0, "is_best": True, "model": {"full_price_mae": 9.0}},
        {"step": 4, "validation_loss": 2.0, "is_best": True, "model": {"full_price_mae": 8.0}},
        {"step": 6, "validation_loss": 2.5, "is_best": False, "model": {"full_price_mae": 7.0}},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = best_evaluation(log)
    assert best == {"step": 4, "epoch": None, "validation_loss": 2.0, "full_price_mae": 8.0}


def test_a_resumed_log_drops_the_repeated_steps(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    truncate_log(log, 2)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_half_written_line_is_forgotten(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2, "lo')
    truncate_log(log, 2)
    assert log.read_text() == '{"step": 1}\n'
