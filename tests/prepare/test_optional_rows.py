"""Rows without a value of an optional field are kept, counted, trained and evaluated."""

import json
from pathlib import Path

import pytest
from catalogs import product, rejected_of, rows_of, run, tree, write_shop

from phi_vision.cli.main import main
from phi_vision.data.dataset import load_samples
from phi_vision.data.template import find_template
from phi_vision.prepare.data_card import render

WORDS = """question: What is it?
answer: "{title}, {colour:category?}, {full_price:number?}, {category3_code:category}"
missing: not shown
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "own.yaml").write_text(WORDS)
    rows = [product(n, colour="red") for n in range(12)]
    for number, cell in enumerate(["", "N/A", " - "]):
        rows[number]["colour"] = cell
    rows[3]["price"] = "N/A"
    rows[4]["price"] = "ask us"
    rows[5]["title"] = ""
    rows[6]["colour"] = "not shown"
    return write_shop(tmp_path / "shop", rows)


def test_only_required_fields_reject(shop: Path, tmp_path: Path) -> None:
    metadata = run(shop, tmp_path / "out", template=str(tmp_path / "own.yaml")).metadata
    assert metadata["rejected"] == {"title is empty": 1}
    assert metadata["missing"] == {"colour": [3, "27.3 %"], "full_price": [2, "18.2 %"]}
    assert metadata["changes"]["full_price not parsed, left empty"] == 1
    rows = rows_of(tmp_path / "out").values()
    assert sum(row["colour"] is None for row in rows) == 3
    template = find_template(str(tmp_path / "out"))
    texts = [template.render(sample.record) for sample in load_samples(tmp_path / "out")]
    assert sum(", not shown, " in text for text in texts) == 5
    for sample, text in zip(load_samples(tmp_path / "out"), texts, strict=True):
        assert template.parse(text) == template.select(sample.record)
    assert sum(r'\="not shown"' in text for text in texts) == 1
    for card in ("README.md", "card.html"):
        assert "Optional fields" in (tmp_path / "out" / card).read_text()
    before = tree(tmp_path / "out")
    assert not run(shop, tmp_path / "out", template=str(tmp_path / "own.yaml")).changed
    assert tree(tmp_path / "out") == before
    assert len(rejected_of(tmp_path / "out")) == 1


def test_an_empty_column_of_a_field_is_shown_as_such(tmp_path: Path) -> None:
    rows = [product(n, lining="") for n in range(12)]
    shop = write_shop(tmp_path / "shop", rows)
    metadata = run(shop, tmp_path / "out", fields=("title", "lining:category?")).metadata
    assert metadata["columns"]["lining"] == "its column is empty; --map lining=COLUMN adds it"
    assert metadata["missing"] == {"lining": [12, "100.0 %"]}


def test_a_card_without_optional_fields_has_no_such_table(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", [product(n) for n in range(6)])
    metadata = run(shop, tmp_path / "out").metadata
    assert "missing" not in metadata
    assert "missing" not in metadata["template"]
    assert "Optional" not in render("data_card.md.j2", header="", metadata=metadata)


def test_the_commands_count_and_score_missing_values(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, answers = tmp_path / "out", tmp_path / "answers.jsonl"
    words = ["--template", str(tmp_path / "own.yaml"), "--workers", "0", "--test", "0.4"]
    assert main(["prepare", str(shop), "--out", str(out), *words]) == 0
    said = capsys.readouterr().out
    assert "  missing:       3  colour (27.3 %), trained as “not shown”\n" in said
    samples = load_samples(out, split="test")
    lines = [{"id": s.id, "record": {**s.record, "colour": "red"}} for s in samples]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--data", str(out), "--template", str(out), "--out", str(tmp_path / "report")]
    assert main(["evaluate", str(answers), *words, "--skip", "boosting"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    count = sum(sample.record["colour"] is None for sample in samples)
    assert f"colour: {count} of {len(samples)} samples have no value" in said
    for name in ("report.html", "report.md"):
        assert "have no value" in (tmp_path / "report" / name).read_text()
