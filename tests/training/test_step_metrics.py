"""The figures of a run's log: how fast, how large, how named, and what a resumed log forgets."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.template import Template
from phi_vision.training.callbacks import (
    Throughput,
    count_tokens,
    learning_rates,
    read_machine,
)
from phi_vision.training.recipes import Recipe
from phi_vision.training.tracking.plots import mark_fields
from phi_vision.training.tracking.tracker import (
    MACHINE_DEPENDENT,
    best_evaluation,
    rename_evaluation,
    rename_step,
    truncate_log,
)
from phi_vision.training.trainer import train

MakeRecipe = Callable[..., Recipe]
PADDING = 0


def test_padding_is_no_token() -> None:
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]),
    }
    assert count_tokens(inputs, PADDING) == (2, 5)


def test_the_samples_of_a_packed_row_are_counted_one_by_one() -> None:
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 9, 0, 0], [4, 4, 4, 4, 4, 4, 4]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6]]),
    }
    assert [int(each) for each in count_tokens(inputs, PADDING)] == [3, 12]


def test_only_what_is_learnt_from_counts_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 12.0, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))

    class Model(torch.nn.Module):
        config = type("Config", (), {"pad_token_id": PADDING})

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return input_ids

    model, throughput = Model(), Throughput(processes=2)
    throughput.watch(model)
    ids = torch.tensor([[5, 6, 7], [8, 0, 0]])
    model(input_ids=ids)
    model(input_ids=ids)
    with torch.no_grad():
        model(input_ids=ids)
    model.eval()
    model(input_ids=ids)
    # Two passes of 2 samples and 4 tokens in two seconds, by two processes.
    assert throughput.lap() == {"samples_per_second": 4.0, "tokens_per_second": 8.0, "seconds": 2.0}


def test_a_training_logs_speed_memory_and_every_rate(make_recipe: MakeRecipe) -> None:
    rates = {"train_projector": True, "projector_learning_rate": 1e-4}
    recipe = make_recipe("full", max_steps=2, validation_fraction=0.0, **rates)
    train(recipe)
    lines = [
        json.loads(line) for line in (recipe.output_dir / "log.jsonl").read_text().splitlines()
    ]
    for line in lines:
        assert line.keys() >= (MACHINE_DEPENDENT - {"seconds"}) - {
            key for key in MACHINE_DEPENDENT if "gpu" in key
        }
        # Each sample has an image of at least 13 tokens and some twenty words.
        assert line["tokens_per_second"] > 20 * line["samples_per_second"] > 0
        assert line["learning_rate_language"] == pytest.approx(30 * line["learning_rate_projector"])
    assert (recipe.output_dir / "plots" / "loss.png").is_file()


def test_the_machine_is_read() -> None:
    figures = read_machine()
    assert 0 <= figures["cpu_percent"] <= 100
    assert 100 < figures["memory_mib"] < 100_000


def test_rates_are_named_by_what_learns_with_them() -> None:
    decayed = {"name": "language", "lr": 0.0, "initial_lr": 1e-4}
    second = {"name": "language", "lr": 0.0, "initial_lr": 16e-4}
    vision = {"name": "vision", "lr": 0.0, "initial_lr": 1e-5}
    assert learning_rates([decayed, decayed]) == {}
    assert learning_rates([second, decayed, vision]) == {
        "learning_rate_language": 0.0,
        "learning_rate_language_fast": 0.0,
        "learning_rate_vision": 0.0,
    }
    decayed, second = {**decayed, "lr": 5e-5}, {**second, "lr": 8e-4}
    named = learning_rates([second, decayed])
    assert named == {"learning_rate_language": 5e-5, "learning_rate_language_fast": 8e-4}


def test_trackers_get_figures_in_groups() -> None:
    assert rename_step({"loss": 1.5, "cpu_percent": 93.0}) == {
        "train/loss": 1.5,
        "machine/cpu_percent": 93.0,
    }
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


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"title": "Hat", "full_price": 100.0}, [True, True]),
        ({"title": "Hat", "full_price": 109.0}, [True, True]),
        ({"title": "hat", "full_price": 111.0}, [False, False]),
        (None, [False, False]),
    ],
)
def test_each_field_is_right_or_wrong(said: dict[str, object] | None, expected: list[bool]) -> None:
    truth = {"title": "Hat", "full_price": 100.0}
    answer = ScoredPrediction(
        id="a", group="g", truth=truth, prediction=Prediction(text="", record=said)
    )  # type: ignore[arg-type]
    template = Template(
        name="t", question="?", answer="{title} for {full_price:number}", layout="chat"
    )
    assert list(mark_fields(answer, template).values()) == expected


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


def test_a_resumed_log_forgets_what_is_done_again(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    truncate_log(log, 2)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_half_written_line_is_forgotten(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2, "lo')
    truncate_log(log, 2)
    assert log.read_text() == '{"step": 1}\n'
