"""The sample catalog: its structure, its known noise, and the same bytes for the same seed."""

import io
import json
import random
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from phi_vision.synthetic.catalog import (
    PRICE_NOISE,
    RANGES,
    SPLITS,
    CatalogProduct,
    plan_catalog,
    price_point,
    rule_price,
    title,
    write_catalog,
)
from phi_vision.synthetic.drawing import random_garment

_COLUMNS = {
    "website_name": "string",
    "competence_date": "string",
    "country_code": "string",
    "currency_code": "string",
    "brand": "string",
    "category1_code": "string",
    "category2_code": "string",
    "category3_code": "string",
    "product_code": "int64",
    "title": "string",
    "itemurl": "string",
    "imageurl": "string",
    "full_price": "double",
    "price": "double",
    "full_price_eur": "double",
    "price_eur": "double",
    "flg_discount": "int64",
    "colour": "string",
    "group_id": "string",
}
Facts = dict[str, Any]

_ROWS = 102  # three of each kind


@pytest.fixture(scope="module")
def season() -> list[CatalogProduct]:
    return plan_catalog(3040, seed=0)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts]:
    out = tmp_path_factory.mktemp("catalogs") / "sample"
    return out, write_catalog(out, rows=_ROWS, seed=0)


def _bytes(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _rows(folder: Path, split: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(
        folder / "data" / f"{split}-00000-of-00001.parquet"
    ).to_pylist()
    return rows


def test_the_same_seed_writes_the_same_bytes(catalog: tuple[Path, Facts], tmp_path: Path) -> None:
    write_catalog(tmp_path / "again", rows=_ROWS, seed=0)
    assert _bytes(tmp_path / "again") == _bytes(catalog[0])


def test_worker_processes_draw_the_same_bytes(
    catalog: tuple[Path, Facts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi_vision.synthetic.catalog._MIN_PARALLEL", 1)
    monkeypatch.setattr("phi_vision.synthetic.catalog.usable_cores", lambda: 2)
    write_catalog(tmp_path / "again", rows=_ROWS, seed=0)
    assert _bytes(tmp_path / "again") == _bytes(catalog[0])


def test_another_seed_chooses_other_products() -> None:
    titles = [[p.record["title"] for p in plan_catalog(60, seed)] for seed in (0, 1)]
    assert titles[0] != titles[1]


def test_the_folder_holds_splits_facts_and_data_card_and_nothing_else(
    catalog: tuple[Path, Facts],
) -> None:
    assert list(_bytes(catalog[0])) == [
        "README.md",
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
        "facts.json",
    ]
    assert [path.name for path in catalog[0].parent.iterdir()] == ["sample"]


def test_columns_have_the_names_and_types_of_the_contract(
    catalog: tuple[Path, Facts],
) -> None:
    schema = pq.read_schema(catalog[0] / "data" / "train-00000-of-00001.parquet")
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types == {**_COLUMNS, "image": "struct<bytes: binary, path: string>"}


def test_load_dataset_opens_the_folder_with_decoded_images(
    catalog: tuple[Path, Facts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(catalog[0]), cache_dir=str(tmp_path))
    assert set(loaded) == set(SPLITS)
    assert sum(len(split) for split in loaded.values()) == _ROWS
    assert isinstance(loaded["test"][0]["image"], Image.Image)


def test_images_open_and_differ_in_size(catalog: tuple[Path, Facts]) -> None:
    images = [
        Image.open(io.BytesIO(row["image"]["bytes"]))  # type: ignore[index]
        for row in _rows(catalog[0], "train")
    ]
    assert all(260 <= side <= 640 for image in images for side in image.size)
    assert len({image.size for image in images}) > len(images) / 2


def test_the_rows_on_disk_are_the_planned_products(catalog: tuple[Path, Facts]) -> None:
    planned = plan_catalog(_ROWS, seed=0)
    for split in SPLITS:
        records = [{k: v for k, v in r.items() if k != "image"} for r in _rows(catalog[0], split)]
        assert records == [dict(p.record) for p in planned if p.split == split]


def test_a_seed_draws_the_catalog_that_the_published_figures_were_measured_on() -> None:
    first, *_, last = plan_catalog(3040, seed=0)
    assert first.record["title"] == "Cavendish Hooded Calfskin Down Jacket"
    assert (first.record["product_code"], first.record["full_price"]) == (80002830, 1890.0)
    assert (last.record["title"], last.record["product_code"]) == (
        "Quilted Calfskin Chain Bag",
        80008344,
    )


def test_colours_of_a_style_share_title_price_and_split(season: list[CatalogProduct]) -> None:
    styles = defaultdict(list)
    for product in season:
        styles[product.record["group_id"]].append(product)
    for members in styles.values():
        assert len({(p.record["title"], p.record["full_price"], p.split) for p in members}) == 1
        assert len({p.record["colour"] for p in members}) == len(members) <= 5
    assert sum(len(members) > 1 for members in styles.values()) > len(styles) / 2


def test_products_have_their_own_codes(season: list[CatalogProduct]) -> None:
    assert len({product.record["product_code"] for product in season}) == len(season) == 3040


def test_splits_are_80_10_10_and_hold_every_category(season: list[CatalogProduct]) -> None:
    sizes = {split: sum(p.split == split for p in season) / 3040 for split in SPLITS}
    assert sizes == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.01)
    categories = {
        split: {p.record["category3_code"] for p in season if p.split == split} for split in SPLITS
    }
    assert categories["train"] == categories["validation"] == categories["test"]


def test_categories_are_many_uneven_and_all_learnable(season: list[CatalogProduct]) -> None:
    names = [str(product.record["category3_code"]) for product in season]
    sizes = sorted(names.count(name) for name in set(names))
    assert len(sizes) >= 24
    assert sizes[0] >= 0.015 * len(names)
    assert sizes[-1] > 4 * sizes[0]


def test_prices_have_a_long_tail(season: list[CatalogProduct]) -> None:
    prices = sorted(float(product.record["full_price"]) for product in season)
    assert 40 <= prices[0] < 100
    assert prices[-1] > 4000
    assert fmean(prices) > 1.25 * median(prices)
    assert all(price == price_point(price) for price in prices)


def test_about_one_in_eight_is_discounted(season: list[CatalogProduct]) -> None:
    lowered = [p.record for p in season if p.record["flg_discount"]]
    assert len(lowered) / len(season) == pytest.approx(0.12, abs=0.02)
    assert all(float(r["price"]) < float(r["full_price"]) for r in lowered)
    rest = [p.record for p in season if not p.record["flg_discount"]]
    assert all(r["price"] == r["full_price"] for r in rest)


def test_the_noise_ceiling_in_facts_is_that_of_the_data(catalog: tuple[Path, Facts]) -> None:
    facts = json.loads((catalog[0] / "facts.json").read_text())
    rule = {p.record["product_code"]: rule_price(p.garment) for p in plan_catalog(_ROWS, seed=0)}
    for split in SPLITS:
        pairs = [
            (price_point(rule[row["product_code"]]), float(row["full_price"]))  # type: ignore[arg-type]
            for row in _rows(catalog[0], split)
        ]
        known = facts["splits"][split]
        assert known["rows"] == len(pairs)
        assert known["floor_median_ape"] == pytest.approx(
            median(abs(ideal - price) / price for ideal, price in pairs), abs=1e-5
        )
        assert known["floor_mae"] == pytest.approx(
            fmean(abs(ideal - price) for ideal, price in pairs), abs=1e-3
        )


def test_facts_returned_are_facts_written(catalog: tuple[Path, Facts]) -> None:
    written = json.loads((catalog[0] / "facts.json").read_text())
    assert (written["rows"], written["seed"], written["version"]) == (_ROWS, 0, 1)
    assert written["categories"] == catalog[1]["categories"]
    assert written["category_ceiling"] == 1.0


def test_noise_is_of_the_stated_size_and_far_below_the_median_baseline(
    season: list[CatalogProduct],
) -> None:
    errors = [abs(p.rule_price / float(p.record["full_price"]) - 1) for p in season]
    # The median of |exp(s z) - 1| is about 0.6745 s; rounding to price points adds a little.
    assert median(errors) == pytest.approx(0.6745 * PRICE_NOISE, abs=0.015)
    usual = median(float(p.record["full_price"]) for p in season)
    baseline = median(abs(usual / float(p.record["full_price"]) - 1) for p in season)
    assert baseline >= 0.4


def test_price_points_are_those_of_a_shop() -> None:
    amounts = [1.0,  88.2,  193.4, 391.7, 1312.0, 4321.0]  # fmt: skip
    printed = [5.0,  90.0,  195.0, 390.0, 1290.0, 4290.0]  # fmt: skip
    assert [price_point(amount) for amount in amounts] == printed


def test_titles_name_the_visible_facts_but_not_the_colour() -> None:
    for seed in range(200):
        garment = random_garment(random.Random(seed))
        worded = title(garment, random.Random(seed))
        assert worded.endswith(RANGES[garment.kind].noun)
        assert garment.colour.title() not in worded
        assert ("Calfskin" in worded) == (garment.material == "leather")


def test_a_tiny_catalog_holds_the_most_frequent_kinds() -> None:
    products = plan_catalog(7, seed=0)
    assert len(products) == 7
    assert {product.garment.kind for product in products} == {"trench coat", "t-shirt"}
    assert {product.split for product in products} == set(SPLITS)


@pytest.mark.parametrize("rows", [3, 50, 101, 333, 1000])
def test_a_catalog_has_exactly_the_number_of_rows(rows: int) -> None:
    assert len(plan_catalog(rows, seed=1)) == rows


def test_progress_counts_every_image(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_catalog(tmp_path / "new", rows=4, seed=0, progress=lambda *call: calls.append(call))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("rows", [-1, 0, 2])
def test_too_few_rows_are_an_error(tmp_path: Path, rows: int) -> None:
    with pytest.raises(ValueError, match=rf"{rows} rows .* at least --rows 3"):
        write_catalog(tmp_path / "new", rows=rows, seed=0)
    assert not (tmp_path / "new").exists()


def test_a_folder_in_use_is_an_error_and_stays_unchanged(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"not empty .*notes.txt.*choose another folder"):
        write_catalog(tmp_path, rows=3, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_at_the_target_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        write_catalog(tmp_path / "file", rows=3, seed=0)


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_catalog(tmp_path / "new", rows=3, seed=0, progress=stop)
    assert list(tmp_path.iterdir()) == []
