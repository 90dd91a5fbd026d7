"""JSON and JSON Lines, with their faults planted."""

import json
from pathlib import Path

import pytest

from phi_vision.prepare.sources import json_files as jsons
from phi_vision.prepare.sources.registry import open_source
from phi_vision.prepare.sources.rows import Row, Source, UnreadableRow

ROWS = [{"sku": "A", "price": 1.5}, {"sku": "B", "price": None}, {"sku": "C", "tags": ["x"]}]


def planted(folder: Path, content: str | bytes, name: str = "products.json") -> Source:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_source(str(file))


def values(source: Source) -> list[dict[str, object]]:
    return [dict(row.values) for row in source.rows() if isinstance(row, Row)]


def faults(source: Source) -> list[tuple[str, str, str]]:
    return [
        (row.origin, row.reason, row.raw) for row in source.rows() if isinstance(row, UnreadableRow)
    ]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_of_objects_is_rows(tmp_path: Path, indent: int | None, encoding: str) -> None:
    source = planted(tmp_path, json.dumps(ROWS, indent=indent).encode(encoding))
    assert (source.kind, values(source)) == ("json", ROWS)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"shop": "X", "products": ROWS}, "the list 'products'"),
        ({"data": {"items": ROWS, "errors": [{"no": 1}]}}, "the list 'data.items'"),
    ],
)
def test_an_object_gives_the_list_inside(tmp_path: Path, content: object, place: str) -> None:
    source = planted(tmp_path, json.dumps(content))
    assert values(source) == ROWS
    assert source.detected["rows"] == place


@pytest.mark.parametrize(
    "content",
    [
        {"sku": ["A", "B"], "price": [1, 2]},
        {"sku": {"0": "A", "1": "B"}, "price": {"0": 1, "1": 2}},
    ],
)
def test_columns_as_pandas_writes_them_are_turned_into_rows(
    tmp_path: Path, content: object
) -> None:
    source = planted(tmp_path, json.dumps(content))
    assert values(source) == [{"sku": "A", "price": 1}, {"sku": "B", "price": 2}]


def test_objects_under_their_names_are_rows(tmp_path: Path) -> None:
    source = planted(tmp_path, json.dumps({"A1": {"title": "Coat"}, "B2": {"title": "Hat"}}))
    assert values(source) == [{"key": "A1", "title": "Coat"}, {"key": "B2", "title": "Hat"}]


@pytest.mark.parametrize("join", [",", ",\n"])
@pytest.mark.parametrize(
    "bad", ['{"sku": , "in": [{"sku": "no"}]}', "{'sku': 'B'}", '{"sku": "B",}', '"B"', "oops"]
)
def test_a_broken_element_of_a_list_loses_no_other(tmp_path: Path, bad: str, join: str) -> None:
    source = planted(tmp_path, "[" + join.join(['{"sku": "A"}', bad, '{"sku": "C"}']) + "]")
    assert [row["sku"] for row in values(source)] == ["A", "C"]
    reason = "not an object" if bad == '"B"' else "broken JSON"
    assert faults(source) == [("products.json record 2", reason, bad)]


def test_a_string_that_is_never_closed_ends_with_its_line(tmp_path: Path) -> None:
    source = planted(tmp_path, '[\n{"sku": "A"},\n{"sku": "B\n},\n{"sku": "C"}\n]')
    assert [row["sku"] for row in values(source)] == ["A", "C"]


def test_a_truncated_list_keeps_its_complete_items(tmp_path: Path) -> None:
    source = planted(tmp_path, json.dumps(ROWS)[:-20])
    assert values(source) == ROWS[:2]
    assert [reason for _, reason, _ in faults(source)] == [
        "JSON that ends in the middle",
        "the list is never closed",
    ]


@pytest.mark.parametrize("content", ['{"products": [{"sku": }', "sku: A", "<b>no</b>"])
def test_invalid_json_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(
        ValueError, match=r"cannot read .* as json: .*JSON.*: '.*'; mend it or write"
    ):
        planted(tmp_path, content)


@pytest.mark.parametrize("name", ["products.jsonl", "products.ndjson", "products.json"])
def test_one_broken_line_of_json_lines_loses_no_other(tmp_path: Path, name: str) -> None:
    lines = ['{"sku": "A"}', '{"sku": "B"}', '{"sku": "C"', "", "[1]", '{"sku": "D", "x": NaN}']
    source = planted(tmp_path, "\n".join(lines), name)
    assert source.kind == "jsonl"
    assert values(source) == [{"sku": "A"}, {"sku": "B"}, {"sku": "D", "x": None}]
    assert faults(source) == [
        (f"{name} line 3", "broken JSON", '{"sku": "C"\n'),
        (f"{name} line 5", "not an object", "[1]"),
    ]


def test_halves_of_emoji_become_replacement_characters(tmp_path: Path) -> None:
    text = r'{"sku": "A", "title": "Coat \ud83e"}' + "\n" + r'{"sku": "B", "title": "\ud83e\udde5"}'
    for name in ("products.jsonl", "products.json"):
        source = planted(tmp_path, text, name)
        assert [row["title"] for row in values(source)] == ["Coat \ufffd", "🧥"]
    listed = planted(tmp_path, "[" + text.replace("\n", ",") + "]", "listed.json")
    assert [row["title"] for row in values(listed)] == ["Coat \ufffd", "🧥"]


def test_half_an_emoji_in_a_broken_element_breaks_that_element_alone(tmp_path: Path) -> None:
    bad = r'{"sku": "B \ud83e",}'
    source = planted(tmp_path, "[" + ",".join(['{"sku": "A"}', bad, '{"sku": "C"}']) + "]")
    assert [row["sku"] for row in values(source)] == ["A", "C"]
    assert faults(source) == [("products.json record 2", "broken JSON", bad)]


def test_foreign_bytes_in_json_break_their_element(tmp_path: Path) -> None:
    good = '{"sku": "Béret à Crème"}'.encode()
    source = planted(tmp_path, b"[" + good + b', {"sku": "Caf\xe9"},' + good + b"]")
    assert len(values(source)) == 2
    assert faults(source) == [
        ("products.json record 2", "holds bytes that are not utf-8", '{"sku": "Caf\\xe9"}')
    ]


def test_a_list_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsons, "CHUNK", 7)
    rows = [{"sku": "A}]" * n, "in": {"n": [n, {"x": '"'}]}} for n in range(40)]
    assert values(planted(tmp_path, json.dumps(rows, indent=1))) == rows


def test_an_object_too_large_to_parse_is_reported_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsons, "CHUNK", 64)
    monkeypatch.setattr(jsons, "MAX_ELEMENT", 1000)
    with pytest.raises(ValueError, match="convert the file to JSON Lines"):
        planted(tmp_path, json.dumps({"products": [{"sku": "A"}] * 1000}))


def test_deep_nesting_is_a_fault_and_no_crash(tmp_path: Path) -> None:
    deep = '{"a":' * 20_000 + "1" + "}" * 20_000
    source = planted(tmp_path, f'[{{"sku": "A"}},{deep},{{"sku": "C"}}]')
    assert [row["sku"] for row in values(source)] == ["A", "C"]


def test_text_after_a_list_is_reported(tmp_path: Path) -> None:
    source = planted(tmp_path, '[{"sku": "A"}, {"sku": "B"}]\n[{"sku": "C"}]')
    assert len(values(source)) == 2
    assert faults(source) == [
        ("products.json record 3", "text after the end of the list", '[{"sku": "C"}]')
    ]


@pytest.mark.parametrize("levels", [100, 400, 5000])
@pytest.mark.parametrize("form", ["{}\n{}\n", "[{},\n{}]"])
def test_towers_of_brackets_break_one_row_and_no_run(
    tmp_path: Path, form: str, levels: int
) -> None:
    tower = f'{{"sku": "B", "x": {"[" * levels}1{"]" * levels}}}'
    file = tmp_path / ("rows.json" if form.startswith("[") else "rows.jsonl")
    file.write_text(form.format('{"sku": "A", "x": [[1]]}', tower))
    first, second = open_source(str(file)).rows()
    assert isinstance(first, Row)
    assert first.values == {"sku": "A", "x": [[1]]}
    assert isinstance(second, UnreadableRow)
    assert second.reason in ("nested too deep", "broken JSON")
