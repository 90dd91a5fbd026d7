"""Predictor: pictures in, predictions out, in order and by name."""

from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from phi_vision.data.sample import Sample
from phi_vision.deploy import predict
from phi_vision.deploy.predict import Predictor

SHADES = (0, 60, 120, 180, 240)


def picture(shade: int, size: tuple[int, int] = (40, 60)) -> Image.Image:
    return Image.new("RGB", size, (shade, 255 - shade, 0))


def encoded(shade: int, size: tuple[int, int] = (40, 60)) -> bytes:
    buffer = BytesIO()
    picture(shade, size).save(buffer, "PNG")
    return buffer.getvalue()


def sample(name: str, *images: bytes) -> Sample:
    return Sample(id=name, group=name, images=images, record={})


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a model of random weights say little: it never stops by itself."""
    monkeypatch.setattr(predict, "answer", partial(predict.answer, max_new_tokens=4))


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> Predictor:
    return Predictor(tiny_checkpoint, dtype=torch.float32, device="cpu", batch_size=2)


def test_paths_bytes_and_pictures_are_answered_alike(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "coat.png").write_bytes(encoded(60))
    path = tmp_path / "coat.png"
    predictions = predictor.predict([path, str(path), encoded(60), picture(60)])
    assert len({prediction.text for prediction in predictions}) == 1
    sources = [prediction.source for prediction in predictions]
    assert sources == [str(path), str(path), "picture 3", "picture 4"]


def test_answers_come_in_the_order_of_the_samples(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "BATCHES_AT_ONCE", 1)
    samples = [sample(str(shade), encoded(shade)) for shade in SHADES]
    alone = [predictor.answer([each])[0] for each in samples]
    assert predictor.answer(samples) == alone


def test_a_prediction_holds_the_record_or_none(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["Product: Coat, Category: COATS, Full Price: 390.0", "A coat."]
    monkeypatch.setattr(predict, "answer", lambda *_, **__: texts)
    good, bad = predictor.predict([picture(0), picture(60)])
    assert good.record == {"title": "Coat", "category3_code": "COATS", "full_price": 390.0}
    assert (bad.text, bad.record) == ("A coat.", None)


def test_a_sample_of_two_pictures_is_asked_about_both(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def listen(model: object, processor: object, prompts: list[str], *_: object, **__: object):  # type: ignore[no-untyped-def]
        asked.extend(prompts)
        return [""] * len(prompts)

    monkeypatch.setattr(predict, "answer", listen)
    predictor.answer([sample("pair", encoded(0), encoded(60))])
    assert "<|image_1|>\n<|image_2|>\n" in asked[0]


def test_no_pictures_give_no_predictions(predictor: Predictor) -> None:
    assert predictor.predict([]) == []
    assert predictor.answer([]) == []


def test_an_unreadable_picture_is_named(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"picture 2: cannot read a picture"):
        predictor.predict([picture(0), b"no picture"])
    with pytest.raises(ValueError, match=r"no picture at .*coat\.png"):
        predictor.predict([tmp_path / "coat.png"])
    with pytest.raises(ValueError, match=r"sample 'torn', picture 1"):
        predictor.answer([sample("torn", b"no picture")])


def test_a_picture_that_is_a_line_is_named(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match=r"picture 2: .*5000"):
        predictor.predict([picture(0), picture(0, size=(1, 5000))])
    with pytest.raises(ValueError, match=r"sample 'line': .*5000"):
        predictor.answer([sample("line", encoded(0, size=(5000, 1)))])


def test_an_unknown_template_is_refused_before_loading() -> None:
    with pytest.raises(ValueError, match=r"no template 'poem'; choose from product"):
        Predictor("no-such-model", template="poem")
