"""A trainer's hold on one run: a thread keeps it, relays progress, and brings news that the work must stop.

The fence itself is in the store: every write names the attempt, so a trainer that was stopped and woken
after its lease had ended writes nothing.
"""

import threading
import time
from types import TracebackType
from typing import Any, Self

import structlog

from service.errors import LostLease, NotReady, UnknownRun
from service.store import Store
from service.store.records import Run

LOOK_S = 0.5  # between two looks for a cancellation, and between two progress events

log = structlog.get_logger()


class Interrupted(Exception):
    """The work on a run must stop now, for a reason that is no failure of it."""

    result: dict[str, Any] | None = None  # what it has done so far, if that stays


class Cancelled(Interrupted):
    """Its user has asked for it."""


class Stopping(Interrupted):
    """This trainer is going down; the run goes back to the queue."""


class Lease:
    """Use as a context: the thread lives inside it."""

    def __init__(self, store: Store, run: Run, *, lease_s: float, stop: threading.Event) -> None:
        self.run = run
        self._store = store
        self._lease_s = lease_s
        self._stop = stop
        self._ended = threading.Event()
        self._cancelled = threading.Event()
        self._lost = threading.Event()
        self._progress: dict[str, Any] | None = None  # the newest that isn't shown yet
        self._renewed = time.monotonic()  # when the lease was last renewed
        self._thread = threading.Thread(target=self._keep, name=f"lease-{run.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def tell(self, progress: dict[str, Any]) -> None:
        """Show where the work is; the newest of each half second is written."""
        self._progress = progress

    def check(self) -> None:
        """Raises: LostLease, Cancelled, Stopping: the work is no longer wanted from this trainer."""
        if self._lost.is_set():
            raise LostLease(self.run.id)
        if self._stop.is_set():
            raise Stopping
        if self._cancelled.is_set():
            raise Cancelled

    def _keep(self) -> None:
        try:
            while not self._ended.wait(min(LOOK_S, self._lease_s / 3)):
                self._look()
        except (LostLease, UnknownRun) as error:
            log.info("lease_lost", run=self.run.id, reason=str(error))
        finally:
            if not self._ended.is_set():
                self._lost.set()

    def _look(self) -> None:
        try:
            self._renew_or_look()
        except NotReady as error:  # the store may be back before the lease is over
            log.warning("lease_not_renewed", run=self.run.id, reason=str(error))
            if time.monotonic() - self._renewed > self._lease_s:
                raise LostLease(self.run.id) from error

    def _renew_or_look(self) -> None:
        now = time.monotonic()
        progress, self._progress = self._progress, None
        if progress is not None or now - self._renewed >= self._lease_s / 3:
            cancelled = self._store.runs.heartbeat(self.run.id, self.run.attempt, self._lease_s, progress)
            self._renewed = now
        else:  # reading is cheaper than a durable write
            cancelled = self._store.runs.get(self.run.tenant, self.run.id).cancel_requested
        if cancelled:
            self._cancelled.set()
