"""The feature maps that a tail is trained on: computed once a run, in the child's scratch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.dataset import Dataset
from models.strategies.options import OPTIONS
from models.tails import TailShape, views_within
from models.views import views_of
from service.errors import RunFailed
from service.store.records import Run
from service.trainer.child import Report
from service.trainer.gathering import Snapshot, chunks
from service.trainer.jobs import MAP_FEATURES, MapsJob
from service.trainer.lease import Lease
from service.trainer.workbench import Countdown, Workbench


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """What lies in the scratch: row i is example i of the dataset."""

    dataset: Dataset
    stage: str
    record: dict[str, Any]  # for the version's decision


def map_features(
    run: Run, snapshot: Snapshot, dataset: Dataset, bench: Workbench, *, report: Report, lease: Lease
) -> Mapped:
    """Run the trunk once for every image and view.

    Raises: RunFailed: an image is lost or can't be read, or the disk is full; InvalidOption, NoTail,
            LostLease, BackboneError.
    """
    options: Any = OPTIONS[str(run.strategy)](**run.options)
    tail = bench.tails.of(options.blocks)
    wanted = views_of(options.augmentation)
    views = views_within(tail, len(dataset), wanted, bench.settings.scratch_bytes)
    kept = _fill(snapshot, dataset, bench, tail, views, report=report, lease=lease)
    record = {
        "stage": tail.stage,
        "shape": list(tail.shape),
        "views": list(views),
        "left_out": list(wanted[len(views) :]),  # for want of scratch
        "bytes": tail.map_bytes(len(dataset)) * len(views),
    }
    # whoever was deleted meanwhile has no row
    rows = [row for row, id_ in enumerate(dataset.ids) if id_ in kept]
    return Mapped(dataset=dataset.take(np.array(rows, dtype=np.int64)), stage=tail.stage, record=record)


def _fill(
    snapshot: Snapshot,
    dataset: Dataset,
    bench: Workbench,
    tail: TailShape,
    views: Sequence[str],
    *,
    report: Report,
    lease: Lease,
) -> set[str]:
    """Returns: the ids of the examples whose rows are written, in the dataset's order."""
    known = set(dataset.ids)
    examples = [example for example in snapshot.examples if example.id in known]
    countdown = Countdown(report, len(examples))
    kept = set[str]()
    for chunk in chunks(bench.store, snapshot.task, examples):
        done = len(kept)
        job = MapsJob(
            backbone=bench.backbone,
            images=tuple(data for _, data in chunk),
            max_pixels=bench.settings.max_image_pixels,
            stage=tail.stage,
            shape=tail.shape,
            views=tuple(views),
            start=done,
            total=len(examples),
            folder=bench.settings.resolved_scratch_dir,
        )
        answers = bench.call(
            MAP_FEATURES,
            job,
            report=lambda progress, done=done: countdown.show(done + progress["done"]),  # type: ignore[misc]
            lease=lease,
        )
        for (example, _), error in zip(chunk, answers, strict=True):
            if error is not None:
                raise RunFailed(f"the image of example {example.id} can't be read: {error}")
            kept.add(example.id)
    return kept
