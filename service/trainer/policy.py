"""Whether a new version becomes `production`, and the sentence that says why."""

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.arrays import FloatArray
from models.dataset import Dataset
from service.errors import RunFailed, UnknownAlias, UnknownBlob, UnknownVersion
from service.store import Store
from service.store.records import PRODUCTION, PublishPolicy, Task, Version
from service.trainer.jobs import Judged, JudgeJob

DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError)  # that numpy meets in a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What a version answered to the examples that it was evaluated on."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]  # of the columns of `scores`; () for regression
    scores: FloatArray  # (M, C)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    publish: bool
    reason: str
    production: int | None  # the version that was behind `production` when this was decided


def decide(
    policy: PublishPolicy,
    *,
    store: Store,
    task: Task,
    backbone_digest: str,
    dataset: Dataset,
    new: Evaluated,
    judge: Callable[[JudgeJob], Judged],
) -> Decision:
    """Apply a run's publish policy.

    Args:   dataset: the examples with their current labels, by which `if_better` judges both versions.
    Raises: UnknownTask.
    """
    try:
        production = store.aliases.get(task, PRODUCTION, backbone_digest).version
    except UnknownAlias:
        production = None
    if policy == "never":
        return Decision(publish=False, reason="the run asked for publish: never", production=production)
    if production is None:
        return Decision(publish=True, reason="nothing was in production before", production=None)
    if policy == "always":
        return Decision(publish=True, reason="the run asked for publish: always", production=production)
    if policy == "first":
        reason = f"version {production} is in production already, and the run asked for publish: first"
        return Decision(publish=False, reason=reason, production=production)
    try:
        old = evaluated(store, store.versions.get(task, production))
    except (UnknownVersion, RunFailed):
        old = Evaluated(ids=(), labels=(), scores=new.scores[:0])
    return _if_better(production, dataset, new, old, judge)


def _if_better(
    production: int, dataset: Dataset, new: Evaluated, old: Evaluated, judge: Callable[[JudgeJob], Judged]
) -> Decision:
    row_of = {id_: row for row, id_ in enumerate(dataset.ids)}
    new_row, old_row = ({id_: row for row, id_ in enumerate(each.ids)} for each in (new, old))
    shared = [id_ for id_ in new.ids if id_ in old_row and id_ in row_of]
    if not shared:
        reason = f"it shares no evaluated example with version {production}, so neither can be called better"
        return Decision(publish=False, reason=reason, production=production)
    measured = judge(
        JudgeJob(
            kind=dataset.kind,
            targets=dataset.targets[[row_of[id_] for id_ in shared]],
            labels=new.labels,
            scores=new.scores[[new_row[id_] for id_ in shared]],
            old_labels=old.labels,
            old_scores=old.scores[[old_row[id_] for id_ in shared]],
        )
    )
    reason = (
        f"{measured.metric} on {measured.count} shared examples is {_figure(measured.new)}, "
        f"of version {production} {_figure(measured.old)}"
    )
    return Decision(publish=measured.better, reason=reason, production=production)


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def evaluated(store: Store, version: Version) -> Evaluated:
    """What a version answered when it was evaluated. Raises: RunFailed: it is lost or damaged."""
    try:
        data = store.blobs.get(version.predictions_key)
        with np.load(io.BytesIO(data), allow_pickle=False) as kept:
            return Evaluated(ids=tuple(kept["ids"].tolist()), labels=version.labels, scores=kept["scores"])
    except (UnknownBlob, *DAMAGE) as error:
        raise RunFailed(
            f"what version {version.number} answered when it was evaluated is lost or damaged"
        ) from error
