"""Drawn data resembles a real dataset and holds nothing of it."""

import datetime
import io
import json
import os
from collections import Counter
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from phi_vision.data.dataset import load_samples
from phi_vision.synthetic.corrupted_export import write_export
from phi_vision.synthetic.fidelity import (
    Fidelity,
    check_row,
    kolmogorov_smirnov,
    total_variation,
)
from phi_vision.synthetic.observation import RealValues, inspect_image, observe
from phi_vision.synthetic.profile import load_profile, profile_dataset, save_profile
from phi_vision.synthetic.sample_like import (
    ImagePlan,
    choose_garment,
    draw_image,
    write_sample_like,
)

SHARED = Path(os.environ.get("PHI_VISION_SHARED", Path(__file__).parents[3] / "shared"))
STOREFRONT = SHARED / "data" / "storefront-fashion"
_ROWS = 48


@pytest.fixture(scope="module")
def drawn(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fidelity]:
    out = tmp_path_factory.mktemp("drawn") / "drawn"
    return out, write_sample_like(shop, out, rows=_ROWS, seed=1)


def read_rows(dataset: Path) -> list[dict[str, Any]]:
    files = sorted(dataset.glob("data/*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_columns_types_and_splits_are_those_of_the_dataset(
    shop: Path, drawn: tuple[Path, Fidelity]
) -> None:
    for split, rows in (("train", 32), ("validation", 8), ("test", 8)):
        name = f"data/{split}-00000-of-00001.parquet"
        theirs, ours = pq.read_table(shop / name), pq.read_table(drawn[0] / name)
        assert ours.schema.equals(theirs.schema, check_metadata=False)
        assert ours.num_rows == rows
    assert len(load_samples(drawn[0])) == _ROWS


def test_no_real_value_is_in_it(shop: Path, drawn: tuple[Path, Fidelity]) -> None:
    for column in ("title", "product_code", "itemurl", "group_id"):
        real = {row[column] for row in read_rows(shop)}
        assert not real & {row[column] for row in read_rows(drawn[0])}
    images = {row["image"]["bytes"] for row in read_rows(shop)}
    assert not images & {row["image"]["bytes"] for row in read_rows(drawn[0])}
    for file in ("profile.json", "fidelity.json", "fidelity.md"):
        text = (drawn[0] / file).read_text()
        for secret in ("Falconry", "Hood", "Abelone", "realshop", "S-10", "77000"):
            assert secret not in text, f"{secret} is in {file}"


def test_records_hold_together_as_in_the_dataset(drawn: tuple[Path, Fidelity]) -> None:
    departments = {"Coats": "Wear", "Tees": "Wear", "Scarves": "Extras"}
    nouns = {"Coats": "Wool Coat", "Tees": "Tee", "Scarves": "Silk Scarf"}
    for row in read_rows(drawn[0]):
        category = row["category_code"]
        if category in departments:
            assert row["department_code"] == departments[category]
            assert row["title"].endswith(nouns[category])
        slug = row["title"].lower().replace(" ", "-")
        code = row["product_code"]
        assert row["itemurl"] == f"https://shop.example.com/{slug}/{code}.html"
        assert row["image"]["path"] == f"{code}.jpg"
        assert row["on_sale"] == (row["price"] < row["full_price"])
        assert row["tags"] == ["a", "b"]


def test_each_category_has_one_department_also_the_invented_ones(
    shop: Path, tmp_path: Path
) -> None:
    write_sample_like(shop, tmp_path / "out", rows=90, seed=2)
    pairs = {(row["category_code"], row["department_code"]) for row in read_rows(tmp_path / "out")}
    assert len(pairs) == len({category for category, _ in pairs}) == 4


def test_styles_come_in_two_colours_on_one_side(drawn: tuple[Path, Fidelity]) -> None:
    rows = read_rows(drawn[0])
    sizes = Counter(row["group_id"] for row in rows)
    assert set(sizes.values()) <= {1, 2}
    assert Counter(sizes.values())[2] >= 20
    pairs = Counter((row["group_id"], row["colour"]) for row in rows)
    assert set(pairs.values()) == {1}


def test_images_have_the_size_of_the_real_ones(drawn: tuple[Path, Fidelity]) -> None:
    sizes = {Image.open(io.BytesIO(row["image"]["bytes"])).size for row in read_rows(drawn[0])}
    assert sizes == {(96, 128)}


def test_the_report_has_every_column_and_a_reference(drawn: tuple[Path, Fidelity]) -> None:
    out, fidelity = drawn
    columns = {distance.column for distance in fidelity.distances}
    assert {"category_code", "title", "full_price", "image", "split", "season"} <= columns
    by_name = {(each.column, each.measure): each for each in fidelity.distances}
    assert by_name["category_code", "frequencies"].distance < 0.25
    assert by_name["full_price", "numbers"].distance < 0.3
    assert fidelity.empty == ()
    assert fidelity.privacy is not None
    assert fidelity.privacy.real_values["title"] == 60
    assert fidelity.privacy.invented_categories["category_code"] == 1
    assert json.loads((out / "fidelity.json").read_text()) == json.loads(
        json.dumps(asdict(fidelity))
    )
    assert "| full_price | numbers |" in (out / "fidelity.md").read_text()


def test_dates_times_and_decimals_are_drawn_in_their_types(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            *(("title", pa.string()), ("added", pa.date32()), ("seen", pa.timestamp("us", "UTC"))),
            *(("price", pa.decimal128(10, 2)), ("size", pa.dictionary(pa.int32(), pa.string()))),
            ("rare", pa.float64()),
        ]
    )
    first = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    times = [first + datetime.timedelta(days=day) for day in range(25)]
    rows = [
        {
            **{"title": f"Item number {n}", "added": time.date(), "seen": time},
            **{"price": Decimal(n) + Decimal("9.50"), "size": "SML"[n % 3]},
            "rare": float(n) if n < 3 else None,
        }
        for n, time in enumerate(times)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "train-0.parquet")
    fidelity = write_sample_like(tmp_path, tmp_path / "out", rows=20, seed=1)
    assert fidelity.empty == ("rare",)
    for row in read_rows(tmp_path / "out"):
        assert times[0].date() <= row["added"] <= times[-1].date()
        assert times[0] <= row["seen"] <= times[-1]
        assert 9 < row["price"] < 34
        assert row["size"] in {"S", "M", "L"}
        assert row["rare"] is None


def test_a_saved_profile_draws_the_same_without_the_dataset(
    shop: Path, drawn: tuple[Path, Fidelity], tmp_path: Path
) -> None:
    profile = profile_dataset(observe(shop))
    save_profile(profile, tmp_path / "profile.json")
    assert load_profile(tmp_path / "profile.json") == profile
    fidelity = write_sample_like(tmp_path / "profile.json", tmp_path / "out", rows=9, seed=1)
    assert fidelity.privacy is None
    assert "only a profile was available" in (tmp_path / "out" / "fidelity.md").read_text()
    assert len(read_rows(tmp_path / "out")) == 9


def test_the_same_seed_writes_the_same_bytes(shop: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_sample_like(shop, tmp_path / name, rows=6, seed=4)
    files = [sorted((tmp_path / name).rglob("*.*")) for name in ("one", "two")]
    assert [f.read_bytes() for f in files[0] if f.is_file()] == [
        f.read_bytes() for f in files[1] if f.is_file()
    ]


def test_a_real_value_among_the_drawn_ones_fails_the_privacy_check(shop: Path) -> None:
    real = RealValues()
    data = observe(shop, real.add)
    with pytest.raises(ValueError, match=r"privacy check failed.*title.*image.*nothing was"):
        check_row(data.rows[0], profile_dataset(data), real)


def test_an_image_encoded_again_is_recognised_by_its_perceptual_hash(shop: Path) -> None:
    real = RealValues()
    observe(shop, real.add)
    image = Image.open(io.BytesIO(read_rows(shop)[0]["image"]["bytes"]))
    copy = io.BytesIO()
    image.resize((80, 108)).save(copy, "JPEG", quality=60)
    assert real.contains_image(inspect_image(copy.getvalue()))


def test_too_few_groups_are_an_error(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    table = pq.read_table(shop / "data" / "test-00000-of-00001.parquet").slice(0, 10)
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"a dataset of 5 groups.*at least 20"):
        write_sample_like(tmp_path, tmp_path / "out", rows=9, seed=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("column", "turns"), [("messages", []), ("chosen", "A hat.")])
def test_conversations_are_rejected(tmp_path: Path, column: str, turns: object) -> None:
    row = {"id": "a", "image": {"bytes": b"", "path": "a.jpg"}, column: turns}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train-0.parquet")
    problem = rf"holds conversations \(found {column}\), which cannot be imitated"
    for write in (
        lambda out: write_sample_like(tmp_path, out, rows=9, seed=1),
        lambda out: write_export(tmp_path, out, rate=0, seed=1),
    ):
        with pytest.raises(ValueError, match=problem):
            write(tmp_path / "out")


def test_a_folder_in_use_is_an_error(shop: Path, drawn: tuple[Path, Fidelity]) -> None:
    with pytest.raises(ValueError, match="is not empty"):
        write_sample_like(shop, drawn[0], rows=9, seed=1)


def test_a_file_that_is_no_profile_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no profile"):
        write_sample_like(tmp_path / "profile.json", tmp_path / "out", rows=9, seed=1)


def test_distances_are_those_of_the_textbooks() -> None:
    assert total_variation("aabb", "abbb") == 0.25
    assert kolmogorov_smirnov([1, 2, 3, 4], [3, 4, 5, 6]) == 0.5
    assert kolmogorov_smirnov([], [1]) == 1.0


@pytest.mark.skipif(not STOREFRONT.is_dir(), reason=f"no storefront-fashion at {STOREFRONT}")
def test_a_real_shop_can_be_sampled_like(tmp_path: Path) -> None:
    fidelity = write_sample_like(STOREFRONT, tmp_path / "out", rows=24, seed=1)
    assert fidelity.privacy is not None
    assert fidelity.privacy.real_values["product_code"] == 743
    assert {row["country_code"] for row in read_rows(tmp_path / "out")} == {"USA"}


@pytest.mark.parametrize(
    ("texts", "colour", "kind", "drawn"),
    [
        (["Velta Trench Coat", "OUTERWEAR"], "Navy", "trench coat", "navy"),
        (["Cassius Sparring Tank", "Tanks"], "Gray", "tank top", "grey"),
        (["Idibuf", "Hoodies & Sweatshirts"], "Lilac", "hoodie", "purple"),
        (["Cotton Polo Shirt", "Tops"], "red", "polo shirt", "red"),
    ],
)
def test_words_decide_what_is_drawn(texts: list[str], colour: str, kind: str, drawn: str) -> None:
    garment = choose_garment(texts, colour, "", "seed")
    assert (garment.kind, garment.colour) == (kind, drawn)


def test_an_unknown_category_always_gets_the_same_kind_of_thing() -> None:
    kinds = {choose_garment(["Xu"], "", "Falconry", str(seed)).kind for seed in range(9)}
    assert len(kinds) == 1


@pytest.mark.parametrize(("width", "height"), [(96, 128), (40, 40), (1100, 400)])
def test_an_image_has_the_planned_size(width: int, height: int) -> None:
    garment = choose_garment(["Scarf"], "red", "", "seed")
    plan = ImagePlan(
        garment=garment, seed="a", width=width, height=height, density=0.2, format="JPEG"
    )
    encoded = draw_image(plan)
    assert Image.open(io.BytesIO(encoded)).size == (width, height)
    assert draw_image(plan) == encoded


def test_a_heavier_image_is_heavier() -> None:
    garment = choose_garment(["Scarf"], "red", "", "seed")
    plan = ImagePlan(garment=garment, seed="a", width=200, height=200, density=0.1, format="JPEG")
    sizes = [len(draw_image(plan._replace(density=density))) for density in (0.1, 0.3)]
    assert sizes == pytest.approx([4000, 12000], rel=0.15)
