"""One training, with all the input and output around the fit: rows in, a published version out."""

import hashlib
import io
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np

from models.dataset import Dataset
from models.identity import PIXELS
from models.losses import losses
from models.strategies.options import HeadOptions
from service.store.keys import factors_key, head_key, predictions_key
from service.store.records import NewVersion, Run, Task
from service.trainer.child import Report
from service.trainer.climbing import Ascent
from service.trainer.filling import Filling, fill_scratch, plan_filling
from service.trainer.gathering import (
    Snapshot,
    dataset_of,
    embeddings_of,
    previous_head,
    sample_images,
    take_snapshot,
)
from service.trainer.jobs import (
    CHECK_NETWORK,
    EXPORT,
    FIT,
    FIT_NETWORK,
    FIT_TAIL,
    JUDGE,
    Exported,
    ExportJob,
    Feed,
    FitJob,
    Fitted,
    NetworkJob,
    TunedFitJob,
)
from service.trainer.lease import Lease
from service.trainer.policy import Decision, Evaluated, decide
from service.trainer.workbench import Phases, Workbench

PARITY_EMBEDDINGS = 256  # of the task's own, on which the exported head must answer as it was fitted
PARITY_IMAGES = 2  # on which model.onnx must answer as the server does


def train(run: Run, bench: Workbench, lease: Lease) -> None:
    """Fit a head, alone or with what lies below it, and make a version of it, which ends the run.

    Raises: UntrainableData, InvalidOption, NoTail, BackboneMismatch, ExportError, RunFailed: the run has
            failed.
            Interrupted, LostLease, UnknownTask: it is to be left.
    """
    bench.check_backbone(run)
    training = _Training(run=run, bench=bench, lease=lease, phases=Phases(lease))
    snapshot = training.load()
    dataset = training.embed(snapshot)
    if run.strategy == "auto":
        dataset, fitted, feed = training.fit_best(snapshot, dataset)
    elif run.strategy == "head":
        feed, fitted = Feed(), training.fit(snapshot, dataset, run.options)
    else:
        dataset, fitted, feed = training.fit_tuned(snapshot, dataset)
    exported = training.export(snapshot, dataset, fitted, feed)
    training.publish(snapshot, dataset, fitted, exported, feed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """The phases of one run, in the order of its methods."""

    run: Run
    bench: Workbench
    lease: Lease
    phases: Phases
    began: float = field(default_factory=time.monotonic)

    def load(self) -> Snapshot:
        with self.phases.phase("loading"):
            snapshot = take_snapshot(self.bench.store, self.run.task_id)
            snapshot.check_trainable(self.bench.settings.min_examples_per_class)
            return snapshot

    def embed(self, snapshot: Snapshot) -> Dataset:
        with self.phases.phase("embedding") as report:
            return dataset_of(snapshot, embeddings_of(snapshot, self.bench, report=report, lease=self.lease))

    def fit_best(self, snapshot: Snapshot, dataset: Dataset) -> tuple[Dataset, Fitted, Feed]:
        """As `fit`, by the strategy that is best on validation."""
        ascent = Ascent(
            run=self.run,
            bench=self.bench,
            lease=self.lease,
            phases=self.phases,
            snapshot=snapshot,
            dataset=dataset,
            spread=_spread(dataset),
            ends=self.began + self.run.options["max_seconds"],
        )
        climbed = ascent.climb()
        if climbed.fitted is None or climbed.dataset is None or climbed.feed is None:
            fitted = self.fit(snapshot, dataset, asdict(HeadOptions(seed=self.run.options["seed"])))
            return dataset, replace(fitted, decision=fitted.decision | climbed.record), Feed()
        fitted = replace(climbed.fitted, decision=climbed.fitted.decision | climbed.record)
        self._assign_splits(snapshot, climbed.dataset, fitted)
        return climbed.dataset, fitted, climbed.feed

    def fit(self, snapshot: Snapshot, dataset: Dataset, options: dict[str, Any]) -> Fitted:
        """Fit, and give the examples that had no split theirs, which stays."""
        job = FitJob(
            dataset=dataset,
            start=previous_head(snapshot, self.bench),
            options=options,
            total_backbone_parameters=self.bench.identity.total_parameters,
            min_examples_per_class=self.bench.settings.min_examples_per_class,
        )
        with self.phases.phase("fitting") as report:
            fitted = self.bench.call(FIT, job, report=report, lease=self.lease)
        self._assign_splits(snapshot, dataset, fitted)
        return fitted

    def fit_tuned(self, snapshot: Snapshot, dataset: Dataset) -> tuple[Dataset, Fitted, Feed]:
        """As `fit`, by gradient, on a scratch that is gone when this returns."""
        filling = plan_filling(self.run, self.bench, len(dataset))
        try:
            with self.phases.phase("decoding" if filling.stage is None else "mapping") as report:
                self._check_network(filling, report)
                filled = fill_scratch(filling, snapshot, dataset, self.bench, report=report, lease=self.lease)
            job = TunedFitJob(
                backbone=self.bench.backbone,
                strategy=str(self.run.strategy),
                dataset=filled,
                options=self.run.options,
                total_backbone_parameters=self.bench.identity.total_parameters,
                min_examples_per_class=self.bench.settings.min_examples_per_class,
                spread=_spread(filled),
                input_size=filling.input_size,
                views=filling.views,
                recomputed=filling.recomputed,
            )
            work = FIT_NETWORK if filling.feed.output == PIXELS else FIT_TAIL
            with self.phases.phase("fitting") as report:
                fitted = self.bench.call(work, job, report=report, lease=self.lease)
        except BaseException:
            self.bench.child.restart()  # it holds the scratch, wherever this ended
            raise
        fitted = replace(fitted, decision=fitted.decision | filling.record)
        self._assign_splits(snapshot, filled, fitted)
        return filled, fitted, filling.feed

    def _check_network(self, filling: Filling, report: Report) -> None:
        size = filling.input_size
        if size != self.bench.identity.preprocessing.input_size:
            job = NetworkJob(backbone=self.bench.backbone, input_size=size)
            self.bench.call(CHECK_NETWORK, job, report=report, lease=self.lease)

    def _assign_splits(self, snapshot: Snapshot, dataset: Dataset, fitted: Fitted) -> None:
        if fitted.splits is not None:
            known = zip(dataset.ids, fitted.splits, dataset.splits, strict=True)
            new = {id_: split for id_, split, before in known if before is None}
            self.bench.store.examples.assign_splits(snapshot.task, new)

    def export(self, snapshot: Snapshot, dataset: Dataset, fitted: Fitted, feed: Feed) -> Exported:
        with self.phases.phase("exporting") as report:
            job = ExportJob(
                backbone=self.bench.backbone,
                head=fitted.head,
                task=snapshot.task.name,
                version=self.bench.store.runs.reserve_version(self.run.id, self.run.attempt),
                embeddings=dataset.embeddings[:PARITY_EMBEDDINGS],
                images=tuple(sample_images(self.bench.store, snapshot, PARITY_IMAGES)),
                max_pixels=self.bench.settings.max_image_pixels,
                spread=_spread(dataset),
                network=fitted.network,
                feed=feed,
            )
            return self.bench.call(EXPORT, job, report=report, lease=self.lease)

    def publish(
        self, snapshot: Snapshot, dataset: Dataset, fitted: Fitted, exported: Exported, feed: Feed
    ) -> None:
        """Make the files durable, then the row; only that makes them a version."""
        store, task = self.bench.store, snapshot.task
        files = _Files.of(task, exported.head, _predictions(dataset, fitted), fitted.factors)
        with self.phases.phase("publishing"):
            decision = self._decide(snapshot, dataset, fitted)
            for key, data in files.blobs.items():
                store.blobs.put_new(key, data)
        seconds = self.phases.seconds
        version = NewVersion(
            strategy=str(self.run.strategy),
            kind=task.kind,
            labels=fitted.head.labels,
            threshold=fitted.threshold,
            options=self.run.options,
            seed=fitted.seed,
            data_revision=task.data_revision,
            split_digest=fitted.split_digest,
            evaluation=fitted.evaluation,
            fitted_on=fitted.fitted_on,
            metrics=fitted.metrics,
            history=fitted.history,
            decision=fitted.decision | {"parity": fitted.parity | exported.parity, "seconds": seconds},
            backbone_digest=self.bench.identity.digest,
            trainable_parameters=fitted.trainable_parameters,
            total_parameters=fitted.total_parameters,
            shares_backbone=feed.output != PIXELS,
            head_digest=files.head_digest,
            head_key=files.head_key,
            head_bytes=len(exported.head),
            predictions_key=files.predictions_key,
            factors_key=files.factors_key,
            backbone_output=feed.output,
            views=feed.views,
            input_size=feed.input_size,
        )
        self.lease.check()
        store.runs.publish(
            self.run.id,
            self.run.attempt,
            version,
            publish=decision.publish,
            reason=decision.reason,
            seen_production=decision.production,
        )

    def _decide(self, snapshot: Snapshot, dataset: Dataset, fitted: Fitted) -> Decision:
        return decide(
            self.run.publish,
            store=self.bench.store,
            task=snapshot.task,
            backbone_digest=self.bench.identity.digest,
            dataset=dataset,
            new=Evaluated(
                ids=fitted.evaluated_ids, labels=fitted.head.labels, scores=fitted.evaluated_scores
            ),
            judge=lambda job: self.bench.call(JUDGE, job, report=self.lease.tell, lease=self.lease),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """A version's blobs, by key."""

    blobs: dict[str, bytes]
    head_digest: str
    head_key: str
    predictions_key: str
    factors_key: str | None

    @classmethod
    def of(cls, task: Task, head: bytes, predictions: bytes, factors: bytes | None) -> Self:
        digest = _sha256(head)
        keys = head_key(task, digest), predictions_key(task, _sha256(predictions))
        blobs = {keys[0]: head, keys[1]: predictions}
        third = None
        if factors is not None:
            third = factors_key(task, _sha256(factors))
            blobs[third] = factors
        return cls(
            blobs=blobs, head_digest=digest, head_key=keys[0], predictions_key=keys[1], factors_key=third
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _spread(dataset: Dataset) -> float:
    """What a difference between two answers is measured by."""
    return float(dataset.targets.std()) if dataset.kind == "regression" else 1.0


def _predictions(dataset: Dataset, fitted: Fitted) -> bytes:
    """What the version answered to each evaluated example, as npz.

    ids (M,) text, scores (M, C) float32, targets as in Dataset, losses (M,) float64.
    """
    row_of = {id_: row for row, id_ in enumerate(dataset.ids)}
    targets = dataset.targets[[row_of[id_] for id_ in fitted.evaluated_ids]]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        ids=np.array(fitted.evaluated_ids),
        scores=fitted.evaluated_scores,
        targets=targets,
        losses=losses(dataset.kind, targets, fitted.evaluated_scores).astype(np.float64),
    )
    return buffer.getvalue()
