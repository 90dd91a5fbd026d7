"""Finding an answerer: one word says who is asked, and in which wording."""

from pathlib import Path

import pytest

from phi_vision.data.template import PRODUCT, TEMPLATES, write_template
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.inference.predictions_file import FilePredictor
from phi_vision.inference.predictor import Predictor, load_predictor, resolve_template


def test_a_folder_with_weights_is_a_predictor(tiny_checkpoint: Path) -> None:
    answerer = load_predictor(str(tiny_checkpoint), template="walkthrough", batch_size=3)
    assert isinstance(answerer, LocalPredictor)
    assert (answerer.template, answerer.batch_size) == (TEMPLATES["walkthrough"], 3)


def test_lines_of_json_are_answers_written_before(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"id": "a", "text": "Coat"}\n')
    assert isinstance(load_predictor(str(tmp_path / "answers.jsonl")), FilePredictor)


def test_an_address_is_a_server() -> None:
    # With a model's name in it, nothing is asked before the first sample.
    answerer = load_predictor("https://127.0.0.1:1/v1#coats")
    assert isinstance(answerer, OpenAIPredictor)
    assert answerer.name == "server https://127.0.0.1:1/v1, model coats"


def test_a_folder_for_onnx_runtime_is_one_also_where_it_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").touch()
    with pytest.raises(ValueError, match="ONNX"):
        load_predictor(str(tmp_path))


@pytest.mark.parametrize("words", ["no-such-folder", "http://", "none.jsonl"])
def test_what_is_nowhere_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match=r"give|Give"):
        load_predictor(words)


def test_the_wording_is_the_users_choice_or_lies_with_the_answerer(tmp_path: Path) -> None:
    assert resolve_template("phi-vision-small", None) == "product"
    assert resolve_template(str(tmp_path), None) == "product"
    write_template(PRODUCT, tmp_path / "template.yaml")
    file = str(tmp_path / "template.yaml")
    assert resolve_template(str(tmp_path), None) == file
    assert resolve_template(str(tmp_path / "predictions.jsonl"), None) == file
    assert resolve_template(str(tmp_path), "walkthrough") == "walkthrough"


def test_all_answerers_keep_to_the_protocol() -> None:
    """The type checker holds this; run, it only says that the names exist."""
    kinds: list[type[Predictor]] = [LocalPredictor, OpenAIPredictor, FilePredictor]
    assert all(callable(kind.predict_samples) for kind in kinds)
