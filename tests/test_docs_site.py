"""The documentation builds as a site without a warning, loads nothing foreign, and is complete."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from browser import DESKTOP, FAULTS, PHONE, Scheme, Screen, chromium, visited
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from phi_vision.cli.main import COMMANDS
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.training.recipes import RECIPES, Recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""Element -> its attribute whose address a browser loads by itself."""


@dataclass(frozen=True, kw_only=True)
class SitePage:
    """A built page: its ids, the targets of its links, and what it loads."""

    ids: frozenset[str]
    links: tuple[str, ...]
    loads: tuple[str, ...]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found: Mapping[str, str] = {name: value or "" for name, value in attrs}
        self.ids += [found["id"]] if "id" in found else []
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and found.get("rel") in ("canonical", "prev", "next"):
            return
        if LOADED.get(tag) in found:
            self.loads.append(found[LOADED[tag]])


def read(page: Path) -> SitePage:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    ids, links, loads = frozenset(reader.ids), tuple(reader.links), tuple(reader.loads)
    return SitePage(ids=ids, links=links, loads=loads)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does: a warning, such as of a dead link, is an error."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, SitePage]:
    found = {file.relative_to(site).as_posix(): read(file) for file in site.rglob("*.html")}
    assert len(found) > 25
    return found


def test_every_link_leads_to_a_page_and_an_anchor(site: Path, pages: dict[str, SitePage]) -> None:
    dead = []
    for name, page in pages.items():
        if name == "404.html":  # Its links begin at the root of the server.
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (
                ((site / name).parent / unquote(parts.path)).resolve()
                if parts.path
                else site / name
            )
            target = target / "index.html" if target.is_dir() else target
            key = target.relative_to(site.resolve() if parts.path else site).as_posix()
            anchors = pages[key].ids if key in pages else frozenset[str]()
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                dead.append(f"{name}: {link}")
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, SitePage]) -> None:
    loaded = {(name, address) for name, page in pages.items() for address in page.loads}
    assert [each for each in loaded if urlsplit(each[1]).netloc] == []
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", style.read_text("utf-8")), style
    # The theme would load a library from elsewhere to draw such a block.
    assert not any('class="mermaid"' in (site / name).read_text("utf-8") for name in pages)


@pytest.mark.parametrize(("screen", "scheme"), [(DESKTOP, "dark"), (PHONE, "light")])
def test_the_site_is_readable_and_its_search_finds(
    site: Path, screen: Screen, scheme: Scheme
) -> None:
    assert set(WISHES) <= set(FAULTS)
    handler = partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, chromium() as browser:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        try:
            with visited(browser, address, screen, scheme) as seen:
                for name in ("", "how-it-works/", "recipes/", "http-api/"):
                    seen.page.goto(address + name, wait_until="networkidle")
                    faults = [each for each in seen.faults(WISHES) if not LEFT.search(each)]
                    assert faults == [], name
                seen.page.locator("#__search").evaluate("box => box.click()")
                seen.page.locator("input.md-search__input").press_sequentially("learning_rate")
                found = seen.page.locator(".md-search-result__link").first
                found.wait_for(timeout=20_000)
                assert "recipes" in (found.get_attribute("href") or "")
        finally:
            server.shutdown()


LEFT = re.compile(r"^failed: http://127\.0\.0\.1:")
"""Complaint of a page that was left while it fetched a file; one that is missing is another."""
WISHES = ("scrolls sideways", "images that do not show", "links to nowhere", "ids given twice")
"""What is asked of our pages; the frame around them is the theme's."""


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves the site without a log."""

    def log_message(self, format: str, *args: object) -> None: ...


def test_every_part_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"] for entry in index["docs"]}
    assert {f"recipes/#{field.name}" for field in fields(Recipe)} <= places
    assert {f"cli/#phi-vision-{command}" for command in COMMANDS} <= places
    assert {"glossary/#data", "http-api/#post-v1records", "data/#prices"} <= places


def test_the_reference_has_what_the_code_has(site: Path, pages: dict[str, SitePage]) -> None:
    recipes = (site / "recipes" / "index.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in recipes for name in RECIPES)
    assert {field.name for field in fields(Recipe)} <= pages["recipes/index.html"].ids
    openapi = json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))
    http = (site / "http-api" / "index.html").read_text(encoding="utf-8")
    for path, operations in openapi["paths"].items():
        assert all(f"{method.upper()} {path}" in http for method in operations)
    assert {name.lower() for name in openapi["components"]["schemas"]} <= pages[
        "http-api/index.html"
    ].ids
    api = (DOCS / "python-api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^::: (\S+)$", api, re.MULTILINE)) <= pages["python-api/index.html"].ids


def test_llms_txt_lists_every_page_as_markdown(site: Path) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    title, summary = text.split("\n\n")[:2]
    assert title == "# phi-vision"
    assert summary.startswith("> Fine-tune Phi-3-Vision")
    listed = re.findall(r"^- \[([^\]]+)\]\(([\w-]+\.md)\): (.+)$", text, re.MULTILINE)
    assert {file for _, file, _ in listed} == {file.name for file in DOCS.glob("*.md")}
    for _, file, sentence in listed:
        markdown = (site / file).read_text(encoding="utf-8")
        assert markdown.startswith("# "), file
        assert "<!-- generated" not in markdown, file
        assert 10 < len(sentence) < 400, file


def test_the_site_starts_with_the_readme_and_links_its_photographs(site: Path) -> None:
    start = (site / "index.md").read_text(encoding="utf-8")
    assert start.startswith("# phi-vision\n\nFine-tune Microsoft's Phi-3-Vision")
    assert len(re.findall(r"\[A [\w ]+\]\(https://raw\.githubusercontent\.com/", start)) == 3
    assert "<img" not in start
    assert "](docs/" not in start
    assert "(first-run.md)" in start


def small_site(tmp_path: Path, page: str) -> None:
    """Build one page under the project's own settings."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(page, encoding="utf-8")
    settings = {"docs_dir": str(tmp_path / "docs"), "site_dir": str(tmp_path / "site")}
    chosen = {"nav": ["index.md"], "plugins": [], "extra_css": []}
    build(load_config(str(ROOT / "mkdocs.yml"), **settings, **chosen))


@pytest.mark.parametrize("link", ["nowhere.md", "index.md#nowhere", "/guide"])
def test_a_dead_link_fails_the_build(tmp_path: Path, link: str) -> None:
    with pytest.raises(Abort):
        small_site(tmp_path, f"# Title\n\n[dead]({link})\n")


def test_an_unknown_part_fails_the_build(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Abort):
        small_site(tmp_path, "# Title\n\n<!-- generated: recipies -->\n")
    assert "index.md asks for the part 'recipies'; there are recipes, " in caplog.text


def test_the_drawing_shows_the_numbers_of_the_code() -> None:
    drawing = (DOCS / "how-it-works.svg").read_text(encoding="utf-8")
    shown = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawing))
    processor = Phi3VImageProcessor(num_crops=4)
    side, count = processor.crop_size, 24
    assert side == 336
    for words in (
        f"{2 * side} × {2 * side}",
        f"{side} × {side} pixels",
        f"{count} × {count} patches",
        f"{count} × ({count} + 1) = {count * (count + 1)}",
        f"12 × (12 + 1) = {12 * 13}",
        f"{count * (count + 1) + 1 + 12 * 13} image tokens",
    ):
        assert words in shown, words


def test_the_messages_of_the_troubleshooting_page_exist() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    texts = [re.sub(r"\s+", " ", file.read_text("utf-8")) for file in error_sources()]
    known = re.sub(r"\{[^{}]*\}", "…", " ".join(texts))
    quoted = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+)", page, re.MULTILINE)
    pieces = [
        piece.strip()
        for cell in quoted
        for message in re.findall(r"`([^`]+)`", cell)
        for piece in message.split("…")
        if piece.strip()
    ]
    assert len(pieces) > 5
    assert [piece for piece in pieces if piece not in known] == []


def error_sources() -> list[Path]:
    return [*sorted((ROOT / "phi_vision").rglob("*.yaml")), ROOT / "Makefile"]


def test_the_pins_hold_what_builds_the_site() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    assert settings["theme"]["font"] == "false"
    for package in (
        "mkdocs",
        "mkdocs-material",
        "mkdocstrings",
        "mkdocstrings-python",
        "griffelib",
    ):
        assert re.search(rf"^{package}==", pins, re.MULTILINE), package
