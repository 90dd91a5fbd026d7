"""How our pages look: their skeleton, the pieces they are put together from, and the CSS.

A page is one file: nothing is fetched, nothing runs. Light or dark as the reader's machine is, on a
phone and on paper too. Where an argument is called `html`, it must have been escaped by the caller;
everything else is escaped here. Holds no charts (`charts.py`) and no words about figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Mood = Literal["good", "bad", "open"]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page, with a heading that the contents link to."""

    anchor: str
    """What links call it, such as "rivals"."""

    title: str

    short: str
    """The title in a word or two, for the contents."""

    lead: str = ""
    """What a reader has to know beforehand, in plain words."""

    html: str


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A big number."""

    name: str
    """What it is of, such as "category"."""

    value: str
    """Such as "93 %"."""

    interval: str
    """How sure it is; "" where that is not known."""

    words: str
    """What it means, in one sentence."""


def write_page(*, title: str, html_header: str, sections: Sequence[Section]) -> str:
    """Put a page together: header, contents, sections.

    Args:
        title: Of the window.
        html_header: What stands on top: an `<h1>` and a few sentences.
        sections: In the order in which they are read.
    """
    contents = "".join(
        f'<li><a href="#{escape(each.anchor)}">{escape(each.short)}</a></li>' for each in sections
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>\n<main>\n'
        f"<header>{html_header}</header>\n"
        + "\n".join(_write_section(section) for section in sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def write_tiles(tiles: Sequence[Tile]) -> str:
    """Put big numbers beside each other."""
    return f'<div class="tiles">{"".join(map(_write_tile, tiles))}</div>'


def write_table(
    heads: Sequence[str], html_rows: Sequence[Sequence[str]], *, about: str, kind: str = ""
) -> str:
    """Lay out a table that scrolls inside its own box where it is too wide.

    Args:
        heads: A word for each column.
        html_rows: Cells of each row; a row of a single cell is a heading above those that follow.
        about: What the table shows, for those who cannot see it.
        kind: "words" sets all columns to the left, else only the first, as figures follow; "all"
            stresses the second; "lines" sets what is small beside its figure where there is room.
    """
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = "".join(_write_row(row, len(heads)) for row in html_rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(about)}">'
        f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def write_charts(html_charts: Sequence[str]) -> str:
    """Put charts beside each other, as many as fit."""
    return f'<div class="charts">{"".join(html_charts)}</div>'


def write_chart(html: str, *, title: str, caption: str = "") -> str:
    """Give a chart its title, and a sentence on what is to be seen."""
    predicted = f"<p>{escape(caption)}</p>" if caption else ""
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>{predicted}</figcaption>'
        f"{html}</figure>"
    )


def write_facts(facts: Mapping[str, str]) -> str:
    """List what -> how much."""
    rows = "".join(
        f"<div><dt>{escape(what)}</dt><dd>{escape(words)}</dd></div>"
        for what, words in facts.items()
    )
    return f'<dl class="facts">{rows}</dl>'


def write_list(html_items: Sequence[str]) -> str:
    """List sentences; "" where there are none."""
    if not html_items:
        return ""
    return f"<ul>{''.join(f'<li>{item}</li>' for item in html_items)}</ul>"


def write_details(summary: str, html: str) -> str:
    """Fold something away that few want to read."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def write_note(words: str, mood: Mood = "open") -> str:
    """Set words apart, by mood."""
    return f'<p class="note {mood}">{escape(words)}</p>'


def write_significance(significance: str) -> str:
    """Write a verdict of `evaluate.score.verdict` with a sign, so that it needs no colour."""
    sign, mood = VERDICTS[significance]
    shown = f'<b aria-hidden="true">{sign}</b> {escape(significance)}'
    return f'<span class="verdict {mood}">{shown}</span>'


def _write_section(section: Section) -> str:
    lead = f'<p class="lead">{escape(section.lead)}</p>' if section.lead else ""
    return (
        f'<section id="{escape(section.anchor)}"><h2>{escape(section.title)}</h2>{lead}'
        f"{section.html}</section>"
    )


def _write_tile(tile: Tile) -> str:
    interval = f'<p class="interval">{escape(tile.interval)}</p>' if tile.interval else ""
    return (
        f'<div class="tile"><h3>{escape(tile.name)}</h3><p class="value">{escape(tile.value)}</p>'
        f"{interval}<p>{escape(tile.words)}</p></div>"
    )


def _write_row(row: Sequence[str], columns: int) -> str:
    if len(row) == 1:
        return f'<tr class="part"><th scope="rowgroup" colspan="{columns}">{row[0]}</th></tr>'
    cells = "".join(f"<td>{cell}</td>" for cell in row[1:])
    return f'<tr><th scope="row">{row[0]}</th>{cells}</tr>'


VERDICTS: dict[str, tuple[str, Mood]] = {
    "better": ("▲", "good"),
    "worse": ("▼", "bad"),
    "not significant": ("≈", "open"),
}
"""Verdict -> its sign and mood."""

# The colours of series are those of Okabe and Ito (2008), which colour-blind readers can tell
# apart, darkened for a light ground and lightened for a dark one until words in them are readable.
STYLE = """
:root { color-scheme: light dark;
  --ground: #fbfaf8; --card: #ffffff; --ink: #1f1d1a; --soft: #67625a; --line: #e4dfd7;
  --good: #0b5c99; --bad: #ad3f06; --good-ground: #e9f1f8; --bad-ground: #fbeee6;
  --series-1: #0b67ab; --series-2: #c4500c; --series-3: #0f7a5e; --series-4: #944e8d;
  --series-5: #7d6c00; --series-6: #59646e; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #161614; --card: #1f1f1c; --ink: #e9e6e0; --soft: #a8a39a; --line: #35342f;
  --good: #7cbcf0; --bad: #f5a074; --good-ground: #182734; --bad-ground: #35221a;
  --series-1: #6cb2ee; --series-2: #f2935a; --series-3: #52c7a5; --series-4: #d69ad0;
  --series-5: #d8c250; --series-6: #a7b2bc; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 4rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1.15rem 5rem; }
h1, h2 { font-family: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  font-weight: 600; letter-spacing: -0.01em; text-wrap: balance; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: clamp(1.7rem, 5vw, 2.4rem); line-height: 1.2; }
h2 { margin: 0; font-size: 1.5rem; line-height: 1.3; }
h3 { margin: 2rem 0 .5rem; font-size: 1rem; line-height: 1.4; overflow-wrap: anywhere; }
p, li { text-wrap: pretty; overflow-wrap: anywhere; }
a { color: var(--good); }
header p { max-width: 42rem; margin: .6rem 0 0; color: var(--soft); }
header .eyebrow { margin: 0 0 .3rem; font-size: .85rem; }
section { margin-top: 3.75rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
header + section { margin-top: 2rem; padding-top: 0; border-top: 0; }
.lead { max-width: 42rem; margin: .5rem 0 1.25rem; color: var(--soft); }
ul { max-width: 44rem; padding-left: 1.2rem; } li { margin: .3rem 0; }
small { color: var(--soft); font-size: .8rem; }

nav { position: sticky; top: 0; z-index: 2; overflow-x: auto; background: var(--ground);
  border-bottom: 1px solid var(--line); }
nav ol { display: flex; gap: 1.2rem; margin: 0; padding: .7rem 1.15rem; list-style: none;
  white-space: nowrap; font-size: .9rem; }
nav li { flex: none; margin: 0; overflow-wrap: normal; }
nav a { color: var(--soft); text-decoration: none; }
nav a:hover { color: var(--ink); text-decoration: underline; }
@media (min-width: 64rem) {
  html { scroll-padding-top: 2rem; }
  body { display: grid; grid-template-columns: 11rem minmax(0, 60rem); gap: 3rem;
    justify-content: center; padding: 0 1.5rem; }
  nav { align-self: start; border: 0; max-height: 100vh; padding-top: 3rem; }
  nav ol { flex-direction: column; gap: .45rem; padding: 0 0 2rem; white-space: normal; }
  main { width: 100%; margin: 0; padding: 3rem 0 6rem; } }

.tiles { display: grid; gap: 1rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); }
.tile { padding: 1rem 1.15rem 1.1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
.tile h3 { margin: 0; color: var(--soft); font-size: .85rem; font-weight: 500; }
.tile p { margin: .5rem 0 0; font-size: .9rem; line-height: 1.45; }
.tile .value { margin: .1rem 0 0; font-size: 2.5rem; font-weight: 600; line-height: 1.2;
  letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.tile .interval { margin: 0; color: var(--soft); font-size: .85rem; }

.note { max-width: 44rem; margin: 1.25rem 0; padding: .75rem 1.1rem; border-radius: 6px;
  border-left: 4px solid var(--soft); background: var(--card); }
.note.good { border-color: var(--good); background: var(--good-ground); }
.note.bad { border-color: var(--bad); background: var(--bad-ground); }
.note + .note { margin-top: -.5rem; }
.verdict { white-space: nowrap; }
.verdict.good { color: var(--good); } .verdict.bad { color: var(--bad); }
.verdict.open { color: var(--soft); }

.scroll { overflow-x: auto; margin: 1.25rem 0; }
table { border-collapse: collapse; min-width: 100%; font-size: .9rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
th, td { padding: .45rem 0 .45rem 1.25rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { color: var(--soft); font-weight: 500; font-size: .82rem; vertical-align: bottom;
  white-space: normal; min-width: 5.5rem; }
th[scope=row], thead th:first-child { position: sticky; left: 0; min-width: 7rem; padding-left: 0;
  text-align: left; font-weight: 400; white-space: normal; overflow-wrap: anywhere;
  background: var(--ground); }
.part th { padding: 1.3rem 0 .35rem; text-align: left; font-weight: 600; }
td small { display: block; }
@media (min-width: 48rem) { .lines td small { display: inline; margin-left: .6em; } }
 .all td:nth-child(2) { font-weight: 650; }
.all small { font-weight: 400; }
.words td, .words thead th { text-align: left; white-space: normal; }
tbody tr:last-child > * { border-bottom: 0; }

.charts { display: grid; gap: 2rem 2.5rem; margin: 1.5rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.chart { margin: 0; max-width: 28rem; min-width: 0; }
.chart figcaption { margin-bottom: .5rem; font-size: .9rem; }
.chart figcaption b { font-weight: 600; overflow-wrap: anywhere; }
.chart figcaption p { margin: .1rem 0 0; color: var(--soft); font-size: .85rem; line-height: 1.4; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--soft); font: 11px system-ui, -apple-system, "Segoe UI", sans-serif; }
svg .ink, svg .strong { fill: var(--ink); } svg .strong { font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .5rem 0 0; padding: 0;
  color: var(--soft); font-size: .82rem; list-style: none; }
.legend i { display: inline-block; width: .9rem; height: 3px; margin-right: .4rem;
  border-radius: 2px; vertical-align: .22em; }

.cases { display: grid; gap: 1.1rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.5rem), 1fr)); }
.case { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  overflow: clip; }
.case img { display: block; width: 100%; height: 13rem; object-fit: contain; background: #fff; }
.case figcaption { padding: .45rem .9rem .8rem; font-size: .88rem; line-height: 1.4; }
.case dl { margin: 0; } .case dt { margin-top: .4rem; color: var(--soft); font-size: .76rem; }
.case dd { margin: 0; padding-left: 1.2rem; text-indent: -1.2rem; overflow-wrap: anywhere; }
.case dd b { display: inline-block; width: 1.2rem; text-indent: 0; }
.case .right { color: var(--good); } .case .wrong { color: var(--bad); }
.case .truth { display: block; text-indent: 0; color: var(--soft); }
.case .id { margin: .7rem 0 0; color: var(--soft); font-size: .76rem; }
.case .unread { margin: .6rem 0 0; overflow-wrap: anywhere; color: var(--soft); }

.facts { margin: 1rem 0; font-size: .9rem; }
.facts div { display: grid; grid-template-columns: minmax(0, 14rem) minmax(0, 1fr); gap: 0 1.5rem;
  padding: .4rem 0; border-bottom: 1px solid var(--line); }
.facts dt { color: var(--soft); } .facts dd { margin: 0; }
.facts dt, .facts dd { overflow-wrap: anywhere; }
@media (max-width: 40rem) { .facts div { grid-template-columns: minmax(0, 1fr); } }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--good); font-size: .9rem; }
pre { overflow-x: auto; margin: .75rem 0; padding: 1rem; border: 1px solid var(--line);
  border-radius: 8px; background: var(--card); font: .82rem/1.5 ui-monospace, Menlo, Consolas,
  "DejaVu Sans Mono", monospace; }
@media print { nav { display: none; } body { display: block; font-size: 11pt; }
  .tile, .case, .chart, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  section { margin-top: 2rem; } }
"""
