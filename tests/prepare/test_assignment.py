"""Where clean rows go: into splits with their groups, or aside as repeats."""

import pytest

from phi_vision.prepare.dedup import RowKeys
from phi_vision.prepare.splits import Duplicate, Placed, assign_rows, source_splits

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


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


def placed(decision: Placed | Duplicate) -> Placed:
    assert isinstance(decision, Placed)
    return decision


def test_a_repeat_goes_aside_and_names_the_first_of_its_kind() -> None:
    same = [entry(n, fingerprint="same") for n in (3, 5, 9)]
    assignment = assign_rows([*same, entry(11)], {}, SHARES, tolerance=4, seed=0)
    assert assignment.decisions[1:3] == [Duplicate(of=3), Duplicate(of=3)]
    assert placed(assignment.decisions[0]).group == "S3"
    assert placed(assignment.decisions[3]).group == "S11"


def test_what_belongs_together_is_placed_together() -> None:
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
    splits: dict[str, list[int]] = assignment.metadata["splits"]  # type: ignore[assignment]
    assert list(splits) == assignment.splits
    assert sum(samples for samples, _ in splits.values()) == 21
    assert sum(groups for _, groups in splits.values()) == 20
    categories: dict[str, list[int]] = assignment.metadata["categories"]  # type: ignore[assignment]
    assert {name: sum(counts) for name, counts in categories.items()} == {"Coats": 11}
    groups: dict[str, int] = assignment.metadata["groups"]  # type: ignore[assignment]
    assert groups["rows of the largest group"] == 2
    assert groups["same title as an earlier row"] == 1


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
    assert assignment.splits == ["train"]


def test_the_parts_of_the_source_are_taken_where_they_have_known_names() -> None:
    entries = [entry(n, split=split) for n, split in enumerate(("train", "test", "extra", None))]
    assert source_splits(entries) == {"S0": "train", "S1": "test"}
    assert source_splits(entries[1:]) == {"S1": "test"}
    # Training data alone leaves it to us what is set aside.
    assert source_splits([entries[0], entries[3]]) == {}
