"""`phi-vision predict MODEL DATASET --out FILE`: its messages on stderr, and its errors."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_predictors import Painter
from toy_products import draw_product, product_rows

from phi_vision.cli import predict
from phi_vision.cli.main import EXIT_INTERRUPTED, main
from phi_vision.data.acceptance import RECORD
from phi_vision.data.prediction import Prediction
from phi_vision.data.template import PRODUCT
from phi_vision.inference import batch, batch_engines
from phi_vision.inference.batch import gaps
from phi_vision.io.image_decoding import open_image


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that predicts 20 products."""
    pq.write_table(pa.Table.from_pylist(product_rows(20)), tmp_path / "shop.parquet")
    monkeypatch.setattr(batch, "load_predictor", lambda *_, **__: Painter(fails_on=["p7"]))
    model, source, out = "phi-vision-small", tmp_path / "shop.parquet", tmp_path / "out.parquet"
    return ["predict", model, str(source), "--out", str(out), "--rows-per-part", "4"]


def test_the_last_line_summarizes_the_job(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    told = capsys.readouterr()
    *steps, last = told.err.splitlines()
    assert told.out == ""
    assert steps == ["0 of 20 rows"]
    found = (
        "out.parquet: 20 rows, 0 unparsed, 1 error (1 no prediction; see the column error_detail), "
    )
    assert found in last
    assert last.endswith("rows/s")
    assert main(words) == 0
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("1 error (1 no prediction; see the column error_detail)")
    )


def test_the_summary_names_the_coverage_by_field_at_the_target_precision(
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    run = write_evaluated_run(tmp_path / "run")
    words[1] = str(run)
    assert main(words) == 0
    without = "Of category3_code, full_price and whole record nothing is accepted: Too few."
    assert without in caplog.text
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == (
        "no review needed at a precision of 0.9: title 95.0 %, category3_code 0.0 %, "
        "full_price 0.0 %, whole record 0.0 % of the rows"
    )
    assert main([*words, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["rows"] == 20
    assert counts["target_precision"] == 0.9
    assert counts["coverage"]["title"] == 0.95
    assert main([*words, "--target-precision", "95"]) == 2
    assert "pass a share above 0 and below 1, such as 0.95" in capsys.readouterr().err
    assert main([*words, "--target-precision", "0.9", "--constrained"]) == 2
    assert "predict without --constrained and --categories-of" in capsys.readouterr().err


def write_evaluated_run(run: Path) -> Path:
    """Write a run whose evaluation accepts titles alone."""
    (run / "report").mkdir(parents=True)
    line = {"slope": 1.0, "intercept": 0.0, "limitations": "Too few."}
    accept = {name: {"target": 0.9, "threshold": None} for name in (*PRODUCT.fields, RECORD)}
    accept["title"]["threshold"] = 0.1
    fitted = {name: line | {"auto_accept": each} for name, each in accept.items()}
    held = {"template": asdict(PRODUCT), "calibrations": fitted, "samples": 1, "seed": 0}
    (run / "report" / "scores.json").write_text(json.dumps(held))
    (run / "recipe.yaml").touch()
    model = run / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    return run


def test_one_image_shows_what_needs_no_review(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, photo = write_evaluated_run(tmp_path / "run"), tmp_path / "hat.png"
    photo.write_bytes(draw_product("red", "HATS", (60, 40)))
    text = PRODUCT.render({"title": "Hat", "category3_code": "HATS", "full_price": 4.5})
    found = Prediction.parse(text, PRODUCT, confidence=dict.fromkeys(PRODUCT.fields, 0.5))
    predictor = SimpleNamespace(
        template=PRODUCT,
        open_image=lambda image: open_image(image),
        predict=lambda images, grammar: [found] * len(images),
    )
    monkeypatch.setattr(predict, "load_predictor", lambda options: predictor)
    words = ["predict", str(run), str(photo)]
    assert main(words) == 0
    line = f"{photo}: title=Hat, category3_code=HATS, full_price=4.5"
    assert capsys.readouterr().out == f"{line}\n"
    words += ["--target-precision", "0.9"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert told.out == f"{line}; accept title; review category3_code, full_price, whole record\n"
    assert main([*words, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["target_precision"] == 0.9
    assert row["confidence"]["title"] == 0.5
    assert row["calibrated"]["title"] == pytest.approx(0.5)
    assert row["accept"] == {
        "title": True,
        "category3_code": False,
        "full_price": False,
        "whole record": False,
    }


def test_ctrl_c_reports_what_is_kept_and_how_to_resume(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = 0
    predict = batch_engines.predict_part

    def predict_twice(*given: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return predict(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(batch_engines, "predict_part", predict_twice)
    assert main(words) == EXIT_INTERRUPTED
    assert (
        "8 of 20 rows are predicted and kept; the same command resumes" in capsys.readouterr().err
    )
    assert main(words) == 0
    assert "12 predicted now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--keep", "title"], "such as --keep title=true_title"),
        (["--engine", "rey"], "did you mean ray?"),
    ],
)
def test_conflicting_options_are_an_error(
    words: list[str], more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *more]) == 2
    assert told in capsys.readouterr().err


def test_options_for_catalogs_need_a_file_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "model", "coat.jpg", "--ray-address", "auto"]) == 2
    assert "--ray-address has no effect without --out" in capsys.readouterr().err


def test_gaps_are_the_missing_spans() -> None:
    done = [range(64, 128), range(192, 200)]
    assert list(gaps(done, 200)) == [range(64), range(128, 192)]
