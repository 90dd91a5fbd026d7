"""Lists and paths of a dataset, drawn like it: lengths, separators, values, and one parent each."""

import random
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phi_vision.synthetic import compound_values, fidelity, observation
from phi_vision.synthetic.column_models import Column, Frequencies
from phi_vision.synthetic.profile import profile_dataset
from phi_vision.synthetic.sample_like import write_sample_like

COLOURS = ("Red", "Navy", "White", "Olive", "Camel")
TYPES = {
    "Wear > Tops > Tees": 30,
    "Wear > Tops > Vests": 20,
    "Wear > Coats > Trench": 26,
    "Home > Bath": 20,
    "Home > Bath > Towels": 10,
    "Wear > Tops > Falconry": 3,
    "Garden > Gnomes": 3,
}
"""Path -> its groups. Falconry and gnomes have three each, so that no output may name them."""
ROWS = 300


def colours_of(number: int) -> str | None:
    rng = random.Random(number)
    if number % 9 == 0:
        return None
    items = rng.sample(COLOURS, rng.choice((1, 1, 2, 3)))
    return "; ".join(items if number % 40 else [*items, f"Puce{'abc'[number % 3]}"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shops") / "shop"
    (folder / "data").mkdir(parents=True)
    types = [name for name, count in TYPES.items() for _ in range(count)]
    rows = [
        {
            "group_id": f"S-{1000 + 13 * (number // 4)}",
            "category": types[number // 4],
            "colours": colours_of(number),
            "full_price": float(20 + number % 50),
        }
        for number in range(len(types) * 4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def drawn(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "sample"
    write_sample_like(shop, out, rows=ROWS, seed=0)
    return out


def cells(folder: Path, column: str) -> list[str | None]:
    values: list[str | None] = pq.read_table(folder / "data")[column].to_pylist()
    return values


@pytest.mark.parametrize(
    ("values", "separator"),
    [
        (["red; navy", "navy", "red"], "; "),
        (["red, navy", "navy", "red"], ", "),
        (["red | navy", "navy", "red"], " | "),
        (["Wear > Tops", "Wear > Coats"], " > "),
        (["Wear::Tops", "Wear::Coats"], "::"),
        (["Tees, Tops & Blouses", "Coats"], ""),  # one name with a comma
        (["red; ", "navy"], ""),
        (["red", "navy"], ""),
        ([True, False], ""),
        ([], ""),
    ],
)
def test_separators_are_found_where_parts_recur(values: list[str], separator: str) -> None:
    pairs = [(value, group) for group in range(6) for value in values]
    assert compound_values.find_separator(pairs) == separator


def test_prose_is_no_list() -> None:
    pairs = [(f"Coat {n}, warm and blue", n) for n in range(50)]
    assert compound_values.find_separator(pairs) == ""


def test_a_rare_path_keeps_the_levels_that_are_shared() -> None:
    column = Column(name="kind", role="category", level="group", separator=" > ")
    column = compound_values.replace(column, overall=Frequencies(named=(("A > B", 9),)))
    pairs = [("A > B", group) for group in range(9)] + [("A > B > Bib", 9), ("C > D", 10)]
    measured = compound_values.measure_parts(column, pairs)
    assert measured.words["starts"].named == (("A > B > [#]", 1), ("[#] > [#]", 1))
    rng = random.Random(0)
    found = {
        compound_values.put_together(measured, rng, lambda shape: "Kolu", is_new=False)
        for _ in range(20)
    }
    assert found == {"A > B > Kolu", "Kolu > Kolu"}
    assert compound_values.unnamed_parts(measured, "A > B > Kolu") == ["Kolu"]
    assert compound_values.unnamed_parts(measured, "C > B") == ["C", "B"]


def test_a_rare_list_is_put_together_of_shared_items() -> None:
    column = Column(name="colours", role="category", level="row", separator="; ")
    pairs = [("Red; Navy", group) for group in range(5)] + [("Navy; Red; Puce", 5)]
    measured = compound_values.measure_parts(column, pairs)
    assert measured.words["lengths"].named == (("2", 5), ("3", 1))
    assert measured.words["items"] == Frequencies(named=(("Navy", 6), ("Red", 6)), rest=1)
    assert compound_values.unnamed_parts(measured, "Red; Puce") == ["Puce"]
    rng = random.Random(0)
    for _ in range(20):
        made = compound_values.put_together(measured, rng, lambda shape: "Kolu", is_new=False)
        assert len(set(made.split("; "))) == len(made.split("; "))
        assert set(made.split("; ")) <= {"Red", "Navy", "Kolu"}


def test_lists_keep_items_lengths_and_empty_cells(shop: Path, drawn: Path) -> None:
    real, new = cells(shop, "colours"), cells(drawn, "colours")
    for side in (real, new):
        assert sum(cell is None for cell in side) / len(side) == pytest.approx(1 / 9, abs=0.06)
    lengths = [Counter(len(cell.split("; ")) for cell in side if cell) for side in (real, new)]
    # Rare lists are invented once and repeated, so that these vary more than 300 rows would.
    assert fidelity.total_variation(lengths[0].elements(), lengths[1].elements()) < 0.12
    items = [[item for cell in side if cell for item in cell.split("; ")] for side in (real, new)]
    assert fidelity.total_variation(*items) < 0.12
    assert all(len({*cell.split("; ")}) == len(cell.split("; ")) for cell in new if cell)
    assert not [item for item in items[1] if item.startswith("Puce")]
    invented = {item for item in items[1] if item not in COLOURS}
    assert all(re.fullmatch(r"[A-Z][a-z]+", item) for item in invented)


def test_paths_keep_levels_and_each_child_its_parent(shop: Path, drawn: Path) -> None:
    new = [cell for cell in cells(drawn, "category") if cell]
    assert len(new) == ROWS
    assert {len(cell.split(" > ")) for cell in new} == {2, 3}
    named = {name for name, count in TYPES.items() if count >= 5}
    assert named <= {*new}
    parents = defaultdict(set)
    for cell in {*new}:
        for parent, child in pairwise(["", *cell.split(" > ")]):
            parents[child].add(parent)
    assert {child: found for child, found in parents.items() if len(found) > 1} == {}
    # A rare child stays below the levels that are shared.
    assert any(cell.startswith("Wear > Tops > ") for cell in {*new} - named)
    assert not [cell for cell in new if "Falconry" in cell or "Garden" in cell or "Gnomes" in cell]


def test_the_fidelity_of_parts_is_reported(drawn: Path) -> None:
    report = (drawn / "fidelity.md").read_text()
    for words in ("colours | number of items", "colours | items", "category | number of levels"):
        found = re.search(rf"\| {re.escape(words)} \| ([\d.]+) \|", report)
        assert found, words
        assert float(found[1]) < 0.1
    assert "Puce" not in report + (drawn / "profile.json").read_text()


def test_a_real_rare_item_in_a_drawn_list_is_found(shop: Path) -> None:
    real = observation.RealValues()
    model = profile_dataset(observation.observe(shop, real.add))
    record = {"colours": "Red; Pucea", "category": "Wear > Tops > Tees"}
    row = observation.ObservedRow("train", 0, record, ())
    with pytest.raises(ValueError, match="real values were found in colours"):
        fidelity.check_row(row, model, real)
    fidelity.check_row(row._replace(record=record | {"colours": "Red; Kolu"}), model, real)
