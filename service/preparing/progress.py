"""Lines that say how far the work is: a new phase at once, the rest now and then."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from service.errors import NotReady, UnknownRun
from service.store import Store
from service.store.records import Run

SAY_EVERY_S = 10.0
LOOK_S = 0.5

Say = Callable[[str], object]


class Narrator:
    """Says what is said to it, unless it is of the same phase as what it has said just before."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._phase = ""
        self._said_at = 0.0

    def tell(self, progress: dict[str, Any]) -> None:
        phase, now = str(progress.get("phase", "")), time.monotonic()
        if phase and (phase != self._phase or now - self._said_at >= SAY_EVERY_S):
            self._phase, self._said_at = phase, now
            self._say(described(progress))


class Following:
    """While its block lasts, the progress of a run is told, whoever works on it."""

    def __init__(self, store: Store, run: Run, narrator: Narrator) -> None:
        self._store = store
        self._run = run
        self._narrator = narrator
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"follow-{run.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(LOOK_S):
            with suppress(NotReady, UnknownRun):
                self._narrator.tell(self._store.runs.get(self._run.tenant, self._run.id).progress)


def described(progress: dict[str, Any]) -> str:
    """`embedding 12 of 40, 3 s left`, from those parts that are known."""
    said = str(progress["phase"])
    if "rung" in progress:
        said += f" {progress['rung']}"
    if "done" in progress and "total" in progress:
        said += f" {progress['done']} of {progress['total']}"
    if progress.get("epoch") is not None:
        said += f", epoch {progress['epoch']}"
    if progress.get("seconds_left") is not None:
        said += f", {progress['seconds_left']:.0f} s left"
    return said
