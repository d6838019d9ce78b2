"""Which examples must stay on one side of a split: the user's groups, and near duplicates.

A near duplicate is a pair on which two unrelated views agree: the embeddings' cosine and the pixels'
perceptual hash. Either alone chains: on look-alike photos (solar cells) it joins a third of the data.
"""

from dataclasses import dataclass

import numpy as np

from models.arrays import BoolArray, FloatArray, IntArray
from models.dataset import Hashes

MIN_COSINE = 0.99
MAX_HASH_DISTANCE = 4  # bits of 64
MAX_GROUP_SHARE = 0.05  # of the data, in one near-duplicate group
BLOCK = 2**22  # elements of one (rows, N) block: 32 MB of hashes
PAIRS_PER_ROW = 32  # enough to keep a clique connected; bounds the memory where all images look alike
FREE = -1  # not on any side yet


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """P near-duplicate pairs, each once."""

    first: IntArray  # (P,) row numbers
    second: IntArray  # (P,) row numbers, larger than `first`
    cosine: FloatArray  # (P,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JoinedGroups:
    numbers: IntArray  # (N,) equal where two examples belong together
    apart: int  # near-duplicate pairs that were not joined


def near_duplicates(
    embeddings: FloatArray, hashes: Hashes, *, min_cosine: float = MIN_COSINE, block: int = BLOCK
) -> Pairs:
    """All pairs that are alike in both views.

    The hashes are compared first, block by block: cosines are computed only for rows and columns that
    have a close hash. Of each row at most 32 pairs are kept, the most similar.

    Args: embeddings: (N, D) float32; hashes: (N,) uint64; block: elements compared at a time.
    """
    count = len(hashes)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = (embeddings / np.where(norms > 0, norms, 1)).astype(np.float32)  # (N, D)
    rows_per_block = max(1, block // max(1, count))
    found = [
        _pairs_of_block(unit, hashes, start, rows_per_block, min_cosine)
        for start in range(0, count, rows_per_block)
    ]
    return Pairs(
        first=np.concatenate([np.empty(0, np.int64), *(pairs.first for pairs in found)]),
        second=np.concatenate([np.empty(0, np.int64), *(pairs.second for pairs in found)]),
        cosine=np.concatenate([np.empty(0, np.float32), *(pairs.cosine for pairs in found)]),
    )


def _pairs_of_block(unit: FloatArray, hashes: Hashes, start: int, count: int, min_cosine: float) -> Pairs:
    stop = min(start + count, len(hashes))
    later = np.arange(start, len(hashes))
    close = np.bitwise_count(hashes[start:stop, None] ^ hashes[None, later]) <= MAX_HASH_DISTANCE
    close &= later[None, :] > np.arange(start, stop)[:, None]  # (rows, later): each pair once
    rows, columns = np.flatnonzero(close.any(axis=1)), np.flatnonzero(close.any(axis=0))
    cosine = unit[start + rows] @ unit[start + columns].T
    alike = _most_similar(cosine, close[np.ix_(rows, columns)] & (cosine > min_cosine))
    row, column = np.nonzero(alike)
    return Pairs(
        first=(start + rows[row]).astype(np.int64),
        second=(start + columns[column]).astype(np.int64),
        cosine=cosine[row, column].astype(np.float32),
    )


def _most_similar(cosine: FloatArray, alike: BoolArray) -> BoolArray:
    """`alike` (rows, columns) with at most PAIRS_PER_ROW pairs in each row."""
    for row in np.flatnonzero(alike.sum(axis=1) > PAIRS_PER_ROW):
        ranked = np.argsort(np.where(alike[row], -cosine[row], np.inf), kind="stable")
        alike[row, ranked[PAIRS_PER_ROW:]] = False
    return alike


def join_groups(groups: tuple[str | None, ...], pairs: Pairs, sides: IntArray) -> JoinedGroups:
    """Join the user's groups and, most similar first, the near duplicates.

    A user's group is joined whatever its size. A near-duplicate pair is joined only while what it makes
    stays within 5 % of the data (2 examples, where that is less), and never across sides that are
    already assigned; an example without a group of the user's may always join one, up to the same number.

    Args: sides: (N,) int64, the split that an example is in already, or -1.
    """
    joined = _Union(groups, sides)
    order = np.lexsort((pairs.second, pairs.first, -pairs.cosine))
    largest = max(2, int(MAX_GROUP_SHARE * len(groups)))
    apart = sum(not joined.join(int(pairs.first[pair]), int(pairs.second[pair]), largest) for pair in order)
    return JoinedGroups(numbers=joined.numbers(), apart=apart)


class _Union:
    """Disjoint sets of rows with their sizes and sides."""

    def __init__(self, groups: tuple[str | None, ...], sides: IntArray) -> None:
        self.parent = list(range(len(groups)))
        self.size = [1] * len(groups)
        self.lone = [int(group is None) for group in groups]  # members without a group of the user's
        self.side = [int(side) for side in sides]
        first: dict[str, int] = {}
        for row, group in enumerate(groups):
            if group is not None and first.setdefault(group, row) != row:
                self._merge(self.root(first[group]), row)

    def root(self, row: int) -> int:
        while self.parent[row] != row:
            self.parent[row] = self.parent[self.parent[row]]
            row = self.parent[row]
        return row

    def join(self, first: int, second: int, largest: int) -> bool:
        """Whether the two are together afterwards."""
        one, other = self.root(first), self.root(second)
        if one == other:
            return True
        if FREE not in (self.side[one], self.side[other]) and self.side[one] != self.side[other]:
            return False
        some_lone = self.lone[one] == self.size[one] or self.lone[other] == self.size[other]
        within = self.size[one] + self.size[other] <= largest
        if not (within or (some_lone and self._has_group(one, other, largest))):
            return False
        self._merge(one, other)
        return True

    def _has_group(self, one: int, other: int, largest: int) -> bool:
        lone = self.lone[one] + self.lone[other]
        return lone < self.size[one] + self.size[other] and lone <= largest

    def _merge(self, one: int, other: int) -> None:
        self.parent[other] = one
        self.size[one] += self.size[other]
        self.lone[one] += self.lone[other]
        if self.side[one] == FREE:
            self.side[one] = self.side[other]

    def numbers(self) -> IntArray:
        return np.array([self.root(row) for row in range(len(self.parent))], dtype=np.int64)
