"""Woven and printed cloth: a sheet of it, wide enough to cut every panel of a garment from.

Each weave is one small tile, drawn once and repeated: a hundred times faster than asking the SVG
renderer to fill every panel with a pattern.
"""

import io
from typing import NamedTuple

import numpy as np
import resvg_py
from PIL import Image

from phi_vision.synthetic.render.garment import Garment
from phi_vision.synthetic.render.pen import Palette, flower


class Tile(NamedTuple):
    """One repeat of a weave: its size in units of the drawing, and its SVG shapes."""

    width: float
    height: float
    shapes: str


def cloth_sheet(
    garment: Garment, palette: Palette, *, size: tuple[int, int], scale: float, turn: float
) -> Image.Image:
    """Weave a piece of the garment's cloth.

    Args:
        garment: decides on pattern, monogram and material.
        palette: its colours.
        size: of the piece, width and height in pixels.
        scale: pixels for one unit of the drawing.
        turn: of the threads, in degrees, clockwise.

    Returns:
        An RGB image, evenly lit.
    """
    wide, high = (side + max(size) // 4 for side in size)  # reserve for turning by up to 15 degrees
    sheet = Image.new("RGB", (wide, high), garment.rgb)
    tiles = _tiles(palette)
    monogram = "monogram" if garment.trim == "monogram" else ""
    for name in (garment.pattern, monogram, garment.material):
        if name in tiles:
            layer = _repeat(tiles[name], (wide, high), scale)
            sheet.paste(layer, (0, 0), layer)
    if turn and sheet.getextrema() != tuple((value, value) for value in garment.rgb):
        sheet = sheet.rotate(-turn, Image.Resampling.BILINEAR)
    left, top = (wide - size[0]) // 2, (high - size[1]) // 2
    return sheet.crop((left, top, left + size[0], top + size[1]))


def _repeat(tile: Tile, size: tuple[int, int], scale: float) -> Image.Image:
    # Whole pixels, so that repeats join without a seam; a thread may be a pixel off its width.
    width, height = max(3, round(tile.width * scale)), max(3, round(tile.height * scale))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {tile.width} {tile.height}" preserveAspectRatio="none">{tile.shapes}</svg>'
    )
    drawn = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    pixels = np.asarray(Image.open(io.BytesIO(drawn)).convert("RGBA"))
    repeats = (-(-size[1] // height), -(-size[0] // width), 1)
    return Image.fromarray(np.tile(pixels, repeats)[: size[1], : size[0]])


def _tiles(palette: Palette) -> dict[str, Tile]:
    """Return the tile of each pattern and of each material with a texture."""
    accent, light, deep = palette.accent, palette.light, palette.deep
    bands = f'fill="{accent}" fill-opacity="0.5"'
    dot = f'r="2.7" fill="{accent}"'
    leaf = f'<ellipse cx="17" cy="5" rx="4" ry="1.8" fill="{accent}" fill-opacity="0.7"/>'
    return {
        "striped": Tile(20, 15, f'<rect width="20" height="6.5" fill="{accent}"/>'),
        "pinstriped": Tile(9, 20, _lines("M4 0 V20", accent, 1.2, 0.85)),
        "checked": Tile(
            22,
            22,
            f'<rect x="4" width="7" height="22" {bands}/>'
            f'<rect y="4" width="22" height="7" {bands}/>'
            + _lines("M17 0 V22 M0 17 H22", "#c0392f", 1.4, 0.8),
        ),
        "dotted": Tile(16, 16, f'<circle cx="4" cy="4" {dot}/><circle cx="12" cy="12" {dot}/>'),
        "herringbone": Tile(14, 6, _lines("M0 6 L7 0 L14 6 M0 12 L7 6 L14 12", accent, 1.5, 0.7)),
        "floral": Tile(25, 25, leaf + flower(6.5, 7, 6, "#e4718a") + flower(18, 19, 6, accent)),
        "quilted": Tile(
            17,
            17,
            _lines("M0 0 L17 17 M17 0 L0 17", deep, 1.5, 0.9)
            + _lines("M1.6 0 L17 15.4 M0 1.6 L1.6 0", "#fff", 1, 0.4),
        ),
        "monogram": Tile(
            22,
            22,
            _lines("M6 1 L11 6 L6 11 L1 6 Z", accent, 1.5)
            + f'<circle cx="17" cy="17" r="4" fill="none" stroke="{accent}" stroke-width="1.6"/>'
            f'<path d="M6 4 L8 6 L6 8 L4 6 Z M17 15.6 h1.4 v2.8 h-2.8 v-2.8 Z" fill="{accent}"/>',
        ),
        "denim": Tile(4, 4, _lines("M-1 5 L5 -1 M-1 1 L1 -1 M3 5 L5 3", light, 1.1, 0.6)),
        "wool": Tile(
            12,
            12,
            _lines("M1 2 l2 1 M7 1 l1 2 M4 7 l2 -1 M10 8 l1.6 1 M2 11 l1 -2", light, 0.9, 0.9)
            + _lines("M5 3 l1 1 M9 5 l2 0 M6 10 l2 1", deep, 1, 0.6),
        ),
        "knit": Tile(7, 5, _lines("M0 0 L3.5 4 L7 0", deep, 1.3, 0.55)),
        "tweed": Tile(
            12,
            12,
            _lines("M0 2 H4 M8 2 H10 M2 6 H8 M0 10 H2 M6 10 H12", light, 1.6)
            + _lines("M2 0 V4 M6 4 V9 M10 6 V12", deep, 1.4)
            + _lines("M7 2 H8.6 M3 8 V10 M10 4 h2", "#d9688a", 1.6),
        ),
        "canvas": Tile(
            5,
            5,
            _lines("M0 1 H2.5 M2.5 3.5 H5", light, 1.3, 0.8)
            + _lines("M3.7 0 V2.5 M1.2 2.5 V5", deep, 1, 0.4),
        ),
    }


def _lines(path: str, colour: str, width: float, opacity: float = 1) -> str:
    stroke = f'stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}"'
    return f'<path d="{path}" fill="none" {stroke}/>'
