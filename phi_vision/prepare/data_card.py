"""The data card: what is in a prepared dataset and what became of every row, for people.

`README.md` for hubs and terminals, `card.html` with images: one file, no network.
"""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from PIL import Image

Facts = Mapping[str, Any]
"""What `prepared.json` holds: names -> numbers, texts, or facts again."""

THUMBNAIL = 180
"""Longest side, in pixels, of an image on the card."""


class Shown(NamedTuple):
    """A sample on the card."""

    caption: str
    encoded: bytes


def as_markdown(facts: Facts, splits: Sequence[str]) -> str:
    """Write the card as the README of the dataset, with the header that hubs read."""
    header = {
        "license": facts["source"].get("license"),
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*"} for name in splits],
            }
        ],
    }
    known = {name: value for name, value in header.items() if value}
    parts = [f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---\n"]
    parts.append(f"# {_as_markdown_words(facts['name'])}\n\n{_summary(facts)}\n")
    for title, table in _tables(facts):
        parts.append(f"## {title}\n\n{_table_as_markdown(table)}\n")
    parts.append("Every row that became no sample is in `rejected.parquet`, with its values.\n")
    return "\n".join(parts)


def as_html(facts: Facts, shown: Sequence[Shown]) -> str:
    """Write the card as one page with images, readable from disk, in light and dark."""
    tables = "".join(
        f"<section><h2>{html.escape(title)}</h2>{_table_as_html(table)}</section>"
        for title, table in _tables(facts)
    )
    figures = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{_thumbnail(each.encoded)}">'
        f"<figcaption>{html.escape(each.caption)}</figcaption></figure>"
        for each in shown
    )
    title = html.escape(str(facts["name"]))
    return _PAGE.format(
        title=title, summary=html.escape(_summary(facts)), figures=figures, tables=tables
    )


class _Table(NamedTuple):
    head: Sequence[str]
    rows: list[tuple[object, ...]]


def _tables(facts: Facts) -> list[tuple[str, _Table]]:
    """Lay the facts out, leaving out what there is none of."""
    heads = {
        "source": ("Where it comes from", ("", "")),
        "columns": ("Which column is what", ("part", "column")),
        "splits": ("Splits", ("split", "samples", "groups")),
        "rejected": ("Rejected rows", ("reason", "rows")),
        "changes": ("Mended and understood", ("what", "rows")),
        "groups": ("Duplicates and groups", ("", "")),
        "leaks": ("Leaks", ("samples that are also in train", "here", "by a random split")),
        "images": ("Images", ("", "")),
        "fields": ("Fields", ("field", "what it holds")),
        "categories": ("Categories", ("category", *facts["splits"])),
    }
    return [
        (title, _Table(head, [_cells(name, found) for name, found in facts[group].items()]))
        for group, (title, head) in heads.items()
        if facts[group]
    ]


def _cells(name: str, found: object) -> tuple[object, ...]:
    return (name, *found) if isinstance(found, list | tuple) else (name, found)


def _summary(facts: Facts) -> str:
    words = f"{facts['samples']} samples from {facts['rows']} rows"
    left = facts["rows"] - facts["samples"]
    return f"{words}; {left} rows were rejected." if left else f"{words}; none was rejected."


def _words(value: object) -> str:
    """Write a fact in one line.

    Input:  {"missing": 2, "quantiles": {"0 %": 5.0, "100 %": 1250000.5}}
    Output: missing 2, quantiles 0 % 5, 100 % 1250000.5
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    # All digits of a price, none of the noise behind them.
    return f"{value:.12g}" if isinstance(value, float) else " ".join(str(value).split())


def _table_as_markdown(table: _Table) -> str:
    rule = "|" + "---|" * len(table.head)
    head, *rows = (
        f"| {' | '.join(map(_as_markdown_words, cells))} |" for cells in (table.head, *table.rows)
    )
    return "\n".join([head, rule, *rows])


def _as_markdown_words(value: object) -> str:
    r"""Write a fact so that nothing in it is taken for markup.

    Input:  a|b, <script>, [link](x)
    Output: a\|b, &lt;script>, \[link\](x)
    """
    escaped = re.sub(r"([\\|`*\[\]])", r"\\\1", _words(value))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def _table_as_html(table: _Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_words(cell))}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(table.head) else ""
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _thumbnail(encoded: bytes) -> str:
    with Image.open(io.BytesIO(encoded)) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: light-dark(#ddd, #444);
  --soft: light-dark(#666, #aaa); }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; margin-bottom: 0; }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem; }}
.gallery {{ display: grid; gap: .8rem; margin: 1.5rem 0;
  grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }}
figure {{ margin: 0; }}
figure img {{ width: 100%; height: 9rem; object-fit: contain; background: #8881;
  border-radius: .4rem; }}
figcaption {{ font-size: .78rem; color: var(--soft); }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid var(--line); }}
th {{ color: var(--soft); font-weight: 500; }}
td:first-child {{ min-width: 9rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
<div class="gallery">{figures}</div>
{tables}
<p>Every row that became no sample is in <code>rejected.parquet</code>, with its values.</p>
</body>
</html>
"""
