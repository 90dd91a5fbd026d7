"""Plausible wrong answers beside right ones, made of a catalog's own words and prices."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogs import image

from phi_vision.data.dataset import available_splits, load_samples
from phi_vision.data.samples import Sample
from phi_vision.data.template import PRODUCT, find_template, write_template
from phi_vision.prepare.preference_pairs import NegativeSampler, PreferencePairs, write_pairs

KINDS = {"COATS": "CLOTHES", "SHIRTS": "CLOTHES", "TOTES": "BAGS", "CLUTCHES": "BAGS"}
CLOTHS = ("Wool", "Silk", "Linen")
PATTERNS = ("Check", "Striped")


def row(number: int) -> dict[str, object]:
    category = list(KINDS)[number % 4]
    cloth, pattern = CLOTHS[number % 3], PATTERNS[number % 2]
    return {
        "id": f"p{number}",
        "group_id": f"g{number}",
        "title": f"{pattern} {cloth} {category.title()[:-1]}",
        "category3_code": category,
        "category2_code": KINDS[category],
        "brand": "House",
        "full_price": 90.0 + 100 * (number % 20),
        "image": {"bytes": image(number), "path": f"p{number}.png"},
    }


def write_data(folder: Path, rows: Sequence[dict[str, object]], **others: Sequence[object]) -> Path:
    (folder / "data").mkdir(parents=True)
    for split, those in {"train": rows, **others}.items():
        file = folder / "data" / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.Table.from_pylist(list(those)), file)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [row(number) for number in range(48)]
    folder = tmp_path_factory.mktemp("catalog") / "shop"
    return write_data(folder, rows[:36], validation=rows[36:42], test=rows[42:])


@pytest.fixture(scope="module")
def pairs(data: Path) -> PreferencePairs:
    return write_pairs(data, data.with_name("pairs"), pairs_per_sample=3)


def wrong(sample: Sample) -> dict:
    parsed = PRODUCT.parse(sample.rejected)
    assert parsed is not None
    return parsed


def test_every_split_and_column_stays(data, pairs):
    assert available_splits(pairs.folder) == available_splits(data)
    for split in ("validation", "test"):
        before, after = (load_samples(folder, split=split) for folder in (data, pairs.folder))
        assert [s.record for s in after] == [s.record for s in before]
        assert [s.images for s in after] == [s.images for s in before]


def test_right_and_wrong_are_never_equal(pairs):
    for sample in load_samples(pairs.folder):
        assert sample.rejected != PRODUCT.render(sample.record)
        assert wrong(sample) != PRODUCT.select(sample.record)


def test_only_train_has_several_pairs_of_a_sample(pairs):
    assert pairs.splits["validation"] == pairs.splits["test"] == 6
    train = load_samples(pairs.folder, split="train")
    assert pairs.splits["train"] == len(train) == 3 * 36
    assert [sample.id for sample in train[:4]] == ["p0", "p0-2", "p0-3", "p1"]
    assert len({(sample.group, sample.rejected) for sample in train}) == len(train)


def test_each_field_is_wrong_in_about_half_of_the_pairs(pairs):
    for count in pairs.changed.values():
        assert 0.3 < count / sum(pairs.splits.values()) < 0.8


def test_wrong_prices_are_prices_of_the_catalog_off_by_up_to_three(pairs):
    samples = load_samples(pairs.folder)
    prices = {sample.record["full_price"] for sample in samples}
    factors = [wrong(s)["full_price"] / s.record["full_price"] for s in samples]
    factors = [factor for factor in factors if factor != 1]
    assert all(1.2 <= max(factor, 1 / factor) <= 3 for factor in factors)
    assert {wrong(sample)["full_price"] for sample in samples} <= prices
    assert 0.25 < sum(factor > 1 for factor in factors) / len(factors) < 0.75


def test_wrong_categories_exist_and_are_often_of_the_same_kind(pairs):
    samples = load_samples(pairs.folder)
    pairs_of = [(s.record["category3_code"], wrong(s)["category3_code"]) for s in samples]
    changed = [(right, other) for right, other in pairs_of if right != other]
    assert {other for _, other in changed} <= set(KINDS)
    # Half are drawn of the kind, a third of the others fall into it.
    alike = sum(KINDS[right] == KINDS[other] for right, other in changed) / len(changed)
    assert 0.5 < alike < 0.85


def test_wrong_titles_differ_in_one_word_that_stands_there_elsewhere(pairs):
    for sample in load_samples(pairs.folder):
        right, other = (
            str(sample.record["title"]).split(" "),
            str(wrong(sample)["title"]).split(" "),
        )
        assert sum(a != b for a, b in zip(right, other, strict=True)) <= 1
        assert other[0] in PATTERNS
        assert other[1] in CLOTHS


@pytest.mark.parametrize(
    ("price", "prices", "ending"),
    [
        (390.0, [390.0], 10),
        (45.99, [45.99], 0.99),
        (45.5, [45.5], 0.5),
        (3.0, [3.0], 1),
    ],
)
def test_without_other_prices_in_reach_the_ending_is_kept(price, prices, ending):
    records = [
        {"title": "Hat", "category3_code": "HATS", "full_price": each} for each in prices * 2
    ]
    catalog = NegativeSampler(records, PRODUCT)
    for seed in range(20):
        (made,) = catalog.draw(records[0], random.Random(seed))
        assert made.fields == ("full_price",)
        said = PRODUCT.parse(made.wrong)
        assert said is not None
        assert 0.25 < said["full_price"] / price < 4
        rest = said["full_price"] % 1 if ending < 1 else said["full_price"] % ending
        assert rest == pytest.approx(ending if ending < 1 else 0)


def test_fields_of_other_kinds_get_another_value_of_their_column():
    values = [None, "N.A.", "", "Hat", 0.0, "on request"]
    records = [
        {"title": value, "category3_code": value, "full_price": value} for value in values * 3
    ]
    catalog = NegativeSampler(records, PRODUCT)
    for seed, record in enumerate(records):
        (made,) = catalog.draw(record, random.Random(seed))
        assert PRODUCT.parse(made.wrong) != PRODUCT.parse(made.correct) == PRODUCT.select(record)


def test_the_same_seed_gives_the_same_bytes(data, pairs, tmp_path):
    again = write_pairs(data, tmp_path / "pairs", pairs_per_sample=3)
    other = write_pairs(data, tmp_path / "other", pairs_per_sample=3, seed=1)
    name = "data/train-00000-of-00001.parquet"
    first = (pairs.folder / name).read_bytes()
    assert (again.folder / name).read_bytes() == first
    assert (other.folder / name).read_bytes() != first


def test_the_wording_of_the_data_is_used_and_kept(tmp_path):
    own = find_template("walkthrough")
    folder = write_data(tmp_path / "shop", [row(number) for number in range(8)])
    write_template(own, folder / "template.yaml")
    pairs = write_pairs(folder, tmp_path / "pairs")
    assert find_template(str(pairs.folder)) == own


def test_the_card_and_the_metadata_describe_the_output(data, pairs):
    facts = json.loads((pairs.folder / "pairs.json").read_text())
    assert facts["splits"] == {"train": 108, "validation": 6, "test": 6}
    card = (pairs.folder / "README.md").read_text()
    assert (
        "120 preference pairs of a correct and a plausible wrong completion, made from shop" in card
    )
    assert "| train | 108 |" in card
    assert "+ Product: Check Wool Coat, Category: COATS, Full Price: 90.0" in card


def test_the_folder_opens_as_the_datasets_library_opens_any(pairs, tmp_path):
    from datasets import load_dataset

    loaded = load_dataset(str(pairs.folder), cache_dir=str(tmp_path), split="test")
    assert loaded.column_names[-1] == "rejected"
    assert len(loaded) == 6


def test_another_run_replaces_pairs_and_nothing_else(data, tmp_path):
    out = tmp_path / "pairs"
    write_pairs(data, out)
    assert write_pairs(data, out, pairs_per_sample=2).splits["train"] == 72
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"was not written by `pairs` \(it has no pairs.json\)"):
        write_pairs(data, tmp_path / "used")
    with pytest.raises(ValueError, match="contains the other"):
        write_pairs(data, data / "pairs")


def test_progress_counts_every_sample(data, tmp_path):
    seen: list[tuple[int, int]] = []
    write_pairs(data, tmp_path / "pairs", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 48) for number in range(1, 49)]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"rejected": "Product: Hat"}, "a column rejected already, so these are pairs"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "holds conversations"),
    ],
)
def test_datasets_of_pairs_or_without_records_are_rejected(tmp_path, column, message):
    data = write_data(tmp_path / "shop", [row(0) | column])
    with pytest.raises(ValueError, match=message):
        write_pairs(data, tmp_path / "pairs")
    assert not (tmp_path / "pairs").exists()


def test_a_catalog_with_one_value_in_each_field_is_rejected(tmp_path):
    same = {"title": "Hat", "category3_code": "HATS", "full_price": None}
    data = write_data(tmp_path / "shop", [row(number) | same for number in range(3)])
    with pytest.raises(ValueError, match="one value only in each of title, category3_code, full"):
        write_pairs(data, tmp_path / "pairs")
    with pytest.raises(ValueError, match="pairs_per_sample is 0; it must be at least 1"):
        write_pairs(data, tmp_path / "pairs", pairs_per_sample=0)


def test_missing_fields_of_the_answer_are_reported(tmp_path):
    data = write_data(tmp_path / "shop", [{"image": row(0)["image"], "title": "Hat"}])
    with pytest.raises(ValueError, match="template 'product' needs the field 'category3_code'"):
        write_pairs(data, tmp_path / "pairs")
