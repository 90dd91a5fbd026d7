"""Group rows that must stay in one split: same or near-duplicate image, same title, same group.

Groups are transitive: a row that shares an image with one row and a title with another links both.
Works on hashes, about a quarter of a kilobyte a row; knows no images and no splits (`splits.py`).
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

Indices = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

SAME_IMAGE = "same image"
NEAR_IMAGE = "near-duplicate image"
SAME_TITLE = "same title"
SAME_GROUP = "same group"

MAX_TOLERANCE = 12
"""Bits of 64; beyond, most product photos are near-duplicates, and finding them takes hours."""

MAX_JOINED = 50
"""Groups that near-duplicate images may join to one. Copies of one image come in handfuls, while
plain trousers on white are near the next ones, and these the next, through a whole catalog."""

MAX_COMPARISONS = 1000
"""Hashes that one hash is compared with in one bucket. More share a bucket only where images are
so alike that they are near many of the others anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowKeys:
    """What a row is grouped and split by; all that stays in memory of it."""

    number: int
    """Position in the source, ascending."""

    id: str
    title: str | None = None
    group: str | None = None
    """The source's own group, such as a style in all its colours."""

    digests: tuple[str, ...] = ()
    """Of each image's pixels."""

    hashes: tuple[int | None, ...] = ()
    """Perceptual hash of each image; None is a flat image, a near-duplicate of no other."""

    split: str | None = None
    category: str | None = None

    fingerprint: str = ""
    """Equal for rows with equal record, messages and images."""


@dataclass(frozen=True, kw_only=True)
class Links:
    """One kind of link: rows hold keys, and rows with a key in common are linked.

    Input:  titles Coat, Shirt, Coat
    Output: Links(rows=[0, 1, 2], keys=[0, 1, 0], near=[])
    """

    rows: Indices
    """A row's index, once for each key it holds."""

    keys: Indices
    """Numbered from 0 in order of first appearance."""

    near: Indices
    """Pairs of different keys that link, too, of shape (pairs, 2)."""

    def first_rows(self) -> Indices:
        """Return the first row of each key."""
        return self.rows[np.unique(self.keys, return_index=True)[1]]

    def edges(self) -> Indices:
        """Link each key's first row to its others, and near keys by their first rows."""
        firsts = self.first_rows()
        stars = np.stack([firsts[self.keys], self.rows], axis=1)
        return np.concatenate([stars[stars[:, 0] != stars[:, 1]], firsts[self.near]])

    def linked_to(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which rows share a key with a chosen row, or have a key near one of its keys.

        Input:  titles Coat, Shirt, Coat; chosen [True, False, False]
        Output: [True, False, True]
        """
        held = np.zeros(int(self.keys.max(initial=-1)) + 1, dtype=bool)
        held[self.keys[chosen[self.rows]]] = True
        around = held.copy()
        for one, other in (self.near.T, self.near.T[::-1]):
            around[one[held[other]]] = True
        linked = np.zeros(len(chosen), dtype=bool)
        linked[self.rows[around[self.keys]]] = True
        return linked

    def count_repeats(self) -> int:
        """Count the rows that are linked to an earlier one."""
        return len(np.unique(self.edges().max(axis=1)))


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups of all rows."""

    names: tuple[str, ...]
    """The id of each group's first row, in order of first appearance."""

    of: Indices
    """For each row, the index of its group in `names`."""

    begins: npt.NDArray[np.bool_]
    """For each row, whether no earlier row is linked to it: it began a group, which a later row may
    have joined to another."""

    links: Mapping[str, Links]
    cut: int
    """Near-duplicate pairs that link nothing, as they would join too many groups."""

    def sizes(self) -> Indices:
        """Count the rows of each group."""
        return np.bincount(self.of, minlength=len(self.names))


def group_rows(rows: Iterable[RowKeys], *, tolerance: int = 4) -> Groups:
    """Group rows that must not straddle a split.

    The tolerance was chosen with `benchmarks/duplicates.py`. Appended rows change no earlier
    group, except that they may join two of them, or more than MAX_JOINED.

    Input:  A (title Coat), B (title Shirt), C (title coat, and the image of D), D (title Hat)
    Output: names ("A", "B"), of [0, 1, 0, 0]
    """
    if not 0 <= tolerance <= MAX_TOLERANCE:
        raise ValueError(f"tolerance is {tolerance}; it must be 0 to {MAX_TOLERANCE} bits")
    ids, links, hashes = _link(rows)
    exact = np.concatenate([each.edges() for each in links.values()])
    pairs = near_pairs(hashes, tolerance)
    near = _cut_pairs(pairs, hashes, links[NEAR_IMAGE], _first_of_each(len(ids), exact))
    links[NEAR_IMAGE] = replace(links[NEAR_IMAGE], near=near)
    edges = np.concatenate([exact, links[NEAR_IMAGE].edges()])
    begins = np.ones(len(ids), dtype=bool)
    begins[edges.max(axis=1)] = False
    firsts, of = np.unique(_first_of_each(len(ids), edges), return_inverse=True)
    names = tuple(ids[first] for first in firsts)
    return Groups(names=names, of=of, begins=begins, links=links, cut=len(pairs) - len(near))


def _link(rows: Iterable[RowKeys]) -> tuple[list[str], dict[str, Links], Hashes]:
    """Reduce rows to ids, links by equal keys, and the distinct perceptual hashes."""
    ids: list[str] = []
    kinds = (SAME_IMAGE, NEAR_IMAGE, SAME_TITLE, SAME_GROUP)
    held = {kind: (array("I"), array("Q")) for kind in kinds}  # twelve bytes for each key of a row
    last = -1
    for index, row in enumerate(rows):
        assert row.number > last, f"row {row.number} comes after row {last}"
        last = row.number
        ids.append(row.id)
        texts = {SAME_TITLE: _normalise(row.title), SAME_GROUP: (row.group or "").strip()}
        keys = {
            SAME_IMAGE: [hash_bits(digest) for digest in row.digests],
            NEAR_IMAGE: [value for value in row.hashes if value is not None],
            **{k: [hash_bits(t)] for k, t in texts.items() if t.casefold() not in _PLACEHOLDERS},
        }
        for kind, values in keys.items():
            held[kind][0].extend([index] * len(values))
            held[kind][1].extend(values)
    linked = {kind: _number_keys(*pair) for kind, pair in held.items()}
    return ids, {kind: links for kind, (links, _) in linked.items()}, linked[NEAR_IMAGE][1]


def _number_keys(rows: "array[int]", keys: "array[int]") -> tuple[Links, Hashes]:
    """Number keys in order of first appearance; return the distinct keys in that order, too."""
    values, firsts, numbers = np.unique(
        np.array(keys, dtype=np.uint64), return_index=True, return_inverse=True
    )
    order = np.argsort(firsts)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    near = np.empty((0, 2), dtype=np.int64)
    return Links(rows=np.array(rows, dtype=np.int64), keys=rank[numbers], near=near), values[order]


def _cut_pairs(pairs: Indices, hashes: Hashes, near: Links, first: Indices) -> Indices:
    """Drop the most distant pairs of hashes wherever they join too many groups.

    Where more than MAX_JOINED groups are joined, pairs at the full tolerance are dropped, then, if
    it is still too many, those at one bit less, and so on. `first` is the first row of each row's
    group by all other links.
    """
    begins = np.flatnonzero(first == np.arange(len(first)))
    ends = first[near.first_rows()[pairs]]
    distance = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    for allowed in range(int(distance.max(initial=1)) - 1, -1, -1):
        whole = _first_of_each(len(first), ends)
        joined = np.bincount(whole[begins], minlength=len(first))
        kept = (joined[whole[ends[:, 0]]] <= MAX_JOINED) | (distance <= allowed)
        pairs, ends, distance = pairs[kept], ends[kept], distance[kept]
    return pairs


def near_pairs(hashes: Hashes, tolerance: int) -> Indices:
    """Find all pairs of different hashes within a Hamming distance, without comparing all pairs.

    The bits are dealt into a few bands more than may differ: two near hashes are then equal in as
    many bands as there are more (the pigeonhole principle). For each choice of such bands, only
    hashes that are equal in it are compared.

    Input:  [0b0000, 0b0001, 0b1111], all different, tolerance=1
    Output: [[0, 1]]: sorted pairs of indices, the smaller first
    """
    found = [np.empty(0, dtype=np.int64)]
    for mask in _masks(len(hashes), tolerance):
        ones, others = _near_in_buckets(hashes, mask, tolerance)
        found.append(np.minimum(ones, others) * len(hashes) + np.maximum(ones, others))
        if sum(map(len, found)) > len(hashes):
            found = [np.unique(np.concatenate(found))]
    pairs = np.unique(np.concatenate(found))
    return np.stack(np.divmod(pairs, max(len(hashes), 1)), axis=1)


def _masks(count: int, tolerance: int) -> Iterator[np.uint64]:
    """Yield masks so that near hashes are equal under at least one of them.

    Input:  1,000,000 hashes, tolerance=4
    Output: 15 masks of 20 to 22 bits: two of six bands, each of every sixth bit
    """
    if not tolerance:
        return
    equal = 1
    # With about as many buckets as hashes, a bucket holds a handful.
    while 64 * equal / (tolerance + equal) < math.log2(count + 1) and equal < 4:
        equal += 1
    bands = [
        sum(1 << bit for bit in range(first, 64, tolerance + equal))
        for first in range(tolerance + equal)
    ]
    yield from (np.uint64(sum(chosen)) for chosen in itertools.combinations(bands, equal))


def _near_in_buckets(hashes: Hashes, mask: np.uint64, tolerance: int) -> tuple[Indices, Indices]:
    """Compare hashes that are equal under a mask, each with those that follow it."""
    order = np.argsort(hashes & mask, kind="stable")
    hashes = hashes[order]
    masked = hashes & mask
    ones, others = [order[:0]], [order[:0]]
    left = np.arange(len(hashes))
    for step in range(1, MAX_COMPARISONS + 1):
        left = left[left + step < len(hashes)]
        left = left[masked[left] == masked[left + step]]
        if not len(left):
            break
        near = left[np.bitwise_count(hashes[left] ^ hashes[left + step]) <= tolerance]
        ones.append(order[near])
        others.append(order[near + step])
    return np.concatenate(ones), np.concatenate(others)


def _first_of_each(count: int, edges: Indices) -> Indices:
    """Return the first row of each row's connected component.

    Input:  5 rows, edges (0, 2), (2, 3)
    Output: [0, 1, 0, 0, 4]
    """
    from scipy.sparse import coo_matrix  # here, as importing it takes 0.1 s
    from scipy.sparse.csgraph import connected_components

    if not count:
        return np.empty(0, dtype=np.int64)
    ones, others = edges.T
    graph = coo_matrix((np.ones(len(edges), dtype=bool), (ones, others)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    first: Indices = np.unique(label, return_index=True)[1][label]
    return first


def _normalise(title: str | None) -> str:
    """Normalise a title for comparison.

    Input:  "  Trench  COAT", "Ｔrench coat"
    Output: "trench coat", "trench coat"
    """
    return " ".join(unicodedata.normalize("NFKC", title or "").casefold().split())


# What exports write into empty cells: thousands of rows share it and nothing else.
_PLACEHOLDERS = frozenset(
    {
        *("", "-", "--", "?", "n.a.", "n/a", "na", "nan", "nil", "none", "null", "unknown"),
        *("untitled", "no title", "tbd", "tba"),
    }
)
