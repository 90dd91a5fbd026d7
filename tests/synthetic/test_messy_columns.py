"""Quantities, money, lists of Parquet and gaps of a dataset, drawn like it."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phi_vision.data.kinds import money_kind, quantity_kind
from phi_vision.data.template import TEMPLATE_FILE, Template, find_template, write_template
from phi_vision.synthetic import marked_columns
from phi_vision.synthetic.fidelity import kolmogorov_smirnov, total_variation
from phi_vision.synthetic.observation import observe
from phi_vision.synthetic.profile import load_profile, profile_dataset, save_profile
from phi_vision.synthetic.sample_like import write_sample_like

GROUPS, ROWS = 300, 500
GRAMS = {"Tees": 200, "Coats": 1400, "Belts": 150}
TAGS = ("new", "sale", "wool", "vegan")
SCALES = 10
"""Number of columns of a survey, each missing for itself in a fifth of the rows."""
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("group_id", "market", "category", "weight", "price")),
        ("note", pa.string()),
        *((name, pa.float64()) for name in ("full_price", "sale_price")),
        ("tags", pa.list_(pa.string())),
        *((f"scale_{number}", pa.float64()) for number in range(SCALES)),
    ]
)


TEMPLATE = Template(
    name="shop",
    question="What is it?",
    answer="{category:category}, {weight:quantity g?}, {price:money?}",
    layout="chat",
)


def weigh(grams: float, market: str) -> str:
    if market == "US":
        return f"{marked_columns.format_amount(round(grams / 28.35))} oz"
    unit, number = ("kg", grams / 1000) if grams >= 1000 else ("g", 5 * round(grams / 5))
    return f"{marked_columns.format_amount(round(number, 2))} {unit}"


def style(number: int) -> list[dict[str, Any]]:
    rng = random.Random(number)
    market, category = rng.choices(("GB", "US"), (3, 2))[0], rng.choice([*GRAMS])
    price, missing = float(rng.randrange(20, 300, 5)), rng.random()
    row = {
        "group_id": f"S-{number}",
        "market": market,
        "category": category,
        "weight": weigh(GRAMS[category] * rng.uniform(0.7, 1.3), market),
        "price": f"{price:g} {'USD' if market == 'US' else 'GBP'}",
        "note": " ".join(rng.sample(["soft", "warm", "long", "plain", "light", "cropped"], 4)),
        "full_price": None if rng.random() < 0.2 else price,
        "sale_price": price * 0.8,
    }
    if missing < 0.25:
        row |= {"weight": None, "note": None}
    elif missing < 0.35:
        row |= {"weight": None}
    return [row | colour(rng) for _ in range(2)]


def colour(rng: random.Random) -> dict[str, Any]:
    tags = rng.sample(TAGS, rng.choice((0, 1, 2, 3)))
    scales = {f"scale_{n}": float(rng.randrange(1, 8)) for n in range(SCALES)}
    gaps = {name: None for name in scales if rng.random() < 0.2}
    return {"tags": None if rng.random() < 0.1 else tags, **scales, **gaps}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shops") / "shop"
    (folder / "data").mkdir(parents=True)
    rows = [row for number in range(GROUPS) for row in style(number)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    write_template(TEMPLATE, folder / TEMPLATE_FILE)
    return folder


@pytest.fixture(scope="module")
def drawn(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "sample"
    write_sample_like(shop, out, rows=ROWS, seed=0)
    return out


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "data").to_pylist()
    return rows


def test_the_template_is_kept_and_fits_what_was_drawn(drawn: Path) -> None:
    assert find_template(str(drawn)) == TEMPLATE
    for row in rows_of(drawn):
        assert TEMPLATE.parse(TEMPLATE.render(row)) == TEMPLATE.select(row)


@pytest.mark.parametrize(
    ("column", "split"), [("weight", quantity_kind.split), ("price", money_kind.split)]
)
def test_units_and_currencies_keep_their_mix_and_their_numbers(
    shop: Path, drawn: Path, column: str, split: Any
) -> None:
    sides = []
    for folder in (shop, drawn):
        found = [(row["market"], split(row[column])) for row in rows_of(folder) if row[column]]
        assert all(pair for _, pair in found), "every text is still one of its kind"
        sides.append(found)
    marks = [[(market, mark) for market, (_, mark) in side] for side in sides]
    assert total_variation(*marks) < 0.1
    assert {mark for _, mark in marks[1]} == {mark for _, mark in marks[0]}
    for mark in {mark for _, mark in marks[0]}:
        amounts = [[n for _, (n, each) in side if each == mark] for side in sides]
        assert kolmogorov_smirnov(*amounts) < 0.2
        assert max(amounts[1]) <= 1.1 * max(amounts[0])


def test_a_weight_follows_its_category(drawn: Path) -> None:
    for row in rows_of(drawn):
        if row["weight"]:
            normal = quantity_kind.normalise(row["weight"])
            assert normal is not None
            assert (normal[1] > 0.7) == (row["category"] == "Coats"), row


def test_cells_are_missing_together_as_in_the_dataset(shop: Path, drawn: Path) -> None:
    sides = [
        [(row["weight"] is None, row["note"] is None) for row in rows_of(folder)]
        for folder in (shop, drawn)
    ]
    assert {*sides[1]} == {(False, False), (True, True), (True, False)}
    assert total_variation(*sides) < 0.08
    assert Counter(sides[1])[True, True] / ROWS == pytest.approx(0.25, abs=0.06)


def test_a_price_stays_where_the_one_that_it_follows_is_missing(drawn: Path) -> None:
    rows = rows_of(drawn)
    assert all(row["sale_price"] for row in rows)
    share = sum(row["full_price"] is None for row in rows) / ROWS
    assert share == pytest.approx(0.2, abs=0.06)


def test_gaps_of_many_columns_keep_their_shares_though_most_patterns_are_rare(
    shop: Path, drawn: Path
) -> None:
    for folder in (shop, drawn):
        cells = [row[f"scale_{n}"] for row in rows_of(folder) for n in range(SCALES)]
        assert sum(cell is None for cell in cells) / len(cells) == pytest.approx(0.2, abs=0.02)


def test_lists_of_parquet_are_lists_again(shop: Path, drawn: Path) -> None:
    assert pq.read_table(drawn / "data").schema.field("tags").type == pa.list_(pa.string())
    sides = [[row["tags"] for row in rows_of(folder)] for folder in (shop, drawn)]
    kinds = [[None if cell is None else len(cell) for cell in side] for side in sides]
    assert total_variation(*kinds) < 0.12  # rare lists are invented once, and repeated
    assert total_variation(*([tag for cell in side for tag in cell or []] for side in sides)) < 0.08
    assert all(len({*cell}) == len(cell) for cell in sides[1] if cell)


def test_the_report_compares_marks_and_numbers(drawn: Path) -> None:
    report = (drawn / "fidelity.md").read_text(encoding="utf-8")
    for words in ("frequencies of marks", "numbers", "fraction of missing"):
        assert f"| weight | {words} |" in report
    assert "| tags | number of items |" in report
    assert "(mark)" not in report
    assert "gaps" not in report


def test_a_rare_unit_is_neither_named_nor_invented(shop: Path, tmp_path: Path) -> None:
    rows = rows_of(shop)
    for row in rows[:8]:  # of four groups
        row["weight"] = "0.3 lb"
    (tmp_path / "data").mkdir()
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    model = profile_dataset(observe(tmp_path))
    (weight,) = (column for column in model.columns if column.name == "weight")
    assert weight.role == "marked"
    assert {*weight.numbers} == {"g", "kg", "oz"}
    save_profile(model, tmp_path / "profile.json")
    assert load_profile(tmp_path / "profile.json") == model
    assert '"lb"' not in (tmp_path / "profile.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["500 g", "1.2 kg", "6 oz"], True),
        (["310 USD", "20 GBP"], True),
        (["500 g", "large", "small"], False),
        (["A-12", "B-13"], False),
        (["1200", "900"], False),
    ],
)
def test_marked_columns_are_found(values: list[str], found: bool) -> None:
    pairs = [(value, group) for group in range(6) for value in values]
    assert marked_columns.are_marked(pairs) == found
    assert not marked_columns.are_marked([])


@pytest.mark.parametrize(("version", "is_read"), [(3, True), (2, False)])
def test_a_profile_of_the_version_before_still_draws(
    shop: Path, tmp_path: Path, version: int, is_read: bool
) -> None:
    file = tmp_path / "profile.json"
    save_profile(profile_dataset(observe(shop)), file)
    held = json.loads(file.read_text(encoding="utf-8"))
    held["columns"] = [
        {**column, "missing": 0.5}
        for column in held["columns"]
        if not column.get("helper") and column["role"] in ("category", "number")
    ]
    file.write_text(json.dumps(held | {"version": version}), encoding="utf-8")
    if not is_read:
        with pytest.raises(ValueError, match=r"no profile of version 4 \(found version 2\)"):
            load_profile(file)
        return
    write_sample_like(file, tmp_path / "out", rows=100, seed=0)
    cells = [row["scale_1"] for row in rows_of(tmp_path / "out")]
    assert 25 <= sum(cell is None for cell in cells) <= 75
