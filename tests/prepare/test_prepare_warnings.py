"""Splits that come out wrong and prices that may be read otherwise are warned of with numbers."""

from pathlib import Path

import pytest
from catalogs import product, products, rows_of, run, splits_of, write_shop


def warnings_of(tmp_path: Path, rows: list[dict[str, str]], **options: str) -> dict[str, str]:
    shop = write_shop(tmp_path / "shop", rows)
    found: dict[str, str] = run(shop, tmp_path / "out", **options).metadata["warnings"]
    return found


def test_a_catalog_without_trouble_has_no_warnings(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, products(60)) == {}


def test_titles_that_repeat_over_prices_group_nothing(tmp_path: Path) -> None:
    rows = [product(n, title=("T-shirt", "Dress")[n % 2]) for n in range(40)]
    assert "40 rows" in warnings_of(tmp_path, rows)["titles"]
    assert {row["split"] for row in rows_of(tmp_path / "out").values()} == {
        *("train", "validation", "test")
    }


def test_generic_titles_of_few_prices_group_nothing(tmp_path: Path) -> None:
    rows = [
        product(n, title=f"Title {n % 10}", price=("9.99", "19.99", "29.99")[n // 10 % 3])
        for n in range(80)
    ]
    assert "80 rows" in warnings_of(tmp_path, rows)["titles"]


@pytest.mark.parametrize("name", ["title", "label"])
def test_classes_without_prices_are_not_one_group_each(tmp_path: Path, name: str) -> None:
    rows = [
        {name: ("shirt", "bag", "hat", "shoes")[n % 4], "photo": f"images/{n}.png"}
        for n in range(40)
    ]
    warnings_of(tmp_path, rows)
    by_split = {row["split"]: set[str]() for row in rows_of(tmp_path / "out").values()}
    for row in rows_of(tmp_path / "out").values():
        by_split[row["split"]].add(row.get("title") or row["category3_code"])
    assert len(by_split) == 3
    assert len(by_split["train"]) == 4


def test_a_title_of_one_price_is_a_product_in_its_colours(tmp_path: Path) -> None:
    rows = [product(n, title=f"Coat {n // 6}", price="390", category="Coats") for n in range(60)]
    found = warnings_of(tmp_path, rows)
    assert "titles" not in found
    assert len({row["group_id"] for row in rows_of(tmp_path / "out").values()}) == 10


def test_an_empty_split_is_reported_with_its_groups(tmp_path: Path) -> None:
    rows = [product(n, title=f"Coat {n // 6}", price="390", category="Coats") for n in range(12)]
    found = warnings_of(tmp_path, rows)
    assert found["test"] == (
        "no sample: 12 samples are in 2 groups, the largest of 6; --grouping images or none makes "
        "more groups, --test 0.3 or another --seed fills it"
    )
    assert "leakage of 1 in test" not in found
    assert len(set(splits_of(run_again(tmp_path, "images")).values())) == 3


def run_again(tmp_path: Path, grouping: str) -> Path:
    out = tmp_path / grouping
    return run(tmp_path / "shop" / "products.csv", out, grouping=grouping).folder


def test_the_test_split_of_a_source_stays_whole_where_titles_repeat(tmp_path: Path) -> None:
    rows = [
        product(n, title=f"Coat {n % 10}", split="test" if n >= 30 else "train") for n in range(40)
    ]
    found = warnings_of(tmp_path, rows)
    assert list(splits_of(tmp_path / "out").values()).count("test") == 10
    assert found["leakage of 10 in test"].startswith("10 share an image, title or group")
    strict = splits_of(run_again(tmp_path, "strict"))
    assert set(strict.values()) == {"train"}


def test_a_category_of_one_side_is_reported(tmp_path: Path) -> None:
    rows = [
        product(n, category="Hats" if n < 10 else "Bags", split="test" if n > 14 else "train")
        for n in range(20)
    ]
    found = warnings_of(tmp_path, rows)
    assert found["only in train"].startswith("1 of 2 categories: Hats (10)")
    rows = [product(n, category=f"C{n}", split="test" if n > 14 else "train") for n in range(20)]
    assert "5 of 20 categories" in warnings_of(tmp_path, rows)["never in train"]


def test_splits_of_other_names_are_reported(tmp_path: Path) -> None:
    rows = [product(n, split="AB"[n % 2]) for n in range(60)]
    text = warnings_of(tmp_path, rows)["splits of the source"]
    assert text == (
        "A (30), B (30) are no known names; dealt like the others; rename them to train, "
        "validation or test to keep them, or --resplit draws all anew"
    )


def test_ambiguous_prices_are_reported_with_an_example_and_the_option(tmp_path: Path) -> None:
    rows = [product(n, price=f"{n + 19}.990") for n in range(20)]
    assert warnings_of(tmp_path, rows)["full_price"] == (
        "20 ambiguous numbers, such as 19.990, read as 19990; --decimal point or comma decides"
    )
    assert "full_price" not in warnings_of(tmp_path, rows, decimal="point")


def test_mixed_currencies_are_reported(tmp_path: Path) -> None:
    rows = [product(n, price=f"{'€£'[n % 3 == 0]}{n + 5}") for n in range(60)]
    key = "currencies of full_price"
    assert warnings_of(tmp_path, rows)[key] == "EUR (40), GBP (20); amounts are not converted"
    rows = [product(n, currency=("EUR", "USD")[n % 2]) for n in range(60)]
    assert "EUR (30), USD (30)" in warnings_of(tmp_path, rows)["currencies of currency"]


def test_prices_of_nothing_are_counted(tmp_path: Path) -> None:
    rows = [product(n, price="0.00" if n < 7 else "5") for n in range(60)]
    found = warnings_of(tmp_path, rows)["full_price of 0"]
    assert found == "7 rows with the price 0, which is trained on; leave it empty"


def test_placeholders_are_counted(tmp_path: Path) -> None:
    rows = [product(n, colour="N/A" if n < 7 else "red") for n in range(60)]
    assert warnings_of(tmp_path, rows)["placeholders"] == "7 rows with N/A or the like, left empty"


def test_advice_for_an_empty_split_is_only_what_can_fill_it(tmp_path: Path) -> None:
    assert warnings_of(tmp_path / "one", products(1))["test"] == (
        "no sample: 1 sample is in 1 group, the largest of 1; only another row fills it"
    )
    rows = [product(n, photo="images/0.png") for n in range(20)]
    assert warnings_of(tmp_path / "photo", rows)["test"] == (
        "no sample: 20 samples are in 1 group, the largest of 20; --grouping none makes more "
        "groups, only another row fills it"
    )


@pytest.mark.parametrize(
    "names", ["Train |validation set|test-set", "train2017|val_2017|Test images", "tr|va|te"]
)
def test_splits_are_known_by_the_names_of_the_field(tmp_path: Path, names: str) -> None:
    given = names.split("|")
    rows = [product(n, split=given[n % 10 - 7 if n % 10 > 7 else 0]) for n in range(40)]
    assert "splits of the source" not in warnings_of(tmp_path, rows)
    known = dict(zip(given, ("train", "validation", "test"), strict=True))
    assert splits_of(tmp_path / "out") == {row["sku"]: known[row["split"]] for row in rows}


@pytest.mark.parametrize(
    ("column", "of_train", "of_test"),
    [("is_test", 0, 1), ("is_train", "yes", "no"), ("IsHoldout", False, True)],
)
def test_a_column_of_yes_and_no_divides_the_rows(
    tmp_path: Path, column: str, of_train: object, of_test: object
) -> None:
    rows = [product(n, **{column: of_test if n < 6 else of_train}) for n in range(20)]
    warnings_of(tmp_path, rows)
    parts = splits_of(tmp_path / "out")
    assert [parts[row["sku"]] for row in rows] == ["test"] * 6 + ["train"] * 14


@pytest.mark.parametrize("test_first", [False, True])
def test_the_same_row_in_train_and_test_stays_in_both_and_is_a_leak(
    tmp_path: Path, test_first: bool
) -> None:
    names = ("test", "train") if test_first else ("train", "test")
    rows = [product(n % 15, split=names[n // 15]) for n in range(20)] + [product(0, split=names[0])]
    found = warnings_of(tmp_path, rows)
    splits = list(splits_of(tmp_path / "out").values())
    assert (splits.count(names[0]), splits.count(names[1])) == (15, 5)
    size = splits.count("test")
    assert found[f"leakage of {size} in test"].startswith("5 share an image, title or group")


def test_a_leak_by_the_image_alone_is_reported_and_so_are_rows_without_a_split(
    tmp_path: Path,
) -> None:
    rows = [
        product(n, photo=f"images/{n % 15}.png", split=("train", "", "test")[n // 10])
        for n in range(30)
    ]
    found = warnings_of(tmp_path, rows)
    assert found["leakage of 15 in test"].startswith("5 share an image, title or group with train")
    assert found["splits of the source"].startswith("none (10) are no known names; dealt like the")


def test_a_source_without_a_validation_split_says_what_takes_its_place(tmp_path: Path) -> None:
    found = warnings_of(
        tmp_path, [product(n, split="test" if n > 14 else "train") for n in range(20)]
    )
    assert found["validation"] == (
        "no sample, as the source's own splits are kept; training holds out some of train, "
        "--resplit draws others"
    )
