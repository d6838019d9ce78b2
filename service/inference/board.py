"""What the processes of one server tell each other: single numbers in shared memory.

Each number is aligned and has one writer at a time, so that no lock is needed, and a killed process leaves
none held.
"""

import ctypes
import time
from multiprocessing.sharedctypes import RawArray, RawValue


class Board:
    """Made in the main process; forked and spawned children share it. Times are CLOCK_MONOTONIC seconds."""

    def __init__(self, api_processes: int) -> None:
        self._progress = RawValue(ctypes.c_double, time.monotonic())
        self._generation = RawValue(ctypes.c_longlong, 0)
        self._draining = RawValue(ctypes.c_int, 0)
        self._ready = RawArray(ctypes.c_int, api_processes)

    @property
    def generation(self) -> int:
        """How many workers have become ready so far, one after another; 0: none yet."""
        return int(self._generation.value)

    def worker_is_ready(self) -> None:
        self.note_progress()
        self._generation.value += 1

    def note_progress(self) -> None:
        """Said by the worker whenever it comes around its loop, with work or without."""
        self._progress.value = time.monotonic()

    @property
    def silence_s(self) -> float:
        """Seconds since the worker last made progress."""
        return max(0.0, time.monotonic() - float(self._progress.value))

    @property
    def draining(self) -> bool:
        """The server is about to stop: finish, start nothing long."""
        return bool(self._draining.value)

    def drain(self) -> None:
        self._draining.value = 1

    def api_is_ready(self, index: int) -> None:
        self._ready[index] = 1

    def is_ready(self, index: int) -> bool:
        """Whether an API process has become ready in this place."""
        return bool(self._ready[index])
