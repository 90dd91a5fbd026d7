"""Draw an explanation: the image, its padding and crops, and the sequence token by token."""

import textwrap
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from phi_vision.data.explanation import CutImage, Explanation, Span

WIDTH, MARGIN, GAP = 1600, 32, 6  # pixels
PANEL = 360  # side of an image
TEXT_SIZE, TITLE_SIZE = 17, 22
LINE = TEXT_SIZE + 7  # height of a line of text
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
    height = MARGIN + 2 * TITLE_SIZE + sum(map(_panel_height, explanation.images))
    side = _cell_side(len(explanation.input_ids))
    texts = [line for span in explanation.spans for line in _text_lines(span)]
    cell_lines = -(-len(explanation.input_ids) // _cells_per_line(side))
    height += 4 * LINE + cell_lines * (side + 1) + LINE * (len(texts) + 1) + MARGIN
    canvas = Image.new("RGB", (WIDTH, height), WHITE)
    pen = ImageDraw.Draw(canvas)
    title = textwrap.shorten(title, 120, placeholder=" …")
    pen.text((MARGIN, MARGIN), title, INK, _font(TITLE_SIZE))
    top = MARGIN + 2 * TITLE_SIZE
    for number, image in enumerate(explanation.images, start=1):
        _draw_image(canvas, pen, top, number, image)
        top += _panel_height(image)
    counts = [("prompt", "prompt"), ("image", "image"), ("completion", "supervised")]
    words = ", ".join(f"{explanation.count(kind):,} {word}" for kind, word in counts)  # type: ignore[arg-type]
    pen.text((MARGIN, top), f"{len(explanation.input_ids):,} tokens: {words}", INK, _font())
    top = _draw_legend(pen, top + LINE + GAP)
    top = _draw_cells(pen, top, side, explanation)
    for colour, text in texts:
        pen.rectangle((MARGIN, top + 3, MARGIN + 8, top + LINE - 4), colour)
        pen.text((MARGIN + 18, top), text, INK, _font())
        top += LINE
    return canvas


def _draw_image(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, top: int, number: int, image: CutImage
) -> None:
    """Draw four panels: the image, padded under its grid, in crops, and the global view."""
    panels = [
        (f"image {number}: {image.size}", _fit(image.original)),
        (f"resized {image.resized}, padded {image.padded}", _with_grid(image)),
        (f"{image.rows} × {image.columns} crops of {image.crop_size}", _apart(image)),
        (f"global view, {len(image.parts):,} tokens in all", _fit(image.crops[0])),
    ]
    for place, (caption, panel) in enumerate(panels):
        left = MARGIN + place * (WIDTH - 2 * MARGIN + GAP) // len(panels)
        pen.text((left, top), caption, INK, _font())
        canvas.paste(panel, (left, top + LINE))
        right, bottom = left + panel.width, top + LINE + panel.height
        pen.rectangle((left - 1, top + LINE - 1, right, bottom), outline=QUIET)


def _panel_height(image: CutImage) -> int:
    tallest = max(_fit(each).height for each in (image.original, image.crops[0], _joined(image)))
    return LINE + tallest + 4 * GAP + MARGIN


def _joined(image: CutImage, gap: int = 0) -> Image.Image:
    """Put the crops together again, in rows."""
    side = image.crop_size + gap
    size = (image.columns * side - gap, image.rows * side - gap)
    whole = Image.new("RGB", size, WHITE)
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


def _apart(image: CutImage) -> Image.Image:
    return _fit(_joined(image, gap=max(2, image.crop_size // 24)))


def _fit(image: Image.Image) -> Image.Image:
    """Resize an image to the side of a panel."""
    scale = PANEL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _cells_per_line(side: int) -> int:
    return (WIDTH - 2 * MARGIN) // side


def _cell_side(tokens: int) -> int:
    lines = (side for side in CELLS if -(-tokens // _cells_per_line(side)) <= MAX_CELL_LINES)
    return next(lines, CELLS[-1])


def _draw_legend(pen: ImageDraw.ImageDraw, top: int) -> int:
    left = MARGIN
    for kind, colour in COLOURS.items():
        pen.rectangle((left, top + 4, left + 14, top + 18), colour)
        pen.text((left + 22, top), NAMES.get(kind, kind), INK, _font())
        left += 60 + round(pen.textlength(NAMES.get(kind, kind), _font()))
    return top + LINE + GAP


def _draw_cells(pen: ImageDraw.ImageDraw, top: int, side: int, explanation: Explanation) -> int:
    """Draw each token as a cell, in lines from left to right; return where the drawing ends."""
    per_line = _cells_per_line(side)
    row = 0
    for place, colour in enumerate(_colours(explanation)):
        row, column = divmod(place, per_line)
        left, upper = MARGIN + column * side, top + row * (side + 1)
        inner = side - (2 if side > 4 else 1)
        pen.rectangle((left, upper, left + inner, upper + side - 1), colour)
    return top + (row + 1) * (side + 1) + LINE


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
