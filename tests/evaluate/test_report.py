"""What is written down about an evaluation."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from phi_vision.data.sample import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.evaluate.report import as_table, write_report
from phi_vision.evaluate.score import Scores, score

PRODUCT = TEMPLATES["product"]


def picture(shade: int, mode="RGB", size=(30, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, (shade,) * len(mode)).save(buffer, "PNG")
    return buffer.getvalue()


SAMPLES = [
    Sample(
        id=f"id <{number}>",
        group=f"g{number}",
        images=(picture(5 * number, "RGBA" if number % 2 else "RGB"),),
        record={"title": "Coat & <b>", "category3_code": "AB"[number % 2], "full_price": 100.0},
    )
    for number in range(40)
]


def answer(samples):
    """Always say A, but for the first (unreadable) and the second (right, its price far off)."""
    texts = [PRODUCT.render({**s.record, "category3_code": "A"}) for s in samples]
    texts[0] = "<script>alert(1)</script>"
    texts[1] = PRODUCT.render({**samples[1].record, "full_price": 7777.0})
    return texts


@pytest.fixture(scope="module")
def scores() -> Scores:
    floor = {"price_median_ape": 0.07}
    return score(answer, SAMPLES, PRODUCT, baselines_from=SAMPLES, floor=floor)


def test_the_table_has_a_row_for_each_metric(scores: Scores):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(as_table(scores))
    text = console.export_text()
    assert "40 held-out samples in 40 groups" in text
    assert re.search(r"category_accuracy ↑ *│ *0.500 \(0\.\d+–0\.\d+\)", text)
    assert re.search(r"price_median_ape ↓ .* 0.070 │", text)
    assert "noise floor" in text


def test_the_table_has_no_floor_where_none_is_known(scores: Scores):
    assert len(as_table(replace(scores, floor={})).columns) == len(as_table(scores).columns) - 1


def test_the_folder_holds_scores_predictions_and_a_page(scores: Scores, tmp_path: Path):
    page = write_report(scores, SAMPLES, tmp_path / "new" / "report")
    assert page == tmp_path / "new" / "report" / "report.html"
    names = {file.name for file in page.parent.iterdir()}
    assert names == {"report.html", "scores.json", "predictions.jsonl"}

    summary = json.loads((page.parent / "scores.json").read_text())
    assert summary["figures"]["model"]["category_accuracy"]["value"] == 20 / 40
    assert summary["looks"] is False
    assert summary["floor"] == {"price_median_ape": 0.07}

    lines = (page.parent / "predictions.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines[:2])
    assert len(lines) == 40
    assert first == {
        "id": "id <0>",
        "truth": SAMPLES[0].record,
        "text": "<script>alert(1)</script>",
        "parsed": None,
    }
    assert second["parsed"]["full_price"] == 7777.0


def test_the_page_needs_nothing_else_and_runs_nothing(scores: Scores, tmp_path: Path):
    html = write_report(scores, SAMPLES, tmp_path).read_text(encoding="utf-8")
    assert "http" not in html
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "Coat &amp; &lt;b&gt;" in html
    assert set(re.findall(r'src="(.{23})', html)) == {"data:image/jpeg;base64,"}


def test_the_page_shows_the_worst_price_and_the_canary(scores: Scores, tmp_path: Path):
    html = write_report(scores, SAMPLES, tmp_path).read_text(encoding="utf-8")
    worst = html[html.index("Worst prices") : html.index("Categories</h2>")]
    assert worst.count("<figure>") == 2
    assert worst.index("7,777.00") < worst.index("Not readable")
    assert 'class="canary bad">THE PICTURES DO NOT MATTER' in html


def test_an_interrupted_write_leaves_the_old_report(scores: Scores, tmp_path: Path, monkeypatch):
    page = write_report(scores, SAMPLES, tmp_path)
    before = page.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_report(replace(scores, samples=1), SAMPLES, tmp_path)
    assert page.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_values_that_json_does_not_know_are_null(scores: Scores, tmp_path: Path):
    unknown = replace(scores.answers[0], truth={"full_price": float("nan")}, parsed=None)
    write_report(replace(scores, answers=(unknown, *scores.answers[1:])), SAMPLES, tmp_path)
    first = (tmp_path / "predictions.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["truth"] == {"full_price": None}


def test_wrong_samples_and_a_file_in_the_way_are_said(scores: Scores, tmp_path: Path):
    with pytest.raises(ValueError, match="40 other samples than the 39 given"):
        write_report(scores, SAMPLES[1:], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="found a file; give a folder"):
        write_report(scores, SAMPLES, tmp_path / "file")
