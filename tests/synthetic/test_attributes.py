"""Attributes of drawn products: what the image shows is in the record, and how much is chance."""

import json
import random
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from phi_vision.cli.main import main
from phi_vision.data.kinds import quantity_kind
from phi_vision.data.template import find_template
from phi_vision.evaluation.evaluator import best_achievable
from phi_vision.synthetic.attributes import (
    MARKETS,
    TEMPLATE,
    WEIGHT_NOISE,
    ceilings,
    count_empty,
    visible_attributes,
)
from phi_vision.synthetic.catalog import (
    SPLITS,
    CatalogProduct,
    add_attributes,
    plan_catalog,
    write_catalog,
)
from phi_vision.synthetic.drawing import (
    COLOURS,
    VOCABULARY,
    Garment,
    draw,
    random_garment,
    random_scene,
)

UNITED_KINGDOM, UNITED_STATES = MARKETS
ROWS = 102  # three of each kind


@pytest.fixture(scope="module")
def season() -> list[CatalogProduct]:
    return add_attributes(plan_catalog(3040, seed=0), seed=0)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("catalogs") / "sample"
    write_catalog(out, rows=ROWS, seed=0, with_attributes=True)
    return out


def garment(kind: str, **facts: object) -> Garment:
    plain: dict[str, object] = {"colour": "white", "pattern": "plain", "trim": "none"}
    plain |= {"material": "cotton", "length": "regular", "rgb": COLOURS["white"]}
    return replace(random_garment(random.Random(0), kind), **(plain | facts))  # type: ignore[arg-type]


def test_attributes_follow_from_the_facts_of_the_image() -> None:
    shirt = garment("t-shirt", pattern="striped", accent="red")
    assert visible_attributes(shirt, UNITED_STATES, 310.0) == {
        "product_type": "Apparel > Tops > T-Shirts",
        "colours": "white; red",
        "embroidered": False,
        "lining": None,
        "weight": "6 oz",
        "list_price": "310 USD",
    }
    coat = garment("trench coat", material="wool", trim="fur", lining="navy")
    assert visible_attributes(coat, UNITED_KINGDOM, 1690.0) == {
        "product_type": "Apparel > Outerwear > Trench Coats",
        "colours": "white",
        "embroidered": None,
        "lining": "navy",
        "weight": "1.62 kg",
        "list_price": "1690 GBP",
    }


@pytest.mark.parametrize(
    ("pattern", "trim", "colours"),
    [
        ("plain", "none", "white"),
        ("plain", "embroidery", "white; red; yellow"),
        ("checked", "contrast", "white; blue; red"),
        ("floral", "none", "white; blue; pink"),
    ],
)
def test_a_list_names_each_colour_that_is_drawn_once(pattern: str, trim: str, colours: str) -> None:
    accent = "blue" if pattern != "plain" else ""
    shown = garment("dress", pattern=pattern, trim=trim, accent=accent)
    assert visible_attributes(shown, UNITED_KINGDOM, 1.0)["colours"] == colours


def test_a_second_colour_and_a_lining_are_seen() -> None:
    scene = replace(random_scene(random.Random(3)), background="white", warmth=0.0, noise=0.0)

    def amount(shown: Garment, colour: str) -> int:
        pixels = np.asarray(draw(shown, scene, longest_side=200), int)
        return int((abs(pixels - COLOURS[colour]).max(axis=2) < 50).sum())

    shirt, coat = garment("t-shirt", pattern="striped"), garment("trench coat")
    for closed, shown, colour in (
        (shirt, replace(shirt, accent="red"), "red"),
        (coat, replace(coat, lining="navy"), "navy"),
    ):
        assert amount(closed, colour) < 20
        assert amount(shown, colour) > 400


def test_only_kinds_with_an_inside_have_a_lining_and_about_half_of_them_show_it(
    season: list[CatalogProduct],
) -> None:
    lined = [each for each in season if "inside" in VOCABULARY["kinds"][each.garment.kind]]
    shown = [each for each in lined if each.garment.lining]
    assert 0.5 < len(shown) / len(lined) < 0.7
    assert all(not each.garment.lining for each in season if each not in lined)
    for each in season:
        # A hidden lining is not in the record; a visible one may be missing.
        assert each.record["lining"] in (None, each.garment.lining)
        assert each.garment.lining or each.record["lining"] is None


def test_currency_unit_and_background_follow_the_market(season: list[CatalogProduct]) -> None:
    for market, units in ((UNITED_KINGDOM, {"g", "kg"}), (UNITED_STATES, {"oz"})):
        sold = [each for each in season if each.market == market]
        assert len(sold) / len(season) == pytest.approx(market.share, abs=0.04)
        assert {each.record["currency_code"] for each in sold} == {market.currency}
        assert {each.record["list_price"].split()[1] for each in sold} == {market.currency}
        weights = [each.record["weight"] for each in sold if each.record["weight"]]
        assert {weight.split()[1] for weight in weights} == units
        scenes = [market.photograph(random_scene(random.Random(n))) for n in range(30)]
        assert {scene.background for scene in scenes} == {*market.backgrounds}
    assert not {*UNITED_KINGDOM.backgrounds} & {*UNITED_STATES.backgrounds}


def test_weights_are_as_noisy_as_stated(season: list[CatalogProduct]) -> None:
    pairs = [(each.record["weight"], (each.visible or {})["weight"]) for each in season]
    known = [
        (quantity_kind.normalise(true), quantity_kind.normalise(told))
        for true, told in pairs
        if true
    ]
    errors = [np.log(true[1] / told[1]) for true, told in known if true and told]
    assert np.std(errors) == pytest.approx(
        WEIGHT_NOISE, abs=0.02
    )  # rounded to 5 g or half an ounce


def test_cells_are_empty_alone_or_all_of_a_style(season: list[CatalogProduct]) -> None:
    styles = defaultdict(list)
    for each in season:
        visible = each.visible or {}
        empty = [
            each.record[name] is None for name in TEMPLATE.optional if visible[name] is not None
        ]
        styles[each.record["group_id"]].append(empty)
    without = [cells for cells in styles.values() if all(map(all, cells))]
    assert len(without) / len(styles) == pytest.approx(0.08, abs=0.03)
    others = [
        empty for cells in styles.values() if cells not in without for row in cells for empty in row
    ]
    assert np.mean(others) == pytest.approx(0.05, abs=0.02)


def test_ceilings_are_those_of_answering_exactly_what_the_image_shows() -> None:
    told = visible_attributes(garment("trench coat", lining="navy"), UNITED_KINGDOM, 100.0)
    told |= {"title": "Coat"}
    closed = told | {"lining": None}
    empty = {**told, "lining": None, "weight": None}
    heavier = {**told, "weight": "1.5 kg", "list_price": "125 GBP", "title": "Wren Coat"}
    best = ceilings([(told, told), (told, heavier), (told, empty), (closed, closed)])
    assert best["lining_has_value_precision"] == pytest.approx(2 / 3, abs=1e-6)
    assert best["lining_has_value_recall"] == 1
    assert best["lining_has_value_f1"] == pytest.approx(4 / 5, abs=1e-6)
    assert best["lining_missing_f1"] == pytest.approx(2 / 3, abs=1e-6)
    assert best["lining_overall"] == 3 / 4
    assert best["weight_has_value_precision"] == 3 / 4
    assert best["weight_overall"] == pytest.approx((1 + 1.25 / 1.5 + 0 + 1) / 4, abs=1e-6)
    assert best["list_price_mape"] == pytest.approx(0.2 / 4, abs=1e-6)
    assert best["title_exact"] == 3 / 4
    assert best["product_type_path_f1"] == 1
    # A weight can always be told: which is empty is chance.
    assert "weight_missing_f1" not in best


def test_no_other_guess_about_a_lining_has_a_better_f1(season: list[CatalogProduct]) -> None:
    pairs = [(each.visible or {}, each.record) for each in season]
    best = ceilings(pairs)["lining_has_value_f1"]
    always = ceilings([({**told, "lining": "red"}, true) for told, true in pairs])
    by_kind = [
        (
            told
            | {"lining": "red" if "inside" in VOCABULARY["kinds"][each.garment.kind] else None},
            each.record,
        )
        for (told, _), each in zip(pairs, season, strict=True)
    ]
    assert always["lining_has_value_f1"] < ceilings(by_kind)["lining_has_value_f1"] < best < 1


def test_facts_and_template_lie_beside_the_data(catalog: Path) -> None:
    facts = json.loads((catalog / "facts.json").read_text())
    assert find_template(str(catalog)) == TEMPLATE
    planned = add_attributes(plan_catalog(ROWS, seed=0), seed=0)
    for split in SPLITS:
        rows = pq.read_table(catalog / "data" / f"{split}-00000-of-00001.parquet").to_pylist()
        records = [{k: v for k, v in row.items() if k != "image"} for row in rows]
        members = [each for each in planned if each.split == split]
        assert records == [each.record for each in members]
        assert facts["splits"][split]["empty_cells"] == count_empty(records)
        pairs = [(each.visible or {}, each.record) for each in members]
        assert facts["splits"][split]["best_achievable"] == ceilings(pairs)
        for record in records:
            assert TEMPLATE.parse(TEMPLATE.render(record)) == TEMPLATE.select(record)


def test_an_evaluation_finds_the_ceilings(catalog: Path) -> None:
    best = best_achievable(catalog, "test")
    facts = json.loads((catalog / "facts.json").read_text())
    assert (
        best["lining_has_value_f1"]
        == facts["splits"]["test"]["best_achievable"]["lining_has_value_f1"]
    )
    assert best["full_price_median_ape"] == facts["splits"]["test"]["floor_median_ape"]


def test_the_same_seed_writes_the_same_bytes(catalog: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_catalog(again, rows=ROWS, seed=0, with_attributes=True)
    for file in catalog.rglob("*.*"):
        assert (again / file.relative_to(catalog)).read_bytes() == file.read_bytes()


def test_types_have_three_levels_and_one_parent_each(season: list[CatalogProduct]) -> None:
    paths = {each.record["product_type"] for each in season}
    assert len(paths) == 34
    parents = defaultdict(set)
    for path in paths:
        levels = path.split(" > ")
        assert len(levels) == 3
        for parent, child in pairwise(levels):
            parents[child].add(parent)
    assert all(len(found) == 1 for found in parents.values())


def test_a_catalog_without_attributes_has_no_template(tmp_path: Path) -> None:
    write_catalog(tmp_path / "plain", rows=4, seed=0)
    assert not (tmp_path / "plain" / "template.yaml").exists()


def test_attributes_of_other_data_are_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", "--attributes", "--like", "x", "--out", str(tmp_path / "new")]) == 2
    printed = capsys.readouterr().err
    assert "--attributes has no effect with --like x, whose columns are imitated" in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "new").exists()
