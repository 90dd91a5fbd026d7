"""The data card: statistics of all clean rows, rendered as `README.md` and `card.html`.

The README has the header that hubs read; the page has images, is one file and needs no network.
"""

import array
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from huggingface_hub import DatasetCardData
from jinja2 import Environment, PackageLoader, select_autoescape

from phi_vision.data.kinds.list_kind import items_of
from phi_vision.data.kinds.number_kind import EXACT_INTEGERS
from phi_vision.data.samples import Value
from phi_vision.data.template import KINDS, Kind
from phi_vision.io.image_decoding import open_header, thumbnail_base64
from phi_vision.prepare.cleaning import CleanRow

MAX_TEXTS = 20_000  # distinct texts counted in a field; beyond, new ones are only known to exist
MAX_FREQUENT = 12  # values of a field on a card, the most frequent ones
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
THUMBNAIL = 180  # longest side, in pixels, of an image on the card


@dataclass(kw_only=True)
class FieldStatistics:
    """Values of one field over all rows."""

    filled: int = 0  # rows that have a value
    kinds: set[str] = field(default_factory=set)  # of values; no float holds a `long int`
    numbers: "array.array[float]" = field(default_factory=lambda: array.array("d"))
    texts: Counter[str] = field(default_factory=Counter)
    has_more_texts: bool = False

    def add(self, value: Value) -> None:
        """Count one value."""
        if value is None:
            return
        self.filled += 1
        is_long = type(value) is int and abs(value) > EXACT_INTEGERS
        self.kinds.add("long int" if is_long else type(value).__name__)
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers.append(value)
        elif str(value) in self.texts or len(self.texts) < MAX_TEXTS:
            self.texts[str(value)] += 1
        else:
            self.has_more_texts = True

    def describe(self, rows: int) -> dict[str, object]:
        """Describe the field over so many rows.

        Output: {"missing": 0, "distinct": 18, "most frequent": {"Pants": 75, …}}
                {"missing": 2, "quantiles": {"0 %": 5.0, "5 %": 9.0, …, "100 %": 148.0}}
        """
        metadata: dict[str, object] = {"missing": rows - self.filled}
        numbers = np.frombuffer(self.numbers)
        if np.isfinite(numbers).any():
            metadata["quantiles"] = _quantiles(numbers[np.isfinite(numbers)])
        if self.texts:
            distinct = len(self.texts)
            metadata["distinct"] = f"more than {distinct}" if self.has_more_texts else distinct
            ranked = sorted(self.texts.items(), key=lambda pair: (-pair[1], pair[0]))
            metadata["most frequent"] = dict(ranked[:MAX_FREQUENT])
        return metadata


@dataclass(kw_only=True)
class Statistics:
    """Counts over all clean rows; 8 bytes for each number, and the distinct texts."""

    changes: Counter[str] = field(default_factory=Counter)  # by cleaning -> rows
    fields: dict[str, FieldStatistics] = field(default_factory=dict)  # in the source's order
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # in pixels -> images
    image_counts: Counter[int] = field(default_factory=Counter)  # images of a sample -> samples
    image_bytes: int = 0
    has_messages: bool = False
    examples: dict[str, str] = field(default_factory=dict)  # field -> its first ambiguous price

    def add(self, row: CleanRow) -> None:
        """Count one row."""
        # Each once, in order: a set has another order in every process.
        self.changes.update(dict.fromkeys(row.changes, 1))
        self.sizes.update((image.width, image.height) for image in row.images)
        self.image_bytes += sum(len(image.encoded) for image in row.images)
        self.image_counts[len(row.images)] += 1
        self.has_messages |= bool(row.messages)
        for name, value in row.record.items():
            self.fields.setdefault(name, FieldStatistics()).add(value)

    def describe_images(self) -> dict[str, object]:
        """Describe number and sizes of the images, such as {"images": 743, "width": {…}, …}."""
        count = self.sizes.total()
        if not count:
            return {"images": 0}
        width, height = np.array(list(self.sizes.elements()), dtype=float).T
        sides = {"width": width, "height": height, "width / height": width / height}
        return {
            "images": count,
            "of a sample": {str(n): rows for n, rows in sorted(self.image_counts.items())},
            "mean size in kB": round(self.image_bytes / count / 1000, 1),
            **{name: _quantiles(values) for name, values in sides.items()},
        }


def describe_kind(kind: Kind, texts: Counter[str]) -> dict[str, object]:
    """Describe the values of a kind of field by its distinct texts and how often they occur.

    Output: {"items": 3, "most frequent": {"red": 7, …}}             of lists
            {"units": {"kg": 5, "g": 2}, "quantiles of kg": {…}}     of quantities, also of money
            {"most frequent": {"True": 5, "False": 2}}               of others
    """
    counts, scale = Counter[str](), KINDS[kind].scale
    for text, count in texts.items():
        named = items_of(text) if kind == "list" else [text.split(" ")[-1] if scale else text]
        counts.update(dict.fromkeys(named, count))
    ranked = dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    if scale is None:
        shown = dict(list(ranked.items())[:MAX_FREQUENT])
        return {**({"items": len(counts)} if kind == "list" else {}), "most frequent": shown}
    numbers = [number for number in scale([*texts.elements()]).numbers if number is not None]
    most = next(iter(ranked), "")
    return {"units": ranked, f"quantiles of {most}": _quantiles(np.array(numbers or [np.nan]))}


def as_markdown(metadata: Mapping[str, Any]) -> str:
    """Render the card as the README of the dataset."""
    header = card_header(metadata["splits"], metadata["source"].get("license"))
    return render("data_card.md.j2", header=header, metadata=metadata)


def as_html(metadata: Mapping[str, Any], images: Sequence[tuple[str, bytes]]) -> str:
    """Render the card as one page with (caption, image)s, readable from disk, in light and dark."""
    return render("data_card.html.j2", images=images, metadata=metadata)


def card_header(splits: Iterable[str], license: str | None) -> str:
    """Return the YAML by which hubs know licence and splits of a dataset."""
    files = [{"split": name, "path": f"data/{name}-*"} for name in splits]
    configs = [{"config_name": "default", "data_files": files}]
    return DatasetCardData(license=license, configs=configs).to_yaml()


def render(template: str, **values: object) -> str:
    """Render a template of `prepare/templates/`."""
    return _TEMPLATES.get_template(template).render(**values)


def _quantiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    found = np.quantile(values, QUANTILES).tolist()
    names = [f"{100 * share:.0f} %" for share in QUANTILES]
    return {name: round(value, 3) for name, value in zip(names, found, strict=True)}


def _words(value: object) -> str:
    """Format a value in one line, such as `missing 2, quantiles 0 % 5, 100 % 1250000.5`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    # All digits of a price, none of the noise behind them.
    return f"{value:.12g}" if isinstance(value, float) else " ".join(str(value).split())


def _escape_markdown(value: object) -> str:
    r"""Format a value so that nothing in it is markup: `a|b, <i>` becomes `a\|b, &lt;i>`."""
    escaped = re.sub(r"([\\|`*\[\]])", r"\\\1", _words(value))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


_TEMPLATES = Environment(
    loader=PackageLoader("phi_vision.prepare"), autoescape=select_autoescape(["html.j2"]),
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip
_TEMPLATES.filters |= {
    **{"words": _words, "markdown": _escape_markdown},
    "cells": lambda value: value if isinstance(value, list) else [value],
}
_TEMPLATES.filters["thumbnail"] = lambda encoded: thumbnail_base64(open_header(encoded), THUMBNAIL)
