"""The page at `/` as its readers meet it: in Chromium, in front of a server that plays its part.

What `POST /v1/records` answers is scripted, to see the page in every state.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import DESKTOP, PHONE, Opened, Scheme, Screen, chromium, visited
from fastapi import FastAPI
from page_stage import (
    ANSWER,
    Asked,
    Body,
    Stage,
    babbles,
    carried,
    choose,
    done,
    faults,
    hangs_up,
    photo,
    refuses,
    said,
    says,
    serving,
)
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from phi_vision.serving.server import STATIC_FOLDER, add_page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    stage = Stage()
    app = FastAPI()
    add_page(app)
    app.router.add_route("/v1/records", stage.play, methods=["POST"])
    with serving(app) as address:
        stage.address = address
        yield stage


@pytest.fixture
def stage(theatre: Stage) -> Stage:
    theatre.plays(says())
    return theatre


@pytest.fixture(scope="module")
def window(browser: Browser, theatre: Stage) -> Iterator[Opened]:
    with visited(browser, theatre.address, DESKTOP, "light") as seen:
        yield seen


@pytest.fixture
def desk(window: Opened, stage: Stage) -> Opened:
    """The page as it is when it was just opened."""
    window.page.evaluate("sessionStorage.clear()")
    window.page.goto(stage.address)
    window.complaints.clear()
    return window


@pytest.fixture
def page(desk: Opened) -> Page:
    return desk.page


def test_a_dropped_photo_is_sent_verbatim_and_its_fields_are_shown(desk: Opened, stage: Stage):
    page, content = desk.page, photo()
    page.dispatch_event("#drop", "drop", {"dataTransfer": carried(page, content)})
    done(page)
    assert stage.asked == [Asked(body=content, type="image/png", token=None, query="")]
    assert page.locator("dt").all_text_contents() == ["Title", "Category 3 code", "Full price"]
    assert page.locator(".value").all_text_contents() == ["Canvas Tote", "BAGS", "1,490"]
    assert page.locator(".sure").all_inner_texts()[:2] == ["81\u00a0%", "> 99\u00a0%"]
    expect(page.locator("#caption")).to_have_text(f"tote.png (60 × 40, {len(content)} bytes)")
    facts = page.locator(".facts span").all_text_contents()
    assert facts == ["Latency 0.42 s", "21 tokens", "phi-vision-small"]
    assert desk.complaints == []


def test_confidences_are_bars_and_words(page: Page):
    choose(page, photo())
    done(page)
    title, _, price = page.get_by_role("meter").all()
    expect(title).to_have_accessible_name("Confidence in Title")
    expect(title).to_have_attribute("aria-valuenow", "81")
    expect(title).to_have_attribute("aria-valuetext", "81 percent")
    expect(price).to_have_attribute("aria-valuetext", "31 percent, low confidence")
    widths = title.evaluate(
        "(bar) => [bar.clientWidth, bar.firstChild.getBoundingClientRect().width]"
    )
    assert widths[1] == pytest.approx(0.812 * widths[0], abs=1)
    expect(page.locator("#status")).to_have_text(
        "Done. Title: Canvas Tote, 81 percent confidence. Category 3 code: BAGS, more than 99 "
        "percent confidence. Full price: 1,490, 31 percent confidence"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calibrated": True}, "is calibrated on held-out"),
        ({"calibrated": False}, "often too high"),
        ({"confidence": {}}, "returns no confidence"),
    ],
)
def test_the_page_explains_whether_confidence_is_calibrated(
    changes: Body, words: str, page: Page, stage: Stage
):
    stage.plays(says(**changes))
    choose(page, photo())
    expect(page.locator("#calibration")).to_contain_text(words)


def test_fields_are_accepted_or_to_be_reviewed(page: Page, stage: Stage):
    stage.plays(
        says(
            target_precision=0.95,
            accept={"title": False, "category3_code": False, "full_price": True},
            accepted_path={"category3_code": "Bags > Totes"},
        )
    )
    choose(page, photo())
    done(page)
    assert page.locator(".review").all_text_contents() == [
        "Needs review",
        "Accepted as far as Bags > Totes",
        "Accepted",
    ]
    expect(page.locator("#calibration")).to_contain_text("at least 95\u00a0% are right")
    expect(page.locator("#status")).to_contain_text("81 percent confidence, needs review")


def test_without_a_promised_precision_nothing_is_to_be_reviewed(page: Page):
    choose(page, photo())
    done(page)
    assert page.locator(".review").count() == 0


def test_values_of_all_types_are_formatted(page: Page, stage: Stage):
    record = {
        "isNew": True,
        "size_eu": None,
        "note": "",
        "weight-kg": 0.25,
        "big": 1e300,
        "stock": -1200,
        "title": "Two\nlines",
    }
    stage.plays(says(record=record, kinds=dict.fromkeys(record, "text"), confidence={}))
    choose(page, photo())
    done(page)
    names = page.locator("dt").all_text_contents()
    assert names == ["Is New", "Size eu", "Note", "Weight kg", "Big", "Stock", "Title"]
    values = page.locator(".value").all_text_contents()
    assert values == ["yes", "nothing", "empty", "0.25", "1e+300", "-1,200", "Two\nlines"]


def test_hostile_text_stays_text(desk: Opened, stage: Stage):
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>\u202e</dd>" + "W" * 300
    stage.plays(
        says(
            record={hostile: hostile},
            kinds={hostile: hostile},
            confidence={hostile: 7},
            text=hostile,
            model=hostile,
        )
    )
    choose(desk.page, photo(), name="<b>&.png")
    done(desk.page)
    expect(desk.page.locator(".value")).to_have_text(hostile)
    assert desk.page.locator("main script, main b:not(#invitation b)").count() == 0
    # Words of 300 letters have to be torn.
    assert [fault for fault in faults(desk) if not fault.startswith("words are torn")] == []


def test_a_photo_is_pasted(page: Page, stage: Stage):
    paste = """(carried) => document.dispatchEvent(
      new ClipboardEvent('paste', {clipboardData: carried, bubbles: true}))"""
    page.evaluate(paste, carried(page, photo(form="WEBP"), "clip.webp", "image/webp"))
    done(page)
    assert stage.asked[0].type == "image/webp"


def test_the_sample_photo_is_sent(desk: Opened, stage: Stage):
    desk.page.get_by_role("button", name="Try a sample").click()
    done(desk.page)
    assert Image.open(io.BytesIO(stage.asked[0].body)).format == "JPEG"
    assert desk.complaints == []


def test_the_type_is_detected_by_content(page: Page, stage: Stage):
    choose(page, photo(form="JPEG"), name="coat.png", kind="image/png")
    done(page)
    assert stage.asked[0].type == "image/jpeg"


def wait_for_requests(page: Page, stage: Stage, count: int) -> None:
    """Wait until a number of requests has arrived; the page shows its caption before it sends."""
    for _ in range(100):
        if len(stage.asked) >= count:
            return
        page.wait_for_timeout(20)


def test_of_several_photos_the_first_is_used_with_a_note(page: Page, stage: Stage):
    both = carried(page, photo())
    both.evaluate("(carried) => carried.items.add(new File(['x'], 'second.png'))")
    page.dispatch_event("body", "drop", {"dataTransfer": both})
    expect(page.locator("#caption")).to_contain_text("The first of 2")
    wait_for_requests(page, stage, 1)
    assert len(stage.asked) == 1


@pytest.mark.parametrize(
    ("content", "name", "kind", "words"),
    [
        (b"%PDF-1.7", "list.pdf", "application/pdf", "“list.pdf” is application/pdf."),
        (b"\0\0\0 ftypheic", "sea.heic", "image/heic", "“sea.heic” is image/heic."),
        (b"", "none.png", "image/png", "“none.png” is empty."),
    ],
)
def test_unsupported_files_are_rejected_without_a_request(
    content: bytes, name: str, kind: str, words: str, desk: Opened, stage: Stage
):
    choose(desk.page, content, name=name, kind=kind)
    expect(said(desk.page)).to_contain_text("Unsupported file")
    expect(said(desk.page)).to_contain_text(words)
    expect(desk.page.locator("#last")).to_be_hidden()
    assert stage.asked == []
    assert faults(desk) == []


def test_a_dropped_link_does_not_lead_away(page: Page):
    link = page.evaluate_handle(
        """() => { const carried = new DataTransfer();
          carried.setData('text/uri-list', 'http://example.com/coat.jpg'); return carried; }"""
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": link})
    expect(said(page)).to_contain_text("This is a link, not a photo")


def test_waiting_shows_the_photo_and_the_seconds_and_escape_cancels(desk: Opened, stage: Stage):
    stage.plays(stage.slowly)
    page = desk.page
    choose(page, photo())
    expect(page.locator("#shown")).to_be_visible()
    expect(page.locator("#record")).to_have_attribute("aria-busy", "true")
    expect(page.get_by_role("timer")).to_have_text("1 s")
    assert faults(desk) == []
    page.keyboard.press("Escape")
    expect(said(page)).to_contain_text("Cancelled")
    assert stage.left.wait(5), "the server still waits"
    expect(page.locator("#record")).to_have_attribute("aria-busy", "false")


def test_cancel_stops_the_server_and_the_request_can_be_retried(page: Page, stage: Stage):
    stage.plays(stage.slowly, says())
    choose(page, photo())
    page.get_by_role("button", name="Cancel").click()
    assert stage.left.wait(5)
    expect(page.locator("#record-title")).to_be_focused()
    page.get_by_role("button", name="Retry").click()
    done(page)


def test_a_new_photo_stops_the_old_one(page: Page, stage: Stage):
    stage.plays(stage.slowly, says())
    choose(page, photo(), name="old.png")
    expect(page.get_by_role("timer")).to_be_visible()
    choose(page, photo("red"), name="new.png")
    done(page)
    assert stage.left.wait(5)
    expect(page.locator("#strip span")).to_have_text(["Canvas Tote", "Cancelled"])


REFUSALS = {
    400: ("The photo is invalid", "It is 5000 times wider than high."),
    403: ("Access denied", "Not you."),
    404: ("Endpoint not found", "No such thing."),
    413: ("The photo is too large", "It has 30 MB; 20 MB are the most."),
    429: ("The server is busy", "64 are waiting."),
    500: ("Internal server error", "Internal error."),
    503: ("The server is not ready", "It is stopping."),
    504: ("The request timed out", "Nothing after 120 seconds."),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_errors_are_explained_with_advice(status: int, desk: Opened, stage: Stage):
    title, message = REFUSALS[status]
    stage.plays(refuses(status, message, retry_after="900", x_request_id="req-7"))
    choose(desk.page, photo())
    expect(said(desk.page).get_by_role("heading")).to_have_text(title)
    expect(said(desk.page)).to_contain_text(message)
    expect(desk.page.locator("#status")).to_contain_text(title)
    assert desk.page.get_by_text("Request id: req-7.").count() == (status >= 500)
    assert desk.page.get_by_role("button", name="Retry").count() == (status not in (400, 413))
    assert len(stage.asked) == 1


def test_a_busy_server_is_retried_once_after_a_countdown(desk: Opened, stage: Stage):
    stage.plays(refuses(429, "64 are waiting.", retry_after="1"), says())
    choose(desk.page, photo())
    expect(said(desk.page)).to_contain_text("The server is busy. Trying again in 1 s")
    assert faults(desk) == []
    done(desk.page)
    assert len(stage.asked) == 2


def test_a_server_that_stays_busy_is_not_retried_again(page: Page, stage: Stage):
    stage.plays(refuses(429, "64 are waiting.", retry_after="0"))
    choose(page, photo())
    expect(said(page).get_by_role("heading")).to_have_text("The server is busy")
    assert len(stage.asked) == 2


def test_the_countdown_can_be_cancelled(page: Page, stage: Stage):
    stage.plays(refuses(429, "64 are waiting.", retry_after="30"))
    choose(page, photo())
    expect(page.get_by_role("timer")).to_have_text("30 s")
    page.get_by_role("button", name="Cancel").click()
    expect(said(page)).to_contain_text("Cancelled")
    assert len(stage.asked) == 1


def test_the_key_is_requested_kept_in_the_tab_and_removed(desk: Opened, stage: Stage):
    refusal = refuses(401, "Give a bearer token.")
    stage.plays(refusal, refusal, says(), says())
    page = desk.page
    choose(page, photo())
    expect(page.get_by_label("Key")).to_be_focused()
    assert faults(desk) == []
    page.keyboard.type("schlüssel")
    page.keyboard.press("Enter")
    assert page.get_by_label("Key").evaluate("(box) => box.validity.patternMismatch")
    page.get_by_label("Key").fill("")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(said(page)).to_contain_text("This key is wrong.")
    page.get_by_label("Key").fill("right")
    page.get_by_role("button", name="Use key").click()
    done(page)
    assert [each.token for each in stage.asked] == [None, "Bearer wrong", "Bearer right"]
    page.reload()
    choose(page, photo())
    done(page)
    assert stage.asked[-1].token == "Bearer right"
    page.get_by_role("button", name="Remove key").click()
    choose(page, photo())
    wait_for_requests(page, stage, 5)
    done(page)
    assert stage.asked[-1].token is None


@pytest.mark.parametrize(
    "text", ["<h1>Proxy</h1>", "[]", '{"text": "x"}', '{"record": {}}', "null"]
)
def test_an_invalid_response_is_reported(text: str, desk: Opened, stage: Stage):
    stage.plays(babbles(text))
    choose(desk.page, photo())
    expect(said(desk.page)).to_contain_text("Invalid response")
    desk.page.locator("summary").first.click()
    expect(desk.page.locator("#prediction pre")).to_have_text(text)


def test_the_error_of_a_proxy_is_shown_verbatim(desk: Opened, stage: Stage):
    page = desk.page
    stage.plays(babbles("<h1>Bad gateway</h1>", 502))
    choose(page, photo())
    expect(said(page)).to_contain_text("No connection to the server")
    page.locator("summary", has_text="Response").click()
    expect(page.locator("#prediction pre")).to_have_text("502 <h1>Bad gateway</h1>")
    assert faults(desk) == []


def test_a_closed_connection_can_be_retried(page: Page, stage: Stage):
    stage.plays(hangs_up, says())
    choose(page, photo())
    expect(said(page)).to_contain_text("No connection to the server")
    page.get_by_role("button", name="Retry").click()
    done(page)


def test_an_unreachable_server_is_reported(browser: Browser):
    app = FastAPI()
    add_page(app)
    with serving(app) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
    choose(page, photo(size=(60, 40)) + b"\0" * 6_000_000)
    expect(said(page)).to_contain_text("6.0 MB may exceed its limit.")
    context.close()


def test_unparsed_text_is_shown_and_can_be_retried_with_constraints(desk: Opened, stage: Stage):
    stage.plays(says(record=None, confidence={}, text="A nice bag, I think."), says())
    choose(desk.page, photo())
    expect(desk.page.locator("blockquote")).to_have_text("A nice bag, I think.")
    assert desk.page.get_by_role("button", name="Copy as JSON").count() == 0
    assert faults(desk) == []
    desk.page.get_by_role("button", name="Retry with constrained decoding").click()
    done(desk.page)
    expect(desk.page.locator(".value").first).to_have_text("Canvas Tote")
    assert stage.asked[-1].query == "constrained=true"


def test_the_record_is_copied_as_json(page: Page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    choose(page, photo())
    page.get_by_role("button", name="Copy as JSON").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == ANSWER["record"]


def test_the_generated_text_is_collapsed(page: Page):
    choose(page, photo())
    done(page)
    expect(page.locator("#prediction pre")).to_be_hidden()
    page.get_by_text("Generated text").click()
    expect(page.locator("#prediction pre")).to_have_text(str(ANSWER["text"]))


def test_the_last_photos_come_back_with_their_predictions(page: Page, stage: Stage):
    for number in range(10):
        stage.plays(says(record={"title": f"Bag {number}"}))
        choose(page, photo(), name=f"{number}.png")
        expect(page.locator(".value")).to_have_text(f"Bag {number}")
    strip = page.locator("#strip")
    expect(strip.locator("span")).to_have_text([f"Bag {number}" for number in range(9, 1, -1)])
    strip.get_by_role("button", name="Bag 4").click()
    expect(page.locator(".value")).to_have_text("Bag 4")
    expect(page.locator("#caption")).to_contain_text("4.png (60 × 40")
    expect(strip.locator("[aria-current=true]")).to_have_text("Bag 4")
    expect(strip.get_by_role("button", name="Bag 4")).to_be_focused()
    page.reload()
    expect(page.locator("#last")).to_be_hidden()


def test_everything_can_be_done_with_the_keyboard_alone(desk: Opened, tmp_path: Path):
    page, file = desk.page, tmp_path / "bag.png"
    file.write_bytes(photo())
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Choose a photo")).to_be_focused()
        page.keyboard.press("Enter")
    chooser.value.set_files(file)
    done(page)
    for name in (
        "Try a sample",
        "Generated text",
        "Copy as JSON",
        "Canvas Tote, bag.png",
        "From the command line",
    ):
        page.keyboard.press("Tab")
        looks = page.evaluate(
            """() => { const at = document.activeElement, looks = getComputedStyle(at);
              return [at.getAttribute('aria-label') ?? at.textContent, looks.outlineStyle,
                parseFloat(looks.outlineWidth)]; }"""
        )
        assert looks == [name, "solid", 3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_layout_is_correct_before_and_after(
    screen: Screen, scheme: Scheme, browser: Browser, stage: Stage
):
    with visited(browser, stage.address, screen, scheme) as seen:
        assert seen.faults() == []
        for number in range(6):
            name = f"a-very-long-name-of-a-photo-{number}" * 5
            choose(seen.page, photo(size=(300, 900)), name=f"{name}.png")
            expect(seen.page.locator(".last.predicted")).to_have_count(number + 1)
        assert seen.faults() == []
        seen.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = 1")
        assert seen.faults() == []


def test_a_phone_takes_a_photo(browser: Browser, stage: Stage):
    with visited(browser, stage.address, PHONE, "light") as seen:
        with seen.page.expect_file_chooser() as chooser:
            seen.page.get_by_role("button", name="Take a photo").tap()
        assert chooser.value.element.get_attribute("capture") == "environment"
        chooser.value.set_files({"name": "1.jpg", "mimeType": "", "buffer": photo(form="JPEG")})
        done(seen.page)
        box = seen.page.locator(".headline").bounding_box()
        assert box is not None
        assert box["y"] < PHONE.height, "the answer is below the screen"


def test_a_desktop_has_no_camera_button(page: Page):
    expect(page.get_by_role("button", name="Take a photo")).to_be_hidden()


def test_text_never_becomes_markup():
    for name in ("page.js", "api.js", "render.js", "format.js", "index.html"):
        text = STATIC_FOLDER.joinpath(name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
        assert not re.search(r"https?://|<style|style=|\bon[a-z]+=", text.replace("\n", " "))


def test_all_files_are_cached_and_have_security_headers(stage: Stage, desk: Opened):
    for path in ("/", *(f"/page/{file.name}" for file in STATIC_FOLDER.iterdir())):
        first = desk.page.request.get(stage.address.rstrip("/") + path)
        assert first.status == 200
        assert "default-src 'none'" in first.headers["content-security-policy"]
        assert first.headers["x-content-type-options"] == "nosniff"
        again = desk.page.request.get(
            stage.address.rstrip("/") + path, headers={"if-none-match": first.headers["etag"]}
        )
        assert (again.status, again.body()) == (304, b"")
    assert desk.page.request.get(stage.address + "page/page.py").status == 404
