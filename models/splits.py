"""Train, validation and test, and folds: whole groups, each class in proportion, sticky.

One greedy distributor does both: models/distribution.py.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from models.arrays import BoolArray, IntArray
from models.dataset import SPLITS, Dataset, SplitName
from models.distribution import Distribution
from models.duplicates import FREE, join_groups, near_duplicates

SHARES = (0.6, 0.2, 0.2)  # of SPLITS
TRAIN = 0  # SPLITS[TRAIN]
FEWEST_FOLDS = 3  # two are left out at a time where a choice is made without a third
LARGE_GROUP = 0.5  # of the data: one group of the user's that large is warned about
NAMED = 5  # things listed in a warning


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplitAssignment:
    splits: tuple[SplitName, ...]
    groups: IntArray  # (N,) equal where two examples were kept together
    warnings: tuple[str, ...]
    digest: str  # sha256 over (id, split), independent of the order


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Folds:
    count: int  # k
    numbers: IntArray  # (N,) in [0, k)
    groups: IntArray
    warnings: tuple[str, ...]
    digest: str


def assign_splits(dataset: Dataset, rng: np.random.Generator) -> SplitAssignment:
    """Give every example without a split one; the others keep theirs.

    60 % train, 20 % validation, 20 % test, of each class. Groups and near duplicates stay on one side,
    the side of those that are assigned already. A split given by the user wins over its group. Where
    whole groups would leave a split empty, or a class without training examples, the largest group
    concerned is broken up, with a warning.

    With every example assigned by the user, a split may stay empty.
    """
    sides = np.array(
        [FREE if name is None else SPLITS.index(name) for name in dataset.splits], dtype=np.int64
    )
    groups, warnings = _joined(dataset, sides)
    warnings += _straddling(dataset)

    def lacking(parts: IntArray) -> BoolArray:
        empty = [part for part in range(len(SPLITS)) if not (parts == part).any()]
        if empty:
            return np.ones(len(parts), dtype=np.bool_)
        untrained = dataset.strata.any(axis=0) & ~dataset.strata[parts == TRAIN].any(axis=0)
        return np.asarray(dataset.strata[:, untrained].any(axis=1) & (dataset.kind != "regression"))

    distribution = Distribution(dataset.strata, SHARES, sides)
    parts, groups, broken = distribution.fill(groups, lacking, rng)
    splits = tuple(SPLITS[part] for part in parts)
    return SplitAssignment(
        splits=splits,
        groups=groups,
        warnings=(*warnings, *_broken_up(dataset, broken), *_missing(dataset, parts)),
        digest=split_digest(zip(dataset.ids, splits, strict=True)),
    )


def assign_folds(dataset: Dataset, k: int, rng: np.random.Generator) -> Folds:
    """Number every example's fold, from 0 on: stratified, whole groups; splits are disregarded.

    Where whole groups would leave a fold empty, or all examples of a class in one fold, the largest
    group concerned is broken up, with a warning.

    Args: k: at least 3; where there are fewer groups, so many folds, but no fewer than 3.
    """
    sides = np.full(len(dataset), FREE, dtype=np.int64)
    groups, warnings = _joined(dataset, sides)
    k = max(FEWEST_FOLDS, min(k, len(np.unique(groups))))

    def lacking(parts: IntArray) -> BoolArray:
        if len(np.unique(parts)) < k:
            return np.ones(len(parts), dtype=np.bool_)
        present = np.array([dataset.strata[parts == fold].any(axis=0) for fold in range(k)])  # (k, L)
        alone = (present.sum(axis=0) == 1) & (dataset.strata.sum(axis=0) > 1)
        return np.asarray(dataset.strata[:, alone].any(axis=1) & (dataset.kind != "regression"))

    distribution = Distribution(dataset.strata, (1 / k,) * k, sides)
    parts, groups, broken = distribution.fill(groups, lacking, rng)
    return Folds(
        count=k,
        numbers=parts,
        groups=groups,
        warnings=(*warnings, *_broken_up(dataset, broken)),
        digest=split_digest((id_, f"fold {part}") for id_, part in zip(dataset.ids, parts, strict=True)),
    )


def folds_within(
    dataset: Dataset, rows: IntArray, groups: IntArray, k: int, rng: np.random.Generator
) -> IntArray:
    """Fold numbers (len(rows),) of some rows, in the groups that are known already."""
    distribution = Distribution(dataset.strata[rows], (1 / k,) * k, np.full(len(rows), FREE, dtype=np.int64))

    def lacking(parts: IntArray) -> BoolArray:
        return np.full(len(parts), len(np.unique(parts)) < k)

    return distribution.fill(groups[rows], lacking, rng)[0]


def split_digest(assigned: Iterable[tuple[str, str]]) -> str:
    """sha256 (64 hex digits) over the (id, split) pairs, sorted."""
    lines = sorted(f"{id_}\t{split}\n" for id_, split in assigned)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _joined(dataset: Dataset, sides: IntArray) -> tuple[IntArray, list[str]]:
    joined = join_groups(dataset.groups, near_duplicates(dataset.embeddings, dataset.hashes), sides)
    warnings = []
    if joined.apart:
        warnings.append(
            f"{joined.apart} near-duplicate pairs may straddle the split: joining them would make a group "
            "above 5 % of the data, or they are on different sides already"
        )
    names, counts = np.unique([group for group in dataset.groups if group is not None], return_counts=True)
    warnings += [
        f"group {name!r} is {count} of {len(dataset)} examples: kept whole, it unbalances the split"
        for name, count in zip(names, counts, strict=True)
        if count > LARGE_GROUP * len(dataset)
    ]
    return joined.numbers, warnings


def _straddling(dataset: Dataset) -> list[str]:
    sides: dict[str, set[SplitName]] = {}
    for group, split in zip(dataset.groups, dataset.splits, strict=True):
        if group is not None and split is not None:
            sides.setdefault(group, set()).add(split)
    apart = [group for group, splits in sides.items() if len(splits) > 1]
    return (
        [f"groups are on several sides of the split, as they were given: {_listed(apart)}"] if apart else []
    )


def _broken_up(dataset: Dataset, broken: list[IntArray]) -> list[str]:
    warnings = []
    for rows in broken:
        named = sorted({group for group in (dataset.groups[row] for row in rows) if group is not None})
        warnings.append(
            f"a group of {len(rows)} examples ({_listed(named) or 'near duplicates'}) was broken up: kept "
            "whole, it would leave a part of the data empty or a class without training examples"
        )
    return warnings


def _missing(dataset: Dataset, parts: IntArray) -> list[str]:
    warnings = []
    for part, split in enumerate(SPLITS):
        if not (parts == part).any():
            warnings.append(f"the {split} split is empty")
        elif dataset.kind != "regression":
            absent = dataset.strata.any(axis=0) & ~dataset.strata[parts == part].any(axis=0)
            labels = [label for label, missing in zip(dataset.labels, absent, strict=True) if missing]
            if labels:
                warnings.append(f"the {split} split has no example of {_listed(labels)}")
    return warnings


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(repr(name) for name in names[:NAMED]) + more
