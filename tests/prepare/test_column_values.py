"""Columns that are not what they are called: the values decide with the name."""

from pathlib import Path

import pytest
from catalogs import product, products, rows_of, run, write_shop
from test_columns import choose

from phi_vision.prepare.sources.rows import Row

LABELS = ["shirt", "shoes", "bag", "hat"]


def repeated(name: str, values: list[str], **others: str) -> list[dict[str, object]]:
    """Write forty rows of which one column repeats the values."""
    return [
        {"image": b"x", name: values[n % len(values)], **{k: v + str(n) for k, v in others.items()}}
        for n in range(40)
    ]


@pytest.mark.parametrize("name", ["label", "text", "caption", "class", "Category"])
def test_values_that_repeat_are_categories_whatever_they_are_called(name: str) -> None:
    columns = choose(*repeated(name, LABELS, price="1"))
    assert columns.fields == {"category3_code": name, "full_price": "price"}
    assert "title" in columns.missing


def test_captions_that_differ_are_titles_and_the_guess_is_doubtful() -> None:
    columns = choose(*repeated("label", LABELS, caption="A wool cap "))
    assert columns.fields == {"category3_code": "label", "title": "caption"}
    title = columns.describe()["title"]
    assert title.endswith("doubtful: a name that may mean anything; --map title=COLUMN changes it")


def test_a_category_beside_generic_titles_stays_the_category() -> None:
    columns = choose(*repeated("name", ["T-shirt", "Dress"], category="c"))
    assert columns.fields == {"title": "name", "category3_code": "category"}
    assert "only 2 different values in 40 rows" in columns.describe()["title"]


@pytest.mark.parametrize(
    ("columns", "price"),
    [
        ({"amount": ["3", "1"], "unit_price": ["240.0", "930.0"]}, "unit_price"),
        ({"amount": ["3", "1"]}, None),
        ({"amount": ["$3", "$1"]}, "amount"),
        ({"amount": ["3.50", "1"]}, "amount"),
        ({"cost": ["9.50", "8.00"]}, None),
        ({"cost": ["9.50", "8.00"], "sale price": ["19", "15"]}, "sale price"),
        ({"price": ["", "N/A"], "Price (USD)": ["5", "6"]}, "Price (USD)"),
        ({"price": ["budget", "luxury"], "RRP": ["5", "6"]}, "RRP"),
        ({"discount_price": ["₹120", "₹465"], "actual_price": ["₹240", "₹930"]}, "actual_price"),
        ({"price": ["", "-"]}, None),
    ],
    ids=str,
)
def test_a_price_is_no_quantity_and_no_purchase_cost(
    columns: dict[str, list[str]], price: str | None
) -> None:
    rows = [{"image": b"x", "title": f"T{n}"} for n in range(2)]
    found = choose(*(row | {k: v[n] for k, v in columns.items()} for n, row in enumerate(rows)))
    assert found.fields.get("full_price") == price
    assert ("full_price" in found.missing) == (price is None)


def test_the_types_of_shop_systems_are_no_categories() -> None:
    shop = {"image": b"x", "Type": "simple, virtual", "product_type": "configurable"}
    assert "category3_code" in choose(shop).missing
    assert choose(shop | {"Categories": "Hats"}).fields["category3_code"] == "Categories"
    many = [shop | {"Type": "simple", "sku": str(n)} for n in range(40)]
    assert "category3_code" in choose(*many).missing
    assert choose(shop | {"Type": "Hats"}).fields["category3_code"] == "Type"


def test_numbers_and_free_texts_are_worse_categories() -> None:
    rows = repeated("category", ["12", "17"], subcategory="c")
    rows = [row | {"sub_category": LABELS[n % 4]} for n, row in enumerate(rows)]
    assert choose(*rows).fields["category3_code"] == "sub_category"


def test_a_constant_description_is_no_category() -> None:
    rows = [{"image": b"x", "title": f"T{n}", "description": "Handmade"} for n in range(40)]
    assert "category3_code" in choose(*rows).missing


def test_images_in_numbered_columns_are_named() -> None:
    rows = [{f"IMAGE{n}": f"https://a.b/{n}.jpg" for n in (1, 2, 3)} | {"name": "Coat"}]
    found = choose(*rows)
    assert found.image == ("IMAGE1",)
    assert found.describe()["image"] == (
        "IMAGE1 (guessed), doubtful: images also in IMAGE2, IMAGE3 (image=IMAGE1,IMAGE2 takes "
        "both); --map image=COLUMN changes it"
    )
    assert "image" not in choose({"image_1": b"x", "image_2": "", "name": "Coat"}).doubts


def test_an_empty_price_falls_back_on_the_next_one() -> None:
    rows = [
        {"image": b"x", ("sale_price", "regular_price")[n % 2]: "9.50", "title": f"T{n}"}
        for n in range(20)
    ]
    found = choose(*rows)
    assert found.describe()["full_price"].startswith("regular_price, else sale_price (guessed)")
    fields = [found.fields_of(Row(number=0, origin="", values=row))["full_price"] for row in rows]
    assert fields[:2] == ["sale_price", "regular_price"]
    assert not choose(*[row | {"regular_price": "9"} for row in rows]).otherwise


def test_the_price_of_a_shop_may_be_that_of_its_variants() -> None:
    variants = [{"title": "S", "price": "25.00"}, {"title": "M", "price": "20.00"}]
    assert choose({"image": b"x", "variants": variants}).fields["full_price"] == "variants"


def test_a_column_of_splits_is_the_split_whatever_it_is_called() -> None:
    rows = [{"image": b"x", "title": f"T{n}", "set": ("train", "Test")[n % 2]} for n in range(4)]
    assert choose(*rows).split == "set"
    assert choose(*[row | {"set": "train"} for row in rows]).split is None


def test_a_column_of_images_that_are_none_is_shown() -> None:
    with pytest.raises(ValueError, match=r"found image, title \(in 'image': '<none here>'\); map"):
        choose({"image": "<none here>", "title": "Coat"})


@pytest.mark.parametrize(
    ("title", "category", "price"),
    [("Bezeichnung", "Warengruppe", "Preis"), ("Название", "Категория", "Цена")],
)
def test_headers_of_other_languages_are_known(title: str, category: str, price: str) -> None:
    found = choose({"image": b"x", title: "A", category: "B", price: "5"})
    assert found.fields == {"title": title, "category3_code": category, "full_price": price}


def test_few_values_are_no_groups() -> None:
    assert choose(*repeated("style", ["casual", "formal"], title="T")).group is None
    assert choose(*repeated("style", [f"S{n}" for n in range(20)])).group == "style"


def test_a_field_that_is_not_there_is_reported_with_what_is_like_it() -> None:
    found = choose({"image": b"x", "title": "A", "cost": "5", "our price": "7"}).describe()
    assert found["category3_code"] == "not found, left out; --map category3_code=COLUMN adds it"
    assert found["full_price"].endswith("--map full_price=COLUMN adds it, such as cost, our price")


def test_an_empty_price_column_leaves_the_field_out(tmp_path: Path) -> None:
    for name in ("price", "full_price"):
        rows = [{**product(n, price=""), name: ""} for n in range(6)]
        outcome = run(write_shop(tmp_path / name, rows), tmp_path / f"{name}-out")
        assert outcome.metadata["samples"] == 6
        template = outcome.metadata["template"]["answer"]
        assert template == "Product: {title}, Category: {category3_code:category}"
        found = "its column is empty" if name == "full_price" else "not found, left out"
        assert outcome.metadata["columns"]["full_price"].startswith(found)


def test_a_mapping_to_an_empty_column_is_an_error(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", [row | {"price": ""} for row in products(3)])
    with pytest.raises(ValueError, match="full_price is empty"):
        run(shop, tmp_path / "out", map=("full_price=price",))
    assert not rows_of(tmp_path / "out")
