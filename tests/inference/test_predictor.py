"""The name of a model decides the kind of predictor and its template."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import PRODUCT, TEMPLATES, write_template
from phi_vision.inference.local import LocalPredictor, resolve_template
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.inference.predictor import FilePredictor, Predictor, load_predictor


def test_a_folder_with_weights_is_a_local_predictor(tiny_checkpoint: Path) -> None:
    predictor = load_predictor(str(tiny_checkpoint), template="walkthrough", batch_size=3)
    assert isinstance(predictor, LocalPredictor)
    assert (predictor.template, predictor.batch_size) == (TEMPLATES["walkthrough"], 3)


def test_every_door_takes_the_template_of_the_run(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_checkpoint, tmp_path / "run")
    write_template(TEMPLATES["walkthrough"], run / "template.yaml")
    for predictor in (LocalPredictor(run), load_predictor(str(run))):
        assert predictor.template == TEMPLATES["walkthrough"]
    assert LocalPredictor(run, template="product").template == PRODUCT


def test_a_jsonl_file_is_a_file_predictor(tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_text('{"id": "a", "text": "Coat"}\n')
    assert isinstance(load_predictor(str(tmp_path / "predictions.jsonl")), FilePredictor)


def test_a_url_is_a_server() -> None:
    # With the name of the model in it, no request is sent before the first sample.
    predictor = load_predictor("https://127.0.0.1:1/v1#coats")
    assert isinstance(predictor, OpenAIPredictor)
    assert predictor.name == "server https://127.0.0.1:1/v1, model coats"


def test_an_incomplete_onnx_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").touch()
    with pytest.raises(ValueError, match="ONNX"):
        load_predictor(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {}}'])
def test_damaged_graphs_are_one_line(tiny_checkpoint: Path, tmp_path: Path, content: str) -> None:
    pytest.importorskip("onnxruntime_genai", reason="pip install 'phi-vision[onnx]'")
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "onnx")
    (folder / "genai_config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"The graphs in {folder} do not load: .* Copy") as caught:
        load_predictor(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", ["no-such-folder", "http://", "none.jsonl"])
def test_missing_models_are_rejected(words: str) -> None:
    with pytest.raises(ValueError, match=r"give|Give|use one"):
        load_predictor(words)


def test_the_template_is_the_users_choice_or_the_one_beside_the_model(tmp_path: Path) -> None:
    assert resolve_template("phi-vision-small", None) == "product"
    assert resolve_template(str(tmp_path), None) == "product"
    write_template(PRODUCT, tmp_path / "template.yaml")
    file = str(tmp_path / "template.yaml")
    assert resolve_template(str(tmp_path), None) == file
    assert resolve_template(str(tmp_path / "predictions.jsonl"), None) == file
    assert resolve_template(str(tmp_path), "walkthrough") == "walkthrough"


def test_a_model_without_a_template_takes_that_of_the_data(tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    run.mkdir()
    data.mkdir()
    assert resolve_template("given.jsonl", data=data) == "product"
    write_template(PRODUCT, data / "template.yaml")
    assert resolve_template("given.jsonl", data=data) == str(data / "template.yaml")
    assert resolve_template("http://localhost/v1", data=data) == str(data / "template.yaml")
    write_template(PRODUCT, run / "template.yaml")
    assert resolve_template(str(run), data=data) == str(run / "template.yaml")


def test_all_predictors_implement_the_protocol() -> None:
    """The type checker holds this; at run time it only shows that the names exist."""
    kinds: list[type[Predictor]] = [LocalPredictor, OpenAIPredictor, FilePredictor]
    assert all(callable(kind.predict_samples) for kind in kinds)


# FilePredictor: a file of predictions, checked against the samples.

COAT = "Product: Wool Coat, Category: COATS, Full Price: 390.0"
HAT = {"title": "Sun Hat", "category3_code": "HATS", "full_price": 45}
SAMPLES = [Sample(id=name, group=name, images=(), record={}) for name in ("A-red", "7")]


def write(folder: Path, *lines: str | Mapping[str, object]) -> Path:
    file = folder / "predictions.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts), encoding="utf-8")
    return file


def test_texts_and_records_are_found_by_sample_id(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {"id": 7, "record": {"colour": "blue", **HAT}, "confidence": {"full_price": 1}},
        {"id": "A-red", "text": f" {COAT}\n", "record": {}},
    )
    predictor = FilePredictor(file)
    assert predictor.name == f"file {file}"
    assert dict(predictor.predict_samples(SAMPLES)) == {
        0: Prediction.parse(COAT, PRODUCT),
        1: Prediction.parse(
            "Product: Sun Hat, Category: HATS, Full Price: 45.0",
            PRODUCT,
            confidence={"full_price": 1.0},
        ),
    }


def test_the_predictions_of_a_report_can_be_read(tmp_path: Path) -> None:
    rows = [
        {
            "id": sample.id,
            "group": sample.group,
            "truth": HAT,
            "text": COAT,
            "parsed": HAT,
            "confidence": {"title": 0.5},
        }
        for sample in SAMPLES
    ]
    predictions = dict(FilePredictor(write(tmp_path, *rows)).predict_samples(SAMPLES))
    assert predictions == dict.fromkeys(
        (0, 1), Prediction.parse(COAT, PRODUCT, confidence={"title": 0.5})
    )


def test_a_null_record_is_an_empty_prediction(tmp_path: Path) -> None:
    file = write(tmp_path, {"id": "A-red", "record": None, "confidence": None})
    assert list(FilePredictor(file).predict_samples(SAMPLES[:1])) == [
        (0, Prediction.parse("", PRODUCT))
    ]


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    line = json.dumps({"id": "A-red", "text": COAT})
    file.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n")
    assert list(FilePredictor(file).predict_samples(SAMPLES[:1])) == [
        (0, Prediction.parse(COAT, PRODUCT))
    ]


def test_other_samples_may_be_in_the_file_but_none_may_be_missing(tmp_path: Path) -> None:
    file = write(tmp_path, {"id": "A-red", "text": COAT}, {"id": "a-blue", "text": COAT})
    predictor = FilePredictor(file)
    assert list(predictor.predict_samples(SAMPLES[:1])) == [(0, Prediction.parse(COAT, PRODUCT))]
    expected = r"no prediction for 1 of 2 samples, such as '7'; it holds 1 others, such as 'a-blue'"
    with pytest.raises(ValueError, match=expected):
        predictor.predict_samples(SAMPLES)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"id": "B", "text": "Prod', "line 2: it is not JSON: .*found"),
        ("[]", "line 2: it has no id"),
        ({"image": "coat.jpg", "text": COAT}, "line 2: it has no id: .*coat.jpg"),
        ({"id": "A-red", "text": COAT}, "line 2: a second prediction for 'A-red'"),
        (
            {"id": "B", "answer": COAT},
            "line 2: it holds no prediction: found id, answer; write `text`",
        ),
        ({"id": "B", "record": {"title": "Hat"}}, "line 2: template 'product' needs the field"),
        ({"id": "B", "record": [1]}, "line 2: it holds no prediction"),
        ({"id": "B", "text": COAT, "confidence": {"price": 1}}, "line 2: confidence is for price"),
        ({"id": "B", "text": COAT, "confidence": {"title": 85}}, "line 2: .* title is 85; give a"),
        ({"id": "B", "text": COAT, "confidence": {"title": "high"}}, "title is 'high'"),
        ('{"id": "B", "text": "x", "confidence": {"title": NaN}}', "title is nan"),
    ],
)
def test_a_line_that_is_not_a_prediction_is_named(
    tmp_path: Path, line: str | Mapping[str, object], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        FilePredictor(write(tmp_path, {"id": "A-red", "text": COAT}, line))


def test_a_file_without_predictions_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no predictions"):
        FilePredictor(write(tmp_path, "\n"))
    with pytest.raises(ValueError, match=r"no predictions at .*: No such file"):
        FilePredictor(tmp_path / "none.jsonl")
    (tmp_path / "utf16.jsonl").write_bytes('{"id": "é"}'.encode("utf-16"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        FilePredictor(tmp_path / "utf16.jsonl")


def test_a_grammar_is_rejected(tmp_path: Path) -> None:
    predictor = FilePredictor(write(tmp_path, {"id": "A-red", "text": COAT}))
    with pytest.raises(ValueError, match="cannot be constrained by a grammar"):
        predictor.predict_samples(SAMPLES[:1], grammar='start: "a"')
