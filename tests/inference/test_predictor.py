"""The name of a model decides the kind of predictor and its template."""

from pathlib import Path

import pytest

from phi_vision.data.template import PRODUCT, TEMPLATES, write_template
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.inference.predictions_file import FilePredictor
from phi_vision.inference.predictor import Predictor, load_predictor, resolve_template


def test_a_folder_with_weights_is_a_local_predictor(tiny_checkpoint: Path) -> None:
    predictor = load_predictor(str(tiny_checkpoint), template="walkthrough", batch_size=3)
    assert isinstance(predictor, LocalPredictor)
    assert (predictor.template, predictor.batch_size) == (TEMPLATES["walkthrough"], 3)


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


def test_all_predictors_implement_the_protocol() -> None:
    """The type checker holds this; at run time it only shows that the names exist."""
    kinds: list[type[Predictor]] = [LocalPredictor, OpenAIPredictor, FilePredictor]
    assert all(callable(kind.predict_samples) for kind in kinds)
