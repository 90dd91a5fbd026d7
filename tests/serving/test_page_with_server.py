"""The page at `/` in front of the real application and the real small model."""

import threading
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
from browser import DESKTOP, PHONE, Opened, chromium, visited
from page_stage import carried, choose, done, faults, photo, said, serving
from playwright.sync_api import Browser, expect

from phi_vision.generation.generate import GenerativeModel
from phi_vision.inference.local import LocalPredictor
from phi_vision.model.checkpoint import SMALL
from phi_vision.serving.server import create_app
from phi_vision.serving.settings import Settings


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


class Held:
    """A model that answers when it is let."""

    def __init__(self, model: GenerativeModel) -> None:
        self.model, self.free = model, threading.Event()
        self.free.set()

    def generate(self, **asked: Any) -> Any:
        self.free.wait()
        return self.model.generate(**asked)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@pytest.fixture(scope="module")
def predictor() -> LocalPredictor:
    predictor = LocalPredictor(SMALL, device="cpu")
    predictor.model = Held(predictor.model)
    return predictor


@pytest.fixture(scope="module")
def real(browser: Browser, predictor: LocalPredictor) -> Iterator[Opened]:
    settings = Settings(max_body_bytes=2**20)
    with (
        serving(create_app(predictor, settings)) as address,
        visited(browser, address, DESKTOP, "light") as seen,
    ):
        yield seen


def sample() -> bytes:
    return resources.files("phi_vision.serving").joinpath("static", "sample.jpg").read_bytes()


def test_the_real_server_predicts_a_dropped_photo(real: Opened, predictor: LocalPredictor):
    page = real.page
    dropped = carried(page, sample(), "tote.jpg", "image/jpeg")
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    done(page)
    # Weights that were not trained on the question describe the image instead.
    expect(page.locator("blockquote")).to_have_text(predictor.predict([sample()])[0].text)
    page.get_by_role("button", name="Retry with constrained decoding").click()
    expect(page.locator("dt")).to_have_text(["Title", "Category 3 code", "Full price"])
    assert page.get_by_role("meter").count() == 3
    expect(page.locator("#calibration")).to_contain_text("often too high")
    assert real.faults() == []


@pytest.mark.parametrize(
    ("content", "title", "words"),
    [
        (photo()[:50], "The photo is invalid", "50 bytes"),
        (photo(size=(3000, 2)), "The photo is invalid", "3,000 × 2 pixels"),
        (photo() + b"\0" * 3_000_000, "The photo is too large", "1,048,576 bytes"),
    ],
    ids=["broken", "too wide", "too large"],
)
def test_the_real_server_s_error_is_shown(content: bytes, title: str, words: str, real: Opened):
    choose(real.page, content)
    expect(said(real.page).get_by_role("heading")).to_have_text(title)
    expect(said(real.page)).to_contain_text(words)
    assert faults(real) == []


def test_a_cancelled_request_ends_in_the_real_server(real: Opened, predictor: LocalPredictor):
    page = real.page
    assert isinstance(predictor.model, Held)
    predictor.model.free.clear()
    choose(page, sample())
    expect(page.get_by_role("timer")).to_have_text("1 s")
    page.get_by_role("button", name="Cancel").click()
    expect(said(page)).to_contain_text("Cancelled")
    predictor.model.free.set()
    page.get_by_role("button", name="Retry").click()
    done(page)
    metrics = page.request.get(page.url + "metrics").text()
    assert "phi_vision_cancelled_total 1.0" in metrics


def test_the_real_server_s_key_is_requested(browser: Browser, predictor: LocalPredictor):
    app = create_app(predictor, Settings(key="sesame"))
    with serving(app) as address, visited(browser, address, PHONE, "dark") as seen:
        choose(seen.page, sample())
        seen.page.get_by_label("Key").fill("sesame")
        seen.page.get_by_role("button", name="Use key").tap()
        done(seen.page)
        assert faults(seen) == []
