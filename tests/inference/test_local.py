"""LocalPredictor: images in, predictions out, in order and by name."""

import shutil
import threading
import time
from dataclasses import replace
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample, blank_images
from phi_vision.data.template import Template
from phi_vision.data.template_grammar import grammar_of
from phi_vision.generation.generate import encode, generate
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.inference import local as predict
from phi_vision.inference.local import LocalPredictor

SHADES = (0, 60, 120, 180, 240)


def image(shade: int, size: tuple[int, int] = (40, 60)) -> Image.Image:
    return Image.new("RGB", size, (shade, 255 - shade, 0))


def encoded(shade: int, size: tuple[int, int] = (40, 60)) -> bytes:
    buffer = BytesIO()
    image(shade, size).save(buffer, "PNG")
    return buffer.getvalue()


def sample(name: str, *images: bytes) -> Sample:
    return Sample(id=name, group=name, images=images, record={})


def predict_one(predictor: LocalPredictor, one: Sample) -> Prediction:
    ((_, prediction),) = predictor.predict_samples([one])
    return prediction


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the length: a model of random weights never stops by itself."""
    monkeypatch.setattr(predict, "GenerationRequest", partial(GenerationRequest, max_new_tokens=4))


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> LocalPredictor:
    return LocalPredictor(tiny_checkpoint, dtype=torch.float32, device="cpu", batch_size=2)


def test_paths_bytes_and_images_give_the_same_prediction(
    predictor: LocalPredictor, tmp_path: Path
) -> None:
    (tmp_path / "coat.png").write_bytes(encoded(60))
    path = tmp_path / "coat.png"
    written = BytesIO()
    image(60).save(written, "PNG")  # at its end, where there is nothing to read
    pixels = np.asarray(image(60))
    deep = pixels.astype(np.uint16) * 257
    images = [path, str(path), encoded(60), image(60), bytearray(encoded(60)), written, pixels]
    images.append(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]))
    predictions = predictor.predict(each for each in [*images, deep, path.open("rb")])
    assert len({prediction.text for prediction in predictions}) == 1
    sources = [prediction.source for prediction in predictions]
    assert sources[:4] == [str(path), str(path), "image 3", "image 4"]
    for one in images:
        assert [each.text for each in predictor.predict(one)] == [predictions[0].text]


def test_each_sample_gets_the_prediction_that_it_gets_alone(predictor: LocalPredictor) -> None:
    samples = [sample(str(shade), encoded(shade)) for shade in SHADES]
    predictions = dict(predictor.predict_samples(samples))
    assert sorted(predictions) == list(range(len(samples)))
    for place, each in enumerate(samples):
        assert predictions[place].text == predict_one(predictor, each).text


def test_predictions_keep_the_order_of_the_images(
    predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "BATCHES_PER_WINDOW", 1)
    together = predictor.predict([image(shade) for shade in SHADES])
    alone = [predictor.predict([image(shade)])[0] for shade in SHADES]
    assert [each.text for each in together] == [each.text for each in alone]


def test_the_longest_prompts_come_first_and_predictions_batch_by_batch(
    predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor.processor.image_processor, "num_crops", 4)
    sizes = [(60, 50), (40, 160), (500, 20), (50, 50), (30, 90)]
    samples = [sample(str(size), encoded(0, size)) for size in sizes]
    opened: list[str] = []
    decode = Sample.open_images

    def note(self: Sample) -> list[Image.Image]:
        opened.append(self.id)
        return decode(self)

    monkeypatch.setattr(Sample, "open_images", note)
    predictions = predictor.predict_samples(samples)
    first = [next(predictions)[0] for _ in range(2)]
    assert len(opened) <= 4, "images of batches after the next are decoded too early"
    order = [*first, *(place for place, _ in predictions)]
    lengths = [predictor._count_image_tokens(samples[place]) for place in order]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) > 2


def test_images_of_the_next_batch_are_prepared_while_one_is_predicted(
    predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, counts = threading.Semaphore(0), []

    def note(*inputs: Any) -> Any:
        encoded = encode(*inputs)
        prepared.release()
        return encoded

    def wait(*inputs: Any, **options: Any) -> list[Generation]:
        counts.append(len(inputs[2]))
        # Its own images, and those of the next batch, but no more.
        own_and_next = [4, 1, 0][len(counts) - 1]
        assert all(prepared.acquire(timeout=30) for _ in range(own_and_next))
        assert not prepared.acquire(timeout=0.05)
        return generate(*inputs, **options)

    monkeypatch.setattr(predict, "encode", note)
    monkeypatch.setattr(predict, "generate", wait)
    samples = [sample(str(shade), encoded(shade)) for shade in SHADES]
    assert len(list(predictor.predict_samples(samples))) == 5
    assert counts == [2, 2, 1]


def test_images_that_become_the_same_crops_are_predicted_once(
    predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor.processor.image_processor, "num_crops", 4)
    # With white bars the wide ones become three white crops beside each other.
    sizes = [(150, 40), (150, 50), (40, 150), (150, 45), (45, 150)]
    samples = [sample("other", encoded(60, (150, 40)))]
    samples += blank_images([sample(str(size), encoded(60, size)) for size in sizes])
    alone = {place: predict_one(predictor, each) for place, each in enumerate(samples)}
    counts = []

    def note(*inputs: Any, **options: Any) -> list[Generation]:
        counts.append(len(inputs[2]))
        return generate(*inputs, **options)

    monkeypatch.setattr(predict, "generate", note)
    predictions = dict(predictor.predict_samples(samples))
    assert sum(counts) == 3
    assert {place: each.text for place, each in predictions.items()} == {
        place: each.text for place, each in alone.items()
    }
    assert [predictions[place].source for place in range(6)] == [each.id for each in samples]


def test_image_tokens_are_counted_as_the_image_processor_makes_them(
    predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor.processor.image_processor, "num_crops", 4)
    crops = predictor.processor.image_processor
    for size in [(60, 50), (160, 40), (500, 20), (56, 56)]:
        made = crops(image(0, size))["num_img_tokens"]
        assert predictor._count_image_tokens(sample("one", encoded(0, size))) == made[0], size


def test_a_sample_without_images_is_prompted_with_text_alone(predictor: LocalPredictor) -> None:
    prompt = predictor.template.prompt(predictor.processor, images=0)
    alone = generate(
        predictor.model, predictor.processor, [GenerationRequest(prompt=prompt, max_new_tokens=4)]
    )
    predictions = dict(predictor.predict_samples([sample("blind"), sample("seeing", encoded(0))]))
    assert "image" not in prompt
    assert predictions[0].text == alone[0].text


def test_under_a_grammar_every_prediction_parses_and_has_confidence(
    predictor: LocalPredictor,
) -> None:
    grammar = grammar_of(predictor.template, {"category3_code": ["COATS", "HATS"]})
    samples = [sample(str(shade), encoded(shade)) for shade in SHADES[:2]]
    for _, prediction in predictor.predict_samples(samples, grammar=grammar):
        record = predictor.template.parse(prediction.text)
        assert record is not None
        assert record["category3_code"] in ("COATS", "HATS")
        assert sorted(prediction.confidence) == sorted(predictor.template.fields)
        assert all(0.0 <= sure <= 1.0 for sure in prediction.confidence.values())
    (prediction,) = predictor.predict([image(0)], grammar=grammar)
    assert prediction.record is not None
    assert sorted(prediction.confidence) == sorted(predictor.template.fields)


@pytest.fixture
def drawing(predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch) -> LocalPredictor:
    """A predictor whose template asks for the median of numbers of all kinds."""
    template = Template(
        name="shop",
        question="What is it?",
        answer="{name} for {price:money}, once {old:number?}, of {weight:quantity}",
        layout="chat",
        numbers="median",
    )
    monkeypatch.setattr(predictor, "template", template)
    return predictor


def test_the_numbers_of_a_text_are_found_with_what_follows_them(
    drawing: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = drawing.request([image(0)]).numbers
    assert find is not None
    text = "Coat for 19.99 EUR, once 25.0, of 500 g"
    found = [(text[each.start : each.end], each.stop) for each in find(text)]
    assert found == [("19.99 EUR", ","), ("25.0", ","), ("500 g", "")]
    literal = replace(drawing.template, answer="{name} for {price:number} euros")
    monkeypatch.setattr(drawing, "template", literal)
    other = drawing.request([image(0)]).numbers
    assert other is not None
    assert [each.stop for each in other("Coat for 25.0 euros")] == [" euros"]
    missing = "Coat for 19.99 EUR, once not visible, of 500 g"
    assert [missing[each.start : each.end] for each in find(missing)] == ["19.99 EUR", "500 g"]
    assert find("no record") == []


@pytest.mark.parametrize(
    ("place", "texts", "median"),
    [
        (0, ["9.0 EUR", "200.0 EUR", "30.0 USD", "19.99 EUR", "hat"], "19.99 EUR"),
        (0, ["9 EUR", "200 EUR", "30 USD", "19.99 EUR", "hat"], "19.99 EUR"),
        (1, ["9.0", "200.0", "30.0", "not visible", "1e3"], "30.0"),
        (1, ["30.0", "200.0"], "30.0"),
        (2, ["2 kg", "900 g", "1.5 kg", "3 m", "1000 g"], "1000 g"),
        (1, [], None),
    ],
)
def test_the_median_is_one_of_the_texts_that_are_numbers(
    drawing: LocalPredictor, place: int, texts: list[str], median: str | None
) -> None:
    find = drawing.request([image(0)]).numbers
    assert find is not None
    assert find("Coat for 19.99 EUR, once 25.0, of 500 g")[place].median(texts) == median


def test_numbers_are_drawn_where_the_template_says_so_and_texts_are_not_streamed(
    predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = grammar_of(predictor.template)
    likeliest, again = (predictor.predict([image(0)], grammar=grammar)[0] for _ in range(2))
    monkeypatch.setattr(predictor, "template", replace(predictor.template, numbers="median"))
    drawn = predictor.predict([image(0)], grammar=grammar)[0]
    assert likeliest == again
    assert likeliest.record is not None
    assert drawn.record is not None
    assert drawn.record["full_price"] != likeliest.record["full_price"]
    assert drawn.record | {"full_price": 0} == likeliest.record | {"full_price": 0}
    assert drawn.confidence["title"] == pytest.approx(likeliest.confidence["title"])
    assert 0 < drawn.confidence["full_price"] < 1
    assert "".join(predictor.stream(image(0), grammar=grammar)) == likeliest.text


def test_features_are_mean_and_deviation_of_patches_and_distinguish_images(
    predictor: LocalPredictor,
) -> None:
    samples = [sample(str(shade), encoded(shade), encoded(0)) for shade in SHADES]
    features = predictor.features(samples)
    assert features.dtype == np.float32
    crops = predictor.processor.image_processor(samples[2].open_images()[:1], num_crops=1)
    tower = predictor.model.model.vision_embed_tokens.img_processor  # type: ignore[attr-defined]
    with torch.no_grad():
        (patches,) = tower(crops["pixel_values"][:1])
    expected = torch.cat([patches.mean(dim=0), patches.std(dim=0)])
    assert features[2] == pytest.approx(expected.float().numpy(), abs=1e-5)
    alone = predictor.features([sample("first image", encoded(120))])
    assert features[2] == pytest.approx(alone[0], abs=1e-5)
    assert np.abs(features[0] - features[4]).max() > 1e-3
    assert predictor.features([]).shape == (0, features.shape[1])


def test_a_sample_without_images_has_no_features(predictor: LocalPredictor) -> None:
    with pytest.raises(ValueError, match=r"sample 'blind' has no image"):
        predictor.features([sample("blind")])


def test_a_prediction_holds_the_record_or_none(
    predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["Product: Coat, Category: COATS, Full Price: 390.0", "A coat."]
    generations = [Generation(text, (len(text), len(text)), (-0.5, 0.0)) for text in texts]
    monkeypatch.setattr(predict, "generate", lambda *_, **__: generations)
    good, bad = predictor.predict([image(0), image(60)])
    assert good.record == {"title": "Coat", "category3_code": "COATS", "full_price": 390.0}
    assert good.confidence["title"] == pytest.approx(0.61, abs=0.01)
    assert (bad.text, bad.record, bad.confidence) == ("A coat.", None, {})


def test_a_sample_of_two_images_shows_both(
    predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []

    def listen(model: object, processor: object, requests: list[GenerationRequest], **_: object):  # type: ignore[no-untyped-def]
        prompts.extend(request.prompt for request in requests)
        return [Generation("", (0,), (0.0,))] * len(requests)

    monkeypatch.setattr(predict, "generate", listen)
    predict_one(predictor, sample("pair", encoded(0), encoded(60)))
    assert "<|image_1|>\n<|image_2|>\n" in prompts[0]


# Streaming.


def test_the_chunks_of_a_stream_join_to_the_text(predictor: LocalPredictor) -> None:
    chunks = list(predictor.stream(encoded(0)))
    assert "".join(chunks) == predictor.predict([encoded(0)])[0].text
    assert all(chunks)


def test_closing_a_stream_cancels_the_generation(
    predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        predict, "GenerationRequest", partial(GenerationRequest, max_new_tokens=4000)
    )
    chunks = predictor.stream(encoded(0))
    assert next(chunks)
    started = time.monotonic()
    chunks.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 2
    assert "generation_0" not in {thread.name for thread in threading.enumerate()}


def test_a_stream_rejects_unreadable_images(predictor: LocalPredictor) -> None:
    with pytest.raises(ValueError, match="the image: not an image"):
        predictor.stream(b"no image")


def test_no_samples_give_no_predictions(predictor: LocalPredictor) -> None:
    assert list(predictor.predict_samples([])) == []


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "no image to predict: found an empty list"),
        (iter(()), "no image to predict: found an empty list"),
        (None, r"image 1: not an image: found None \(NoneType\); give a path, bytes, a file"),
        ({"image": "coat.png"}, r"found {'image': 'coat.png'} \(dict\); give a path"),
        (torch.zeros(3, 4, 4), r"image 1: not an image: found tensor\(.*\(Tensor\); give a path"),
        ("http://shop.example/a.jpg", "not a path: found 'http://.* links are not fetched"),
        ("data:image/png;base64," + "A" * 9999, "not a path: found 'data:image/png.{0,99}; links"),
        (["coat.png", np.zeros((4, 4, 5), np.uint8)], "no image at coat.png: No such"),
        ((each for each in [image(0), 7]), r"image 2: not an image: found 7 \(int\)"),
        (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\); give uint8 or uint16"),
        (np.zeros(9, np.uint8), r"shape \(9,\); give uint8 or uint16"),
        ([encoded(0), 3], r"image 2: not an image: found 3 \(int\); give a path"),
        ("", "not a path: found ''; links are not fetched"),
        (BytesIO(), "image 1: empty image: found 0 bytes"),
        (StringIO("coat"), r"image 1: not an image: found .*\(StringIO\); give a path"),
        (np.zeros((4, 4)), r"an array of float64 and shape \(4, 4\); give uint8 or uint16"),
        (np.zeros((3, 40, 60), np.uint8), r"shape \(3, 40, 60\); give uint8 or uint16 in"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
    ],
)
def test_what_is_no_image_is_one_clear_error(
    predictor: LocalPredictor, images: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        predictor.predict(images)


def test_an_unreadable_image_is_named(predictor: LocalPredictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image 2: not an image"):
        predictor.predict([image(0), b"no image"])
    with pytest.raises(ValueError, match=r"no image at .*coat\.png: No such file"):
        predictor.predict([tmp_path / "coat.png"])
    with pytest.raises(ValueError, match=r"sample 'torn', image 1"):
        predict_one(predictor, sample("torn", b"no image"))


def test_an_image_of_impossible_shape_is_named(predictor: LocalPredictor) -> None:
    with pytest.raises(ValueError, match=r"image 2: .*5000"):
        predictor.predict([image(0), image(0, size=(1, 5000))])
    with pytest.raises(ValueError, match=r"sample 'line': .*5000"):
        predict_one(predictor, sample("line", encoded(0, size=(5000, 1))))


def test_unusable_images_are_rejected_before_any_generation(
    predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "generate", lambda *_, **__: pytest.fail("asked"))
    samples = [*(sample(str(shade), encoded(shade)) for shade in SHADES), sample("torn", b"-")]
    with pytest.raises(ValueError, match=r"sample 'torn', image 1"):
        list(predictor.predict_samples(samples))


def test_an_unknown_template_is_rejected_before_loading() -> None:
    with pytest.raises(ValueError, match=r"no template 'poem'; choose from product"):
        LocalPredictor("no-such-model", template="poem")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_rejected(
    tiny_checkpoint: Path, tmp_path: Path, value: float
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"damaged: lm_head.weight holds NaN or infinite values"):
        LocalPredictor(folder)
