"""The data card: whatever a catalog holds, the card stays a card."""

from html.parser import HTMLParser
from typing import Any

import yaml
from catalogs import image

from phi_vision.prepare.cleaning import CleanRow
from phi_vision.prepare.data_card import Statistics, as_html, as_markdown
from phi_vision.prepare.sources.rows import Row

HOSTILE = "<script>alert('x')</script> | a\\|b \n# [x](http://evil) `c` {0}"


def facts(**changed: object) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": "shop",
        "rows": 12,
        "samples": 10,
        "source": {"name": "exports/products.csv", "kind": "csv", "license": "cc-by-4.0"},
        "columns": {"image": "photo (guessed)"},
        "splits": {"train": [8, 7], "test": [2, 2]},
        "rejected": {"no such file": 2},
        "changes": {"scaled down": 3},
        "groups": {"groups": 9},
        "leaks": {"same image, of 2 in test": [0, 0.4]},
        "images": {"images": 10, "width": {"0 %": 64.0, "100 %": 2016.0}},
        "fields": {"price": {"missing": 0, "quantiles": {"0 %": 5.0, "100 %": 1250000.5}}},
        "categories": {"COATS": [6, 1]},
    }
    return told | changed


def lines_of(markdown: str) -> list[str]:
    return markdown.split("---\n", 2)[2].splitlines()


class Tags(HTMLParser):
    """Collects the tags of a page and what stands between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_changes_of_a_row_count_once_in_an_order_that_no_process_changes() -> None:
    changes = ("scaled down", "turned by EXIF", "entities unescaped", "CMYK to RGB", "scaled down")
    statistics = Statistics()
    statistics.add(
        CleanRow(
            raw=Row(number=0, origin="", values={}),
            id=None,
            group=None,
            split=None,
            record={},
            messages=(),
            images=(),
            changes=changes,
        )
    )
    assert list(statistics.changes.items()) == [(change, 1) for change in changes[:4]]


def test_the_readme_has_the_header_that_hubs_read() -> None:
    header = yaml.safe_load(as_markdown(facts()).split("---\n")[1])
    assert header == {
        "license": "cc-by-4.0",
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "train", "path": "data/train-*"},
                    {"split": "test", "path": "data/test-*"},
                ],
            }
        ],
    }


def test_a_licence_of_many_words_stays_one_value_and_none_is_none() -> None:
    terms = 'mine: "all"\n---\n# rights'
    source = {"name": "x", "license": terms}
    text = as_markdown(facts(source=source))
    assert next(yaml.safe_load_all(text))["license"] == terms
    without = as_markdown(facts(source={"name": "x"}))
    assert "license" not in next(yaml.safe_load_all(without.split("\n# ")[0]))


def test_the_card_shows_counts_source_and_licence() -> None:
    lines = lines_of(as_markdown(facts()))
    for line in (
        "10 samples from 12 rows; 2 rows were rejected.",
        "| name | exports/products.csv |",
        "| license | cc-by-4.0 |",
        "| image | photo (guessed) |",
        "| train | 8 | 7 |",
        "| no such file | 2 |",
        "| same image, of 2 in test | 0 | 0.4 |",
        "| price | missing 0, quantiles 0 % 5, 100 % 1250000.5 |",
        "| category | train | test |",
        "| COATS | 6 | 1 |",
    ):
        assert line in lines, line
    assert "none was rejected" in as_markdown(facts(samples=12, rejected={}))


def test_nothing_in_a_table_ends_its_row_or_opens_markup() -> None:
    text = as_markdown(facts(categories={HOSTILE: [1, 2]}))
    (row,) = [line for line in text.splitlines() if "alert" in line]
    assert row == (
        r"| &lt;script>alert('x')&lt;/script> \| a\\\|b # \[x\](http://evil) \`c\` {0} | 1 | 2 |"
    )


def test_tables_without_rows_are_left_out() -> None:
    text = as_markdown(facts(rejected={}, leaks={}))
    assert "## RejectedRow rows" not in text
    assert "## list[Leak]" not in text
    assert "## Splits" in text


def test_the_page_shows_hostile_words_as_words() -> None:
    shown = [(HOSTILE, image(1)), ('" onerror="x', image(2))]
    page = as_html(facts(name=HOSTILE, rejected={HOSTILE: 2}, categories={HOSTILE: [1, 2]}), shown)
    read = Tags(page)
    assert "script" not in read.tags
    assert read.tags.count("img") == 2
    assert "<script>alert('x')</script> | a\\|b # [x](http://evil) `c` {0}" in read.words
    # One file: nothing is fetched from anywhere.
    assert all(link.startswith("data:image/jpeg;base64,") for link in read.links)
    assert "10 samples from 12 rows; 2 rows were rejected." in read.words
