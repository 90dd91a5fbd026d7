"""Hierarchies found in columns of categories."""

import pytest

from phi_vision.data.samples import Sample
from phi_vision.metrics.category_hierarchy import find_hierarchy


def samples(*rows, columns=("category1_code", "category2_code", "category3_code")):
    return [
        Sample(
            id=str(place), group=str(place), images=(), record=dict(zip(columns, row, strict=True))
        )
        for place, row in enumerate(rows)
    ]


SHOP = [
    ("WEAR",  "COATS", "PARKAS"),
    ("WEAR",  "COATS", "CAPES"),
    ("WEAR",  "KNITS", "CARDIGANS"),
    ("GOODS", "BAGS",  "TOTES"),
    ("GOODS", "BAGS",  "CLUTCHES"),
    ("GOODS", "SHOES", "BOOTS"),
]  # fmt: skip


def test_levels_above_a_category():
    hierarchy = find_hierarchy("category3_code", samples(*SHOP))
    assert hierarchy.levels == ("category2_code", "category1_code")
    assert hierarchy.ancestors["PARKAS"] == ("COATS", "WEAR")
    assert hierarchy.ancestors["BOOTS"] == ("SHOES", "GOODS")
    assert "HATS" not in hierarchy.ancestors
    assert hierarchy.path("BOOTS") == {(0, "BOOTS"), (1, "SHOES"), (2, "GOODS")}
    assert hierarchy.path("HATS") == {(0, "HATS")}


def test_a_name_at_two_heights_is_two_places():
    hierarchy = find_hierarchy("category2", samples(*DRESSES, columns=("category1", "category2")))
    assert hierarchy.path("DRESSES") == {(0, "DRESSES"), (1, "DRESSES")}


DRESSES = [("DRESSES", "DRESSES"), ("TOPS", "TEES"), ("TOPS", "SHIRTS")]


@pytest.mark.parametrize(
    ("field", "columns"),
    [
        ("category2_code", ("category1_code", "category2_code")),
        ("level_10",       ("level_9", "level_10")),
        ("l2v1_name",      ("l1v1_name", "l2v1_name")),
        ("shop7_cat2",     ("shop7_cat1", "shop7_cat2")),
    ],
)  # fmt: skip
def test_columns_differ_in_one_number(field, columns):
    assert find_hierarchy(field, samples(*DRESSES, columns=columns)).levels == columns[:1]


@pytest.mark.parametrize(
    ("field", "columns"),
    [
        ("category", ("category1", "category")),          # no number
        ("category1", ("category2", "category1")),        # the other column is below
        ("category2_code", ("category1", "category2_code")),  # another name
    ],
)  # fmt: skip
def test_other_names_are_no_levels(field, columns):
    assert find_hierarchy(field, samples(*DRESSES, columns=columns)) is None


def test_a_column_that_contradicts_itself_is_no_level():
    """Coats are worn by women and men: the audience does not stand above the kind of garment."""
    rows = [("WOMEN", "COATS", "PARKAS"), ("MEN", "COATS", "PARKAS"), ("MEN", "BAGS", "TOTES")]
    hierarchy = find_hierarchy("category3_code", samples(*rows, ("WOMEN", "COATS", "CAPES")))
    assert hierarchy.levels == ("category2_code",)
    assert hierarchy.ancestors["PARKAS"] == ("COATS",)


def test_one_row_in_a_hundred_may_be_odd():
    slip = ("GOODS", "BAGS", "PARKAS")
    assert (
        find_hierarchy("category3_code", samples(*SHOP * 17, slip)).ancestors["PARKAS"][0]
        == "COATS"
    )
    assert find_hierarchy("category3_code", samples(*SHOP * 16, slip)) is None


def test_a_root_and_a_level_that_merges_nothing_are_left_out():
    rows = [("ALL", "a", "A"), ("ALL", "b", "B"), ("ALL", "c", "C")]
    assert find_hierarchy("category3_code", samples(*rows)) is None


def test_empty_cells_are_no_parents():
    rows = [("WEAR", "COATS", "CAPES"), ("", None, "CAPES"), ("", None, "HATS"), ("", None, None)]
    hierarchy = find_hierarchy("category3_code", samples(*SHOP, *rows))
    assert hierarchy.ancestors["CAPES"] == ("COATS", "WEAR")
    assert hierarchy.path("HATS") == {(0, "HATS")}


def test_no_samples_have_no_hierarchy():
    assert find_hierarchy("category3_code", []) is None
