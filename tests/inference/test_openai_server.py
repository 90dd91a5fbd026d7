"""OpenAIPredictor: a real server over HTTP, also a busy, a broken and a foreign one."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import starmap
from math import exp

import pytest
from aiohttp import web
from model_server import Body, message, serving
from PIL import Image

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Message, Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.inference.openai_server import OpenAIPredictor, parse_completion

QUICK = partial(OpenAIPredictor, max_retries=3, timeout=2.0)
ONE_RETRY = partial(OpenAIPredictor, max_retries=1, timeout=0.2)


def encoded(shade: int, kind: str = "PNG", **how: object) -> bytes:
    buffer = BytesIO()
    Image.new("CMYK" if kind == "TIFF" else "RGB", (30, 20), shade).save(buffer, kind, **how)
    return buffer.getvalue()


def sample(name: str, *images: bytes) -> Sample:
    return Sample(id=name, group=name, images=images, record={})


SAMPLES = [sample(f"s{shade}", encoded(shade)) for shade in range(5)]


def text_of(shade: int) -> str:
    return f"Product: Coat {shade}, Category: COATS, Full Price: {shade}.5"


def images_of(body: Body) -> list[Image.Image]:
    content = body["messages"][0]["content"]
    if isinstance(content, str):
        return []
    addresses = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return [Image.open(BytesIO(base64.b64decode(url.split(",")[1]))) for url in addresses]


async def describe_shade(body: Body) -> Body:
    (image,) = images_of(body)
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return message(text_of(int(pixel[0])))


def predict(served: OpenAIPredictor, samples: Sequence[Sample] = SAMPLES) -> list[Prediction]:
    found = dict(served.predict_samples(samples))
    return [found[place] for place in range(len(samples))]


def status(code: int, **headers: str) -> web.Response:
    return web.Response(status=code, text="not now", headers=headers)


@pytest.fixture(autouse=True)
def no_key_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


def test_each_prediction_is_of_its_own_image() -> None:
    with serving(describe_shade) as server:
        served = QUICK(server.address)
        assert [prediction.text for prediction in predict(served)] == [text_of(n) for n in range(5)]
        assert served.name == f"server {server.address}, model coats"
        assert list(served.predict_samples([])) == []


def test_the_prompt_is_the_templates_and_decoding_is_greedy() -> None:
    with serving(describe_shade) as server:
        predict(OpenAIPredictor(server.address, template="walkthrough"), SAMPLES[:1])
    (body,) = server.asked
    assert (body["model"], body["temperature"]) == ("coats", 0)
    image, words = body["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert words == {"type": "text", "text": "What is shown in this image?"}


def test_batch_size_limits_the_concurrent_requests() -> None:
    async def slow(body: Body) -> Body:
        await asyncio.sleep(0.02)
        return message("")

    with serving(slow) as server:
        predict(QUICK(server.address, batch_size=2), SAMPLES * 3)
    assert server.most == 2


def test_retries_wait_as_long_as_retry_after_demands() -> None:
    times: list[float] = []

    async def busy(body: Body) -> Body | web.Response:
        times.append(asyncio.get_running_loop().time())
        moods: list[Body | web.Response] = [
            status(429, **{"Retry-After": "0.3"}),
            status(503),
            await describe_shade(body),
        ]
        return moods[len(times) - 1]

    with serving(busy) as server:
        (prediction,) = predict(QUICK(server.address), SAMPLES[3:4])
    assert prediction.text == text_of(3)
    assert times[1] - times[0] >= 0.3 > times[2] - times[1]


def test_hang_ups_and_timeouts_are_retried() -> None:
    calls = 0

    async def moody(body: Body) -> Body | web.Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionResetError  # the server below hangs up
        if calls == 2:
            await asyncio.sleep(1)
        return await describe_shade(body)

    with serving(moody) as server:
        (prediction,) = predict(OpenAIPredictor(server.address, timeout=0.3), SAMPLES[:1])
    assert (prediction.text, calls) == (text_of(0), 3)


def test_the_last_error_names_the_sample_and_the_response() -> None:
    async def down(body: Body) -> web.Response:
        return status(503)

    with serving(down) as server:
        served = ONE_RETRY(server.address)
        expected = (
            r"sample 's0': http.*/v1/chat/completions returned HTTP 503: not now \(2 attempts\)"
        )
        with pytest.raises(ValueError, match=expected):
            predict(served, SAMPLES[:1])


def test_a_retry_after_of_an_hour_is_an_error_at_once() -> None:
    async def closed(body: Body) -> web.Response:
        return status(429, **{"Retry-After": "3600"})

    with serving(closed) as server:
        served = QUICK(server.address)
        with pytest.raises(
            ValueError, match=r"Retry-After: 3600\); send fewer concurrent requests"
        ):
            predict(served, SAMPLES[:1])
    assert len(server.asked) == 1


def test_predictions_before_a_failure_are_yielded() -> None:
    async def fail_third(body: Body) -> Body | web.Response:
        answer = await describe_shade(body)
        return status(400) if text_of(2) in str(answer) else answer

    with serving(fail_third) as server:
        served = QUICK(server.address, batch_size=1)
        predictions = served.predict_samples(SAMPLES)
        assert [next(predictions)[0], next(predictions)[0]] == [0, 1]
        with pytest.raises(ValueError, match=r"sample 's2': .*HTTP 400"):
            next(predictions)


def test_closing_the_iterator_cancels_the_requests() -> None:
    with serving(describe_shade) as server:
        predictions = QUICK(server.address, batch_size=1).predict_samples(SAMPLES * 100)
        next(predictions)
        predictions.close()  # type: ignore[attr-defined]
        assert len(server.asked) < 100


def test_it_works_inside_a_running_event_loop() -> None:
    async def in_a_notebook(address: str) -> list[Prediction]:
        return predict(QUICK(address))

    with serving(describe_shade) as server:
        assert len(asyncio.run(in_a_notebook(server.address))) == 5


def test_confidence_comes_from_the_probabilities_of_the_tokens() -> None:
    def token(text: str, logprob: float) -> Body:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    async def tell(body: Body) -> Body:
        assert body["logprobs"] is True
        words = [" Product: ", "Caf", "é", ", Category: ", "HATS", ", Full Price: ", "9.5"]
        logprobs = [-9.0, -0.1, -0.2, -0.3, -0.4, 0.0, -0.5]
        tokens = [token(*pair) for pair in zip(words, logprobs, strict=True)]
        return message("".join(words), tokens)

    with serving(tell) as server:
        (prediction,) = predict(QUICK(server.address), SAMPLES[:1])
    assert prediction.text == "Product: Café, Category: HATS, Full Price: 9.5"
    # The token after a field counts: it says that the field ends there.
    assert prediction.confidence == pytest.approx(
        {"title": exp(-0.6), "category3_code": exp(-0.4), "full_price": exp(-0.5)}
    )


def test_tokens_may_split_characters_and_may_not_add_up_to_the_text() -> None:
    text = "Product: é, Category: A, Full Price: 1.0"
    before, after = b"Product: \xc3", b"\xa9, Category: A, Full Price: 1.0"
    split = [{"token": "?", "logprob": -0.5, "bytes": list(part)} for part in (before, after)]
    template = TEMPLATES["product"]
    assert parse_completion(message(text, split), template).confidence["title"] == pytest.approx(
        exp(-1)
    )
    assert parse_completion(message(text, split[:1]), template) == Prediction.parse(text, template)
    assert parse_completion(message(None), template) == Prediction.parse("", template)


def test_the_stop_token_counts_where_the_server_returns_it() -> None:
    text = "Product: Coat, Category: A, Full Price: 1.0"
    tokens = [
        {"token": part, "logprob": logprob, "bytes": list(part.encode())}
        for part, logprob in ((text, -0.5), ("<|end|>", -0.25))
    ]
    template = TEMPLATES["product"]
    prediction = parse_completion(message(text, tokens), template)
    assert prediction.text == text
    assert prediction.confidence["title"] == pytest.approx(exp(-0.5))
    assert prediction.confidence["full_price"] == pytest.approx(exp(-0.75))
    assert parse_completion(message(text, [*tokens, tokens[1]]), template) == Prediction.parse(
        text, template
    )


def test_logprobs_are_left_out_once_the_server_rejects_them() -> None:
    async def unable(body: Body) -> Body | web.Response:
        if "logprobs" in body:
            return web.Response(status=400, text="logprobs are not supported")
        return await describe_shade(body)

    with serving(unable) as server:
        predictions = predict(QUICK(server.address, batch_size=1))
    assert [prediction.text for prediction in predictions] == [
        text_of(number) for number in range(5)
    ]
    assert len(server.asked) == 6


def test_images_are_sent_in_formats_every_server_decodes() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned, foreign = encoded(90, "JPEG", exif=exif), encoded(90, "TIFF")
    shown: list[object] = []

    async def look(body: Body) -> Body:
        shown.extend((each.format, each.mode, each.size) for each in images_of(body))
        return message("")

    with serving(look) as server:
        served = QUICK(server.address)
        predict(served, [sample("two", encoded(90, "JPEG"), turned)])
        predict(served, [sample("one", foreign)])
        predict(served, [sample("none")])
    assert shown == [
        ("JPEG", "RGB", (30, 20)),
        ("PNG", "RGB", (20, 30)),
        ("PNG", "RGB", (30, 20)),
    ]
    assert server.asked[-1]["messages"][0]["content"] == served.template.question


def test_a_conversation_is_sent_up_to_its_last_reply() -> None:
    said = ("system", "Be brief."), ("user", "<image>\nWhat is it?"), ("assistant", "A hat.")
    asked = replace(sample("one", encoded(90, "JPEG")), messages=tuple(starmap(Message, said)))

    async def reply(body: Body) -> Body:
        return message("A hat.")

    with serving(reply) as server:
        predict(QUICK(server.address), [asked])
    system, user = server.asked[-1]["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    assert user["content"][1]["text"] == "What is it?"


def test_a_broken_image_is_an_error_before_the_request() -> None:
    with serving(describe_shade) as server:
        served = QUICK(server.address)
        with pytest.raises(ValueError, match=r"sample 'torn', image 1: not an image"):
            predict(served, [sample("torn", b"no image")])
    assert not server.asked


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(describe_shade) as server:
        predict(QUICK(server.address), SAMPLES[:1])
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        predict(QUICK(server.address), SAMPLES[:1])
    assert server.keys == [None, "Bearer secret"]


def test_one_of_several_models_is_chosen_by_its_name() -> None:
    with serving(describe_shade, models={"data": [{"id": "coats"}, {"id": "shop/hats"}]}) as server:
        with pytest.raises(ValueError, match=r"has 2 models \(coats, shop/hats\); choose one"):
            QUICK(server.address)
        predict(QUICK(f"{server.address}/#shop/hats"), SAMPLES[:1])
    assert server.asked[0]["model"] == "shop/hats"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://", "does not begin with http"),
        ("http://user:secret@127.0.0.1/v1", "contains a user name or password"),
        ("http://127.0.0.1/v1?a=b", "contains a query string"),
        ("http://127.0.0.1:99999/v1", "not the base URL of a server"),
    ],
)
def test_invalid_urls_are_rejected(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ONE_RETRY(address)


def test_other_servers_are_rejected_by_the_constructor() -> None:

    with serving(describe_shade, models=["coats"]) as server:
        with pytest.raises(ValueError, match=r"/v1/models lists no models: \['coats'\]"):
            ONE_RETRY(server.address)
        with pytest.raises(ValueError, match=r"HTTP 404: .*; use a URL that ends with /v1"):
            ONE_RETRY(server.address.removesuffix("/v1"))
    with pytest.raises(ValueError, match=r"is not reachable: .*\(2 attempts\)"):
        ONE_RETRY(server.address)


def test_a_response_in_another_form_is_shown() -> None:
    async def odd(body: Body) -> Body:
        return {"output": "Coat"}

    async def page(body: Body) -> web.Response:
        return web.Response(text="<html>Welcome</html>")

    for handler, why in (
        (odd, r"no choices\[0\].* 'Coat'"),
        (page, "did not return JSON: <html>Welcome"),
    ):
        with serving(handler) as server:
            served = QUICK(server.address)
            with pytest.raises(ValueError, match=rf"sample 's0': .*{why}"):
                predict(served, SAMPLES[:1])


def test_a_grammar_is_rejected_at_once() -> None:
    with (
        serving(describe_shade) as server,
        pytest.raises(ValueError, match=r"does not support grammars"),
    ):
        QUICK(server.address).predict_samples(SAMPLES, grammar='start: "a"')


def test_the_key_does_not_follow_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(describe_shade) as other:

        async def redirect(body: Body) -> web.Response:
            return status(307, Location=f"{other.address}/chat/completions")

        with serving(redirect) as server:
            predictor = QUICK(server.address)
            with pytest.raises(ValueError, match=r"HTTP 307: a redirect to http.*is not followed"):
                predict(predictor, SAMPLES[:1])
    assert other.keys == []
