"""Photos embedded and a recipe trained on the new backbone, here or by a trainer that is there already."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from models.errors import PolyheadError
from service.errors import NotReady, RunActive, RunEnded, UnknownRun
from service.preparing.progress import Narrator, following
from service.store.records import TERMINAL_STATES, NewRun, Run, Task, Version
from service.trainer.gathering import chunks, vectors_of
from service.trainer.lease import Stopping
from service.trainer.workbench import Countdown, Workbench
from service.trainer.worker import work_on

PAGE = 500  # examples whose rows are held at once
LOOK_S = 0.5  # between two looks at a run that another trainer has


class NotTrained(PolyheadError):
    """One line that says why there is no version."""


class Busy(Exception):
    """Another run of the task is active, such as its users' on the old backbone."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """A trainer of the new backbone, that also queues what it trains."""

    bench: Workbench  # of the new backbone
    stop: threading.Event

    def check(self) -> None:
        """Raises: Stopping: somebody wants this to end."""
        if self.stop.is_set():
            raise Stopping

    def embed(self, task: Task, narrator: Narrator) -> None:
        """Embed every image of the task that the new backbone hasn't seen, labelled or not.

        Raises: RunFailed: an image is lost or can't be read. Stopping, NotReady, BackboneError.
        """
        store, digest = self.bench.store, self.bench.identity.digest
        countdown = Countdown(
            lambda said: narrator.tell({"phase": "embedding"} | said),
            store.embeddings.count_missing(task, digest),
        )
        done, after = 0, None
        while page := store.embeddings.missing(task, digest, labelled_only=False, limit=PAGE, after=after):
            after = page[-1].id
            for chunk in chunks(store, task, page):
                countdown.show(done)
                answers = self.bench.embed([data for _, data in chunk], report=lambda _: None, lease=self)
                store.embeddings.put_many(task.tenant, vectors_of(chunk, answers), digest)
                done += len(chunk)

    def train(self, task: Task, version: Version, narrator: Narrator) -> int:
        """Train by the recipe of a version of the old backbone.

        Returns: the number of the new version, which nothing points at yet.
        Raises:  NotTrained; Busy: not now. Stopping, NotReady, UnknownTask.
        """
        run = self._finish(self._queued(task, version), narrator)
        if run.state == "succeeded" and run.version is not None:
            return run.version
        if run.error is not None:
            raise NotTrained(str(run.error.get("detail") or run.error.get("title")))
        raise NotTrained(f"its run {run.id} was {run.state}")

    def _queued(self, task: Task, version: Version) -> Run:
        """A run, or the one that an earlier preparation has begun."""
        wanted = NewRun(
            task_id=task.id,
            kind="train",
            strategy=version.strategy,
            options=version.options,
            publish="never",  # before it is held against the old one
            backbone_digest=self.bench.identity.digest,
        )
        runs = self.bench.store.runs
        try:
            return runs.create(task.tenant, wanted, time.time())
        except RunActive as active:
            try:
                theirs = runs.get(task.tenant, active.run)
            except UnknownRun:
                raise Busy(active.run) from None
            same = ("kind", "strategy", "options", "backbone_digest")
            if any(getattr(theirs, field) != getattr(wanted, field) for field in same):
                raise Busy(active.run) from active
            return theirs

    def _finish(self, run: Run, narrator: Narrator) -> Run:
        """Work on what is queued for this backbone until the run has ended, here or at another trainer."""
        store, settings = self.bench.store, self.bench.settings
        try:
            with following(store, run, narrator):
                while run.state not in TERMINAL_STATES:
                    self.check()
                    claimed = store.runs.claim(
                        settings.lease_s,
                        settings.max_attempts,
                        backbone_digest=self.bench.identity.digest,
                        abandoned_s=None,  # what the servers' own trainers leave is none of ours
                        ended=store.discard_archive,
                    )
                    if claimed is None:
                        self.stop.wait(LOOK_S)
                    else:
                        work_on(claimed, self.bench, self.stop)
                    run = store.runs.get(run.tenant, run.id)
        except Stopping:
            self._withdraw(run)
            raise
        return run

    def _withdraw(self, run: Run) -> None:
        """Take the run back, since while it is queued the task's users can't train."""
        with suppress(RunEnded, UnknownRun, NotReady):
            if self.bench.store.runs.get(run.tenant, run.id).state == "queued":
                self.bench.store.runs.cancel(run.tenant, run.id)
