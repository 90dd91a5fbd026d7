"""Products for tests: images of one shape in one colour, and what is true of them."""

import io

from PIL import Image, ImageDraw

COLORS = {"red": 100.0, "green": 250.0, "blue": 390.0, "black": 45.5}
SHAPES = ("HATS", "BAGS")


def draw_product(color: str, shape: str, size: tuple[int, int]) -> bytes:
    image = Image.new("RGB", size, "white")
    box = (8, 8, size[0] - 8, size[1] - 8)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "HATS" else draw.rectangle)(box, fill=color)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def product_rows(count: int) -> list[dict[str, object]]:
    """Products in groups of two; every fourth image stands upright."""
    rows: list[dict[str, object]] = []
    for number in range(count):
        color, price = list(COLORS.items())[number % len(COLORS)]
        shape = SHAPES[number // len(COLORS) % len(SHAPES)]
        size = (40, 60) if number % 4 == 3 else (60, 40 + number)
        rows.append(
            {
                "image": {"bytes": draw_product(color, shape, size), "path": None},
                "id": f"p{number}",
                "group_id": f"g{number // 2}",
                "title": f"{color} {shape.lower()}" + " long" * (number % 3),
                "category3_code": shape,
                "full_price": price,
            }
        )
    return rows
