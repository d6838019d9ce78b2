"""The labelled examples of one task, as arrays."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.arrays import BoolArray, FloatArray, IntArray
from models.head import Kind

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

Targets = NDArray[Any]  # (N,) int64 class numbers | (N, C) bool | (N,) float64 values
Hashes = NDArray[np.uint64]

QUANTILE_BINS = 10  # strata of a regression, at most


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """N labelled examples; row i of every field is example i."""

    kind: Kind
    labels: tuple[str, ...]  # C class names in logit order; () for regression
    ids: tuple[str, ...]
    embeddings: FloatArray  # (N, D) float32, of the frozen backbone
    targets: Targets
    groups: tuple[str | None, ...]  # what the user says belongs together: a source, a person, an object
    hashes: Hashes  # (N,) 64-bit perceptual hashes
    splits: tuple[SplitName | None, ...]  # None: not assigned yet
    split_by_user: tuple[bool, ...]

    def __post_init__(self) -> None:
        rows = {
            len(field)
            for field in (
                *(self.ids, self.embeddings, self.targets, self.groups),
                *(self.hashes, self.splits, self.split_by_user),
            )
        }
        if rows != {len(self.ids)}:
            raise ValueError(f"the fields of a dataset have different lengths: {sorted(rows)}")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: IntArray) -> "Dataset":
        """Those examples alone, in that order."""
        return Dataset(
            kind=self.kind,
            labels=self.labels,
            ids=tuple(self.ids[row] for row in rows),
            embeddings=self.embeddings[rows],
            targets=self.targets[rows],
            groups=tuple(self.groups[row] for row in rows),
            hashes=self.hashes[rows],
            splits=tuple(self.splits[row] for row in rows),
            split_by_user=tuple(self.split_by_user[row] for row in rows),
        )

    @cached_property
    def per_class(self) -> dict[str, int]:
        """Examples of each class, classes without any included; {} for regression."""
        if self.kind == "regression":
            return {}
        return dict(zip(self.labels, (int(count) for count in self.strata.sum(axis=0)), strict=True))

    @cached_property
    def strata(self) -> BoolArray:
        """(N, L): what a split keeps in proportion: classes, labels, or quantile bins of the value."""
        if self.kind == "multilabel":
            return self.targets.astype(np.bool_)
        if self.kind == "multiclass":
            return one_hot(self.targets, len(self.labels))
        bins = max(1, min(QUANTILE_BINS, len(self) // 5))
        rank = np.argsort(np.argsort(self.targets, kind="stable"), kind="stable")
        return one_hot(rank * bins // max(1, len(self)), bins)


def one_hot(numbers: IntArray, width: int) -> BoolArray:
    """(N,) int64 in [0, width) -> (N, width) bool."""
    return np.asarray(numbers[:, None] == np.arange(width)[None, :])
