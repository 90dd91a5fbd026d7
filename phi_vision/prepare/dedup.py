"""Group rows that must stay in one split: same or near-duplicate image, same title, same group.

Groups are transitive: a row that shares an image with one row and a title with another links both.
Works on hashes, about a quarter of a kilobyte a row; knows no images and no splits (`splits.py`).
"""

import itertools
import math
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from phi_vision.io.hashing import hash_bits
from phi_vision.prepare.text import is_placeholder

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

SAME_IMAGE, NEAR_IMAGE = "same image", "near-duplicate image"
SAME_TITLE, SAME_GROUP = "same title", "same group"
GENERIC = "rows with a title that identifies no product"

Grouping = Literal["auto", "strict", "images", "none"]
MIN_GENERIC = 5  # rows of a title that may be generic; fewer do no harm as a group
MAX_TITLE_SHARE = 0.1  # of all rows; a title of more could not be in a split of a tenth
# Bits of 64, on average over the images of a title: 94 % of 204 real products in their colours are
# below, and none of 3,400 times six products of one category.
MAX_VARIANT_DISTANCE = 16

MAX_TOLERANCE = 12  # bits of 64; beyond, most product photos are near-duplicates
# Groups that near-duplicate images may join to one. Copies of one image come in handfuls, while
# plain trousers on white are near the next ones, and these the next, through a whole catalog.
MAX_JOINED = 50
# Hashes that one hash is compared with in one bucket. More share a bucket only where images are so
# alike that they are near many of the others anyway.
MAX_COMPARISONS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RowKeys:
    """What a row is grouped and split by; all that stays in memory of it."""

    number: int  # position in the source, ascending
    id: str
    title: str | None = None
    group: str | None = None  # the source's own, such as a style in all its colours
    digests: tuple[str, ...] = ()  # of each image's pixels
    hashes: tuple[int | None, ...] = ()  # perceptual; None of a flat image, near to no other
    split: str | None = None
    category: str | None = None
    price: str | None = None
    fingerprint: str = ""  # equal for rows with equal record, messages and images


class Links(NamedTuple):
    """One kind of link: rows hold keys, and rows with a key in common are linked.

    Input:  titles Coat, Shirt, Coat
    Output: Links(rows=[0, 1, 2], keys=[0, 1, 0], values=[hash of Coat, of Shirt], near=[])
    """

    rows: Indices  # a row's index, once for each key it holds
    keys: Indices  # the index of that key in `values`
    values: Hashes  # the distinct keys, in order of first appearance
    near: Indices  # pairs of different keys that link, too, of shape (pairs, 2)

    def first_rows(self) -> Indices:
        """Return the first row of each key."""
        return self.rows[np.unique(self.keys, return_index=True)[1]]

    def edges(self) -> Indices:
        """Link each key's first row to its others, and near keys by their first rows."""
        firsts = self.first_rows()
        same = np.column_stack([firsts[self.keys], self.rows])
        edges = np.concatenate([same, firsts[self.near]])
        apart: Indices = edges[edges[:, 0] != edges[:, 1]]  # near keys may be of one row
        return apart

    def linked_to(self, chosen: Mask) -> Mask:
        """Return which rows share a key with a chosen row, or have a key near one of its keys.

        Input:  titles Coat, Shirt, Coat; chosen [True, False, False]
        Output: [True, False, True]
        """
        held = np.zeros(len(self.values), dtype=bool)
        held[self.keys[chosen[self.rows]]] = True
        near = np.concatenate([self.near, self.near[:, ::-1]])
        held[near[held[near[:, 0]], 1]] = True
        linked = np.zeros(len(chosen), dtype=bool)
        linked[self.rows[held[self.keys]]] = True
        return linked

    def count_repeats(self) -> int:
        """Count the rows that are linked to an earlier one."""
        return len(np.unique(self.edges().max(axis=1)))


class Groups(NamedTuple):
    """The groups of all rows."""

    names: tuple[str, ...]  # the id of each group's first row, in order of first appearance
    of: Indices  # for each row, the index of its group in `names`
    begins: Mask
    """For each row, whether no earlier row is linked to it: it began a group, which a later row may
    have joined to another."""
    links: Mapping[str, Links]  # by kind
    cut: int  # near-duplicate pairs that link nothing, as they would join too many groups
    generic: int  # rows whose title links nothing, as it identifies no product


def group_rows(
    rows: Iterable[RowKeys], *, tolerance: int = 4, grouping: Grouping = "auto"
) -> Groups:
    """Group rows that must not straddle a split.

    The tolerance was chosen with `benchmarks/duplicates.py`. Appended rows change no earlier
    group, except that they may join two of them, or more than MAX_JOINED.

    Input:  A (title Coat), B (title Shirt), C (title coat, and the image of D), D (title Hat)
    Output: names ("A", "B"), of [0, 1, 0, 0]
    """
    if not 0 <= tolerance <= MAX_TOLERANCE:
        raise ValueError(f"tolerance is {tolerance}; it must be 0 to {MAX_TOLERANCE} bits")
    rows = list(rows)
    assert all(row.number < later.number for row, later in itertools.pairwise(rows)), "unordered"
    links = {kind: _link(rows, keys_of) for kind, keys_of in _KEYS.items()}
    generic = {} if grouping == "strict" else generic_titles(rows)
    if generic:
        links[SAME_TITLE] = _link(rows, lambda row: {*_title_keys(row)} - generic.keys())
    none = np.empty((0, 2), dtype=np.int64)
    ignored = {"images": [SAME_TITLE], "none": [*links]}.get(grouping, [])
    exact = np.concatenate([none, *(links[kind].edges() for kind in links if kind not in ignored)])
    pairs = near_pairs(links[NEAR_IMAGE].values, tolerance)
    near = _cut_pairs(pairs, links[NEAR_IMAGE], _first_of_each(len(rows), exact))
    links[NEAR_IMAGE] = links[NEAR_IMAGE]._replace(near=near)
    edges = np.concatenate([exact, none if grouping == "none" else links[NEAR_IMAGE].edges()])
    begins = np.ones(len(rows), dtype=bool)
    begins[edges.max(axis=1)] = False
    firsts, of = np.unique(_first_of_each(len(rows), edges), return_inverse=True)
    names = tuple(rows[first].id for first in firsts)
    return Groups(names, of, begins, links, len(pairs) - len(near), sum(generic.values()))


def generic_titles(rows: Iterable[RowKeys]) -> dict[int, int]:
    """Find the titles that identify no product: their keys, and the rows of each.

    A title of several rows is generic if most of them differ in category or price, or if their
    prices agree hardly more than those of any rows. Without prices, one of many rows is generic,
    unless their images look like one product.

    Input:  20 rows "T-shirt" of 18 prices; 6 rows "Marlowe Coat" in six colours for 390
    Output: {key of "t-shirt": 20}
    """
    held: dict[int, list[RowKeys]] = defaultdict(list)
    for row in rows:
        for key in _title_keys(row):
            held[key].append(row)
    total = sum(map(len, held.values()))
    repeats = total >= MIN_GENERIC * max(len(held), 4)  # each title, on average
    chance = _agreement([row.price for titled in held.values() for row in titled])

    def is_generic(titled: list[RowKeys]) -> bool:
        count = len(titled)
        if count < MIN_GENERIC or 2 * len({(row.category, row.price) for row in titled}) > count:
            return count >= MIN_GENERIC
        prices = [row.price for row in titled if row.price is not None]
        if prices:  # the geometric mean of agreement by chance and of the perfect one
            return _agreement(prices) < math.sqrt(chance)
        is_large = count >= 2 * MIN_GENERIC and count > MAX_TITLE_SHARE * total
        return (is_large or repeats) and _mean_distance(titled) > MAX_VARIANT_DISTANCE

    return {key: len(titled) for key, titled in held.items() if is_generic(titled)}


def _agreement(values: Sequence[object]) -> float:
    """Return the share of pairs that are equal: of A, A, B it is 1/3."""
    pairs = len(values) * (len(values) - 1)
    return sum(n * (n - 1) for n in Counter(values).values()) / pairs if pairs else 1.0


def _mean_distance(rows: Iterable[RowKeys]) -> float:
    """Return the mean Hamming distance of any two rows' first images: of 1, 1, 2 it is 4/3."""
    hashes = [row.hashes[0] for row in rows if row.hashes and row.hashes[0] is not None]
    count = len(hashes)
    bits = np.unpackbits(np.array(hashes, dtype=np.uint64).view(np.uint8)).reshape(count, 64)
    ones = bits.sum(axis=0, dtype=np.int64)
    return float((2 * ones * (count - ones)).sum() / (count * (count - 1))) if count > 1 else 64.0


def near_pairs(hashes: Hashes, tolerance: int) -> Indices:
    """Find all pairs of different hashes within a Hamming distance, without comparing all pairs.

    The bits are dealt into a few bands more than may differ: two near hashes are then equal in as
    many bands as there are more (the pigeonhole principle). For each choice of such bands, only
    hashes that are equal in it are compared.

    Input:  [0b0000, 0b0001, 0b1111], all different, tolerance=1
    Output: [[0, 1]]: sorted pairs of indices, the smaller first
    """
    count = len(hashes)
    found = [np.empty(0, dtype=np.int64)]
    for mask in _masks(count, tolerance):
        order = np.argsort(hashes & mask, kind="stable")
        ordered = hashes[order]
        masked = ordered & mask
        left = np.arange(count)
        for step in range(1, MAX_COMPARISONS + 1):
            left = left[left + step < count]
            left = left[masked[left] == masked[left + step]]
            if not len(left):
                break
            near = left[np.bitwise_count(ordered[left] ^ ordered[left + step]) <= tolerance]
            ones, others = order[near], order[near + step]
            found.append(np.minimum(ones, others) * count + np.maximum(ones, others))
        if sum(map(len, found)) > count:
            found = [np.unique(np.concatenate(found))]
    return np.stack(np.divmod(np.unique(np.concatenate(found)), max(count, 1)), axis=1)


def _masks(count: int, tolerance: int) -> list[np.uint64]:
    """Return masks so that near hashes are equal under at least one of them.

    For a million hashes and a tolerance of 4: 15 masks, two of six bands of every sixth bit.
    """
    # With about as many buckets as hashes, a bucket holds a handful.
    enough = (n for n in (1, 2, 3) if 64 * n / (tolerance + n) >= math.log2(count + 1))
    equal = next(enough, 4)
    total = tolerance + equal
    bands = [sum(1 << bit for bit in range(first, 64, total)) for first in range(total)]
    chosen = itertools.combinations(bands, equal) if tolerance else ()
    return [np.uint64(sum(each)) for each in chosen]


def _link(rows: list[RowKeys], keys_of: "_KeysOf") -> Links:
    """Link rows by equal keys."""
    indices, keys = array("q"), array("Q")  # 16 bytes for each key of a row
    for index, row in enumerate(rows):
        held = list(keys_of(row))
        indices.extend([index] * len(held))
        keys.extend(held)
    bits = np.array(keys, dtype=np.uint64)
    values, firsts, numbers = np.unique(bits, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    near = np.empty((0, 2), dtype=np.int64)
    return Links(np.array(indices), np.argsort(order)[numbers], values[order], near)


def _cut_pairs(pairs: Indices, links: Links, first: Indices) -> Indices:
    """Drop the most distant pairs of hashes wherever they join too many groups.

    Where more than MAX_JOINED groups are joined, pairs at the full tolerance are dropped, then, if
    it is still too many, those at one bit less, and so on. `first` is the first row of each row's
    group by all other links.
    """
    begins = np.flatnonzero(first == np.arange(len(first)))
    ends = first[links.first_rows()[pairs]]
    distance = np.bitwise_count(np.bitwise_xor(*links.values[pairs.T]))
    for allowed in range(int(distance.max(initial=1)) - 1, -1, -1):
        whole = _first_of_each(len(first), ends)
        joined = np.bincount(whole[begins], minlength=len(first))
        kept = (joined[whole[ends[:, 0]]] <= MAX_JOINED) | (distance <= allowed)
        pairs, ends, distance = pairs[kept], ends[kept], distance[kept]
    return pairs


def _first_of_each(count: int, edges: Indices) -> Indices:
    """Return the first row of each row's connected component: of edges (0, 2) alone, [0, 1, 0]."""
    from scipy.sparse import coo_matrix  # here, as importing it takes 0.1 s
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(edges), dtype=bool)
    graph = coo_matrix((ones, (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    first: Indices = np.unique(label, return_index=True)[1][label]
    return first


def _title_keys(row: RowKeys) -> list[int]:
    return _text_keys(unicodedata.normalize("NFKC", row.title or "").casefold())


def _text_keys(text: str) -> list[int]:
    text = " ".join(text.split())
    # Thousands of rows may share a placeholder and nothing else.
    return [] if is_placeholder(text) else [hash_bits(text)]


_KeysOf = Callable[[RowKeys], Iterable[int]]
_KEYS: dict[str, _KeysOf] = {
    SAME_IMAGE: lambda row: map(hash_bits, row.digests),
    NEAR_IMAGE: lambda row: (value for value in row.hashes if value is not None),
    SAME_TITLE: _title_keys,
    SAME_GROUP: lambda row: _text_keys(row.group or ""),
}
