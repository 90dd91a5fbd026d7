"""Lists and paths in a column: how their parts are measured, and rare ones put together anew.

A whole value that enough groups share is drawn as it is, like any category. A rarer list is put
together of the items that rare lists have, in as many as those; a rarer path keeps the levels that
enough groups share, and gets invented ones below them, so that no level moves to another parent.
Parts that too few groups share are invented.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from phi_vision.data.samples import Value
from phi_vision.synthetic.column_models import NEW_WORD, RARE, Column, Frequencies, count, shape_of
from phi_vision.synthetic.observation import LIST_MARK, OF_PATHS, SEPARATORS

_ITEMS, _LENGTHS, _STARTS = "items", "lengths", "starts"  # tables of a column's `words`
_MIN_COMPOUND = 0.1  # fraction of the cells with a separator
_MAX_RARE = 0.2  # fraction of the parts that too few groups share: prose has more
_NEW = "[#]"  # an invented level


def is_path(column: Column) -> bool:
    """Whether the parts of a column are levels, each below the one before it."""
    return column.separator in OF_PATHS


def find_separator(pairs: Sequence[tuple[Value, int]]) -> str:
    """Find what separates the parts in (value, group) pairs; "" where values are whole.

    Input:  "red; navy" in 9 groups, "navy" in 7, "red" in 5
    Output: "; "
    """
    texts = [(value, group) for value, group in pairs if isinstance(value, str)]
    for separator in SEPARATORS if len(texts) == len(pairs) else ():
        if sum(separator in text for text, _ in texts) < max(1, _MIN_COMPOUND * len(texts)):
            continue
        parts = [(part, group) for text, group in texts for part in text.split(separator)]
        distinct = {part for part, _ in parts}
        is_list = separator not in (*OF_PATHS, LIST_MARK)
        # "Tees, Tops & Blouses" is one name: its parts do not recur in other values.
        if "" in distinct or (is_list and len(distinct) > len({text for text, _ in texts})):
            continue
        if count(parts).rest <= _MAX_RARE * len(parts):
            return separator
    return ""


def nodes_of(column: Column, value: str) -> list[str]:
    """Split a value: a list into its items, a path into the paths to each of its levels.

    Input:  "red; navy"      "Apparel > Tops"
    Output: "red", "navy"    "Apparel", "Apparel > Tops"
    """
    parts = value.split(column.separator)
    if not is_path(column):
        return parts
    return [column.separator.join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def measure_parts(column: Column, pairs: Iterable[tuple[Value, int]]) -> Column:
    """Measure the parts of the values of a column that are too rare to be drawn whole."""
    texts = [(str(value), group) for value, group in pairs if value not in (None, "")]
    nodes = [(node, group) for text, group in texts for node in nodes_of(column, text)]
    known = {*count(nodes).values}
    rare = [(text, group) for text, group in texts if text not in column.overall.values]
    if is_path(column):
        return replace(column, words={_STARTS: _table(_start(column, t, known) for t, _ in rare)})
    items = [item for text, _ in rare for item in nodes_of(column, text)]
    lengths = (str(len(nodes_of(column, text))) for text, _ in rare)
    named = _table(item for item in items if item in known)
    items_table = replace(named, rest=sum(item not in known for item in items))
    return replace(column, words={_ITEMS: items_table, _LENGTHS: _table(lengths)})


def put_together(
    column: Column, rng: random.Random, invent: Callable[[str], str], *, is_new: bool
) -> str:
    """Draw a rare list or path; `invent` makes a part of a shape, at least one where `is_new`."""
    known = [part for value in column.overall.values for part in str(value).split(column.separator)]
    shapes = [shape_of(part) for part in known] or [NEW_WORD]

    def part(drawn: Value) -> str:
        return invent(rng.choice(shapes)) if drawn in (RARE, _NEW) else str(drawn)

    if is_path(column):
        levels = str(column.words[_STARTS].draw(rng)).split(column.separator)
        levels += [_NEW] * (is_new and _NEW not in levels)
        return column.separator.join(map(part, levels))
    items, wanted = list[Value](), int(str(column.words[_LENGTHS].draw(rng)))
    while len(items) < wanted:
        drawn = column.words[_ITEMS].draw(rng, items)
        items.append(part(RARE if is_new and not items else drawn))
    return column.separator.join(map(str, items))


def unnamed_parts(column: Column, value: str) -> list[str]:
    """List the parts of a rare value that a profile does not name, which have to be invented."""
    named: set[Value] = {
        node for each in column.overall.values if each for node in nodes_of(column, str(each))
    }
    if is_path(column):
        for start in column.words[_STARTS].values:
            named |= {node for node in nodes_of(column, str(start)) if _NEW not in node}
    else:
        named |= {*column.words[_ITEMS].values}
    nodes = nodes_of(column, value)
    parts = value.split(column.separator)
    return [part for node, part in zip(nodes, parts, strict=True) if node not in named]


def _start(column: Column, text: str, known: set[Value]) -> str:
    """Keep the known levels of a path: "Wear > Tops > Bibs" -> "Wear > Tops > [#]"."""
    parts = text.split(column.separator)
    nodes = nodes_of(column, text)
    kept = [part if node in known else _NEW for node, part in zip(nodes, parts, strict=True)]
    return column.separator.join(kept)


def _table(values: Iterable[str]) -> Frequencies:
    """Count values that may all be named."""
    counts = Counter[Value](values)
    return Frequencies(named=tuple(sorted(counts.items(), key=lambda p: (-p[1], str(p[0])))))
