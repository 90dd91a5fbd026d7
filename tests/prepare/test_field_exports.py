"""Exports as shops and users have them: where the images are, and what else cells hold."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from catalogs import image, products, rows_of, run

from phi_vision.prepare.pipeline import PrepareCallbacks, prepare
from phi_vision.prepare.prepare_config import PrepareConfig
from phi_vision.prepare.sources.registry import open_source
from phi_vision.prepare.sources.rows import Row

ROWS = 12


def write_table(folder: Path, column: str, cells: Sequence[str], name: str = "7{:03}.png") -> str:
    """Write products.csv with these cells, and images as folder/images/0/7000.png, …"""
    (folder / "images" / "0").mkdir(parents=True)
    for number in range(ROWS):
        (folder / "images" / "0" / name.format(number)).write_bytes(image(number))
    with (folder / "products.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["title", "category", "price", column])
        for each, cell in zip(products(ROWS), cells, strict=True):
            table.writerow([each["title"], each["category"], each["price"], cell])
    return str(folder / "products.csv")


@pytest.mark.parametrize(
    ("column", "cell", "options"),
    [
        ("image", "7{:03}.png", {}),
        ("image", "/home/shop/images/0/7{:03}.png", {}),
        ("article_id", "7{:03}", {}),
        ("article_id", "7{:03}", {"images": "images/0/{article_id}.png"}),
        ("article_id", "7{:03}", {"map": ("image=images/0/{article_id}.png",)}),
    ],
)
def test_images_are_found_by_name_or_code(
    tmp_path: Path, column: str, cell: str, options: dict[str, object]
) -> None:
    source = write_table(tmp_path, column, [cell.format(number) for number in range(ROWS)])
    facts: dict[str, str] = {}
    config = PrepareConfig(out=tmp_path / "out", workers=0, **options)  # type: ignore[arg-type]
    prepared = prepare(source, config, PrepareCallbacks(on_columns=facts.update))
    assert prepared.metadata["samples"] == ROWS
    by_name = facts.get("images found by name", "")
    assert bool(by_name) == (not options)
    assert by_name.endswith("images/0/7000.png" if by_name else "")


def test_several_images_of_a_cell_are_images_of_the_sample(tmp_path: Path) -> None:
    cells = [f"7{n:03}.png|7{(n + 1) % ROWS:03}.png" for n in range(ROWS)]
    prepared = run(write_table(tmp_path, "image", cells), tmp_path / "out")
    assert {len(row["images"]) for row in rows_of(prepared.folder).values()} == {2}


@pytest.mark.parametrize(
    ("category", "price", "expected"),
    [
        (["Coats"], {"value": "9.50", "currency": "USD"}, ("Coats", 9.5)),
        ([{"id": 3, "name": "Coats"}, {"id": 4, "name": "Red"}], "£9.50", ("Coats, Red", 9.5)),
        ('["Coats"]', '{"amount": 9.5, "currencyCode": "GBP"}', ("Coats", 9.5)),
        ("[Sale] Coats", "Rs. 9/-", ("[Sale] Coats", 9.0)),
    ],
)
def test_objects_and_json_text_are_read_as_names_and_prices(
    tmp_path: Path, category: object, price: object, expected: tuple[str, float]
) -> None:
    source = write_table(tmp_path, "image", [f"7{n:03}.png" for n in range(ROWS)])
    rows = [
        {"cursor": "x", "node": {"title": f"T{n}", "category": category, "price": price,
         "featuredImage": {"url": f"7{n:03}.png"}}}
        for n in range(ROWS)
    ]  # fmt: skip
    file = Path(source).with_name("products.json")
    file.write_text(json.dumps({"data": {"products": {"edges": rows}}}), encoding="utf-8")
    found = rows_of(run(str(file), tmp_path / "out").folder).values()
    assert {(row["category3_code"], row["full_price"]) for row in found} == {expected}


def test_texts_of_digits_lose_the_formula_that_excel_needs(tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_text('sku,title\n"=""000016""",Coat\n', encoding="utf-8")
    assert [row.values for row in open_source(str(file)).rows() if isinstance(row, Row)] == [
        {"sku": "000016", "title": "Coat"}
    ]
