"""Which column is what: the user's word, else names and first values."""

from pathlib import Path

import pytest

from phi_vision.data.template import TEMPLATES, Template
from phi_vision.prepare.columns import Columns, choose_columns, field_name
from phi_vision.prepare.sources.rows import Row

PRODUCT = TEMPLATES["product"]


def rows(*values: dict[str, object]) -> list[Row]:
    return [Row(number=n, origin=f"line {n}", values=each) for n, each in enumerate(values)]


def choose(
    *values: dict[str, object],
    given: dict[str, str] | None = None,
    template: Template | None = PRODUCT,
    folder: Path | None = None,
) -> Columns:
    return choose_columns(rows(*values), template, given or {}, folder)


def test_the_columns_of_a_shop_export_are_guessed_and_the_guess_is_reported() -> None:
    shop = {
        "Handle": "coat",
        "Variant SKU": "C-1",
        "Product Name": "Coat",
        "Product Type": "COATS",
        "Price": "390",
        "Image Src": "https://cdn.example/1",
    }
    columns = choose(shop, shop | {"Variant SKU": "C-2"})
    assert columns.image == ("Image Src",)
    assert columns.id == "Variant SKU"
    assert columns.fields == {
        "Handle": "Handle",
        "variant_sku": "Variant SKU",
        "title": "Product Name",
        "category3_code": "Product Type",
        "full_price": "Price",
    }
    assert columns.describe()["title"] == "Product Name (guessed)"


def test_the_model_case_is_taken_as_it_is() -> None:
    burberry = {
        "product_code": 1,
        "title": "Coat",
        "category1_code": "M",
        "category3_code": "COATS",
        "itemurl": "https://shop.example/p/1.html",
        "imageurl": "https://shop.example/i/1?$PDP$",
        "full_price": 390.0,
        "price": 300.0,
    }
    columns = choose(burberry)
    assert columns.image == ("imageurl",)
    assert columns.id == "product_code"
    assert columns.group is None
    assert {field: column for field, column in columns.fields.items() if field != column} == {}
    assert "imageurl" not in columns.fields


def test_explicit_values_take_precedence() -> None:
    row = {"photo": "a.jpg", "back": "b.jpg", "name": "Coat", "label": "Best", "art": "7"}
    columns = choose(row, given={"image": "photo,back", "title": "label", "id": "art"})
    assert columns.image == ("photo", "back")
    assert columns.fields == {"name": "name", "title": "label", "art": "art"}
    found = {part: text for part, text in columns.describe().items() if "not found" not in text}
    assert found == {"image": "photo, back", "id": "art", "title": "label"}


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        # An image at hand, a file that is there, a link like an image, a link by its name only.
        ({"image": {"bytes": b"x", "path": None}, "imageurl": "https://a.b/c.jpg"}, "image"),
        ({"imageurl": "pub/media/a.jpg", "local_image_path": "there.jpg"}, "local_image_path"),
        ({"link": "https://a.b/page.html", "image_url": "https://a.b/c.jpg"}, "image_url"),
        ({"itemurl": "https://a.b/page", "imageurl": "https://a.b/c"}, "imageurl"),
        ({"odd": "data:image/png;base64,AA", "photo": ""}, "odd"),
        ({"Bild": ["there.jpg", "b.jpg"]}, "Bild"),
    ],
)
def test_the_column_that_most_surely_holds_images_is_taken(
    tmp_path: Path, columns: dict[str, object], chosen: str
) -> None:
    (tmp_path / "there.jpg").touch()
    assert choose(columns, folder=tmp_path).image == (chosen,)


def test_an_id_must_be_unique() -> None:
    same = [{"image": b"x", "code": "A", "sku": str(n)} for n in range(9)]
    assert choose(*same).id == "sku"


def test_a_template_of_ones_own_finds_its_fields() -> None:
    own = Template(
        name="own", question="What?", answer="{category}: {colour}, {price:number}", layout="chat"
    )
    columns = choose({"image": b"x", "Product Type": "A", "colour": "red", "RRP": 5}, template=own)
    assert columns.fields["category"] == "Product Type"
    assert columns.fields["colour"] == "colour"
    assert columns.fields["price"] == "RRP"


def test_conversations_need_no_images() -> None:
    columns = choose({"id": "1", "messages": [], "images": []}, template=None)
    assert columns.messages == "messages"
    assert columns.image == ()


def test_columns_that_the_dataset_needs_for_itself_are_renamed() -> None:
    row = {"image": b"x", "id": "7", "group_id": "g", "sku": "S", "style": "s"}
    columns = choose(row, given={"id": "sku", "group": "style"})
    assert columns.fields == {
        "id_given": "id",
        "group_id_given": "group_id",
        "sku": "sku",
        "style": "style",
    }


def test_a_late_column_is_a_field_too() -> None:
    columns = choose({"image": b"x", "title": "A"})
    (late,) = rows({"image": b"x", "title": "B", "Colour name": "red"})
    assert columns.fields_of(late) == {"title": "title", "colour_name": "Colour name"}


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("category3_code", "category3_code"),
        ("Price (GBP)", "price_gbp"),
        ("2nd line", "field_2nd_line"),
        ("größe", "größe"),
        ("!!", "field"),
    ],
)
def test_field_names_can_stand_in_braces(column: str, name: str) -> None:
    assert field_name(column) == name


def test_a_column_that_does_not_exist_is_rejected_with_those_that_do() -> None:
    with pytest.raises(ValueError, match="no column 'Foto'; found photo, name"):
        choose({"photo": "a.jpg", "name": "A"}, given={"image": "Foto"})


def test_a_source_without_images_is_rejected() -> None:
    with pytest.raises(ValueError, match="no column holds images; found name, price"):
        choose({"name": "A", "price": 5})
