"""Splits: shares in every category, nothing that moves, and what a random split would leak."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from phi_vision.prepare.dedup import (
    NEAR_IMAGE,
    SAME_GROUP,
    SAME_IMAGE,
    SAME_TITLE,
    RowKeys,
    group_rows,
)
from phi_vision.prepare.splits import (
    ANY,
    Placed,
    assign_rows,
    assign_splits,
    count_leaks,
    list_groups,
    source_splits,
)

Group = tuple[str | None, str | None]  # name, category

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
MANY_SHARES: list[dict[str, float]] = [
    SHARES,
    {"train": 0.9, "validation": 0.05, "test": 0.05},
    {"train": 0.7, "validation": 0.0, "test": 0.3},
    {"train": 0.34, "validation": 0.33, "test": 0.33},
    {"train": 0.6137, "validation": 0.25, "test": 0.1363},
    {"train": 1.0},
]


def facts(category: str | None, count: int, first: int = 0) -> list[Group]:
    return [(f"{category}-{number}", category) for number in range(first, first + count)]


def shuffled(groups: list[Group], seed: int) -> list[Group]:
    return random.Random(seed).sample(groups, len(groups))


def rows_of(table: Sequence[tuple[str | None, str | None]]) -> list[RowKeys]:
    """Rows with a title and a group each."""
    return [
        RowKeys(number=number, id=f"r{number}", title=title, group=group, digests=(), hashes=())
        for number, (title, group) in enumerate(table)
    ]


def split_rows(rows: Sequence[RowKeys], seed: int = 0) -> list[str]:
    groups = group_rows(rows)
    splits = assign_splits(list_groups(groups, ["all"] * len(rows)), SHARES, seed=seed)
    return [splits[groups.names[group]] for group in groups.of]


@pytest.mark.parametrize("shares", MANY_SHARES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_each_split_of_each_category_is_within_one_group_of_its_share(
    shares: Mapping[str, float], seed: int
) -> None:
    sizes = {"coats": 1, "shirts": 2, "hats": 3, "bags": 11, "shoes": 57, None: 240}
    groups = shuffled([g for name, size in sizes.items() for g in facts(name, size)], seed)
    splits = assign_splits(groups, shares, seed=seed)
    seen: Counter[tuple[str | None, str]] = Counter()
    total: Counter[str | None] = Counter()
    for group, category in groups:  # after each group, not only after the last
        total[category] += 1
        seen[category, splits[str(group)]] += 1
        for name, share in shares.items():
            exact = share * total[category]
            assert abs(seen[category, name] - exact) < 1 + 1e-6


def test_four_splits_are_within_two_groups_of_their_shares() -> None:
    shares = {"train": 0.4, "more": 0.4, "validation": 0.19, "test": 0.01}
    for seed in range(30):
        seen: Counter[str] = Counter()
        for count, split in enumerate(
            assign_splits(facts("a", 300), shares, seed=seed).values(), start=1
        ):
            seen[split] += 1
            assert all(abs(seen[name] - share * count) < 2 for name, share in shares.items())


def test_tiny_categories_are_tested_as_often_as_large_ones() -> None:
    for size in (1, 2, 3):
        groups = [g for number in range(3000) for g in facts(f"category {number}", size)]
        counts = Counter(assign_splits(groups, SHARES, seed=0).values())
        for name, share in SHARES.items():
            # Five standard deviations of as many independent draws, which these vary less than.
            exact = share * len(groups)
            assert abs(counts[name] - exact) < 5 * (exact * (1 - share)) ** 0.5


def test_the_same_groups_and_seed_give_the_same_splits_and_another_seed_others() -> None:
    groups = facts("coats", 40) + facts(None, 40)
    first = assign_splits(groups, SHARES, seed=1)
    assert assign_splits(groups, dict(reversed(SHARES.items())), seed=1) == first
    assert assign_splits(groups, SHARES, seed=2) != first
    # Written out, so that another version or machine cannot split otherwise unseen.
    letters = "".join(first[f"coats-{number}"][1] for number in range(20))
    assert letters == "rrarrrrerrrrarrrrerr"  # train, validation, test


def test_no_category_is_not_the_category_none() -> None:
    groups = [*facts("None", 300), *facts(None, 300)]
    splits = [*assign_splits(groups, SHARES, seed=0).values()]
    assert splits[:300] != splits[300:]


@pytest.mark.parametrize("seed", range(20))
def test_a_single_group_is_for_training(seed: int) -> None:
    assert assign_splits(facts("coats", 1), SHARES, seed=seed) == {"coats-0": "train"}


def test_no_groups_have_no_splits() -> None:
    assert assign_splits([], SHARES, seed=0) == {}


def test_groups_added_at_the_end_move_nothing() -> None:
    groups = shuffled(facts("coats", 50) + facts("hats", 3), seed=0)
    before = assign_splits(groups, SHARES, seed=0)
    after = assign_splits(
        [*groups, *facts("coats", 50, first=50), *facts("bags", 9)], SHARES, seed=0
    )
    assert {name: after[name] for name in before} == before


def test_kept_groups_stay_and_the_others_are_as_without_them() -> None:
    groups = facts("coats", 50)
    free = assign_splits(groups, SHARES, seed=0)
    kept = {"coats-3": "test", "coats-4": "validation"}
    assert assign_splits(groups, SHARES, seed=0, kept=kept) == {**free, **kept}


@pytest.mark.parametrize(
    "shares",
    [{}, {"train": 0.8, "test": 0.1}, {"train": 1.2, "test": -0.2}, {"train": float("nan")}],
    ids=str,
)
def test_shares_that_do_not_add_up_to_one_are_an_error(shares: Mapping[str, float]) -> None:
    with pytest.raises(ValueError, match="must be 0 or more and add up to 1"):
        assign_splits(facts("a", 3), shares, seed=0)


def test_a_kept_group_in_a_split_without_a_share_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows in the split 'dev', which has no fraction"):
        assign_splits(facts("a", 3), SHARES, seed=0, kept={"a-1": "dev"})


@pytest.mark.parametrize("seed", range(8))
def test_rows_added_at_the_end_move_only_rows_of_groups_that_they_join(seed: int) -> None:
    draw = random.Random(seed)
    table = [
        (
            draw.choice([None, f"t{draw.randrange(150)}"]),
            draw.choice([None, f"{draw.randrange(150)}"]),
        )
        for _ in range(200)
    ]
    before = split_rows(rows_of(table[:120]))
    after = split_rows(rows_of(table))
    part, whole = group_rows(rows_of(table[:120])), group_rows(rows_of(table))
    joined = 0
    for row in range(120):
        if part.names[part.of[row]] == whole.names[whole.of[row]]:
            assert before[row] == after[row]
        else:
            joined += 1
            first = int(whole.names[whole.of[row]][1:])
            assert after[row] == before[first]
    assert joined


def test_a_joined_group_keeps_its_place_and_its_category() -> None:
    groups = group_rows(rows_of([("a", None), ("b", "1"), ("c", None), ("a", "1")]))
    categories = ["coats", "hats", None, "hats"]
    assert list_groups(groups, categories) == [("r0", "coats"), (None, "hats"), ("r2", None)]


def test_where_groups_of_two_splits_are_joined_the_earlier_one_wins() -> None:
    joined = [entry(n, group="one") for n in (0, 1, 2)]
    rows = [*joined, entry(3), entry(4, group="one"), entry(5)]
    earlier = {"S0": "validation", "S1": "test", "S2": "test", "S3": "test", "gone": "train"}
    assignment = assign_rows(rows, earlier, SHARES, tolerance=4, seed=0)
    splits = [placed(decision).split for decision in assignment.decisions[:5]]
    assert splits == ["validation", "validation", "validation", "test", "validation"]
    groups: dict[str, int] = assignment.metadata["groups"]
    assert groups["rows moved with their group"] == 2


def hundred_pairs() -> list[RowKeys]:
    """Rows in pairs: 100 of one image, 100 of near-duplicates, 100 of one title, 100 others."""
    draw = random.Random(0)
    rows = []
    for number in range(800):
        pair, kind = number // 2, number // 200
        if number % 2 == 0:
            look = draw.getrandbits(64)
        rows.append(
            RowKeys(
                number=number,
                id=f"r{number}",
                title=f"title {pair}" if kind == 2 else None,
                group=None,
                digests=(f"{pair}" if kind == 0 else f"{pair} {number}",),
                hashes=(look ^ (number % 2) if kind == 1 else look if kind == 0 else None,),
            )
        )
    return rows


def test_nothing_leaks_where_groups_are_kept_together() -> None:
    rows = hundred_pairs()
    leaks = count_leaks(group_rows(rows), split_rows(rows), SHARES, seed=0)
    assert {split for _, split in leaks} == {"validation", "test"}
    assert len(leaks) == 2 * 5
    assert all(here == 0 for here, _ in leaks.values())


def test_the_leakage_of_a_random_split_can_be_calculated() -> None:
    leaks = count_leaks(group_rows(hundred_pairs()), split_rows(hundred_pairs()), SHARES, seed=0)
    # Each of 200 rows is in test by 0.1, and its twin in training by 0.8: 16 rows of each kind.
    # Twenty splits of variance below 16 have an average with a standard deviation below 0.9.
    for kind in (SAME_IMAGE, NEAR_IMAGE, SAME_TITLE):
        assert leaks[kind, "test"][1] == pytest.approx(16, abs=3)
    assert leaks[SAME_GROUP, "test"] == (0, 0)
    assert leaks[ANY, "test"][1] == pytest.approx(48, abs=5)


def test_leaks_of_a_given_split_are_counted_by_kind() -> None:
    rows = hundred_pairs()
    splits = ["train", "test"] * 400
    found = count_leaks(group_rows(rows), splits, SHARES, seed=0)
    assert [found[kind, "test"][0] for kind in (SAME_IMAGE, NEAR_IMAGE, SAME_TITLE)] == [
        *(100, 100, 100)
    ]
    assert found[ANY, "test"][0] == 300


def test_a_row_with_two_kinds_of_leakage_counts_once_in_the_total() -> None:
    rows = [
        RowKeys(number=n, id=f"r{n}", title="coat", group="g", digests=("p",), hashes=(7,))
        for n in range(2)
    ]
    found = count_leaks(group_rows(rows), ["train", "test"], SHARES, seed=0)
    counts = {kind: here for (kind, _), (here, _) in found.items()}
    # Its image is in training itself, so no near one is looked for.
    assert counts == {SAME_IMAGE: 1, NEAR_IMAGE: 0, SAME_TITLE: 1, SAME_GROUP: 1, ANY: 1}


def entry(number: int, **changed: object) -> RowKeys:
    """A row like no other."""
    own = {
        "number": number,
        "id": f"S{number}",
        "group": None,
        "split": None,
        "title": f"Product {number}",
        "category": "Coats",
        "digests": (f"digest {number}",),
        "hashes": (None,),
        "fingerprint": f"all of {number}",
    }
    return RowKeys(**(own | changed))  # type: ignore[arg-type]


def placed(decision: Placed | int) -> Placed:
    assert isinstance(decision, Placed)
    return decision


def test_a_repeat_goes_aside_and_names_the_first_of_its_kind() -> None:
    same = [entry(n, fingerprint="same") for n in (3, 5, 9)]
    assignment = assign_rows([*same, entry(11)], {}, SHARES, tolerance=4, seed=0)
    assert assignment.decisions[1:3] == [3, 3]
    assert placed(assignment.decisions[0]).group == "S3"
    assert placed(assignment.decisions[3]).group == "S11"


def test_rows_of_one_group_are_placed_together() -> None:
    entries = [entry(n) for n in range(30)]
    entries += [entry(30, title="product 0"), entry(31, digests=("digest 1", "other"))]
    entries += [entry(32, group="G"), entry(33, group="G")]
    decisions = [placed(d) for d in assign_rows(entries, {}, SHARES, tolerance=4, seed=0).decisions]
    assert decisions[30] == decisions[0]
    assert decisions[31] == decisions[1]
    assert decisions[32] == decisions[33]
    assert {decision.split for decision in decisions} == set(SHARES)


def test_facts_count_samples_and_groups_of_each_split() -> None:
    entries = [entry(n, category="Coats" if n % 2 else None) for n in range(20)]
    entries += [entry(20, fingerprint="all of 1"), entry(21, title="Product 2")]
    assignment = assign_rows(entries, {}, SHARES, tolerance=4, seed=0)
    splits: dict[str, list[int]] = assignment.metadata["splits"]
    assert list(splits) == ["train", "validation", "test"]
    assert sum(samples for samples, _ in splits.values()) == 21
    assert sum(groups for _, groups in splits.values()) == 20
    categories: dict[str, list[int]] = assignment.metadata["categories"]
    assert {name: sum(counts) for name, counts in categories.items()} == {"Coats": 11}
    groups: dict[str, int] = assignment.metadata["groups"]
    assert groups["rows of the largest group"] == 2
    assert groups["same title as an earlier row"] == 1
    leaks: dict[str, list[float]] = assignment.metadata["leaks"]
    size = splits["test"][0]
    assert leaks[f"same image, of {size} in test"] == [0, 0.0]


def test_rows_stay_where_they_were() -> None:
    entries = [entry(n) for n in range(10)]
    earlier = {f"S{n}": "test" for n in range(5)} | {"gone": "train"}
    decisions = assign_rows(entries, earlier, SHARES, tolerance=4, seed=0).decisions
    assert [placed(decision).split for decision in decisions[:5]] == ["test"] * 5


def test_a_row_cannot_stay_in_a_split_without_a_share() -> None:
    with pytest.raises(ValueError, match="there are rows in the split 'test'"):
        assign_rows(
            [entry(0)], {"S0": "test"}, {"train": 0.9, "validation": 0.1}, tolerance=4, seed=0
        )


def test_one_row_alone_is_trained_on() -> None:
    assignment = assign_rows([entry(0)], {}, SHARES, tolerance=4, seed=0)
    assert list(assignment.metadata["splits"]) == ["train"]


def test_the_splits_of_the_source_are_taken_where_they_have_known_names() -> None:
    entries = [entry(n, split=split) for n, split in enumerate(("train", "test", "extra", None))]
    assert source_splits(entries) == {"S0": "train", "S1": "test"}
    assert source_splits(entries[1:]) == {"S1": "test"}
    # Training data alone leaves it to us what is set aside.
    assert source_splits([entries[0], entries[3]]) == {}
