"""One version of the old backbone: its successor trained, held against it, published where it is as good."""

import time
from dataclasses import dataclass

import numpy as np
import structlog

from models.errors import PolyheadError
from models.trainable import check_trainable
from service.errors import NotReady, StaleETag, UnknownAlias, UnknownTask
from service.preparing.outcomes import Outcome, State, is_within
from service.preparing.progress import Narrator, Say
from service.preparing.training import Trainer
from service.store.records import Alias, Served, Task, Version
from service.telemetry import AUDIT
from service.trainer.child import ChildCrashed
from service.trainer.gathering import take_snapshot, targets_of
from service.trainer.jobs import CHECK_NETWORK, WEIGH, NetworkJob, Weighed, WeighJob
from service.trainer.policy import evaluated
from service.web.options import Bounds, check_network, check_strategy, complete_options, tail_of

log = structlog.stdlib.get_logger(__name__)
audit = structlog.stdlib.get_logger(AUDIT)

NOT_COMPARABLE = "no example was held out from both versions, so the new one can't be judged"
UNFORESEEN = "it failed inside the service; the log says why"


@dataclass(frozen=True, slots=True, kw_only=True)
class Successor:
    """What is done for a version of the old backbone that is served."""

    trainer: Trainer
    served: Served
    task: Task
    old: Version
    tolerance: float

    def prepare(self, say: Say) -> Outcome:
        """Embed, train unless that was done before, compare, publish.

        Raises: Busy: not now; Stopping, NotReady. What is wrong with this task alone is its outcome.
        """
        try:
            return self._prepare(Narrator(say))
        except (NotReady, UnknownTask):
            raise
        except (PolyheadError, ChildCrashed) as error:
            return self._failed(error)

    def plan(self) -> Outcome:
        """What `prepare` would do; it changes nothing. Raises: UnknownTask, NotReady."""
        store, digest = self.trainer.bench.store, self.trainer.bench.identity.digest
        missing = store.embeddings.count_missing(self.task, digest)
        number, moving = self._behind()
        try:
            if not moving and number is not None:
                return self._weighed("published" if number == self._counterpart() else "kept", number)
            if (counterpart := self._counterpart()) is not None:
                return self._weighed("to_compare", counterpart)
            self._check()
        except (NotReady, UnknownTask):
            raise
        except (PolyheadError, ChildCrashed) as error:
            return self._failed(error, missing=missing)
        return self._outcome("to_train", missing=missing)

    def _prepare(self, narrator: Narrator) -> Outcome:
        number, moving = self._behind()
        counterpart = self._counterpart()
        self.trainer.embed(self.task, narrator)
        if not moving and number is not None:
            return self._weighed("published" if number == counterpart else "kept", number)
        if counterpart is not None and (self._is_current(counterpart) or self._may_follow(counterpart)):
            return self._follow(counterpart, moving)
        self._check()
        return self._follow(self.trainer.train(self.task, self.old, narrator), moving)

    def _behind(self) -> tuple[int | None, tuple[Alias, ...]]:
        """The version that servers of the new backbone answer from, and the aliases that lead elsewhere yet.

        An alias of theirs that was set after the one that is served was set by somebody who knew of that.
        """
        aliases, digest = self.trainer.bench.store.aliases, self.trainer.bench.identity.digest
        number, moving = None, []
        for alias in self.served.aliases:
            try:
                theirs = aliases.get(self.task, alias.name, digest)
            except UnknownAlias:
                moving.append(alias)
                continue
            if theirs.revision < alias.revision:
                moving.append(alias)
            elif number is None:
                number = theirs.version
        return number, tuple(moving)

    def _counterpart(self) -> int | None:
        store, digest = self.trainer.bench.store, self.trainer.bench.identity.digest
        return store.versions.find_counterpart(self.task, self.old, digest)

    def _is_current(self, number: int) -> bool:
        """Whether another training would be on the same data."""
        return (
            self.trainer.bench.store.versions.get(self.task, number).data_revision == self.task.data_revision
        )

    def _may_follow(self, number: int) -> bool:
        weighed = self._weigh(number)
        return weighed is not None and is_within(weighed, self.tolerance) is True

    def _check(self) -> None:
        """Raises: UntrainableData, StrategyNotAvailable, InvalidOption, InvalidField, NoTail."""
        bench, strategy = self.trainer.bench, self.old.strategy
        check_strategy(strategy)  # it may be of another release, as its options may
        options = complete_options(strategy, self.old.options)
        summary = bench.store.tasks.summary(self.task, bench.identity.digest)
        check_trainable(
            self.task.kind, summary.per_class, summary.labelled, bench.settings.min_examples_per_class
        )
        bounds = Bounds(identity=bench.identity, scratch_bytes=bench.settings.scratch_bytes)
        tail_of(strategy, options, bench.tails, labelled=summary.labelled, bounds=bounds)
        if strategy == "finetune":
            check_network(options, labelled=summary.labelled, bounds=bounds)
            if options["input_size"] not in (None, bench.identity.preprocessing.input_size):
                job = NetworkJob(backbone=bench.backbone, input_size=options["input_size"])
                bench.call(CHECK_NETWORK, job, report=lambda _: None, lease=self.trainer)

    def _follow(self, number: int, moving: tuple[Alias, ...]) -> Outcome:
        """Publish a version where it is good enough."""
        weighed = self._weigh(number)
        within = None if weighed is None else is_within(weighed, self.tolerance)
        if within is None:
            return self._outcome("failed", version=number, weighed=weighed, reason=NOT_COMPARABLE)
        if not within:
            return self._outcome("below", version=number, weighed=weighed)
        moved = tuple(alias.name for alias in moving if self._point(alias, number))
        state: State = "published" if len(moved) == len(moving) else "kept"
        return self._outcome(state, version=number, weighed=weighed, moved=moved)

    def _point(self, alias: Alias, number: int) -> bool:
        """Point the new backbone's alias at the version, unless somebody has moved it since."""
        aliases, digest = self.trainer.bench.store.aliases, self.trainer.bench.identity.digest
        try:
            theirs: Alias | None = aliases.get(self.task, alias.name, digest)
        except UnknownAlias:
            theirs = None
        if theirs is not None and theirs.revision > alias.revision:
            return False
        try:
            aliases.put(
                self.task,
                alias.name,
                number,
                pinned=alias.pinned,
                backbone_digest=digest,
                if_match=None if theirs is None else theirs.revision,
                now=time.time(),
            )
        except StaleETag:
            return False
        audit.info(
            "put_alias", tenant=self.task.tenant, task_name=self.task.name, alias=alias.name, version=number,
            backbone=digest,
        )  # fmt: skip
        return True

    def _weigh(self, number: int) -> Weighed | None:
        """None where no example was held out from both."""
        store = self.trainer.bench.store
        old, new = evaluated(store, self.old), evaluated(store, store.versions.get(self.task, number))
        snapshot = take_snapshot(store, self.task.id)
        row_of, old_row, new_row = (
            {id_: row for row, id_ in enumerate(ids)}
            for ids in ((each.id for each in snapshot.examples), old.ids, new.ids)
        )
        shared = [id_ for id_ in new.ids if id_ in old_row and id_ in row_of]
        if not shared:
            return None
        targets = targets_of(snapshot.task, snapshot.examples)
        job = WeighJob(
            kind=snapshot.task.kind,
            labels=snapshot.task.classes,
            targets=targets[np.array([row_of[id_] for id_ in shared])],
            old_labels=old.labels,
            old_scores=old.scores[[old_row[id_] for id_ in shared]],
            new_labels=new.labels,
            new_scores=new.scores[[new_row[id_] for id_ in shared]],
        )
        return self.trainer.bench.call(WEIGH, job, report=lambda _: None, lease=self.trainer)

    def _weighed(self, state: State, number: int) -> Outcome:
        return self._outcome(state, version=number, weighed=self._weigh(number))

    def _failed(self, error: Exception, *, missing: int = 0) -> Outcome:
        reason = str(error)
        if isinstance(error, ChildCrashed):
            log.error("successor_failed", task=self.served.task_name, trace=reason)
            reason = UNFORESEEN
        return self._outcome("failed", reason=" ".join(reason.split()), missing=missing)

    def _outcome(
        self,
        state: State,
        *,
        version: int | None = None,
        weighed: Weighed | None = None,
        reason: str | None = None,
        missing: int = 0,
        moved: tuple[str, ...] = (),
    ) -> Outcome:
        return Outcome(
            tenant=self.served.tenant,
            task=self.served.task_name,
            aliases=tuple(alias.name for alias in self.served.aliases),
            old_version=self.served.version,
            state=state,
            strategy=self.old.strategy,
            version=version,
            weighed=weighed,
            reason=reason,
            missing=missing,
            moved=moved,
        )
