"""Lines that say how far the work is: a new phase at once, the rest now and then."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

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


@contextmanager
def following(store: Store, run: Run, narrator: Narrator) -> Iterator[None]:
    """Tell the progress of a run meanwhile, whoever works on it."""
    over = threading.Event()

    def follow() -> None:
        while not over.wait(LOOK_S):
            with suppress(NotReady, UnknownRun):
                narrator.tell(store.runs.get(run.tenant, run.id).progress)

    thread = threading.Thread(target=follow, name=f"follow-{run.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


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
