"""Cells of messy exports as lists, quantities, money and booleans, and the kinds of columns."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from catalogs import product, rejected_of, rows_of, run, tree, write_shop

from phi_vision.data.dataset import load_samples
from phi_vision.data.template import KINDS, Kind, find_template
from phi_vision.prepare.cell_kinds import (
    READERS,
    CellContext,
    find_separator,
    find_steps,
    read_cell,
    suggest_kind,
)

PLAIN = CellContext()


@pytest.mark.parametrize(
    ("kind", "cell", "context", "value"),
    [
        ("list", "red, blue", {"separator": ","}, "red; blue"),
        ("list", "red", {"separator": ","}, "red"),
        ("list", "Red / blue/RED", {"separator": "/"}, "Red; blue"),
        ("list", '["red", "blue; dark"]', {}, "red; blue, dark"),
        ("list", ["red", "blue"], {}, "red; blue"),
        ("list", "N/A", {"separator": "/"}, None),
        ("list", [], {}, None),
        ("path", (), {}, None),
        ("list", "caf&eacute;|t&amp;a", {"separator": "|"}, "café; t&a"),
        ("path", "Apparel>Tops > T-Shirts", {}, "Apparel > Tops > T-Shirts"),
        ("path", "Apparel » Tops", {}, "Apparel > Tops"),
        ("path", "Apparel/Tops", {}, "Apparel > Tops"),
        ("path", ["Apparel", "Tops"], {}, "Apparel > Tops"),
        ("path", "Hats", {}, "Hats"),
        ("quantity", "500 g", {}, "500 g"),
        ("quantity", "0,75 KG", {"decimal": ","}, "0.75 kg"),
        ("quantity", "1,250.0 Grams", {}, "1250 g"),
        ("quantity", "12in.", {}, "12 in"),
        ("quantity", '12"', {}, "12 in"),
        ("quantity", "8 fl oz (236 ml)", {}, "8 floz"),
        ("quantity", "250 ML", {}, "250 ml"),
        ("quantity", "-5 °C", {}, "-5 °C"),
        ("quantity", "180 gsm", {}, "180 g/m²"),
        ("quantity", 0.5, {"unit": "kg"}, "0.5 kg"),
        ("quantity", "750 g", {"unit": "kg"}, "750 g"),
        ("quantity", float("nan"), {}, None),
        ("quantity", "-", {}, None),
        ("money", "£ 1,234.50", {}, "1234.5 GBP"),
        ("money", "12,50 €", {}, "12.5 EUR"),
        ("money", 12.5, {"currency": "CHF"}, "12.5 CHF"),
        ("money", "$5", {"currency": "CHF"}, "5 USD"),
        ("money", "N/A", {}, None),
        ("money", "$5", {"currency": "CAD"}, "5 CAD"),
        ("money", "¥5", {"currency": "cny"}, "5 CNY"),
        ("money", "1.234", {"currency": "KWD"}, "1.234 KWD"),
        ("money", "5", {"currency": "£"}, "5 GBP"),
        ("money", "free", {"currency": "Euro"}, "0 EUR"),
        ("boolean", "Ja", {}, True),
        ("boolean", "WAHR", {}, True),
        ("boolean", "No.", {}, False),
        ("boolean", False, {}, False),
        ("boolean", 1, {}, True),
        ("boolean", "0.0", {}, False),
        ("boolean", "", {}, None),
    ],
)
def test_cells_are_read(kind: Kind, cell: object, context: dict[str, Any], value: object) -> None:
    found = read_cell(kind, cell, CellContext(**context))
    assert found == value
    assert type(found) is type(value)
    if found is not None:
        assert KINDS[kind].write(found) is not None


@pytest.mark.parametrize(
    ("cell", "unit", "value"),
    [
        ("1/2 in", "", "0.5 in"),
        ("1½ in", "", "1.5 in"),
        ('2-3/8"', "", "2.375 in"),
        ("-5 ℃", "", "-5 °C"),
        ("500 μm", "", "500 µm"),
        ("１２ ｃｍ", "", "12 cm"),
        ("1 KWH", "", "1 kWh"),
        ("2 sq ft", "", "2 ft²"),
        ("5 кг", "", "5 kg"),
        ({"value": 12.0, "unit": "CENTIMETERS"}, "", "12 cm"),
        ('{"value": "500", "unit": "g"}', "kg", "500 g"),
        (1.234, "kg", "1.234 kg"),
        (Decimal("1.250"), "kg", "1.25 kg"),
        ("1.250 kg", "", "1.25 kg"),
        ("1.250 g", "", "1250 g"),
        ("1,250 mAh", "", "1250 mAh"),
    ],
)
def test_a_quantity_is_read_in_the_notations_of_exports(
    cell: object, unit: str, value: str
) -> None:
    assert read_cell("quantity", cell, CellContext(unit=unit)) == value
    assert KINDS["quantity"].write(value) == value


@pytest.mark.parametrize(
    ("cells", "separator", "values"),
    [
        (["a, b", "c; d", "e|f"], ";|,", ["a; b", "c; d", "e; f"]),
        (["a, matt; b", "c, matt"], ";", ["a, matt; b", "c, matt"]),
        (["a, b", "S/M"], ",", ["a; b", "S/M"]),
        (["a、b", "c"], "、", ["a; b", "c"]),
        (["[a, b]", "{c,d}", "{'e', 'f'}"], ",", ["a; b", "c; d", "e; f"]),
        ([[{"name": "a"}, {"name": "b"}], "c"], "", ["a; b", "c"]),
    ],
)
def test_items_are_separated_as_all_of_their_column_shows(
    cells: list[object], separator: str, values: list[str]
) -> None:
    assert find_separator(cells) == separator
    context = CellContext(separator=separator)
    assert [read_cell("list", cell, context) for cell in cells] == values


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["A > B/C", "B/C", "A|D > E"], ["A > B/C", "B/C", "A|D > E"]),
        (["A >> B", "A -> B >", "A > N/A"], ["A > B", "A > B", "A"]),
        (["/A/B/", "A/B"], ["A > B", "A > B"]),
        (["A / B", "A / C/D"], ["A > B", "A > C/D"]),
        (["A|B", "A > C"], ["A > B", "A > C"]),
        (["A > B, A > C > D", "A, A > B", "A, B > C"], ["A > C > D", "A > B", "A, B > C"]),
        (["A, B > C, D > E", "A, B > F"], ["A, B > C, D > E", "A, B > F"]),
        ([["A > B", "A > C"], [{"name": "A"}, {"name": "B"}]], ["A > B", "A > B"]),
        (
            [["A, B > C", "A, B > C > D"], ["A > B", "C"], ["A > B"]],
            ["A, B > C > D", "A / B > C", "A > B"],
        ),
        (["A|A|B", "A|B; A|C|D"], ["A > A > B", "A > C > D"]),
        (["A > A", "A"], ["A > A", "A"]),
    ],
)
def test_levels_are_separated_as_all_of_their_column_shows(
    cells: list[object], values: list[str]
) -> None:
    context = CellContext(steps=find_steps(cells))
    assert [read_cell("path", cell, context) for cell in cells] == values


def test_a_guess_at_a_cell_is_noted() -> None:
    noted = list[str]()
    context = CellContext(note=noted.append, unit="kg")
    for kind, cell in (("path", "A > B; A > C"), ("quantity", "1.250"), ("money", "£5 - £6")):
        read_cell(kind, cell, context)  # type: ignore[arg-type]
    assert noted == ["one of several paths", "ambiguous", "range (lowest)"]


@pytest.mark.parametrize(
    ("kind", "cell", "context", "problem"),
    [
        (
            "list",
            "red,,blue",
            {"separator": ","},
            "is a list with an empty item: found 'red,,blue'",
        ),
        ("list", ["red", ""], {}, "is a list with an empty item"),
        ("list", '["red", null]', {}, "is a list with an empty item"),
        ("list", "red; N/A", {"separator": ";"}, "is a list with an empty item"),
        (
            "path",
            "Apparel > > Tops",
            {},
            "is a path with a missing parent: found 'Apparel > > Tops'",
        ),
        ("path", "> Tops", {}, "is a path with a missing parent"),
        ("path", "Apparel > - > Tees", {}, "is a path with a missing parent"),
        ("quantity", "heavy", {}, "is no number with a unit: found 'heavy'"),
        ("quantity", True, {}, "is no number with a unit"),
        ("quantity", "12", {}, "has no known unit: found '12'"),
        ("quantity", "12 pcs", {}, "has no known unit"),
        ("quantity", "10 x 20 cm", {}, "holds several numbers: found '10 x 20 cm'"),
        ("quantity", "9**9**9 kg", {}, "holds several numbers"),
        ("quantity", "12 cm", {"unit": "kg"}, "has a unit that does not fit kg: found '12 cm'"),
        ("money", "12.50", {}, "has no currency: found '12.50'"),
        ("money", "5", {"currency": "moons"}, "has no currency: found '5 moons'"),
        ("quantity", "10-12 cm", {}, "holds several numbers: found '10-12 cm'"),
        ("quantity", "6 x 330 ml", {}, "holds several numbers: found '6 x 330 ml'"),
        ("quantity", "38/40 cm", {}, "holds several numbers: found '38/40 cm'"),
        ("quantity", "5'10\"", {}, "is no number with a unit"),
        ("quantity", "16 GB", {"unit": "%"}, "has a unit that does not fit %: found '16 GB'"),
        ("money", "red", {}, "price"),
        ("boolean", "maybe", {}, "is not yes or no: found 'maybe'"),
        ("boolean", 2, {}, "is not yes or no"),
    ],
)
def test_a_cell_of_another_kind_is_one_line(
    kind: Kind, cell: object, context: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        read_cell(kind, cell, CellContext(**context))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["red, blue", "red", "blue", "red, green", "green"], "list"),
        ([["red", "blue"], ["red"], ["blue"], ["red"]], "list"),
        (["A > B", "A > C > D", "A", "E > F", "E > G"], "path"),
        (["A::B", "A::C", "A::B"], "path"),
        (["500 g", "0.5 kg", "1 kg", "250 Gram", "2 kg"], "quantity kg"),
        (["500 g", "12 cm", "1 kg", "5 m"], "text"),
        ([{"value": 1.5, "unit": "CENTIMETERS"}, {"value": 20, "unit": "mm"}] * 5, "quantity cm"),
        (["£5", "€ 6", "$7"], "money"),
        (["5.00", "6.50", "7"], "number"),
        (["yes", "no", "yes", "yes"], "boolean"),
        ([1, 0, 0, 1], "boolean"),
        (["yes", "yes"], "category"),
        (["COATS", "HATS", "COATS", "HATS"], "category"),
        (["A wool coat, long", "A hat, red", "A belt, of leather"], "text"),
        (["12 pcs", "6 pcs", "3 pcs"], "text"),
        ([], "category"),
    ],
)
def test_the_kind_of_a_column_is_suggested_with_a_reason(cells: list[object], kind: str) -> None:
    suggestion = suggest_kind(cells)
    assert suggestion.kind == kind
    assert suggestion.reason


def test_separators_are_found_in_order_of_sureness() -> None:
    assert find_separator(["a, b; c", "d, e"]) == ";"
    assert find_separator(["a, b", "c"]) == ","
    assert find_separator(["a", "b"]) == ""
    assert find_separator([["a", "b"], '["a, b"]', 3]) == ""


def shop_rows() -> list[dict[str, str]]:
    cells = {
        "colours": ["red, blue", "red", "blue, green", "green"],
        "weight": ["500 g", "0.75 KG", "1.2 kilograms", "300 grams"],
        "cost": ["£12.50", "€ 14,00", "$20", "9"],
        "hood": ["yes", "No", "TRUE", "0"],
        "currency": ["GBP", "EUR", "USD", "chf"],
    }
    return [product(n, **{name: each[n % 4] for name, each in cells.items()}) for n in range(20)]


def test_the_kinds_of_an_answer_are_suggested_shown_and_changed(tmp_path: Path) -> None:
    shop, out = write_shop(tmp_path / "shop", shop_rows()), tmp_path / "out"
    names = ("title", "colours", "weight", "cost", "hood", "category:category?")
    metadata = run(shop, out, fields=names).metadata
    assert find_template(str(out)).answer == (
        "Title: {title}, Colours: {colours:list}, Weight: {weight:quantity g}, "
        "Cost: {cost:money}, Hood: {hood:boolean}, Category: {category:category?}"
    )
    assert metadata["columns"]["kind of weight"] == "quantity g (guessed: numbers in g, kg)"
    assert metadata["columns"]["kinds"] == "--fields 'title:KIND' … changes them"
    assert "kind of category" not in metadata["columns"]
    row = rows_of(out)["S1"]
    assert {name: row[name] for name in ("colours", "weight", "cost", "hood")} == {
        **{"colours": "red", "weight": "0.75 kg", "cost": "14 EUR", "hood": False}
    }
    assert rows_of(out)["S3"]["cost"] == "9 CHF"
    assert metadata["kinds"]["cost"][1]["units"] == {"CHF": 5, "EUR": 5, "GBP": 5, "USD": 5}
    assert metadata["kinds"]["colours"][1]["items"] == 3
    assert metadata["kinds"]["hood"][1]["most frequent"] == {"False": 10, "True": 10}
    template = find_template(str(out))
    for sample in load_samples(out):
        assert template.parse(template.render(sample.record)) == template.select(sample.record)
    before = tree(out)
    run(shop, out, fields=names)
    assert tree(out) == before


def test_rows_that_do_not_fit_are_rejected_with_the_field_and_the_reason(tmp_path: Path) -> None:
    rows = shop_rows()
    rows[0] |= {"colours": "red,,blue"}
    rows[1] |= {"weight": "12 cm"}
    rows[2] |= {"cost": "20", "currency": ""}
    rows[3] |= {"hood": "maybe"}
    shop = write_shop(tmp_path / "shop", rows)
    fields = ("title", "colours:list", "weight:quantity kg", "cost:money", "hood:boolean")
    run(shop, tmp_path / "out", fields=fields)
    assert [row["reason"] for row in rejected_of(tmp_path / "out").values()] == [
        "colours is a list with an empty item",
        "weight has a unit that does not fit kg",
        "cost has no currency",
        "hood is not yes or no",
    ]
    kept = ("title", *(f"{field}?" for field in fields[1:]))
    metadata = run(shop, tmp_path / "kept", fields=kept).metadata
    assert metadata["rejected"] == {}
    assert metadata["missing"] == {
        name: [1, "5.0 %"] for name in ("weight", "colours", "cost", "hood")
    }
    assert metadata["warnings"]["values of hood"].startswith("1 row cannot be read, and trained")


def test_the_levels_of_a_path_may_be_columns(tmp_path: Path) -> None:
    levels = [("Apparel", "Tops", "Tees"), ("Apparel", "Tops", ""), ("Shoes", "", "Boots")]
    rows = [
        product(n, **dict(zip(("one", "two", "three"), levels[n % 3], strict=True)))
        for n in range(9)
    ]
    shop = write_shop(tmp_path / "shop", rows)
    fields, out = ("title", "kind:path"), tmp_path / "out"
    metadata = run(shop, out, fields=fields, map=("kind=one,two,three",)).metadata
    assert metadata["rejected"] == {"kind is a path with a missing parent": 3}
    assert rows_of(out)["S0"]["kind"] == "Apparel > Tops > Tees"
    assert rows_of(out)["S1"]["kind"] == "Apparel > Tops"
    assert rows_of(out)["S1"]["two"] == "Tops"
    assert metadata["columns"]["kind"] == "one,two,three"
    with pytest.raises(ValueError, match="there is no column 'four'"):
        run(shop, out, fields=fields, map=("kind=one,four",))


def test_other_columns_are_shown_with_the_command_that_adds_them(tmp_path: Path) -> None:
    metadata = run(write_shop(tmp_path / "shop", shop_rows()), tmp_path / "out").metadata
    shown = metadata["columns"]["not in the answer"]
    assert "colours:list, weight:quantity g, cost:money, hood:boolean" in shown
    assert "--fields title category3_code full_price colours weight cost hood adds them" in shown
    assert find_template(str(tmp_path / "out")).name == "product"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"fields": ("title?", "hood?")}, "all of its fields are optional"),
        ({"fields": ("title", "hood:poem")}, "kind 'poem'"),
        ({"fields": ("title", "nope")}, "needs nope; found sku"),
        ({"fields": ("title",), "template": "product"}, "exclude each other"),
        ({"fields": ("title", "weight:quantity stone")}, "no unit 'stone'"),
    ],
)
def test_fields_that_cannot_be_meant_are_one_line(
    tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    shop = write_shop(tmp_path / "shop", shop_rows())
    with pytest.raises(ValueError, match=problem) as error:
        run(shop, tmp_path / "out", **options)
    assert "\n" not in str(error.value)


def test_every_kind_that_is_read_here_is_a_kind() -> None:
    assert set(READERS) == set(KINDS) - {"text", "category", "number"}
    assert PLAIN.separator == ""
