"""What a run writes down, and that W&B stays inside the run folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from phi_vision.data.sample import Sample
from phi_vision.train.recipes import Recipe
from phi_vision.train.tracking import fingerprint, forget_after, is_logged_in
from phi_vision.train.trainer import train

MakeRecipe = Callable[..., Recipe]


def test_wandb_writes_offline_into_the_run_folder(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(home)
    recipe = make_recipe("lora", tracker="wandb", max_steps=1, eval_samples=2)
    train(recipe)
    (run,) = (recipe.out / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
    assert len(list(run.glob("files/media/images/validation/*.png"))) == 2
    outside = [path for path in home.rglob("*") if path.is_file() and path.name != "settings"]
    assert outside == []


@pytest.mark.parametrize(
    ("environment", "netrc", "expected"),
    [
        ({}, "", False),
        ({"WANDB_API_KEY": "k" * 40}, "", True),
        ({}, "machine api.wandb.ai login user password kkk", True),
        ({}, "machine example.org login user password kkk", False),
        ({"WANDB_BASE_URL": "https://example.org"}, "machine example.org login u password k", True),
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


def test_a_resumed_log_forgets_what_is_done_again(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    forget_after(log, 2)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_half_written_line_is_forgotten(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2, "lo')
    forget_after(log, 2)
    assert log.read_text() == '{"step": 1}\n'


def test_the_fingerprint_sees_ids_records_and_pictures() -> None:
    sample = Sample(id="a", group="g", images=(b"1",), record={"price": 1.0})
    others = [
        replace(sample, id="b"),
        replace(sample, images=(b"2",)),
        replace(sample, record={"price": 2.0}),
    ]
    assert fingerprint([sample]) == fingerprint([replace(sample)])
    assert len({fingerprint([each]) for each in [sample, *others]}) == 4
