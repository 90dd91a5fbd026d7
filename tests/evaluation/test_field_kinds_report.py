"""A run of all kinds of fields, most of them optional, from the export to the report."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_products import draw_product

from phi_vision.cli.main import main
from phi_vision.data.dataset import load_samples
from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample, Value
from phi_vision.data.template import Template, find_template
from phi_vision.evaluation.baselines import boost, nearest
from phi_vision.evaluation.report import explain, read_report
from phi_vision.evaluation.sections import draw_numbers
from phi_vision.inference.batch import prediction_schema
from phi_vision.metrics.scores import score

SHOP = Template(
    name="shop",
    question="?",
    answer="{title}, {colours:list?}, {weight:quantity kg?}, {price:money}, {hood:boolean?}",
    layout="chat",
)


def record(number: int) -> dict[str, Value]:
    draw = random.Random(number)
    held: dict[str, Value] = {
        "colours": draw.choice(["red; blue", "red", "green; red"]),
        "weight": draw.choice(["500 g", "0.7 kg", "2 kg"]),
        "hood": draw.random() < 0.5,
    }
    held |= dict.fromkeys([name for name in held if draw.random() < 0.3])
    return {
        "title": f"Coat {number}",
        "price": f"{number + 1} {draw.choice(['EUR', 'USD'])}",
        **held,
    }


def sample(number: int) -> Sample:
    return Sample(id=f"s{number}", group=f"g{number}", images=(), record=record(number))


TRAINING, ASKED = [sample(n) for n in range(60)], [sample(n) for n in range(60, 80)]


def test_baselines_predict_values_that_can_be_written() -> None:
    features = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    records = [
        *boost(ASKED, TRAINING, SHOP, seed=0),
        *nearest(features[60:], features[:60], TRAINING, SHOP),
    ]
    for each in records:
        assert SHOP.parse(SHOP.render(each)) == each


def test_numbers_with_units_are_drawn_in_one_unit() -> None:
    found = [Prediction.parse(SHOP.render(each.record), SHOP) for each in ASKED]
    scores = score({"model": found}, ASKED, SHOP, training=TRAINING)
    for field in SHOP.scaled_fields:
        chart, caption = draw_numbers(field, scores)
        assert chart is not None
        assert "are within 10 %" in caption
    assert scores.estimates["model"]["weight_unit_accuracy"].value == 1
    assert {each.by for each in scores.slices} >= {"hood", "image size"}


def test_a_sentence_counts_predictions_that_no_training_sample_has() -> None:
    template = Template(name="t", question="?", answer="{shelf:path}, {title}", layout="chat")
    training = [replace(each, record={**each.record, "shelf": "Tops > Coats"}) for each in TRAINING]
    true = [replace(each, record={**each.record, "shelf": "Tops > Capes"}) for each in ASKED]
    texts = ["Tops > Coats, a", "Tops > Capes, a", "Tops > Cots, a", *["unreadable"] * 17]
    found = [Prediction.parse(text, template) for text in texts]
    scores = score({"model": found}, true, template, training=training)
    (sentence,) = explain(scores, "unseen")
    assert sentence.startswith(
        "shelf: 2 of 20 predictions are a value that no training sample has, 1 of them right "
        "(20 samples have such a value)"
    )
    known = score({"model": found[:1] * 20}, true, template, training=training)
    assert explain(known, "unseen") == []


def test_tables_of_predictions_have_a_column_for_each_kind() -> None:
    types = {field.name: str(field.type) for field in prediction_schema(SHOP, has_splits=False)}
    assert [types[name] for name in SHOP.fields] == ["string"] * 4 + ["bool"]


def test_the_report_shows_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    for split, samples in {"train": TRAINING, "test": ASKED}.items():
        rows = [
            {"id": s.id, "image": {"bytes": draw_product("red", "HATS", (40 + n, 60))}, **s.record}
            for n, s in enumerate(samples)
        ]
        pq.write_table(
            pa.Table.from_pylist(rows), tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        )
    (tmp_path / "template.yaml").write_text(f"question: '?'\nanswer: '{SHOP.answer}'\n")
    assert find_template(str(tmp_path)).kinds == SHOP.kinds
    held_out = load_samples(tmp_path, split="test")
    answers = tmp_path / "answers.jsonl"
    lines = [
        {"id": s.id, "record": dict(held_out[(n + n % 3) % 20].record)}
        for n, s in enumerate(held_out)
    ]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [
        "--data",
        str(tmp_path),
        "--template",
        str(tmp_path),
        "--out",
        str(tmp_path / "report"),
    ]
    assert main(["evaluate", str(answers), *words, "--skip", "leakage"]) == 0
    said = capsys.readouterr().out
    for field in ("colours", "weight", "hood"):
        assert f"{field}: " in said
    page = (tmp_path / "report" / "report.html").read_text()
    for words in (
        "F1 of the items",
        "right currency",
        "weight: predicted and true",
        "have no value",
    ):
        assert words in page, words
    assert len(read_report(tmp_path / "report").system.predictions) == 20
