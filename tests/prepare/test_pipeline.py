"""Any catalog in, nothing lost: whole runs over planted files."""

import csv
import datetime
import io
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogs import (
    image,
    product,
    products,
    rejected_of,
    rows_of,
    run,
    splits_of,
    tree,
    write_shop,
)
from PIL import Image

from phi_vision.data.dataset import load_samples
from phi_vision.data.template import find_template
from phi_vision.io.image_decoding import open_image
from phi_vision.prepare import schema
from phi_vision.prepare.prepare_config import PrepareConfig
from phi_vision.synthetic.catalog import write_catalog
from phi_vision.synthetic.corrupted_export import (
    CORRUPTIONS,
    Encoding,
    PlantedCorruption,
    read_corruptions,
    write_export,
)

Export = tuple[Path, list[PlantedCorruption], Path]

REASONS = {
    "missing image file": "no such file",
    "truncated image": "truncated image",
    "page saved as image": "not an image",
    "empty image cell": "no image",
    "path out of the folder": "outside the folder",
    "decompression bomb": "too many pixels",
    "1 x 5000 image": "too narrow",
    "no price": "full_price has no value",
    "empty price": "full_price is empty",
    "missing title": "title is empty",
    "missing category": "category3_code is empty",
    "ragged line": "found more cells than columns",
}
CHANGES = {
    "turned by EXIF": "turned by EXIF",
    "CMYK image": "CMYK to RGB",
    "16-bit image": "16-bit to 8-bit",
    "image with alpha": "alpha over white",
    "animated image": "first frame of several",
    "price range": "full_price as range (lowest)",
    "entities in title": "entities unescaped",
    "control token in title": "control tokens neutralised",
    "needless blanks": "white space normalised",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "catalog"
    write_catalog(folder, rows=60, seed=3)
    return folder


@pytest.fixture(scope="module", params=["cp1252", "utf-8-sig"])
def export(
    request: pytest.FixtureRequest, drawn: Path, tmp_path_factory: pytest.TempPathFactory
) -> Export:
    """An export with a fault in nine of ten rows, and the dataset made of it."""
    encoding: Encoding = request.param
    folder = tmp_path_factory.mktemp("exports")
    table = write_export(drawn, folder / "export", rate=0.9, seed=5, encoding=encoding)
    run(table, folder / "out")
    return folder / "export", read_corruptions(folder / "export"), folder / "out"


def told(out: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((out / "prepared.json").read_text(encoding="utf-8"))
    return facts


def cells_of(export: Path) -> list[dict[str, str]]:
    """Read the clean lines of an export, whatever is wrong with the others."""
    raw = (export / "products.csv").read_bytes()
    text = raw.decode("utf-8-sig" if raw.startswith(b"\xef\xbb\xbf") else "cp1252", "replace")
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=";"))


def test_every_row_of_a_faulty_export_is_accounted_for(export: Export) -> None:
    folder, _, out = export
    facts, rejected = told(out), rejected_of(out)
    assert facts["rows"] == len(cells_of(folder))
    assert facts["rows"] == facts["samples"] + len(rejected)
    assert facts["samples"] == len(rows_of(out)) == sum(n for n, _ in facts["splits"].values())
    assert sum(facts["rejected"].values()) == len(rejected)


def test_no_clean_row_is_rejected(export: Export) -> None:
    folder, faults, out = export
    faulty = {planted.row for planted in faults}
    assert not set(rejected_of(out)) - faulty
    samples = rows_of(out)
    for number, cells in enumerate(cells_of(folder)):
        if number not in faulty:
            assert samples[cells["product_code"]]["title"] == cells["title"]


def test_uncorrectable_rows_are_rejected_with_reason_and_values(export: Export) -> None:
    folder, faults, out = export
    rejected, cells = rejected_of(out), cells_of(folder)
    doomed = [planted for planted in faults if planted.outcome == "rejected"]
    assert {planted.fault for planted in doomed} == {
        name for name, fault in CORRUPTIONS.items() if fault.outcome == "rejected"
    }
    for planted in doomed:
        row = rejected[planted.row]
        assert row["reason"] == REASONS.get(planted.fault, row["reason"]), planted
        assert row["origin"].startswith("products.csv line ")
        values = json.loads(row["values"])
        if "raw" in values:
            assert cells[planted.row]["product_code"] in values["raw"]
        else:
            assert values == cells[planted.row]
    foreign = [rejected[p.row]["reason"] for p in doomed if p.fault == "line in another encoding"]
    assert all("is UTF-8 in a file" in reason or "that are not" in reason for reason in foreign)


def test_correctable_corruptions_are_corrected_to_the_true_value(export: Export) -> None:
    folder, faults, out = export
    cells, samples = cells_of(folder), rows_of(out)
    mended = [planted for planted in faults if planted.outcome == "mended"]
    assert {planted.fault for planted in mended} >= set(CHANGES) | {"price in pounds"}
    for planted in mended:
        sample = samples[cells[planted.row]["product_code"]]
        if planted.mended is not None and CORRUPTIONS[planted.fault].part == "price":
            assert sample[planted.column] == float(planted.mended.replace(",", "."))
        elif planted.mended is not None:
            assert sample[planted.column] == planted.mended
        elif planted.fault == "control token in title":
            assert "<|" not in sample["title"]
            assert "</s>" not in sample["title"]
        shown = open_image(sample["image"]["bytes"])
        assert shown.mode in ("RGB", "L")
        if planted.fault == "turned by EXIF":
            # It lies on its side in the file.
            lying = open_image(folder / cells[planted.row]["image"])
            assert shown.size == lying.size
            assert 274 not in shown.getexif()
    changes = told(out)["changes"]
    for fault, change in CHANGES.items():
        count = sum(planted.fault == fault for planted in mended)
        assert changes.get(change, 0) >= count, (fault, changes)


def test_duplicates_follow_their_row(export: Export) -> None:
    folder, faults, out = export
    cells, samples, rejected = cells_of(folder), rows_of(out), rejected_of(out)
    twins = [planted for planted in faults if planted.partner is not None]
    assert {planted.fault for planted in twins} == {"repeated row", "image under another id"}
    for planted in twins:
        assert planted.partner is not None
        first = samples[cells[planted.partner]["product_code"]]
        if planted.fault == "repeated row":
            assert rejected[planted.row]["reason"] == "duplicate of an earlier row"
            assert rejected[planted.row]["detail"] == f"row {planted.partner}"
        else:
            second = samples[cells[planted.row]["product_code"]]
            assert (second["group_id"], second["split"]) == (first["group_id"], first["split"])
            assert second["title"] != first["title"]


def test_groups_stay_on_one_side_and_the_leaks_of_chance_are_reported(export: Export) -> None:
    samples = rows_of(export[2]).values()
    sides = {(sample["group_id"], sample["split"]) for sample in samples}
    assert len(sides) == len({group for group, _ in sides})
    leaks = told(export[2])["leaks"]
    assert leaks
    assert all(here == 0 for here, _ in leaks.values())
    assert any(at_random > 0 for _, at_random in leaks.values())


def test_the_datasets_library_opens_the_result(export: Export, tmp_path: Path) -> None:
    opened = datasets.load_dataset(str(export[2]), cache_dir=str(tmp_path))
    samples = rows_of(export[2])
    assert sum(part.num_rows for part in opened.values()) == len(samples)
    for split, part in opened.items():
        row = part[0]
        assert samples[row["id"]]["split"] == split
        assert row["image"].size == open_image(samples[row["id"]]["image"]["bytes"]).size


def test_samples_are_loaded_and_their_answers_read_back(export: Export) -> None:
    template = find_template(str(export[2]))
    assert template == find_template("product")
    for sample in load_samples(export[2]):
        (shown,) = sample.open_images()
        assert min(shown.size) >= 28
        assert template.parse(template.render(sample.record)) == template.select(sample.record)


def test_a_template_file_of_ones_own_words_the_records(tmp_path: Path) -> None:
    words = tmp_path / "own.yaml"
    words.write_text(
        "question: Colour?\nanswer: 'It is {colour}, {weight:number} g, {category}.'\n"
    )
    rows = [product(n, colour=f"red, {n} g, |", weight=f"1.0{n}0,5") for n in range(6)]
    rows[2]["weight"] = "n/a"
    rows[3]["colour"] = " "
    shop = write_shop(tmp_path / "shop", rows)
    outcome = run(shop, tmp_path / "out", template=str(words))
    assert outcome.metadata["rejected"] == {"weight has no value": 1, "colour is empty": 1}
    template = find_template(str(tmp_path / "out"))
    samples = load_samples(tmp_path / "out")
    assert len(samples) == 4
    for sample in samples:
        assert template.parse(template.render(sample.record)) == template.select(sample.record)
    assert {sample.record["weight"] for sample in samples} == {1000.5, 1010.5, 1040.5, 1050.5}


def test_a_template_whose_fields_are_not_there_is_rejected_at_once(tmp_path: Path) -> None:
    words = tmp_path / "own.yaml"
    words.write_text("question: Colour?\nanswer: 'It is {colour}.'\n")
    shop = write_shop(tmp_path / "shop", products(3))
    with pytest.raises(ValueError, match="the template 'own' needs colour; found sku, title"):
        run(shop, tmp_path / "out", template=str(words))


def test_a_catalog_without_prices_gets_a_template_of_its_own_columns(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "price"} for row in products(5)]
    run(write_shop(tmp_path / "shop", rows), tmp_path / "out")
    template = find_template(str(tmp_path / "out"))
    assert template.answer == "Product: {title}, Category: {category3_code:category}"


def test_a_source_without_a_usable_row_is_an_error_with_three_reasons(tmp_path: Path) -> None:
    rows = products(10)
    for number in (0, 1, 2, 3):
        rows[number]["price"] = "N/A"
    for number in (4, 5, 6):
        rows[number]["photo"] = f"images/none-{number}.png"
    for number in (7, 8):
        rows[number]["title"] = ""
    rows[9]["category"] = ""
    shop = write_shop(tmp_path / "shop", rows)
    with pytest.raises(ValueError, match=r"none of the 10 rows of .* is usable") as caught:
        run(shop, tmp_path / "out")
    message = str(caught.value)
    assert "full_price has no value (4 rows, such as products.csv line 2: 'N/A')" in message
    assert (
        "no such file (3 rows, such as products.csv line 6: 'images/none-4.png' is neither"
        in message
    )
    assert "title is empty (2 rows, such as products.csv line 9: {" in message
    assert "(1 rows" not in message
    kept = tmp_path / "out-rejected.parquet"
    assert message.endswith(str(kept))
    assert len(pq.read_table(kept)) == 10
    assert {file.name for file in tmp_path.iterdir()} == {"shop", kept.name}


def test_a_source_of_which_no_row_can_be_read_gives_the_reason_and_keeps_the_rows(
    tmp_path: Path,
) -> None:
    said = [{"role": "user", "content": "<|image_5|>?"}, {"role": "assistant", "content": "Hat"}]
    line = json.dumps({"messages": said, "images": ["a.png"]}) + "\n"
    (tmp_path / "talks.jsonl").write_text(line * 3)
    with pytest.raises(ValueError, match=r"\(3 rows, such as talks.jsonl line 1: \[5\] of 1\)"):
        run(tmp_path / "talks.jsonl", tmp_path / "out")
    assert len(pq.read_table(tmp_path / "out-rejected.parquet")) == 3


def test_a_table_of_one_column_is_named(tmp_path: Path) -> None:
    lines = [
        f"A{number:03}    Wool Cap {number}   Hats   240.00   p{number}.png\n"
        for number in range(4)
    ]
    (tmp_path / "fixed.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match=r"found only 'A000 Wool Cap 0 .*save the table as CSV"):
        run(tmp_path / "fixed.txt", tmp_path / "out")


def test_all_that_json_can_hold_ends_in_columns_of_one_type(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(1))
    common = {"photo": "a.png", "title": "A", "type": "T", "price": 5}
    values: list[dict[str, object]] = [
        {"whole": 1, "mixed": 1, "real": 1, "code": 2**63, "long": 2**60, "flag": True},
        {"whole": 2, "mixed": "x", "real": 0.5, "code": 7, "long": 0.5, "flag": False},
        {"whole": None, "mixed": True, "real": float("nan"), "code": None, "long": None},
        {"tags": ["a", "<|end|>"], "deep": {"b": 1}, "blank": "  ", "half": "\ud83d", "big": 1e999},
    ]
    lines = [json.dumps(common | {"sku": f"S{n}"} | row) for n, row in enumerate(values)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines).replace("Infinity", "1e999"))
    outcome = run(tmp_path / "rows.jsonl", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    columns: dict[str, list[object]] = {
        "whole": [1, 2, None, None],
        "mixed": ["1", "x", "True", None],
        "real": [1.0, 0.5, None, None],
        "code": ["9223372036854775808", "7", None, None],
        "long": ["1152921504606846976", "0.5", None, None],  # a float would round the first
        "flag": [True, False, None, None],
        "tags": [None, None, None, '["a", "< |end|>"]'],
        "deep": [None, None, None, '{"b": 1}'],
        "blank": [None, None, None, None],
        "half": [None, None, None, "\ufffd"],
        "big": [None, None, None, float("inf")],
    }
    for name, expected in columns.items():
        assert [rows[f"S{n}"][name] for n in range(4)] == expected, name
    # What is written can be read by any reader of JSON, which knows no NaN and no Infinity.
    text = (tmp_path / "out" / "prepared.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == outcome.metadata


def test_late_columns_and_names_that_the_dataset_needs_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "FIRST_ROWS", 3)
    (tmp_path / "a.png").write_bytes(image(1))
    common = {"photo": "a.png", "sku": "S", "title": "A", "type": "T", "price": 5}
    early = [common | {"sku": f"S{n}", "group_id": f"g{n}"} for n in range(3)]
    late = common | {"sku": "L", "id": "7", "image": "b", "Title": "B", "Late one": "c"}
    lines = [json.dumps(row) for row in [*early, late]]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    run(tmp_path / "rows.jsonl", tmp_path / "out", map=("id=sku",))
    row = rows_of(tmp_path / "out")["L"]
    assert row["title"] == "A"
    assert row["Title"] == "B"
    assert row["id_given"] == "7"
    assert row["image_given"] == "b"
    assert row["late_one"] == "c"
    assert rows_of(tmp_path / "out")["S0"]["group_id_given"] == "g0"


def test_dates_decimals_and_lists_of_parquet_are_kept(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": [{"bytes": image(n), "path": None} for n in range(3)],
            "id": [10, 11, 12],
            "title": ["/etc/passwd", "images/0.png", "https://shop.example/a.jpg"],
            "category": ["T", "T", "T"],
            "price": pa.array(["5.10", "6.20", "7.30"]).cast(pa.decimal128(9, 2)),
            "sold": [datetime.date(2026, 1, day) for day in (1, 2, 3)],
            "at": [datetime.datetime(2026, 1, 1, 12, day) for day in (1, 2, 3)],
            "sizes": [[1, 2], [], None],
            "thumb": [b"\xff\xd8", None, None],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    run(tmp_path / "rows.parquet", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert sorted(rows) == ["10", "11", "12"]
    assert [rows[name]["full_price"] for name in sorted(rows)] == [5.1, 6.2, 7.3]
    assert [rows[name]["title"] for name in sorted(rows)] == table["title"].to_pylist()
    assert rows["10"]["sold"] == "2026-01-01"
    assert rows["10"]["at"] == "2026-01-01T12:01:00"
    assert [rows[name]["sizes"] for name in sorted(rows)] == ["[1, 2]", "[]", None]
    assert rows["10"]["thumb"] is None
    assert told(tmp_path / "out")["changes"]["bytes left out of the record"] == 1


def test_text_that_resembles_a_path_is_no_image(tmp_path: Path) -> None:
    rows = [product(n, manual="images/0.png", note="a.jpg") for n in range(4)]
    rows[1]["photo"] = "../../etc/shadow"
    outcome = run(write_shop(tmp_path / "shop", rows), tmp_path / "out")
    assert outcome.metadata["columns"]["image"] == "photo (guessed)"
    assert rows_of(tmp_path / "out")["S0"]["manual"] == "images/0.png"
    assert rejected_of(tmp_path / "out")[1]["reason"] == "outside the folder"


def test_ids_given_again_and_repeated_rows_are_distinguished(tmp_path: Path) -> None:
    rows = [product(0), product(1, sku="S0"), product(2, sku="S0"), product(0)]
    run(write_shop(tmp_path / "shop", rows), tmp_path / "out", map=("id=sku",))
    assert sorted(rows_of(tmp_path / "out")) == ["S0", "S0-2", "S0-3"]
    assert rejected_of(tmp_path / "out")[3]["detail"] == "row 0"


def test_the_description_of_the_source_is_on_the_card(tmp_path: Path) -> None:
    shop = Path(write_shop(tmp_path / "shop", products(4))).parent
    (shop / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A shop\n")
    run(shop / "products.csv", tmp_path / "out", license="my <own> terms")
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\nlicense: my <own> terms\n")
    assert "| license | my &lt;own> terms |" in text
    assert str(shop / "products.csv") in text
    assert "my &lt;own&gt; terms" in (tmp_path / "out" / "card.html").read_text()


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        (lambda shop: shop, "contains the other"),
        (lambda shop: shop / "out", "contains the other"),
        (lambda shop: shop.parent, "contains the other"),
        (lambda shop: shop.parent / "other", "was not written by `prepare`"),
        (lambda shop: shop.parent / "file", "is a file; choose another place"),
        (lambda shop: shop.parent / "file" / "sub", "is a file; choose another place"),
        (lambda shop: Path("/"), "contains the other"),
    ],
)
def test_a_folder_that_is_something_else_stays_untouched(
    tmp_path: Path, place: Callable[[Path], Path], complaint: str
) -> None:
    shop = Path(write_shop(tmp_path / "work" / "shop", products(3))).parent
    for number in range(3):
        shutil.copy(shop / "images" / f"{number}.png", shop / f"{number}.png")
    (shop / "products.csv").unlink()
    (tmp_path / "work" / "other").mkdir()
    (tmp_path / "work" / "other" / "thesis.tex").touch()
    (tmp_path / "work" / "file").touch()
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=complaint):
        run(shop, place(shop))
    assert tree(tmp_path) == before


def test_an_empty_folder_may_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run(write_shop(tmp_path / "shop", products(3)), tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 3


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", products(3))
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "dataset")
    for count in (3, 4):
        shop = write_shop(tmp_path / "shop", products(count))
        run(shop, tmp_path / "out")
        assert (tmp_path / "out").is_symlink()
        assert len(rows_of(tmp_path / "disk" / "dataset")) == count
    assert [file.name for file in (tmp_path / "disk").iterdir()] == ["dataset"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"validation": 0.6, "test": 0.4}, "leave no training data"),
        ({"validation": float("nan")}, "leave no training data"),
        ({"shard_size": 0}, "shard_size is 0; it must be at least 1"),
        ({"workers": -1}, "workers is -1; it must be at least 0"),
        ({"workers": 0, "engine": "ray"}, "workers is 0; it must be at least 1"),
        ({"ray_address": "auto"}, "ray_address is auto, but the engine local has no cluster"),
    ],
)
def test_options_that_cannot_be_meant_are_rejected(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PrepareConfig(out=Path("out"), **options)


def test_splits_are_dealt_by_their_shares(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", products(60))
    run(shop, tmp_path / "out", validation=0.25, test=0.25)
    splits = list(splits_of(tmp_path / "out").values())
    assert 27 <= splits.count("train") <= 33
    assert 12 <= splits.count("validation") <= 18


def test_invented_titles_change_the_order_of_the_answer_unless_one_is_given(tmp_path: Path) -> None:
    names = list(map("".join, itertools.product("bdfgk", "aeiou", ["rn", "lt", "mp"])))
    table = tmp_path / "shop.csv"
    lines = [f"{name.title()} Hoodie,HOODIES,{n},{n}.png" for n, name in enumerate(names, start=9)]
    table.write_text("title,category,price,image\n" + "\n".join(lines) + "\n")
    for n in range(9, 9 + len(names)):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    run(table, tmp_path / "chosen")
    about = told(tmp_path / "chosen")["answer"]
    assert about["order"] == "category3_code, full_price, title"
    assert about["reason"].startswith("100% of the titles have a word that no other product has")
    assert "Order of the answer" in (tmp_path / "chosen" / "README.md").read_text()
    assert find_template(str(tmp_path / "chosen")).name == "category-first"
    run(table, tmp_path / "asked", template="product")
    assert told(tmp_path / "asked")["answer"] == {}
    assert find_template(str(tmp_path / "asked")).name == "product"
