"""What the processes of one server tell each other: single numbers in shared memory.

Each number is aligned and has one writer at a time, so that no lock is needed, and a killed process leaves
none held.
"""

import ctypes
import time
from multiprocessing.sharedctypes import RawArray, RawValue


class Board:
    """Made in the main process; forked and spawned children share it. Times are CLOCK_MONOTONIC seconds."""

    def __init__(self, api_processes: int, workers: int = 1) -> None:
        self._progress = RawArray(ctypes.c_double, [time.monotonic()] * workers)
        self._workers = RawArray(ctypes.c_int, workers)
        self._losses = RawValue(ctypes.c_longlong, 0)
        self._draining = RawValue(ctypes.c_int, 0)
        self._apis = RawArray(ctypes.c_int, api_processes)

    def worker_came(self, number: int) -> None:
        """Said by the worker of this number, when it is ready."""
        self.note_progress(number)
        self._workers[number] = 1

    def worker_went(self, number: int) -> None:
        """Said by the main process when it is dead, again and again; one that was never ready had no jobs."""
        if self._workers[number]:
            self._workers[number] = 0
            self._losses.value += 1

    def has_worker(self, number: int) -> bool:
        """Whether it is ready, and not known to be dead."""
        return bool(self._workers[number])

    @property
    def losses(self) -> int:
        """How many workers have died since the start that may have had jobs."""
        return int(self._losses.value)

    def note_progress(self, number: int) -> None:
        """Said by a worker whenever it comes around its loop, with work or without."""
        self._progress[number] = time.monotonic()

    def silence_s(self, number: int) -> float:
        """Seconds since a worker last made progress."""
        return max(0.0, time.monotonic() - float(self._progress[number]))

    @property
    def least_silence_s(self) -> float:
        """Of any worker."""
        return min(self.silence_s(number) for number in range(len(self._workers)))

    @property
    def draining(self) -> bool:
        """The server is about to stop: finish, start nothing long."""
        return bool(self._draining.value)

    def drain(self) -> None:
        self._draining.value = 1

    def api_came(self, index: int) -> None:
        self._apis[index] = 1

    def has_api(self, index: int) -> bool:
        """Whether an API process has become ready in this place."""
        return bool(self._apis[index])
