"""What a trainer works with, whatever the run."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from models.errors import BackboneMismatch, PolyheadError
from models.identity import BackboneIdentity
from models.tails import Tails, read_tails
from service.settings import Settings
from service.store import Store
from service.store.records import Run
from service.trainer.child import Child, Report
from service.trainer.jobs import EMBED, BackboneJob, Embedded, EmbedJob, Job, Result, Work
from service.trainer.lease import Lease

CHUNK_IMAGES = 64  # that go to the child, and to the store, at once
CHUNK_BYTES = 32 * 2**20


class Hold(Protocol):
    """A run's lease, or what else says whether work goes on."""

    def check(self) -> None:
        """Raises: Interrupted, or another reason to stop: the work is no longer wanted."""


@dataclass(frozen=True, kw_only=True)
class Workbench:
    settings: Settings
    store: Store
    child: Child
    backbone: BackboneJob
    identity: BackboneIdentity  # of that backbone

    @cached_property
    def tails(self) -> Tails:
        """Which tails it offers."""
        return read_tails(self.backbone_file)

    @property
    def backbone_file(self) -> Path:
        return self.backbone.cache_dir / self.identity.digest / "backbone.onnx"

    def check_backbone(self, run: Run) -> None:
        """Raises: BackboneMismatch: the run was asked for on another backbone than this trainer has."""
        if run.backbone_digest != self.identity.digest:
            raise BackboneMismatch(fitted_on=run.backbone_digest, serving=self.identity.digest)

    def call(self, work: Work[Job, Result], job: Job, *, report: Report, lease: Hold) -> Result:
        """Run a piece of work in the child, as long as the lease is held. Raises: as `Child.call`."""
        return self.child.call(work, job, report=report, check=lease.check)

    def embed(
        self, images: Sequence[bytes], *, report: Report, lease: Hold
    ) -> list[Embedded | PolyheadError]:
        job = EmbedJob(
            backbone=self.backbone, images=tuple(images), max_pixels=self.settings.max_image_pixels
        )
        return self.call(EMBED, job, report=report, lease=lease)


@dataclass(slots=True)
class Phases:
    """Where a run is: shown to its readers, and how long each phase took."""

    lease: Lease
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[Report]:
        """Work on a phase; what it yields shows progress within it."""
        self.lease.check()
        start = time.monotonic()

        def report(progress: dict[str, Any]) -> None:
            self.lease.tell({"phase": name} | progress)

        report({})
        yield report
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 3)


class Countdown:
    """Progress through a known number of items, with the time that is left at the pace so far."""

    def __init__(self, report: Report, total: int, done: int = 0) -> None:
        self._report = report
        self._total = total
        self._first = done
        self._start = time.monotonic()

    def show(self, done: int) -> None:
        progress: dict[str, Any] = {"done": done, "total": self._total}
        if done > self._first:
            pace = (time.monotonic() - self._start) / (done - self._first)
            progress["seconds_left"] = round(pace * (self._total - done), 1)
        self._report(progress)
