"""Scores -> one self-contained HTML page: figures, pictures with truth and answer, categories.

Holds the page's words and looks; knows no files.
"""

import base64
import io
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

from phi_vision.data.sample import Sample, Value
from phi_vision.evaluate.metrics import CATEGORY, METRICS, PRICE, price_error
from phi_vision.evaluate.score import Answer, Figure, Scores

EXAMPLES = 24
"""How many answers are shown, drawn at random: an honest impression, not a choice of the best."""

WORST = 8
"""How many of the worst price errors are shown."""

THUMBNAIL = 280
"""Longest side of a shown picture, in pixels: sharp at the page's size, some 10 kB each."""

Shown = tuple[Answer, Sample]

COLUMNS = {
    "model": "Model",
    "majority": "Majority category, median price",
    "category_median": "Median price of the predicted category",
    "shuffled": "Model, pictures shuffled",
}


def as_page(scores: Scores, samples: Sequence[Sample]) -> str:
    """Write the page for scores and the samples they are of."""
    shown = list(zip(scores.answers, samples, strict=True))
    sections = [
        _canary(scores),
        _figures(scores),
        _examples(shown, scores.seed),
        _worst_prices(shown),
        _categories(scores.answers),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>What the model says</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>What the model says</h1><p>{scores.samples} held-out samples in "
        f"{scores.groups} groups, asked with the template “{escape(scores.template)}”. Answers are "
        "generated text, read back into records.</p></header>\n"
        + "\n".join(filter(None, sections))
        + "\n</body>\n</html>\n"
    )


def _canary(scores: Scores) -> str:
    mood = {True: "good", False: "bad", None: "open"}[scores.looks]
    return f'<p class="canary {mood}">{escape(scores.canary)}</p>'


def _figures(scores: Scores) -> str:
    heads = [COLUMNS.get(who, who) for who in scores.figures]
    heads += ["Noise floor"] if scores.floor else []
    rows = []
    for name in scores.figures["model"]:
        metric = METRICS[name]
        arrow = "↑" if metric.higher_is_better else "↓"
        cells = [_figure(theirs.get(name), metric.decimals) for theirs in scores.figures.values()]
        if scores.floor:
            floor = scores.floor.get(name)
            cells.append("" if floor is None else f"{floor:.{metric.decimals}f}")
        rows.append([f"{name} <i>{arrow}</i>", *cells])
    note = (
        "Below each figure its 95 % interval, from resampling whole groups. ↑ higher is better, "
        "↓ lower. An answer that could not be read counts as wrong, and as a price of 0."
    )
    return _section("Figures", _table(["", *heads], rows, "figures"), note)


def _figure(figure: Figure | None, decimals: int) -> str:
    if figure is None or math.isnan(figure.value):
        return ""
    if math.isnan(figure.low):
        return f"{figure.value:.{decimals}f}"
    value, low, high = (f"{number:.{decimals}f}" for number in figure)
    return f"{value}<small>{low} – {high}</small>"


def _examples(shown: Sequence[Shown], seed: int) -> str:
    some = random.Random(seed).sample(shown, min(EXAMPLES, len(shown)))
    which = "Drawn at random." if len(some) < len(shown) else "All of them."
    return _section("Examples", _grid(some), f"{which} A price is right within 10 %.")


def _worst_prices(shown: Sequence[Shown]) -> str:
    if not shown or PRICE not in shown[0][0].truth:
        return ""
    errors = [
        (price_error(answer.parsed, answer.truth), number)
        for number, (answer, _) in enumerate(shown)
    ]
    worst = sorted((e, n) for e, n in errors if e > 0)[::-1][:WORST]
    note = "By relative error; where no price was said, the error is 100 %."
    return (
        _section("Worst prices", _grid(shown[number] for _, number in worst), note) if worst else ""
    )


def _grid(shown: Iterable[Shown]) -> str:
    cards = "\n".join(_card(answer, sample) for answer, sample in shown)
    return f'<div class="grid">{cards}</div>'


def _card(answer: Answer, sample: Sample) -> str:
    pictures = "".join(_thumbnail(picture, sample.id) for picture in sample.pictures()[:1])
    if answer.parsed is None:
        said = f'<p class="unread"><b>✗ Not readable</b> {escape(answer.text) or "(nothing)"}</p>'
        truth = "".join(f"<dd>{_show(value)}</dd>" for value in answer.truth.values())
        return f"<figure>{pictures}<figcaption><dl>{truth}</dl>{said}</figcaption></figure>"
    fields = "".join(_field(field, answer) for field in answer.truth)
    return f"<figure>{pictures}<figcaption><dl>{fields}</dl></figcaption></figure>"


def _field(field: str, answer: Answer) -> str:
    """Show a field's answer, and the truth under it where it is wrong."""
    assert answer.parsed is not None
    true, said = answer.truth[field], answer.parsed[field]
    right = true == said or (field == PRICE and price_error(answer.parsed, answer.truth) <= 0.1)
    mark = '<b class="right">✓</b>' if right else '<b class="wrong">✗</b>'
    truth = "" if true == said else f'<span class="truth">{_show(true)}</span>'
    return f"<dt>{escape(field)}</dt><dd>{mark}{_show(said)}{truth}</dd>"


def _show(value: Value) -> str:
    if value is None or value == "":
        return "<em>nothing</em>"
    return escape(f"{value:,.2f}" if isinstance(value, float) else str(value))


def _thumbnail(picture: Image.Image, name: str) -> str:
    """Embed a small JPEG of a picture, on white where it is transparent."""
    picture = picture.convert("RGBA")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    ground = Image.new("RGBA", picture.size, "white")
    buffer = io.BytesIO()
    Image.alpha_composite(ground, picture).convert("RGB").save(buffer, "JPEG", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(name)}" title="{escape(name)}">'


def _categories(answers: Sequence[Answer]) -> str:
    if not answers or CATEGORY not in answers[0].truth:
        return ""
    said: dict[Value, Counter[Value]] = {}
    for answer in answers:
        category = None if answer.parsed is None else answer.parsed[CATEGORY]
        said.setdefault(answer.truth[CATEGORY], Counter())[category] += 1
    rows = [
        _category(category, counts)
        for category, counts in sorted(said.items(), key=lambda pair: -pair[1].total())
    ]
    heads = ["Category", "Samples", "Right", "", "Most often taken for"]
    return _section("Categories", _table(heads, rows, "categories"))


def _category(category: Value, said: Counter[Value]) -> list[str]:
    share = said[category] / said.total()
    mistakes = Counter({name: count for name, count in said.items() if name != category})
    mistake = ""
    if mistakes:
        name, count = mistakes.most_common(1)[0]
        mistake = f"{'(not readable)' if name is None else _show(name)} <small>{count}×</small>"
    bar = f'<span class="bar"><span style="width:{100 * share:.0f}%"></span></span>'
    return [_show(category), str(said.total()), f"{100 * share:.0f} %", bar, mistake]


def _section(title: str, body: str, note: str = "") -> str:
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{note}{body}</section>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> str:
    """Lay out a table; heads are words, cells are HTML."""
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{name}"><tr>{head}</tr>{body}</table></div>'


STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --card: #fff; --ink: #1d1c1a; --soft: #6f6b64;
  --line: #e5e1da; --right: #1f7a4d; --wrong: #b3261e; --good: #e8f3ec; --bad: #fbe9e7; }
@media (prefers-color-scheme: dark) { :root { --ground: #161513; --card: #201f1c; --ink: #ece9e3;
  --soft: #a09b92; --line: #35332f; --right: #6fcf97; --wrong: #ff8a80; --good: #1b2e24;
  --bad: #3a1f1c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 72rem; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { margin: 0; font: 600 2.1rem/1.2 Georgia, "Times New Roman", serif; }
h2 { margin: 0 0 .25rem; font: 600 1.35rem/1.3 Georgia, "Times New Roman", serif; }
header p, .note { margin: .4rem 0 0; color: var(--soft); max-width: 46rem; }
section { margin-top: 3rem; }
.note + * { margin-top: 1rem; }
.canary { margin: 1.5rem 0 0; padding: .8rem 1.1rem; border-left: 4px solid var(--soft);
  border-radius: 4px; background: var(--card); }
.canary.good { border-color: var(--right); background: var(--good); }
.canary.bad { border-color: var(--wrong); background: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .9rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: .85rem; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: nowrap; }
.figures td:nth-child(2) { font-weight: 650; }
.figures small { display: block; font-weight: 400; }
small, i { color: var(--soft); font-style: normal; white-space: nowrap; }
.categories { max-width: 46rem; }
.categories td:last-child, .categories th:last-child { text-align: left; }
.bar { display: inline-block; width: 8rem; height: .6rem; border-radius: .3rem;
  background: var(--line); overflow: hidden; }
.bar span { display: block; height: 100%; background: var(--right); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.1rem;
  margin-top: 1rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  overflow: hidden; }
figure img { display: block; width: 100%; height: 14rem; object-fit: contain; background: #fff; }
figcaption { padding: .7rem .9rem .9rem; border-top: 1px solid var(--line); }
dl { margin: 0; }
dt { color: var(--soft); font-size: .75rem; margin-top: .35rem; }
dd { margin: 0; padding-left: 1.15rem; text-indent: -1.15rem; overflow-wrap: anywhere; }
dd b { display: inline-block; width: 1.15rem; text-indent: 0; }
.right { color: var(--right); } .wrong { color: var(--wrong); }
.truth { display: block; text-indent: 0; color: var(--soft); }
.truth::before { content: "really: "; font-size: .8rem; }
.unread { margin: .6rem 0 0; overflow-wrap: anywhere; color: var(--soft); font-size: .85rem; }
.unread b { color: var(--wrong); }
"""
