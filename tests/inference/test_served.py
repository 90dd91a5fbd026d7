"""OpenAIPredictor: a real server over HTTP, with the moods that servers have."""

import asyncio
import base64
from collections.abc import Sequence
from io import BytesIO
from math import exp

import pytest
from aiohttp import web
from model_server import Body, message, serving
from PIL import Image

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.inference.chat_completions import read_reply
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.inference.retry_policy import RetryPolicy

QUICK = RetryPolicy(attempts=4, first_wait=0.01, longest_wait=1.0, timeout=2.0)
HASTY = RetryPolicy(attempts=2, first_wait=0.01, longest_wait=1.0, timeout=0.2)


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


async def tell_shade(body: Body) -> Body:
    (image,) = images_of(body)
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return message(text_of(int(pixel[0])))


def replies_of(served: OpenAIPredictor, samples: Sequence[Sample] = SAMPLES) -> list[Prediction]:
    found = dict(served.predict_samples(samples))
    return [found[place] for place in range(len(samples))]


def status(code: int, **headers: str) -> web.Response:
    return web.Response(status=code, text="not now", headers=headers)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_every_sample_gets_the_answer_about_its_own_image() -> None:
    with serving(tell_shade) as server:
        served = OpenAIPredictor(server.address, patience=QUICK)
        assert [reply.text for reply in replies_of(served)] == [text_of(n) for n in range(5)]
        assert served.name == f"server {server.address}, model coats"
        assert list(served.predict_samples([])) == []


def test_the_question_is_the_templates_and_nothing_is_drawn_by_lot() -> None:
    with serving(tell_shade) as server:
        replies_of(OpenAIPredictor(server.address, template="walkthrough"), SAMPLES[:1])
    (body,) = server.asked
    assert (body["model"], body["temperature"]) == ("coats", 0)
    image, words = body["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert words == {"type": "text", "text": "What is shown in this image?"}


def test_no_more_questions_are_open_than_allowed() -> None:
    async def slow(body: Body) -> Body:
        await asyncio.sleep(0.02)
        return message("")

    with serving(slow) as server:
        replies_of(OpenAIPredictor(server.address, at_a_time=2, patience=QUICK), SAMPLES * 3)
    assert server.most == 2


def test_a_busy_server_is_asked_again_when_it_wishes() -> None:
    times: list[float] = []

    async def busy(body: Body) -> Body | web.Response:
        times.append(asyncio.get_running_loop().time())
        moods: list[Body | web.Response] = [
            status(429, **{"Retry-After": "0.3"}),
            status(503),
            await tell_shade(body),
        ]
        return moods[len(times) - 1]

    with serving(busy) as server:
        (reply,) = replies_of(OpenAIPredictor(server.address, patience=QUICK), SAMPLES[3:4])
    assert reply.text == text_of(3)
    assert times[1] - times[0] >= 0.3 > times[2] - times[1]


def test_a_server_that_hangs_up_or_stalls_is_asked_again() -> None:
    calls = 0

    async def moody(body: Body) -> Body | web.Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionResetError  # the server below hangs up
        if calls == 2:
            await asyncio.sleep(1)
        return await tell_shade(body)

    patience = RetryPolicy(attempts=3, first_wait=0.01, timeout=0.3)
    with serving(moody) as server:
        (reply,) = replies_of(OpenAIPredictor(server.address, patience=patience), SAMPLES[:1])
    assert (reply.text, calls) == (text_of(0), 3)


def test_patience_ends_with_the_samples_name_and_what_was_said() -> None:
    async def down(body: Body) -> web.Response:
        return status(503)

    with serving(down) as server:
        served = OpenAIPredictor(server.address, patience=HASTY)
        expected = r"sample 's0': http.*/v1/chat/completions answered HTTP 503: not now \(asked 2"
        with pytest.raises(ValueError, match=expected):
            replies_of(served, SAMPLES[:1])


def test_a_server_that_wishes_to_be_left_alone_for_an_hour_is_left_alone() -> None:
    async def closed(body: Body) -> web.Response:
        return status(429, **{"Retry-After": "3600"})

    with serving(closed) as server:
        served = OpenAIPredictor(server.address, patience=QUICK)
        with pytest.raises(ValueError, match=r"left alone for 3600 s; ask less at a time"):
            replies_of(served, SAMPLES[:1])
    assert len(server.asked) == 1


def test_what_was_answered_before_a_failure_is_handed_out() -> None:
    async def fail_third(body: Body) -> Body | web.Response:
        answer = await tell_shade(body)
        return status(400) if text_of(2) in str(answer) else answer

    with serving(fail_third) as server:
        served = OpenAIPredictor(server.address, at_a_time=1, patience=QUICK)
        replies = served.predict_samples(SAMPLES)
        assert [next(replies)[0], next(replies)[0]] == [0, 1]
        with pytest.raises(ValueError, match=r"sample 's2': .*HTTP 400"):
            next(replies)


def test_who_stops_listening_breaks_the_questions_off() -> None:
    with serving(tell_shade) as server:
        replies = OpenAIPredictor(server.address, at_a_time=1, patience=QUICK).predict_samples(
            SAMPLES * 100
        )
        next(replies)
        replies.close()  # type: ignore[attr-defined]
        assert len(server.asked) < 100


def test_a_loop_that_runs_already_is_no_hindrance() -> None:
    async def in_a_notebook(address: str) -> list[Prediction]:
        return replies_of(OpenAIPredictor(address, patience=QUICK))

    with serving(tell_shade) as server:
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
        (reply,) = replies_of(OpenAIPredictor(server.address, patience=QUICK), SAMPLES[:1])
    assert reply.text == "Product: Café, Category: HATS, Full Price: 9.5"
    # The token after a field counts: it says that the field ends there.
    assert reply.confidence == pytest.approx(
        {"title": exp(-0.6), "category3_code": exp(-0.4), "full_price": exp(-0.5)}
    )


def test_letters_split_between_tokens_and_tokens_that_do_not_add_up_are_told_apart() -> None:
    text = "Product: é, Category: A, Full Price: 1.0"
    before, after = b"Product: \xc3", b"\xa9, Category: A, Full Price: 1.0"
    split = [{"token": "?", "logprob": -0.5, "bytes": list(part)} for part in (before, after)]
    template = TEMPLATES["product"]
    assert read_reply(message(text, split), template).confidence["title"] == pytest.approx(exp(-1))
    assert read_reply(message(text, split[:1]), template) == Prediction.parse(text, template)
    assert read_reply(message(None), template) == Prediction.parse("", template)


def test_the_token_that_ended_the_answer_counts_where_a_server_tells_it() -> None:
    text = "Product: Coat, Category: A, Full Price: 1.0"
    tokens = [
        {"token": part, "logprob": logprob, "bytes": list(part.encode())}
        for part, logprob in ((text, -0.5), ("<|end|>", -0.25))
    ]
    template = TEMPLATES["product"]
    reply = read_reply(message(text, tokens), template)
    assert reply.text == text
    assert reply.confidence["title"] == pytest.approx(exp(-0.5))
    assert reply.confidence["full_price"] == pytest.approx(exp(-0.75))
    assert read_reply(message(text, [*tokens, tokens[1]]), template) == Prediction.parse(
        text, template
    )


def test_a_server_that_cannot_tell_probabilities_is_asked_without() -> None:
    async def unable(body: Body) -> Body | web.Response:
        if "logprobs" in body:
            return web.Response(status=400, text="logprobs are not supported")
        return await tell_shade(body)

    with serving(unable) as server:
        replies = replies_of(OpenAIPredictor(server.address, at_a_time=1, patience=QUICK))
    assert [reply.text for reply in replies] == [text_of(number) for number in range(5)]
    assert len(server.asked) == 6


def test_images_arrive_as_they_are_meant() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned, foreign = encoded(90, "JPEG", exif=exif), encoded(90, "TIFF")
    shown: list[object] = []

    async def look(body: Body) -> Body:
        shown.extend((each.format, each.mode, each.size) for each in images_of(body))
        return message("")

    with serving(look) as server:
        served = OpenAIPredictor(server.address, patience=QUICK)
        replies_of(served, [sample("two", encoded(90, "JPEG"), turned)])
        replies_of(served, [sample("one", foreign)])
        replies_of(served, [sample("none")])
    assert shown == [
        ("JPEG", "RGB", (30, 20)),
        ("PNG", "RGB", (20, 30)),
        ("PNG", "RGB", (30, 20)),
    ]
    assert server.asked[-1]["messages"][0]["content"] == served.template.question


def test_a_broken_image_is_named_before_it_is_sent() -> None:
    with serving(tell_shade) as server:
        served = OpenAIPredictor(server.address, patience=QUICK)
        with pytest.raises(ValueError, match=r"sample 'torn', image 1: cannot read"):
            replies_of(served, [sample("torn", b"no image")])
    assert not server.asked


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tell_shade) as server:
        replies_of(OpenAIPredictor(server.address, patience=QUICK), SAMPLES[:1])
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        replies_of(OpenAIPredictor(server.address, patience=QUICK), SAMPLES[:1])
    assert server.keys == [None, "Bearer secret"]


def test_one_of_several_models_is_chosen_by_its_name() -> None:
    with serving(tell_shade, models={"data": [{"id": "coats"}, {"id": "shop/hats"}]}) as server:
        with pytest.raises(ValueError, match=r"has 2 models \(coats, shop/hats\); choose one"):
            OpenAIPredictor(server.address, patience=QUICK)
        replies_of(OpenAIPredictor(f"{server.address}/#shop/hats", patience=QUICK), SAMPLES[:1])
    assert server.asked[0]["model"] == "shop/hats"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://", "does not begin with http"),
        ("http://user:secret@127.0.0.1/v1", "holds a name or a password"),
        ("http://127.0.0.1/v1?a=b", "holds a question mark"),
        ("http://127.0.0.1:99999/v1", "no address of a server"),
    ],
)
def test_what_is_no_address_is_refused(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        OpenAIPredictor(address, patience=HASTY)


def test_what_is_no_such_server_is_refused_when_it_is_opened() -> None:
    with serving(tell_shade, models=["coats"]) as server:
        with pytest.raises(ValueError, match=r"/v1/models lists no models: \['coats'\]"):
            OpenAIPredictor(server.address, patience=HASTY)
        with pytest.raises(ValueError, match=r"HTTP 404: .*; give the address up to /v1"):
            OpenAIPredictor(server.address.removesuffix("/v1"), patience=HASTY)
    with pytest.raises(ValueError, match=r"could not be asked: .*\(asked 2 times\)"):
        OpenAIPredictor(server.address, patience=HASTY)


def test_an_answer_in_another_form_is_shown() -> None:
    async def odd(body: Body) -> Body:
        return {"output": "Coat"}

    async def page(body: Body) -> web.Response:
        return web.Response(text="<html>Welcome</html>")

    for handler, why in ((odd, r"no choices\[0\].* 'Coat'"), (page, "not in JSON: <html>Welcome")):
        with serving(handler) as server:
            served = OpenAIPredictor(server.address, patience=QUICK)
            with pytest.raises(ValueError, match=rf"sample 's0': .*{why}"):
                replies_of(served, SAMPLES[:1])


def test_a_grammar_is_refused_at_once() -> None:
    with (
        serving(tell_shade) as server,
        pytest.raises(ValueError, match=r"cannot be limited to a grammar"),
    ):
        OpenAIPredictor(server.address, patience=QUICK).predict_samples(
            SAMPLES, grammar='start: "a"'
        )
