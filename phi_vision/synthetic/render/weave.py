"""Woven and printed cloth: a sheet of it, wide enough to cut every panel of a garment from.

Each weave is one small tile, drawn once and repeated: a hundred times faster than asking the SVG
renderer to fill every panel with a pattern.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from phi_vision.synthetic.render.garment import VOCABULARY, Garment
from phi_vision.synthetic.render.pen import Palette, flower


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
    monogram = "monogram" if garment.trim == "monogram" else ""
    for name in (garment.pattern, monogram, garment.material):
        if name in VOCABULARY["tiles"]:
            layer = _repeat(VOCABULARY["tiles"][name], palette, (wide, high), scale)
            sheet.paste(layer, (0, 0), layer)
    if turn and sheet.getextrema() != tuple((value, value) for value in garment.rgb):
        sheet = sheet.rotate(-turn, Image.Resampling.BILINEAR)
    left, top = (wide - size[0]) // 2, (high - size[1]) // 2
    return sheet.crop((left, top, left + size[0], top + size[1]))


def _repeat(
    tile: Mapping[str, Any], palette: Palette, size: tuple[int, int], scale: float
) -> Image.Image:
    colours = {name: getattr(palette, name) for name in ("accent", "light", "deep")}
    shapes = tile.get("svg", "").format(**colours)
    for path, colour, thickness, opacity in tile.get("lines", ()):
        shapes += (
            f'<path d="{path}" fill="none" stroke="{colours.get(colour, colour)}" '
            f'stroke-width="{thickness}" stroke-opacity="{opacity}"/>'
        )
    for x, y, diameter, colour in tile.get("flowers", ()):
        shapes += flower(x, y, diameter, colours.get(colour, colour))
    # Whole pixels, so that repeats join without a seam; a thread may be a pixel off its width.
    width, height = (max(3, round(side * scale)) for side in tile["box"])
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {tile["box"][0]} {tile["box"][1]}" preserveAspectRatio="none">{shapes}</svg>'
    )
    drawn = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    pixels = np.asarray(Image.open(io.BytesIO(drawn)).convert("RGBA"))
    repeats = (-(-size[1] // height), -(-size[0] // width), 1)
    return Image.fromarray(np.tile(pixels, repeats)[: size[1], : size[0]])
