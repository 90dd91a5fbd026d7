"""POST /v1/records over ASGI: an image in, its record with confidences out."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from phi_vision.data.acceptance import RECORD
from phi_vision.data.prediction import Prediction
from phi_vision.data.template import CATEGORY_FIRST, PRODUCT
from phi_vision.data.template_grammar import grammar_of
from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.schemas import RecordResponse
from phi_vision.serving.server import create_app
from phi_vision.serving.settings import Settings

URL = "/v1/records"
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def client(small: LocalPredictor) -> Iterator[TestClient]:
    with TestClient(create_app(small, Settings(batch_wait=0.0, max_images=2))) as client:
        yield client


def test_a_record_equals_that_of_the_predictor(
    client: TestClient, small: LocalPredictor, photo: bytes
) -> None:
    (expected,) = small.predict([photo], grammar=grammar_of(PRODUCT))
    answer = client.post(f"{URL}?constrained=true", content=photo, headers=PNG).json()
    assert answer["id"].startswith("rec-")
    assert (answer["object"], answer["model"]) == ("record", "phi-vision-small")
    assert (answer["text"], answer["record"]) == (expected.text, expected.record)
    assert answer["confidence"] == pytest.approx(expected.confidence, rel=1e-3)
    assert answer["calibrated"] is False
    assert (answer["target_precision"], answer["accept"]) == (None, {})
    assert answer["kinds"] == {
        "title": "text",
        "category3_code": "category",
        "full_price": "number",
    }
    assert 0 < answer["seconds"] < 30
    assert answer["usage"]["prompt_tokens"] > 50


def test_a_record_holds_the_median_of_a_number_where_the_template_says_so(
    small: LocalPredictor, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = grammar_of(CATEGORY_FIRST)
    monkeypatch.setattr(small, "template", CATEGORY_FIRST)
    (likeliest,) = small.predict([photo], grammar=grammar)
    monkeypatch.setattr(small, "template", replace(CATEGORY_FIRST, numbers="median"))
    (expected,) = small.predict([photo], grammar=grammar)
    assert expected.text != likeliest.text
    with TestClient(create_app(small, Settings(batch_wait=0.0))) as client:
        answer = client.post(f"{URL}?constrained=true", content=photo, headers=PNG).json()
    assert (answer["text"], answer["record"]) == (expected.text, expected.record)
    assert answer["confidence"] == pytest.approx(expected.confidence, rel=1e-3)


def test_bytes_json_and_a_list_of_one_are_the_same_request(
    client: TestClient, photo: bytes, address: str
) -> None:
    answers = [
        client.post(URL, content=photo, headers=PNG),
        client.post(URL, json={"image": address}),
        client.post(URL, json={"images": [address], "constrained": False}),
    ]
    assert len({answer.json()["text"] for answer in answers}) == 1


def test_text_that_does_not_parse_has_no_record(client: TestClient, photo: bytes) -> None:
    answer = client.post(URL, content=photo, headers=PNG).json()
    if answer["record"] is None:
        assert answer["confidence"] == {}
    assert answer["text"]


def test_several_images_are_in_one_prompt(client: TestClient, address: str) -> None:
    one, two = (
        client.post(URL, json={"images": [address] * count}).json()["usage"]["prompt_tokens"]
        for count in (1, 2)
    )
    assert two > one + 50


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, None),
        ({"image": "x", "images": ["x"]}, None),
        ({"images": []}, "images"),
        ({"images": ["x"] * 3}, "images"),
        ({"image": 3}, "image"),
        ({"image": ""}, "image"),
        ({"images": [""]}, "images[0]"),
        ({"image": "no address"}, "image"),
        ({"image": "data:image/png;base64,AAAA"}, "image"),
        ({"images": ["data:image/png;base64,AAAA"]}, "images[0]"),
        ({"image": "x", "constrained": "yes"}, "constrained"),
        ({"image": "x", "colour": "red"}, "colour"),
        ([], None),
    ],
)
def test_invalid_bodies_are_rejected(client: TestClient, body: object, param: str | None) -> None:
    response = client.post(URL, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_other_content_types_are_rejected(client: TestClient, photo: bytes) -> None:
    for kind, status in {"image/gif": 415, "text/plain": 415, "": 415, "image/jpeg": 200}.items():
        response = client.post(URL, content=photo, headers={"content-type": kind})
        assert response.status_code == status, kind
    assert client.post(URL, content=b"GIF89a", headers=PNG).status_code == 400
    assert client.post(URL, content=b"{", headers={"content-type": "application/json"}).json()[
        "error"
    ]["code"] == ("invalid_json")
    for query in ("constrained=yes", "constained=true"):
        response = client.post(f"{URL}?{query}", content=photo, headers=PNG)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == query.partition("=")[0]
    assert client.post(URL, json={"image": "x", "model": "other"}).status_code == 404


def test_a_model_of_conversations_has_no_records_to_constrain(
    small: LocalPredictor, address: str, photo: bytes
) -> None:
    predictor = copy.copy(small)
    predictor.template = replace(PRODUCT, answer="{reply}", layout="conversation")
    with TestClient(create_app(predictor, Settings(batch_wait=0.0))) as client:
        for response in (
            client.post(URL, json={"image": address, "constrained": True}),
            client.post(f"{URL}?constrained=true", content=photo, headers=PNG),
        ):
            assert response.status_code == 400
            error = response.json()["error"]
            assert error["param"] == "constrained"
            assert "this model writes free text, not records" in error["message"]


def test_a_form_is_answered_with_what_to_send(client: TestClient, photo: bytes) -> None:
    response = client.post(URL, files={"file": ("coat.png", photo, "image/png")})
    assert response.status_code == 415
    message = response.json()["error"]["message"]
    assert message.startswith("the Content-Type is multipart/form-data; boundary=")
    assert '; send application/json such as {"image": "data:image/jpeg;base64,…"}, or' in message


def test_non_finite_numbers_are_null() -> None:
    values = (math.nan, math.inf, 1.5, True, "a", None)
    response = RecordResponse.model_construct(record=dict(enumerate(values)))
    written = json.loads(response.model_dump_json(include={"record"}, warnings=False))
    assert list(written["record"].values()) == [None, None, 1.5, True, "a", None]


@pytest.fixture
def run(small: LocalPredictor, tmp_path: Path) -> LocalPredictor:
    """The predictor as of a run whose evaluation accepts every category, and no title."""
    line = {"slope": 0.5, "intercept": 0.0, "limitations": "Too few."}
    accept = {name: {"target": 0.9, "threshold": None} for name in (*PRODUCT.fields, RECORD)}
    accept["category3_code"]["threshold"] = 0.0
    fitted = {name: line | {"auto_accept": each} for name, each in accept.items()}
    held = {"template": asdict(PRODUCT), "calibrations": fitted, "samples": 1, "seed": 0}
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "scores.json").write_text(json.dumps(held))
    predictor = copy.copy(small)
    predictor.source = str(tmp_path)
    return predictor


def test_fields_are_calibrated_and_accepted_by_the_evaluation_of_the_run(
    run: LocalPredictor, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    confidence = {"title": 0.9, "category3_code": 0.6, "full_price": 0.5}
    record = {"title": "Coat", "category3_code": "COATS", "full_price": 1.0}
    found = Prediction(text="", record=dict(record), confidence=confidence)
    monkeypatch.setattr(run, "to_prediction", lambda generation: found, raising=False)
    with TestClient(create_app(run, Settings(batch_wait=0.0))) as client:
        answer = client.post(URL, content=photo, headers=PNG).json()
        constrained = client.post(f"{URL}?constrained=true", content=photo, headers=PNG).json()
    assert answer["calibrated"] is True
    assert answer["confidence"]["title"] == pytest.approx(0.75)
    assert answer["target_precision"] == 0.9
    accepted = {name: name == "category3_code" for name in (*PRODUCT.fields, RECORD)}
    assert answer["accept"] == accepted
    # The evaluation is of free generation.
    assert (constrained["calibrated"], constrained["confidence"]) == (False, confidence)
    assert (constrained["target_precision"], constrained["accept"]) == (None, {})


def test_a_precision_that_nothing_promises_stops_the_server_before_it_serves(
    small: LocalPredictor, run: LocalPredictor
) -> None:
    with pytest.raises(ValueError, match="it is no run with an evaluation"):
        create_app(small, Settings(target_precision=0.9))
    with pytest.raises(ValueError, match=r"pass a share above 0 and below 1"):
        create_app(run, Settings(target_precision=95.0))
    (Path(run.source) / "report" / "scores.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*scores.json: .*; run the eval"):
        create_app(run, Settings())
