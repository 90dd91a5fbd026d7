"""docs/messy-export.md: its commands run as written on a small scale, and it says what they do."""

import json
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pages import FENCE, type_commands
from test_task_pages import smaller

from phi_vision.data.dataset import load_samples
from phi_vision.data.template import find_template
from phi_vision.prepare.cell_kinds import CellContext, read_cell

PAGE = (Path(__file__).parents[1] / "docs" / "messy-export.md").read_text(encoding="utf-8")
KIND = re.compile(r"^  (kind of \w+): ([^(\n]+) \(guessed: ", re.MULTILINE)
CELL = re.compile(r"^\| `([^`]+)`[^|]* \| `\w+:([^`]+)` \| \*([^*]+)\* \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all commands of the page were typed."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HOME", str(folder / "hub"))
        for language, script in FENCE.findall(PAGE):
            if language == "bash":
                type_commands(smaller(script))
            elif language == "python":
                exec(compile(script, "messy-export.md", "exec"), {})
    return folder / "runs" / "messy"


def facts(prepared: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((prepared / "prepared.json").read_text())
    return found


def test_the_export_is_as_messy_as_the_page_says(folder: Path) -> None:
    samples = load_samples(folder / "data")
    records = [sample.record for sample in samples]
    assert {record["embroidered"] for record in records} == {True, False, None}
    for name in ("colours", "lining", "weight"):
        assert any(record[name] is None for record in records), name
    assert any("; " in str(record["colours"]) for record in records)
    marks = Counter(str(record["full_price"]).split()[1] for record in records)
    assert {*marks} == {"GBP", "USD"}
    units = {str(record["weight"]).split()[1] for record in records if record["weight"]}
    assert units == {"g", "kg", "oz"}
    rejected = pq.read_table(folder / "data" / "rejected.parquet")["reason"].to_pylist()
    assert rejected
    assert "full_price is empty" in rejected


def test_the_kinds_are_guessed_as_shown_and_one_is_overridden(folder: Path) -> None:
    shown = dict(KIND.findall(PAGE))
    columns = facts(folder / "guessed")["columns"]
    found = {name: str(columns[name]).partition(" (guessed: ")[0] for name in shown}
    assert found == shown
    assert find_template(str(folder / "data")).kinds == {
        **{"product_type": "path", "title": "text", "colours": "list", "embroidered": "boolean"},
        **{"lining": "category", "weight": "quantity", "full_price": "money"},
    }
    assert "colours" in str(facts(folder / "first")["columns"]["not in the answer"])
    ranges = {str(sample.record["range"]) for sample in load_samples(folder / "levels")}
    assert any(each.count(" > ") == 2 for each in ranges)


def test_every_metric_and_file_of_the_page_exists(folder: Path) -> None:
    scores = json.loads((folder / "run" / "report" / "scores.json").read_text())
    named = re.findall(
        r"`((?:lining|embroidered|colours|weight|full_price|product_type)_\w+)`", PAGE
    )
    columns = ("full_price_eur",)
    assert [n for n in named if n not in scores["estimates"]["model"] and n not in columns] == []
    files = re.findall(r"`runs/messy/([\w./-]+)`", PAGE)
    assert [name for name in files if not (folder / name).exists()] == []


def test_each_field_is_accepted_or_reviewed(folder: Path) -> None:
    table = pq.read_table(folder / "predictions.parquet")
    for field in find_template(str(folder / "data")).fields:
        assert {*table[f"accept_{field}"].to_pylist()} <= {True, False}
    assert "accepted_product_type" in table.column_names


@pytest.mark.parametrize(("cell", "kind", "reason"), CELL.findall(PAGE))
def test_bad_cells_give_the_documented_reasons(cell: str, kind: str, reason: str) -> None:
    name, _, unit = kind.partition(" ")
    context = CellContext(separator=",", unit=unit)
    with pytest.raises(ValueError, match=reason) as error:
        read_cell(name, cell, context)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_the_bad_cells_are_found() -> None:
    assert len(CELL.findall(PAGE)) == 6
