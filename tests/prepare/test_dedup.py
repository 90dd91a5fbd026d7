"""Grouping: what ties rows, what does not, and that nothing near is overlooked."""

import random

import numpy as np
import pytest

from phi_vision.prepare import dedup
from phi_vision.prepare.dedup import (
    NEAR_IMAGE,
    SAME_GROUP,
    SAME_IMAGE,
    SAME_TITLE,
    Groups,
    RowKeys,
    group_rows,
    near_pairs,
)


def trait(
    number: int,
    *,
    title: str | None = None,
    group: str | None = None,
    digests: tuple[str, ...] = (),
    hashes: tuple[int | None, ...] = (),
) -> RowKeys:
    return RowKeys(
        number=number, id=f"r{number}", title=title, group=group, digests=digests, hashes=hashes
    )


def of(*rows: RowKeys, tolerance: int = 4) -> list[int]:
    groups: list[int] = group_rows(rows, tolerance=tolerance).of.tolist()
    return groups


def random_traits(seed: int, count: int) -> list[RowKeys]:
    """Rows of which some share a title, a group, an image, or nearly an image."""
    draw = random.Random(seed)
    looks = [draw.getrandbits(64) for _ in range(count)]
    return [
        trait(
            number,
            title=draw.choice([None, "", f"title {draw.randrange(3 * count)}"]),
            group=draw.choice([None, None, f"group {draw.randrange(2 * count)}"]),
            digests=tuple(f"image {draw.randrange(2 * count)}" for _ in range(draw.randrange(3))),
            hashes=tuple(
                draw.choice(
                    [None, draw.choice(looks) ^ sum(1 << draw.randrange(64) for _ in "abc")]
                )
                for _ in range(draw.randrange(3))
            ),
        )
        for number in range(count)
    ]


def tied(one: RowKeys, other: RowKeys, tolerance: int) -> bool:
    """Whether two rows are tied, said without any cleverness."""
    near = any(
        (a ^ b).bit_count() <= tolerance
        for a in one.hashes
        for b in other.hashes
        if a is not None and b is not None
    )
    title = bool(one.title) and one.title == other.title
    group = bool(one.group) and one.group == other.group
    return near or title or group or bool(set(one.digests) & set(other.digests))


def first_of_each(rows: list[RowKeys], tolerance: int) -> list[int]:
    """The first row of each row's group, by walking from row to row."""
    first = [-1] * len(rows)
    for start in range(len(rows)):
        waiting = [start] if first[start] < 0 else []
        while waiting:
            row = waiting.pop()
            if first[row] < 0:
                first[row] = start
                waiting += [i for i in range(len(rows)) if tied(rows[row], rows[i], tolerance)]
    return first


def test_rows_are_linked_by_image_title_or_group() -> None:
    assert of(trait(0, digests=("a", "b")), trait(1), trait(2, digests=("b",))) == [0, 1, 0]
    assert of(trait(0, title="Coat"), trait(1, title="Shirt"), trait(2, title="Coat")) == [0, 1, 0]
    assert of(trait(0, group="7"), trait(1, group="8"), trait(2, group="7")) == [0, 1, 0]


def test_a_title_and_a_group_of_the_same_words_do_not_link() -> None:
    assert of(trait(0, title="coat"), trait(1, group="coat")) == [0, 1]


def test_the_sources_own_groups_are_compared_with_their_case() -> None:
    assert of(trait(0, group="a1"), trait(1, group="A1"), trait(2, group=" a1 ")) == [0, 1, 0]


@pytest.mark.parametrize("other", ["trench coat", "  Trench \t COAT ", "Ｔrench coat"])
def test_titles_are_compared_without_case_width_and_blanks(other: str) -> None:
    assert of(trait(0, title="Trench Coat"), trait(1, title=other)) == [0, 0]


@pytest.mark.parametrize("nothing", [None, "", "  ", "N/A", "N.A.", "-", "null", "Untitled"])
def test_a_title_that_is_a_placeholder_links_nothing(nothing: str | None) -> None:
    assert of(trait(0, title=nothing), trait(1, title=nothing)) == [0, 1]
    assert of(trait(0, group=nothing), trait(1, group=nothing)) == [0, 1]


def test_hashes_are_near_up_to_the_tolerance() -> None:
    looks = (0, 0b1111, 0b1111 << 60 | 0b1111)
    rows = [trait(number, hashes=(look,)) for number, look in enumerate(looks)]
    assert of(*rows, tolerance=3) == [0, 1, 2]
    assert of(*rows, tolerance=4) == [0, 0, 0]  # the third by way of the second


def test_two_views_that_are_near_each_other_link_their_row_to_no_other() -> None:
    groups = group_rows([trait(0, hashes=(0, 1)), trait(1), trait(2, hashes=(3,))], tolerance=1)
    assert groups.of.tolist() == [0, 1, 0]
    assert groups.begins.tolist() == [True, True, False]
    assert groups.links[NEAR_IMAGE].count_repeats() == 1


def test_flat_images_are_near_nothing_but_the_same_file_is_the_same() -> None:
    assert of(trait(0, hashes=(None,)), trait(1, hashes=(None,))) == [0, 1]
    white = {"hashes": (None,), "digests": ("white",)}
    assert of(trait(0, **white), trait(1, **white)) == [0, 0]  # type: ignore[arg-type]


def test_with_no_tolerance_only_equal_hashes_link() -> None:
    assert of(trait(0, hashes=(8,)), trait(1, hashes=(9,)), trait(2, hashes=(8,)), tolerance=0) == [
        *(0, 1, 0)
    ]


def test_groups_are_named_by_their_first_row_in_order_of_appearance() -> None:
    groups = group_rows([trait(0), trait(1, title="a"), trait(2), trait(5, title="a")])
    assert groups.names == ("r0", "r1", "r2")
    assert groups.of.tolist() == [0, 1, 2, 1]


def test_a_row_that_joins_two_groups_leaves_the_second_a_beginning() -> None:
    groups = group_rows([trait(0, title="a"), trait(1, group="b"), trait(2, title="a", group="b")])
    assert groups.names == ("r0",)
    assert groups.begins.tolist() == [True, True, False]


def test_no_rows_are_no_groups() -> None:
    groups = group_rows([])
    assert (groups.names, groups.of.tolist()) == ((), [])


@pytest.mark.parametrize("tolerance", [-1, 13])
def test_a_tolerance_that_cannot_be_is_an_error(tolerance: int) -> None:
    with pytest.raises(ValueError, match=f"tolerance is {tolerance}; it must be"):
        group_rows([], tolerance=tolerance)


def test_repeats_are_counted_by_kind() -> None:
    rows = [
        *(trait(0, title="a", digests=("p",), hashes=(0,)), trait(1, title="a", hashes=(1,))),
        *(trait(2, title="A", digests=("p", "p"), hashes=(0,)), trait(3, group="g")),
    ]
    counts = {kind: ties.count_repeats() for kind, ties in group_rows(rows).links.items()}
    assert counts == {SAME_IMAGE: 1, NEAR_IMAGE: 2, SAME_TITLE: 2, SAME_GROUP: 0}


@pytest.mark.parametrize("seed", range(12))
def test_groups_are_those_that_walking_from_row_to_row_finds(seed: int) -> None:
    rows = random_traits(seed, count=60)
    tolerance = seed % 7
    groups = group_rows(rows, tolerance=tolerance)
    first = first_of_each(rows, tolerance)
    assert [groups.names[group] for group in groups.of] == [f"r{row}" for row in first]
    assert groups.begins.tolist() == [
        not any(tied(rows[row], earlier, tolerance) for earlier in rows[:row])
        for row in range(len(rows))
    ]


@pytest.mark.parametrize("seed", range(4))
def test_rows_added_at_the_end_only_join(seed: int) -> None:
    rows = random_traits(seed, count=80)
    whole = group_rows(rows)
    for count in (20, 50):
        part = group_rows(rows[:count])
        assert part.begins.tolist() == whole.begins[:count].tolist()
        pairs = set(zip(part.of.tolist(), whole.of[:count].tolist(), strict=True))
        assert len(pairs) == len(part.names)  # no group is parted
        assert set(whole.names) & {row.id for row in rows[:count]} <= set(part.names)


@pytest.mark.parametrize(
    ("tolerance", "count"), [(1, 500), (2, 70_000), (3, 5000), (4, 500), (6, 5000), (12, 300)]
)
def test_every_planted_near_hash_is_found(tolerance: int, count: int) -> None:
    draw = random.Random(count)
    looks = {draw.getrandbits(64): None for _ in range(count)}
    for look in random.Random(1).sample(list(looks), 200):
        bits = draw.sample(range(64), tolerance)
        looks[look ^ sum(1 << bit for bit in bits)] = None
    array = np.array(list(looks), dtype=np.uint64)
    found = {tuple(pair) for pair in near_pairs(array, tolerance).tolist()}
    sources = array[: len(looks) - 200]
    for place in range(len(looks) - 200, len(looks)):
        near = np.flatnonzero(np.bitwise_count(sources ^ array[place]) <= tolerance).tolist()
        assert {(other, place) for other in near} <= found


def test_near_pairs_are_all_that_comparing_all_with_all_finds() -> None:
    draw = random.Random(5)
    # Few bits vary, so that buckets are crowded and pairs are many.
    looks = np.array(sorted({draw.getrandbits(12) << 20 for _ in range(400)}), dtype=np.uint64)
    apart = np.bitwise_count(looks[:, None] ^ looks[None, :])
    expected = np.argwhere(np.triu(apart <= 3, k=1))
    assert len(expected) > 1000
    assert near_pairs(looks, 3).tolist() == expected.tolist()


def test_a_full_bucket_is_still_linked_where_not_all_of_it_is_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [trait(number, hashes=(number,)) for number in range(32)]  # five bits vary
    assert set(of(*rows, tolerance=5)) == {0}
    monkeypatch.setattr(dedup, "MAX_COMPARISONS", 3)
    assert set(of(*rows, tolerance=5)) == {0}


def chain(count: int, step: int = 2) -> list[RowKeys]:
    """Rows of which each differs from the next in so many bits."""
    looks = [sum(((1 << step) - 1) << step * bit for bit in range(n)) for n in range(64 // step)]
    assert count <= len(looks)
    return [trait(number, hashes=(look,)) for number, look in enumerate(looks[:count])]


def test_chains_that_join_too_many_groups_are_held_to_a_smaller_tolerance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = chain(12)
    copy = trait(99, hashes=((rows[3].hashes[0] or 0) ^ (1 << 60),))
    assert set(of(*rows, copy)) == {0}
    monkeypatch.setattr(dedup, "MAX_JOINED", 8)
    groups = group_rows([*rows, copy])
    assert groups.of.tolist() == [*range(12), 3]  # one bit still ties, two bits no longer do
    assert groups.cut > 0


def test_a_chain_is_as_long_as_the_groups_it_joins_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dedup, "MAX_JOINED", 8)
    rows = [
        trait(row.number, hashes=row.hashes, title="plain" if row.number < 6 else None)
        for row in chain(12)
    ]
    assert set(of(*rows)) == {0}


def test_rows_that_share_a_value_with_a_chosen_row_are_reached() -> None:
    groups: Groups = group_rows(
        [
            *(trait(0, hashes=(0,)), trait(1, hashes=(1, 1 << 40)), trait(2, hashes=(3 << 40,))),
            *(trait(3, hashes=(0xFF << 8,)), trait(4)),
        ],
        tolerance=1,
    )
    chosen = np.array([True, False, False, False, False])
    near = groups.links[NEAR_IMAGE]
    assert near.linked_to(chosen).tolist() == [True, True, False, False, False]
    assert near.linked_to(~chosen).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize(("changed_bits", "groups"), [(6, 12), (64, 72)])
def test_without_prices_the_images_tell_products_in_their_colours_from_classes(
    changed_bits: int, groups: int
) -> None:
    draw = random.Random(0)
    looks = [draw.getrandbits(64) for _ in range(12)]
    masks = (sum(1 << bit for bit in draw.sample(range(64), changed_bits // 2)) for _ in range(72))
    rows = [
        trait(n, title=f"Title {n % 12}", hashes=(looks[n % 12] ^ mask,))
        for n, mask in enumerate(masks)
    ]
    assert len(group_rows(rows, tolerance=0).names) == groups
