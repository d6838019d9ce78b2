"""What a version got wrong, read from the predictions kept with it: worst loss first.

The blob is an npz of `ids` (M,), `scores` (M, C) float32, `targets` and `losses` (M,) float64; targets are
(M,) int64 class indices, (M, C) bool, or (M,) float64 values, by kind.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from models.arrays import BoolArray, FloatArray, IntArray
from models.losses import THRESHOLD
from service.schemas.examples import image_path
from service.schemas.pages import PageBody
from service.schemas.versions import Mistake
from service.store.paging import number_after
from service.store.records import Task, Version
from service.web.parts import Parts

Said = str | list[str] | float  # a label, labels or a value


@dataclass(frozen=True, slots=True)
class Miss:
    """One evaluated example that came out wrong."""

    example_id: str
    truth: Said
    prediction: Said
    score: float | None  # 0-1; None for a regression
    loss: float


@dataclass(frozen=True)
class Evaluated:
    """A version's answers to the examples that it was evaluated on."""

    version: Version
    ids: list[str]
    scores: FloatArray  # (M, C)
    targets: np.ndarray[Any, Any]
    losses: np.ndarray[Any, np.dtype[np.float64]]  # (M,)

    @classmethod
    def load(cls, version: Version, data: bytes) -> "Evaluated":
        with np.load(io.BytesIO(data), allow_pickle=False) as kept:
            return cls(version, kept["ids"].tolist(), kept["scores"], kept["targets"], kept["losses"])

    @cached_property
    def wrong(self) -> IntArray:
        """Rows of the mistakes, worst first; of a regression every row, since none is right or wrong."""
        order: IntArray = np.argsort(-self.losses, kind="stable")
        return order if self.version.kind == "regression" else order[~self._right()[order]]

    def miss(self, row: int) -> Miss:
        truth, prediction, score = self._said(row)
        return Miss(self.ids[row], truth, prediction, score, float(self.losses[row]))

    def _threshold(self) -> float:
        return THRESHOLD if self.version.threshold is None else self.version.threshold

    def _right(self) -> BoolArray:
        if self.version.kind == "multiclass":
            right: BoolArray = self.scores.argmax(axis=1) == self.targets
        else:
            right = ((self.scores >= self._threshold()) == self.targets).all(axis=1)
        return right

    def _said(self, row: int) -> tuple[Said, Said, float | None]:
        """Truth, prediction and the score that stands for how sure the mistake was."""
        labels, scores, target = self.version.labels, self.scores[row], self.targets[row]
        if self.version.kind == "regression":
            return float(target), float(scores[0]), None
        if self.version.kind == "multiclass":
            best = int(scores.argmax())
            return labels[int(target)], labels[best], float(scores[best])
        predicted = scores >= self._threshold()
        # How far each label's score is on the wrong side.
        worst = int(np.where(target, 1 - scores, scores).argmax())
        return _named(labels, target), _named(labels, predicted), float(scores[worst])


def _named(labels: tuple[str, ...], mask: BoolArray) -> list[str]:
    return [label for label, there in zip(labels, mask, strict=True) if there]


def mistakes_of(
    parts: Parts, task: Task, version: Version, *, limit: int, after: str | None
) -> PageBody[Mistake]:
    """One page of mistakes; a cursor counts those that were shown.

    Raises: UnknownBlob, InvalidField.
    """
    evaluated = Evaluated.load(version, parts.store.blobs.get(version.predictions_key))
    start = number_after(after) or 0
    misses = [evaluated.miss(row) for row in evaluated.wrong[start : start + limit].tolist()]
    known = parts.store.examples.which_exist(task, [miss.example_id for miss in misses])
    more = len(evaluated.wrong) > start + limit
    return PageBody[Mistake](
        data=[_mistake(task, miss, deleted=miss.example_id not in known) for miss in misses],
        has_more=more,
        next=str(start + limit) if more else None,
    )


def _mistake(task: Task, miss: Miss, *, deleted: bool) -> Mistake:
    return Mistake(
        example=miss.example_id,
        image=None if deleted else image_path(task.name, miss.example_id),
        deleted=deleted,
        label=miss.truth,
        prediction=miss.prediction,
        score=miss.score,
        loss=miss.loss,
    )
