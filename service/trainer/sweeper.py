"""The trainer's thread that sweeps blobs now and then; of all trainers one at a time."""

import threading
import time
from typing import Self

import structlog

from service.errors import NotReady
from service.settings import Settings
from service.store import Store
from service.store.sweeping import sweep
from service.store.turns import take_turn

log = structlog.stdlib.get_logger(__name__)

LOOK_S = 60.0  # between looks whether a sweep is due


class Closing(Exception):
    """Ends a sweep between two tasks."""


class Sweeper:
    """Ends with its context, within what a request to the store takes."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._grace_s = settings.blob_grace_s
        self._every_s = settings.sweep_every_s
        self._closing = threading.Event()
        # A daemon: a store that hangs must not hold up the trainer's end.
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._closing.wait(min(LOOK_S, self._every_s)):
            try:
                if take_turn(self._store.database, "sweep", self._every_s):
                    self._sweep()
            except NotReady as error:
                log.warning("no_sweep", reason=str(error))
            except Closing:
                return

    def _sweep(self) -> None:
        began = time.monotonic()
        swept = sweep(
            self._store.database, self._store.blobs, grace_s=self._grace_s, now=time.time(), check=self._check
        )
        seconds = round(time.monotonic() - began, 1)
        log.info("swept", noted=swept.noted, deleted=swept.deleted, seconds=seconds)

    def _check(self) -> None:
        if self._closing.is_set():
            raise Closing
