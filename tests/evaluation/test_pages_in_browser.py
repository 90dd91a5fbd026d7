"""Pages in Chromium: on a desktop and on a phone, light and dark."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import DESKTOP, FAULTS, PHONE, Scheme, Screen, chromium, opened
from playwright.sync_api import Browser
from toy_evaluation import toy_evaluation
from toy_reports import toy_reports

from phi_vision.evaluation.report import write_comparison, write_report
from phi_vision.metrics.comparison import compare

Write = Callable[[str], Path]

FAULTY = {
    "scrolls sideways": "<div style='width: 1500px'>.</div>",
    "sticks out": "<p style='position: absolute; left: -50px'>Half of it is gone</p>",
    "cut off": "<p style='width: 5em; overflow: hidden; white-space: nowrap'>Words without end</p>",
    "words run over the next cell": "<table style='width: 100px; table-layout: fixed'><tr>"
    "<td>Incomprehensibilities</td><td>1</td></tr></table>",
    "words leave their chart": "<svg role=img width=80 height=20><title>A chart</title>"
    "<text x=60 y=15>Too far</text></svg>",
    "words lie on each other": "<svg role=img width=80 height=20><title>A chart</title>"
    "<text x=2 y=15>One</text><text x=10 y=15>Two</text></svg>",
    "words are torn": "<p style='width: 2em; overflow-wrap: anywhere'>Incomprehensible</p>",
    "too small to read": "<svg role=img width=50 viewBox='0 0 100 20'><title>A chart</title>"
    "<text x=2 y=15 font-size=16>Small</text></svg>",
    "too faint to read": "<p style='color: rgb(0 0 0 / 50%)'>Faint</p>",
    "images that do not show": "<img alt='broken' src='data:image/png;base64,AAAA'>",
    "not said to those who cannot see": "<svg width=20 height=20></svg>",
    "without a name": "<button style='width: 50px; height: 30px'></button>",
    "too small to touch": "<button style='height: 12px; padding: 0'>Tiny</button>",
    "links to nowhere": "<a href='#lost'>Lost</a>",
    "ids given twice": "<p id=one>One</p><p id=one>Two</p>",
    "headings out of order": "<h3>Third</h3>",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A full report, a minimal one, and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    reports = toy_reports()
    return {
        "report": write_report(toy_evaluation(), folder / "full"),
        "minimal": write_report(toy_evaluation(minimal=True), folder / "minimal"),
        "comparison": write_comparison(
            compare([report.system for report in reports]), reports, folder / "comparison.html"
        ),
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(body: str) -> Path:
        page = tmp_path / "page.html"
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        page.write_text(f"<!doctype html>{head}<h1>A page</h1>{body}", encoding="utf-8")
        return page

    return write


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["report", "minimal", "comparison"])
def test_our_pages_have_no_faults(
    name: str, screen: Screen, scheme: Scheme, browser: Browser, pages: dict[str, Path]
):
    with opened(browser, pages[name], screen, scheme) as page:
        assert page.faults() == []
        page.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = 1")
        assert page.faults() == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str, browser: Browser, write: Write):
    with opened(browser, write(FAULTY[fault]), DESKTOP, "light") as page:
        assert fault in {found.split(":")[0] for found in page.faults()}


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_good_page_has_no_faults(screen: Screen, browser: Browser, write: Write):
    wide = "<div style='overflow-x: auto'><p style='width: 1500px'>Scrolls inside its box</p></div>"
    with opened(browser, write(wide), screen, "light") as page:
        assert page.faults() == []


def test_errors_of_a_page_are_reported(browser: Browser, write: Write):
    body = (
        "<img alt='far' src='http://127.0.0.1:9/far.png'><script>console.log('hm'); oh()</script>"
    )
    with opened(browser, write(body), DESKTOP, "light") as page:
        complaints = "\n".join(page.complaints)
    assert "the page asks for http://127.0.0.1:9/far.png" in complaints
    assert "console: hm" in complaints
    assert "oh is not defined" in complaints


def test_light_on_light_is_found_in_the_dark_alone(browser: Browser, write: Write):
    page = write("<p style='color: #333'>Dark words</p>")
    html = page.read_text().replace("<h1>", "<style>:root { color-scheme: light dark }</style><h1>")
    page.write_text(html)
    with opened(browser, page, PHONE, "light") as light:
        assert light.faults() == []
    with opened(browser, page, PHONE, "dark") as dark:
        assert [found.split("“")[0] for found in dark.faults()] == ["too faint to read: p "]
