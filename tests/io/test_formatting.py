"""Numbers, sizes, durations and lists as text."""

import ast
import math
import string
from pathlib import Path

import pytest
import yaml

from phi_vision.io.formatting import (
    format_bytes,
    format_count,
    format_duration,
    format_gib,
    format_number,
    format_percent,
    format_signed,
    join_words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_number(-1234.567, 2), "−1,234.57"),
        (format_number(math.nan, 2), "–"),
        (format_signed(0.05, 2), "+0.05"),
        (format_signed(-0.05, 2), "−0.05"),
        (format_signed(-0.001, 2), "0.00"),
        (format_percent(0.9345), "93.5 %"),
        (format_percent(0.25, 0), "25 %"),
        (format_percent(math.inf), "–"),
        (format_bytes(1_234_567), "1.2 MB"),
        (format_bytes(8_290_000_000), "8.3 GB"),
        (format_gib(3 * 2**29), "1.50 GiB"),
        (format_duration(61.4), "61 s"),
        (format_duration(119.9 * 60), "2 h 0 min"),
        (format_duration(7384), "2 h 4 min"),
        (format_duration(150), "3 min"),
        (format_count(1, "error"), "1 error"),
        (format_count(3040, "row"), "3,040 rows"),
        (format_count(2, "category", "categories"), "2 categories"),
        (join_words([]), ""),
        (join_words(["a"]), "a"),
        (join_words(["a", "b"], "or"), "a or b"),
        (join_words(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_values_are_formatted(text: str, expected: str) -> None:
    assert text == expected


PACKAGE = Path(__file__).parents[2] / "phi_vision"
SOURCES = {file: file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")}
TEXTS = {
    file.with_suffix(".yaml"): [file]
    for file, source in SOURCES.items()
    if "error_texts(__file__)" in source
} | {
    file.with_name("errors.yaml"): [each for each in SOURCES if each.parent == file.parent]
    for file, source in SOURCES.items()
    if 'error_texts(__file__, "errors.yaml")' in source
}


def fields_of(text: str) -> set[str]:
    fields = (field for _, field, _, _ in string.Formatter().parse(text) if field)
    return {field.partition(".")[0] for field in fields}


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_error_has_a_text_with_its_values(file: Path) -> None:
    loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    wanted = {name: fields_of(text) for name, text in loaded.items() if isinstance(text, str)}
    nodes = [node for module in TEXTS[file] for node in ast.walk(ast.parse(SOURCES[module]))]
    for node in nodes:
        if not isinstance(node, ast.Call) or not node.args:
            continue
        key = node.args[0]
        if ast.unparse(node.func) in ("failure", "files.failure") and isinstance(key, ast.Constant):
            values = {keyword.arg for keyword in node.keywords}  # None: `**values`, not known here
            assert values - {None} <= wanted[str(key.value)], key.value
            assert None in values or values == wanted[str(key.value)], key.value
    siblings = "".join(SOURCES[each] for each in SOURCES if each.is_relative_to(file.parent))
    assert [name for name in wanted if f'"{name}"' not in siblings] == []
