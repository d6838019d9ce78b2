"""Whole groups of examples handed out to parts, every stratum in proportion.

Greedy, after iterative stratification (Sechidis et al. 2011) with groups for examples: largest first, each
to the part that needs the group's strata most, counting what is there already.
"""

from collections.abc import Callable, Sequence

import numpy as np

from models.arrays import BoolArray, IntArray
from models.duplicates import FREE

FREQUENT = 5  # examples of a combination of labels, from which it is a stratum of its own
COMBINATIONS = 256  # at most


class Distribution:
    """Shares of the parts, the strata, and what is given; `fill` assigns the rest."""

    def __init__(self, strata: BoolArray, shares: tuple[float, ...], sides: IntArray) -> None:
        """Args: strata: (N, L), an example may be in several; sides: (N,) the part given, or FREE."""
        self.strata = _with_combinations(strata)
        self.shares = np.array(shares)  # (k,)
        self.sides = sides
        self.totals = self.strata.sum(axis=0)  # (L,)
        self.rarest = np.full(len(strata), -1)  # (N,) the smallest stratum that an example is in
        for stratum in np.argsort(-self.totals, kind="stable"):
            self.rarest[self.strata[:, stratum]] = stratum

    def fill(
        self, groups: IntArray, lacking: Callable[[IntArray], BoolArray], rng: np.random.Generator
    ) -> tuple[IntArray, IntArray, list[IntArray]]:
        """Distribute, breaking up one group after the other until `lacking` names no member of one.

        Args:    groups: (N,) numbers; lacking: parts (N,) -> examples (N,) that should lie elsewhere.
        Returns: parts (N,), groups (N,) as they were kept, and the rows of each group that was broken up.
        """
        groups = groups.copy()
        broken: list[IntArray] = []
        seed = int(rng.integers(2**63))  # every attempt shuffles alike
        while True:
            parts = self._run(groups, np.random.default_rng(seed))
            movable = lacking(parts) & (self.sides == FREE)
            breakable = [rows for rows in _members(groups) if len(rows) > 1 and movable[rows].any()]
            if not breakable:
                return parts, groups, broken
            largest = max(breakable, key=len)
            free = largest[self.sides[largest] == FREE]
            groups[free] = groups.max() + 1 + np.arange(len(free))
            broken.append(largest)

    def _run(self, groups: IntArray, rng: np.random.Generator) -> IntArray:
        self.unmet = self.shares[:, None] * self.totals  # (k, L)
        self.room = self.shares * len(groups)  # (k,), of examples whatever their stratum
        self.filled = [False] * len(self.shares)
        parts = self.sides.copy()
        for part in range(len(self.shares)):
            self._take(part, np.flatnonzero(parts == part))
        waiting = []
        for rows in self._in_order(_members(groups), rng):
            given = self.sides[rows][self.sides[rows] != FREE]
            if not len(given):
                waiting.append(rows)
            elif len(given) < len(rows):  # the others join most of those that are assigned
                self._put(int(np.bincount(given).argmax()), rows[self.sides[rows] == FREE], parts)
        everywhere = range(len(self.shares))
        for number, rows in enumerate(waiting):
            empty = [part for part in everywhere if not self.filled[part]]
            # the last groups go where nothing is yet
            reserved = empty and len(empty) >= len(waiting) - number
            self._put(self._neediest(rows, empty if reserved else everywhere), rows, parts)
        return parts

    def _in_order(self, members: list[IntArray], rng: np.random.Generator) -> list[IntArray]:
        """Largest first, then those of the rarest stratum; equal ones as they were shuffled."""
        shuffled = [members[number] for number in rng.permutation(len(members))]
        rarity = np.append(self.totals, len(self.strata))[self.rarest]  # (N,); the last for -1
        return sorted(shuffled, key=lambda rows: (-len(rows), int(rarity[rows].min())))

    def _put(self, part: int, rows: IntArray, parts: IntArray) -> None:
        parts[rows] = part
        self._take(part, rows)

    def _take(self, part: int, rows: IntArray) -> None:
        self.unmet[part] -= self.strata[rows].sum(axis=0)
        self.room[part] -= len(rows)
        self.filled[part] |= len(rows) > 0

    def _neediest(self, rows: IntArray, eligible: Sequence[int]) -> int:
        """The part with the largest unmet need of the members' rarest strata, then of all, then of any."""
        decisive = np.bincount(self.rarest[rows] + 1, minlength=len(self.totals) + 1)[1:]
        need, further = self._need(decisive), self._need(self.strata[rows].sum(axis=0))
        return max(
            eligible, key=lambda part: (need[part], further[part], round(float(self.room[part]), 9), -part)
        )

    def _need(self, counts: IntArray) -> list[float]:
        """(k,): how much the squared unmet need would fall, up to a constant; a rare stratum weighs more.

        Rounded, so that equal needs are equal.
        """
        present = np.flatnonzero(counts)
        weight = counts[present] / self.totals[present]
        return [round(float(need), 9) for need in self.unmet[:, present] @ weight]


def _with_combinations(strata: BoolArray) -> BoolArray:
    """Where examples are in several strata or none: a column more for each frequent combination."""
    if (strata.sum(axis=1) == 1).all():
        return strata
    _, which, counts = np.unique(strata, axis=0, return_inverse=True, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:COMBINATIONS]
    frequent = frequent[counts[frequent] >= FREQUENT]
    return np.concatenate([strata, which.reshape(-1, 1) == frequent], axis=1)


def _members(groups: IntArray) -> list[IntArray]:
    order = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    return np.split(order, borders)
