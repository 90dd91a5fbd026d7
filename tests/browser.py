"""Opens a page in headless Chromium, from disk or a server, and says what is wrong with it.

Uses the machine's own Chromium (`chromium` on the PATH, or what CHROMIUM names) through playwright,
which downloads nothing then. `FAULTS` are questions to the page, each a function of JavaScript that
gives a list of faults in words; none is the wish.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

Scheme = Literal["light", "dark"]

expect.set_options(timeout=30_000)  # instead of 5 s: other tests keep the cores busy


@dataclass(frozen=True, kw_only=True)
class Screen:
    """What a reader looks through."""

    width: int
    height: int
    is_phone: bool = False
    """A phone lays out a page without a viewport line 980 pixels wide, and zooms out."""


DESKTOP = Screen(width=1280, height=900)
PHONE = Screen(width=390, height=844, is_phone=True)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A page that is open, and what the browser complained about."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def faults(self, asked: Collection[str] | None = None) -> list[str]:
        """Everything that is wrong with the page, in words, or some of FAULTS; else nothing."""
        found = list(self.complaints)
        for name, question in FAULTS.items():
            if asked is not None and name not in asked:
                continue
            found += [f"{name}: {each}" for each in self.page.evaluate(f"{TOOLS} ({question})()")]
        return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the machine's Chromium; skips the test where there is none."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if program is None:
        pytest.skip("no Chromium: put `chromium` on the PATH or its path into CHROMIUM")
    with sync_playwright() as playwright:
        # The sandbox needs kernel rights that containers do not give; the pages are our own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, file: Path, screen: Screen, scheme: Scheme) -> Iterator[Opened]:
    """Open a file; whatever else it asks for is refused and counts as a complaint."""
    address = file.as_uri()
    with _opened(browser, address, screen, scheme, lambda asked: asked == address) as seen:
        yield seen


@contextmanager
def visited(browser: Browser, address: str, screen: Screen, scheme: Scheme) -> Iterator[Opened]:
    """Open the page of a server, `http://host:port/`; nothing may be asked of another one."""
    with _opened(browser, address, screen, scheme, lambda asked: asked.startswith(address)) as seen:
        yield seen


@contextmanager
def _opened(
    browser: Browser,
    address: str,
    screen: Screen,
    scheme: Scheme,
    is_ours: Callable[[str], bool],
) -> Iterator[Opened]:
    context = browser.new_context(
        viewport={"width": screen.width, "height": screen.height},
        is_mobile=screen.is_phone,
        has_touch=screen.is_phone,
        color_scheme=scheme,
        # Nothing is half faded in when it is looked at.
        reduced_motion="reduce",
    )
    page = context.new_page()
    seen = Opened(page=page)

    def refuse(route: Route) -> None:
        if is_ours(route.request.url):
            route.continue_()
        else:
            seen.complaints.append(f"the page asks for {route.request.url}")
            route.abort()

    page.route("**/*", refuse)
    page.on("console", lambda message: seen.complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: seen.complaints.append(f"error: {error}"))
    page.on("requestfailed", lambda request: seen.complaints.append(f"failed: {request.url[:80]}"))
    page.goto(address)
    yield seen
    context.close()


TOOLS = """
const all = (what, inside = document) => [...inside.querySelectorAll(what)];
const name = (element) => {
  const id = element.id ? '#' + element.id : '';
  const kind = element.getAttribute('class');
  const words = element.textContent.trim().replace(/\\s+/g, ' ').slice(0, 40);
  const room = element.closest('section[id], nav, header, footer');
  return (room && room !== element ? name_short(room) + ' ' : '') + name_short(element)
    + (words ? ` “${words}”` : '');
};
const name_short = (element) => element.tagName.toLowerCase()
  + (element.id ? '#' + element.id : '')
  + (element.getAttribute('class') ? '.' + element.getAttribute('class').split(/\\s+/)[0] : '');
const above = function* (element) {
  for (let at = element; at instanceof Element; at = at.parentElement) yield at;
};
const seen = (element) => {
  const box = element.getBoundingClientRect();
  return box.width > 1 && box.height > 1
    && element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true});
};
// Elements that hold words of their own, not only those of their children.
const worded = () => all('body, body *').filter((element) => seen(element)
  && !element.matches('script, style, title, desc')
  && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
const scrolls = (element) => /auto|scroll/.test(getComputedStyle(element).overflowX);
const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1})
  .getContext('2d', {willReadFrequently: true});
// Any CSS colour as red, green, blue and alpha from 0 to 1: the browser itself reads it.
const color = (words) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = words;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
};
const over = (top, ground, alpha = 1) => [0, 1, 2].map((at) =>
  top[at] * top[3] * alpha + ground[at] * (1 - top[3] * alpha)).concat(1);
// What an element is painted on, from the page's ground upwards.
const ground = (element) => {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  let found = dark ? [0.07, 0.07, 0.07, 1] : [1, 1, 1, 1];
  for (const each of [...above(element)].reverse()) {
    found = over(color(getComputedStyle(each).backgroundColor), found);
    if (each.tagName === 'svg') found = under_text(element, each, found);
  }
  return found;
};
// Inside a chart: the last filled shape before the words that covers their middle.
const under_text = (words, chart, found) => {
  const box = words.getBoundingClientRect();
  const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
  for (const shape of all('rect, circle, path', chart)) {
    const at = shape.getBoundingClientRect();
    const before = shape.compareDocumentPosition(words) & Node.DOCUMENT_POSITION_FOLLOWING;
    const looks = getComputedStyle(shape);
    if (before && looks.fill !== 'none' && seen(shape)
        && at.left <= x && x <= at.right && at.top <= y && y <= at.bottom)
      found = over(color(looks.fill), found, looks.fillOpacity * looks.opacity);
  }
  return found;
};
const light = (parts) => {
  const [r, g, b] = parts.map((part) =>
    part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
"""
"""What the questions share; contrast is that of WCAG 2.2: (L1 + 0.05) / (L2 + 0.05)."""

FAULTS: dict[str, str] = {
    "scrolls sideways": """() => {
      const wide = document.documentElement.scrollWidth, screen = window.screen.width;
      const room = Math.min(window.innerWidth, screen);
      return wide > room ? [`the page is ${wide} pixels wide on a screen of ${room}`] : [];
    }""",
    "sticks out": """() => all('body *').filter((element) => {
      const box = element.getBoundingClientRect();
      const room = Math.min(window.innerWidth, window.screen.width);
      return seen(element) && (box.right > room + 1 || box.left < -1)
        && ![...above(element.parentElement)].some(scrolls);
    }).map((element) => {
      const box = element.getBoundingClientRect();
      return `${name(element)} from ${box.left.toFixed()} to ${box.right.toFixed()}`;
    })""",
    "cut off": """() => all('body *').filter((element) => {
      const looks = getComputedStyle(element);
      return seen(element) && /hidden|clip/.test(looks.overflowX + looks.overflowY)
        && !(element instanceof SVGElement) && element.textContent.trim()
        && (element.scrollWidth > element.clientWidth + 1
          || element.scrollHeight > element.clientHeight + 1);
    }).map(name)""",
    "words run over the next cell": """() => all('td, th').filter((element) => seen(element)
      && element.scrollWidth > element.clientWidth + 1
      && getComputedStyle(element).overflowX === 'visible').map(name)""",
    "words leave their chart": """() => all('svg').filter(seen).flatMap((chart) => {
      const room = chart.getBoundingClientRect();
      return all('text', chart).filter((words) => {
        const box = words.getBoundingClientRect();
        return seen(words) && (box.left < room.left - 1 || box.right > room.right + 1
          || box.top < room.top - 1 || box.bottom > room.bottom + 1);
      }).map(name);
    })""",
    "words lie on each other": """() => all('svg').filter(seen).flatMap((chart) => {
      const words = all('text', chart).filter((each) => seen(each) && each.textContent.trim());
      const boxes = words.map((each) => each.getBoundingClientRect());
      return words.flatMap((one, at) => words.slice(at + 1).filter((_, beyond) => {
        const [a, b] = [boxes[at], boxes[at + 1 + beyond]];
        // A box of text is higher than its letters: 15 % of it is the room between lines.
        const rows = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
          && rows > 0.15 * Math.min(a.height, b.height) + 1;
      }).map((other) => `${name(one)} and “${other.textContent.trim().slice(0, 40)}”`));
    })""",
    "words are torn": """() => worded().filter((element) => !(element instanceof SVGElement))
      .flatMap((element) => [...element.childNodes].flatMap((node) => {
        if (node.nodeType !== 3) return [];
        return [...node.data.matchAll(/[^\\s–—\\/-]+/gu)].filter(({0: word, index}) => {
          const range = document.createRange();
          range.setStart(node, index);
          range.setEnd(node, index + word.length);
          // A word that would fill a third of a phone may be broken; there is no better way.
          return word.length <= 16 && range.getClientRects().length > 1;
        }).map(([word]) => `${word} in ${name(element)}`);
      }))""",
    "too small to read": """() => worded().filter((element) => {
      const turned = element instanceof SVGElement ? element.getScreenCTM() : {a: 1, b: 0};
      const scale = Math.hypot(turned.a, turned.b);
      return parseFloat(getComputedStyle(element).fontSize) * scale < 9;
    }).map(name)""",
    "too faint to read": """() => worded().map((element) => {
      const looks = getComputedStyle(element);
      const ink = color(element instanceof SVGElement ? looks.fill : looks.color);
      const alpha = [...above(element)].reduce((all, each) =>
        all * getComputedStyle(each).opacity, 1);
      const behind = ground(element);
      const [a, b] = [light(over(ink, behind, alpha).slice(0, 3)), light(behind.slice(0, 3))];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      return [contrast, element];
    }).filter(([contrast]) => contrast < 4.5)
      .map(([contrast, element]) => `${name(element)} has contrast ${contrast.toFixed(2)}`)""",
    "images that do not show": """() => all('img[src]').filter((image) =>
      image.loading !== 'lazy'
      && !(image.complete && image.naturalWidth > 0)).map(name)""",
    "not said to those who cannot see": """() => [
      ...all('img:not([alt])').map((each) => name(each) + ' without alt'),
      ...all('svg:not([aria-hidden=true])').filter((each) =>
        !(each.getAttribute('role') === 'img'
          && (each.hasAttribute('aria-label') || each.querySelector('title'))))
        .map((each) => name(each) + ' without role=img and title'),
    ]""",
    "without a name": """() => all('button, input, select, textarea, a[href], [role=meter]')
      .filter((control) => control.checkVisibility()
        && !control.hasAttribute('aria-label') && !control.textContent.trim()
        && ![...(control.labels ?? [])].some((label) => label.textContent.trim())
        && !all('img[alt]', control).some((image) => image.alt.trim())).map(name)""",
    "too small to touch": """() => all('button, input, select, textarea').filter((control) => {
      const box = control.getBoundingClientRect();
      return seen(control) && Math.min(box.width, box.height) < 24;  // WCAG 2.2, 2.5.8
    }).map(name)""",
    "links to nowhere": """() => all('a[href^="#"]').filter((link) =>
      !document.getElementById(decodeURIComponent(link.getAttribute('href').slice(1)))).map(name)""",
    "ids given twice": """() => {
      const ids = all('[id]').map((each) => each.id);
      return [...new Set(ids.filter((id, at) => ids.indexOf(id) !== at))];
    }""",
    "headings out of order": """() => all('h1, h2, h3, h4, h5, h6').map((heading, at, headings) => {
      const level = Number(heading.tagName[1]);
      const before = at ? Number(headings[at - 1].tagName[1]) : 0;
      return level > before + 1 || (level === 1 && at) ? name(heading) : null;
    }).filter(Boolean)""",
}
"""What is asked of a page -> the question."""
