"""`phi-vision predict MODEL DATASET --out FILE`: what is told on stderr, and what is refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_answerers import Painter
from toy_products import product_rows

from phi_vision.cli.main import EXIT_INTERRUPTED, main
from phi_vision.inference import batch_executors as engines
from phi_vision.inference import batch_job_spec as inquiry
from phi_vision.inference import resume_store as keeping


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that asks a painter about 20 products."""
    pq.write_table(pa.Table.from_pylist(product_rows(20)), tmp_path / "shop.parquet")
    monkeypatch.setattr(inquiry, "load_predictor", lambda *_, **__: Painter(fails_on=["p7"]))
    model, source, out = "phi-vision-small", tmp_path / "shop.parquet", tmp_path / "out.parquet"
    return ["predict", model, str(source), "--out", str(out), "--portion", "4"]


def test_one_line_at_the_end_says_what_became_of_the_rows(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    told = capsys.readouterr()
    *steps, last = told.err.splitlines()
    assert told.out == ""
    assert steps == ["0 of 20 rows"]
    found = "out.parquet: 20 rows, 0 not in the template's form, 1 error (1 no answer), "
    assert found in last
    assert last.endswith("rows/s")
    assert main(words) == 0
    assert capsys.readouterr().err.splitlines()[-1].endswith("1 error (1 no answer)")


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = 0
    ask = engines.ask_portion

    def ask_twice(*given: object) -> object:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise KeyboardInterrupt
        return ask(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(engines, "ask_portion", ask_twice)
    assert main(words) == EXIT_INTERRUPTED
    assert "8 of 20 rows are answered and kept; the same command goes on" in capsys.readouterr().err
    assert main(words) == 0
    assert "12 answered now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--json"], "--out takes one dataset or folder of images: found --json"),
        (["--keep", "title"], "such as --keep title=true_title"),
        (["--engine", "rey"], "did you mean ray?"),
    ],
)
def test_what_does_not_go_together_is_a_mistake(
    words: list[str], more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *more]) == 2
    assert told in capsys.readouterr().err


def test_options_for_catalogs_need_a_file_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "model", "coat.jpg", "--ray-address", "auto"]) == 2
    assert "--ray-address takes effect only where --out names" in capsys.readouterr().err


def test_gaps_are_what_is_not_done() -> None:
    done = [keeping.Span(start=64, stop=128), keeping.Span(start=192, stop=200)]
    found = [(span.start, span.stop) for span in keeping.gaps(done, 200)]
    assert found == [(0, 64), (128, 192)]
