"""Plots of a run: drawn from the log alone, whole at any moment, and of what there is."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.template import Template
from phi_vision.runs import RunDir, read_history
from phi_vision.training.tracking.plots import (
    PLOTS,
    ShownPrediction,
    caption,
    draw_plots,
    mark_fields,
    save_figure,
)

STEPS = [
    {"step": step, "loss": 3.0 / step, "learning_rate": 1e-4, "grad_norm": 1.0}
    for step in range(1, 11)
]
EVALUATIONS: list[dict[str, Any]] = [
    {
        "step": step,
        "validation_loss": 3.5 / step,
        "is_best": step == 5,
        "model": {"category3_code_accuracy": 0.6, "full_price_mae": 80.0},
        "shuffled": {"category3_code_accuracy": 0.2, "full_price_mae": None},
    }
    for step in (5, 10)
]


def write_log(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_only_measured_values_are_plotted(tmp_path: Path) -> None:
    write_log(tmp_path, STEPS)
    assert [path.name for path in draw_plots(RunDir(tmp_path))] == ["loss.png", "learning.png"]
    write_log(tmp_path, [*STEPS, *EVALUATIONS])
    drawn = draw_plots(RunDir(tmp_path))
    assert [path.name for path in drawn] == ["loss.png", "learning.png", "validation.png"]
    for path in drawn:
        with Image.open(path) as image:
            assert image.width == 1152


@pytest.mark.parametrize("name", PLOTS)
def test_an_empty_log_draws_nothing(tmp_path: Path, name: str) -> None:
    write_log(tmp_path, [])
    assert PLOTS[name](read_history(tmp_path / "log.jsonl")) is None


def test_one_broken_step_and_no_evaluation_still_draw(tmp_path: Path) -> None:
    write_log(tmp_path, [{"step": 1, "loss": math.nan, "grad_norm": math.inf}, *STEPS[1:2]])
    assert [path.name for path in draw_plots(RunDir(tmp_path))] == ["loss.png", "learning.png"]


def test_the_shuffled_images_are_drawn_beside_the_model(tmp_path: Path) -> None:
    write_log(tmp_path, EVALUATIONS)
    figure = PLOTS["validation"](read_history(tmp_path / "log.jsonl"))
    assert figure is not None
    accuracy, price = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in accuracy.lines}
    assert lines["own images"] == [0.6, 0.6]
    assert lines["shuffled images"] == [0.2, 0.2]
    assert list(accuracy.lines[-1].get_xdata()) == [5, 5], "the evaluation whose weights are kept"
    assert price.get_title().endswith(" ↓")


def test_a_steep_loss_is_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    scales = []
    for lowest in (1.0, 0.01):
        write_log(tmp_path, [{"step": 1, "loss": 3.0}, {"step": 2, "loss": lowest}])
        figure = PLOTS["loss"](read_history(tmp_path / "log.jsonl"))
        assert figure is not None
        scales.append(figure.axes[0].get_yscale())
    assert scales == ["linear", "log"]


def test_an_image_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_figure(Figure(), tmp_path / "plots" / "loss.png")
    before = path.read_bytes()

    def fail_half_way(file: Path, data: bytes) -> None:
        with file.open("wb") as part:
            part.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail_half_way)
    with pytest.raises(OSError, match="No space left"):
        save_figure(Figure(figsize=(1, 1)), path)
    assert path.read_bytes() == before


def test_captions_show_errors_and_true_values() -> None:
    scored = ScoredPrediction(
        id="p0",
        group="g0",
        truth={"title": "Wool Hat", "category3_code": "HATS", "full_price": 100.0},
        prediction=Prediction(
            text="",
            record={"title": "Wool Hat", "category3_code": "BAGS", "full_price": 105.0},
        ),
    )
    answer = ShownPrediction(
        scored=scored,
        image=None,
        ground_truth="",
        is_correct={"title": True, "category3_code": False, "full_price": True},
    )
    assert [text for text, _ in caption(answer)] == [
        "✓ Wool Hat",
        "✗ BAGS",
        "    true: HATS",
        "✓ 105.00",
        "    true: 100.00",
    ]


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
