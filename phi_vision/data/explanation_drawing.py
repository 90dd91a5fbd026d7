"""Draw an explanation: the image, its padding and crops, and the sequence token by token."""

import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps

from phi_vision.data.explanation import CutImage, Explanation, Span

WIDTH, MARGIN, GAP = 1600, 32, 12  # pixels
INSIDE = WIDTH - 2 * MARGIN
PANEL = 360  # side of an image
TEXT_SIZE, TITLE_SIZE = 17, 22
CELLS = (12, 8, 6, 4, 3, 2)  # sides of a token that are tried until all fit into MAX_CELL_LINES
MAX_CELL_LINES = 30
MAX_TEXT_LINES = 8  # of a span's text
INK, QUIET, GRID, WHITE = "#1b1f24", "#6b7280", "#d1242f", "#ffffff"
COLOURS = {
    "prompt": "#9aa3ad",
    "crops": "#4c8dd6",
    "global view": "#7fc4c9",
    "row separators": "#1d3f72",
    "view separator": "#d1242f",
    "completion": "#2f9e44",
}
"""Kind of a token -> its colour."""
NAMES = {"completion": "completion (supervised)"}


def draw(explanation: Explanation, title: str) -> Image.Image:
    """Draw an explanation under a title, such as the names of the model and the template."""
    count, total = explanation.count, len(explanation.input_ids)
    counts = f"{count('prompt'):,} prompt, {count('image'):,} image, {count('completion'):,}"
    title = textwrap.shorten(title, 120, placeholder=" …")
    parts = [
        _write([("", title)], TITLE_SIZE),
        *(_draw_image(at, image) for at, image in enumerate(explanation.images, start=1)),
        _write([("", f"{total:,} tokens: {counts} supervised")]),
        _write([(colour, NAMES.get(kind, kind)) for kind, colour in COLOURS.items()]),
        _draw_cells([*_colours(explanation)]),
        _write([line for span in explanation.spans for line in _text_lines(span)]),
    ]
    canvas = Image.new("RGB", (WIDTH, 2 * MARGIN + sum(part.height + GAP for part in parts)), WHITE)
    top = MARGIN
    for part in parts:
        canvas.paste(part, (MARGIN, top))
        top += part.height + GAP
    return canvas


def _write(lines: Sequence[tuple[str, str]], size: int = TEXT_SIZE) -> Image.Image:
    """Write (colour, text) lines, each behind a bar of its colour if it has one."""
    step = size + 7
    written = Image.new("RGB", (INSIDE, step * len(lines)), WHITE)
    pen = ImageDraw.Draw(written)
    for number, (colour, text) in enumerate(lines):
        if colour:
            pen.rectangle((0, number * step + 3, 8, number * step + step - 4), colour)
        pen.text((18 if colour else 0, number * step), text, INK, _font(size))
    return written


def _draw_image(number: int, image: CutImage) -> Image.Image:
    """Draw four panels: the image, padded under its grid, in crops, and the global view."""
    panels = {
        f"image {number}: {image.size}": _fit(image.original),
        f"resized {image.resized}, padded {image.padded}": _with_grid(image),
        f"{image.rows} × {image.columns} crops of {image.crop_size}": _fit(
            _joined(image, gap=max(2, image.crop_size // 24))
        ),
        f"global view, {len(image.parts):,} tokens in all": _fit(image.crops[0]),
    }
    line, tallest = TEXT_SIZE + 7, max(panel.height for panel in panels.values())
    drawn = Image.new("RGB", (INSIDE, line + tallest + 2), WHITE)
    pen = ImageDraw.Draw(drawn)
    for place, (caption, panel) in enumerate(panels.items()):
        left = place * INSIDE // len(panels)
        pen.text((left, 0), caption, INK, _font())
        drawn.paste(ImageOps.expand(panel, 1, QUIET), (left, line))
    return drawn


def _joined(image: CutImage, gap: int = 0) -> Image.Image:
    """Put the crops together again, in rows."""
    side = image.crop_size + gap
    whole = Image.new("RGB", (image.columns * side - gap, image.rows * side - gap), WHITE)
    for place, crop in enumerate(image.crops[-image.rows * image.columns :]):
        row, column = divmod(place, image.columns)
        whole.paste(crop, (column * side, row * side))
    return whole


def _with_grid(image: CutImage) -> Image.Image:
    panel = _fit(_joined(image))
    pen = ImageDraw.Draw(panel)
    for column in range(1, image.columns):
        across = column * panel.width // image.columns
        pen.line((across, 0, across, panel.height), GRID, 2)
    for row in range(1, image.rows):
        down = row * panel.height // image.rows
        pen.line((0, down, panel.width, down), GRID, 2)
    return panel


def _fit(image: Image.Image) -> Image.Image:
    """Resize an image to the side of a panel."""
    scale = PANEL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _draw_cells(colours: Sequence[str]) -> Image.Image:
    """Draw each token as a cell, in lines from left to right."""
    fitting = (side for side in CELLS if len(colours) <= MAX_CELL_LINES * (INSIDE // side))
    side = next(fitting, CELLS[-1])
    per_line = INSIDE // side
    lines = -(-len(colours) // per_line)
    cells = np.full((lines * per_line, 3), 255, np.uint8)
    cells[: len(colours)] = [ImageColor.getrgb(colour)[:3] for colour in colours]
    pixels = cells.reshape(lines, per_line, 3).repeat(side, axis=0).repeat(side, axis=1)
    pixels[side - 1 :: side] = pixels[:, side - 1 :: side] = 255
    return Image.fromarray(pixels)


def _colours(explanation: Explanation) -> Iterator[str]:
    for span in explanation.spans:
        if span.image is None:
            yield from [COLOURS[span.kind]] * span.length
        else:
            yield from (COLOURS[part] for part in explanation.images[span.image - 1].parts)


def _text_lines(span: Span) -> Iterator[tuple[str, str]]:
    """Yield (colour, line) of a span's text, wrapped."""
    colour = COLOURS["crops" if span.kind == "image" else span.kind]
    text = f"{span.text} × {span.length:,}" if span.kind == "image" else repr(span.text)[1:-1]
    kind = NAMES.get(span.kind, span.kind if span.image is None else f"image {span.image}")
    lines = textwrap.wrap(f"{span.start}  {kind}:  {text}", 150, max_lines=MAX_TEXT_LINES)
    yield from ((colour, line) for line in lines)


@cache
def _font(size: int = TEXT_SIZE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Load matplotlib's font, without its import: it has the letters of most languages."""
    place = find_spec("matplotlib")
    assert place is not None
    assert place.origin is not None
    folder = Path(place.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size)
