"""`phi-vision predict MODEL DATASET --out FILE`: its messages on stderr, and its errors."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_predictors import Painter
from toy_products import product_rows

from phi_vision.cli.main import EXIT_INTERRUPTED, main
from phi_vision.inference import batch, batch_engines
from phi_vision.inference.batch import gaps


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
        (["--json"], "--out takes one dataset or folder of images: found --json"),
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
