"""Which rows belong together: the same image, nearly the same image, the same title or group.

Groups are closed: whoever shares an image with one row and a title with another ties the two.
Works on numbers, about a quarter of a kilobyte a row. Holds no opening of images (`looks.py`)
and no splitting (`splits.py`).
"""

import itertools
import math
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from phi_vision.io.hashing import hash_bits

Places = npt.NDArray[np.int64]
Looks = npt.NDArray[np.uint64]

SAME_IMAGE = "same image"
NEAR_IMAGE = "near image"
SAME_TITLE = "same title"
SAME_GROUP = "same group"

LARGEST_TOLERANCE = 12
"""Bits of 64; beyond, most product photos are near each other, and finding them takes hours."""

LONGEST_CHAIN = 50
"""Groups that near images may join to one. Copies of one image come in handfuls, while plain
trousers on white are near the next, and these the next, through a whole large catalog."""

CROWD = 1000
"""Looks that one look is compared with in one bucket. More share a bucket only where images are
so alike that they are near many of the others anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trait:
    """What ties a row to others."""

    number: int
    """Its place in the source; rows come in rising order."""

    id: str
    """Unique among the rows."""

    title: str | None
    """Compared without regard to case, width of letters and blanks; None ties nothing."""

    group: str | None
    """What the source says belongs together: a style in all its colours; None ties nothing."""

    digests: tuple[str, ...]
    """The same for the same pixels, one for each image."""

    looks: tuple[int | None, ...]
    """64 bits for each image; None is a flat image, which is near no other."""


@dataclass(frozen=True, kw_only=True)
class Ties:
    """One way of belonging together: rows hold keys, and rows with a key in common are tied.

    Input:  titles Coat, Shirt, Coat
    Output: Ties(rows=[0, 1, 2], keys=[0, 1, 0], near=[])
    """

    rows: Places
    """A row's place, once for each key that it holds."""

    keys: Places
    """The keys, numbered from 0 in order of first appearance."""

    near: Places
    """Pairs of keys that are not equal and tie all the same, of shape (pairs, 2)."""

    def first_rows(self) -> Places:
        """Find the first row of each key."""
        return self.rows[np.unique(self.keys, return_index=True)[1]]

    def edges(self) -> Places:
        """Tie the first row of each key to the others of it, and near keys by their first rows."""
        firsts = self.first_rows()
        stars = np.stack([firsts[self.keys], self.rows], axis=1)
        return np.concatenate([stars[stars[:, 0] != stars[:, 1]], firsts[self.near]])

    def reached(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Find the rows that hold a key which a chosen row holds too, or one near it.

        Input:  titles Coat, Shirt, Coat; chosen [True, False, False]
        Output: [True, False, True]
        """
        held = np.zeros(int(self.keys.max(initial=-1)) + 1, dtype=bool)
        held[self.keys[chosen[self.rows]]] = True
        around = held.copy()
        for one, other in (self.near.T, self.near.T[::-1]):
            around[one[held[other]]] = True
        reached = np.zeros(len(chosen), dtype=bool)
        reached[self.rows[around[self.keys]]] = True
        return reached

    def count_repeats(self) -> int:
        """Count the rows that are tied to an earlier one."""
        edges = self.edges()
        return len(np.unique(edges.max(axis=1)))


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Rows put together, and why."""

    names: tuple[str, ...]
    """The id of each group's first row, in order of first appearance."""

    of: Places
    """For each row, the place of its group among the names."""

    begins: npt.NDArray[np.bool_]
    """For each row, whether no row before it was tied to it. Each group begins with such a row;
    another one inside a group began a group of its own, which a later row joined to the first."""

    ties: Mapping[str, Ties]
    """`same image`, `near image`, `same title`, `same group`."""

    chained: int
    """Pairs of looks within the tolerance that tie nothing, as they are links of long chains."""

    def sizes(self) -> Places:
        """Count the rows of each group."""
        return np.bincount(self.of, minlength=len(self.names))


def group_rows(rows: Iterable[Trait], *, tolerance: int = 4) -> Groups:
    """Put rows together that must not straddle a split.

    The tolerance was chosen with `benchmarks/duplicates.py`. Rows added at the end change no
    earlier group, save that they may join two of them, or make a chain of more than LONGEST_CHAIN.

    Input:  A (title Coat), B (title Shirt), C (title coat, and the image of D), D (title Hat)
    Output: names ("A", "B"), of [0, 1, 0, 0]

    Args:
        rows: In the order of the source.
        tolerance: How many bits of 64 may differ between the looks of near duplicates.

    Raises:
        ValueError: The tolerance is not between 0 and LARGEST_TOLERANCE.
    """
    if not 0 <= tolerance <= LARGEST_TOLERANCE:
        raise ValueError(
            f"tolerance is {tolerance}; give a number of bits from 0 to {LARGEST_TOLERANCE}"
        )
    ids, ties, looks = _read(rows)
    exact = np.concatenate([each.edges() for each in ties.values()])
    pairs = near_pairs(looks, tolerance)
    near = _without_chains(pairs, looks, ties[NEAR_IMAGE], _first_of_each(len(ids), exact))
    ties[NEAR_IMAGE] = replace(ties[NEAR_IMAGE], near=near)
    edges = np.concatenate([exact, ties[NEAR_IMAGE].edges()])
    begins = np.ones(len(ids), dtype=bool)
    begins[edges.max(axis=1)] = False
    firsts, of = np.unique(_first_of_each(len(ids), edges), return_inverse=True)
    names = tuple(ids[first] for first in firsts)
    return Groups(names=names, of=of, begins=begins, ties=ties, chained=len(pairs) - len(near))


def _read(rows: Iterable[Trait]) -> tuple[list[str], dict[str, Ties], Looks]:
    """Turn rows into numbers, holding none of them; the keys of near images are equal looks."""
    ids: list[str] = []
    images, looks, titles, groups = (_Keys() for _ in range(4))
    last = -1
    for place, row in enumerate(rows):
        assert row.number > last, f"row {row.number} comes after row {last}"
        last = row.number
        ids.append(row.id)
        for digest in row.digests:
            images.add(place, hash_bits(digest))
        for look in row.looks:
            if look is not None:
                looks.add(place, look)
        for keys, text in ((titles, _normal(row.title)), (groups, (row.group or "").strip())):
            if text.casefold() not in _SAYS_NOTHING:
                keys.add(place, hash_bits(text))
    near, values = looks.ties()
    ties = {
        SAME_IMAGE: images.ties()[0],
        NEAR_IMAGE: near,
        SAME_TITLE: titles.ties()[0],
        SAME_GROUP: groups.ties()[0],
    }
    return ids, ties, values


def _without_chains(pairs: Places, looks: Looks, near: Ties, first: Places) -> Places:
    """Drop the loosest pairs of looks wherever they chain too many groups together.

    In a chain that is too long, pairs that differ in the full tolerance are dropped, then, where it
    still is too long, those that differ in one bit less, and so on.

    Args:
        pairs: Near looks.
        looks: What the pairs are places in.
        near: Which rows hold which look.
        first: The first row of each row's group, as all but near pairs make them.
    """
    begins = np.flatnonzero(first == np.arange(len(first)))
    ends = first[near.first_rows()[pairs]]
    apart = np.bitwise_count(looks[pairs[:, 0]] ^ looks[pairs[:, 1]])
    for allowed in range(int(apart.max(initial=1)) - 1, -1, -1):
        whole = _first_of_each(len(first), ends)
        joined = np.bincount(whole[begins], minlength=len(first))
        kept = (joined[whole[ends[:, 0]]] <= LONGEST_CHAIN) | (apart <= allowed)
        pairs, ends, apart = pairs[kept], ends[kept], apart[kept]
    return pairs


class _Keys:
    """Gathers (row, key) pairs in twelve bytes each."""

    def __init__(self) -> None:
        self._rows, self._keys = array("I"), array("Q")

    def add(self, row: int, key: int) -> None:
        self._rows.append(row)
        self._keys.append(key)

    def ties(self) -> tuple[Ties, Looks]:
        """Number the keys in order of first appearance; give them beside, in that order."""
        rows = np.array(self._rows, dtype=np.int64)
        values, firsts, keys = np.unique(
            np.array(self._keys, dtype=np.uint64), return_index=True, return_inverse=True
        )
        order = np.argsort(firsts)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        near = np.empty((0, 2), dtype=np.int64)
        return Ties(rows=rows, keys=rank[keys], near=near), values[order]


def near_pairs(looks: Looks, tolerance: int) -> Places:
    """Find all pairs of different looks that differ in few bits, without comparing all with all.

    The bits are dealt into some bands more than may differ: two near looks are then equal in as
    many bands as there are more, in one choice of them or another (the pigeonhole principle). For
    each choice, only looks that are equal in it are compared.

    Input:  [0b0000, 0b0001, 0b1111], tolerance=1
    Output: [[0, 1]]

    Args:
        looks: All different.
        tolerance: How many bits may differ.

    Returns:
        Pairs of places, the smaller first, sorted, of shape (pairs, 2).
    """
    found = [np.empty(0, dtype=np.int64)]
    for mask in _masks(len(looks), tolerance):
        ones, others = _close_in(looks, mask, tolerance)
        found.append(np.minimum(ones, others) * len(looks) + np.maximum(ones, others))
        if sum(map(len, found)) > len(looks):
            found = [np.unique(np.concatenate(found))]
    pairs = np.unique(np.concatenate(found))
    return np.stack(np.divmod(pairs, max(len(looks), 1)), axis=1)


def _masks(count: int, tolerance: int) -> Iterator[np.uint64]:
    """Choose bits such that near looks are equal in at least one of the choices.

    Input:  1,000,000 looks, tolerance=4
    Output: 15 masks of 20 to 22 bits: two of six bands, each of every sixth bit
    """
    if not tolerance:
        return
    equal = 1
    # With about as many buckets as looks, a bucket holds a handful.
    while 64 * equal / (tolerance + equal) < math.log2(count + 1) and equal < 4:
        equal += 1
    bands = [
        sum(1 << bit for bit in range(first, 64, tolerance + equal))
        for first in range(tolerance + equal)
    ]
    for chosen in itertools.combinations(bands, equal):
        yield np.uint64(sum(chosen))


def _close_in(looks: Looks, mask: np.uint64, tolerance: int) -> tuple[Places, Places]:
    """Compare the looks that are equal under a mask, each with those that follow it."""
    masked = looks & mask
    order = np.argsort(masked, kind="stable")
    masked, looks = masked[order], looks[order]
    ones, others = [], []
    left = np.arange(len(looks))
    for step in range(1, CROWD + 1):
        left = left[left + step < len(looks)]
        left = left[masked[left] == masked[left + step]]
        if not len(left):
            break
        near = left[np.bitwise_count(looks[left] ^ looks[left + step]) <= tolerance]
        ones.append(order[near])
        others.append(order[near + step])
    nothing = [np.empty(0, dtype=np.int64)]
    return np.concatenate(ones or nothing), np.concatenate(others or nothing)


def _first_of_each(count: int, edges: Places) -> Places:
    """Find the first row of each row's group: connected components, by hooking and shortcutting.

    Input:  5 rows, edges (0, 2), (2, 3)
    Output: [0, 1, 0, 0, 4]
    """
    first = np.arange(count)
    while len(edges):
        ends = np.sort(first[edges], axis=1)
        edges = ends[ends[:, 0] != ends[:, 1]]
        # Each group's first hooks to the smallest that it is tied to; then all look up theirs.
        np.minimum.at(first, edges[:, 1], edges[:, 0])
        while not np.array_equal(above := first[first], first):
            first = above
    return first


def _normal(title: str | None) -> str:
    """Write a title as it is compared.

    Input:  "  Trench  COAT", "Ｔrench coat"
    Output: "trench coat", "trench coat"
    """
    return " ".join(unicodedata.normalize("NFKC", title or "").casefold().split())


# What exports write where there is nothing: thousands of rows share it and nothing else.
_SAYS_NOTHING = {"", "-", "--", "?", "n.a.", "n/a", "na", "nan", "nil", "none", "null", "unknown"}
_SAYS_NOTHING |= {"untitled", "no title", "tbd", "tba"}
