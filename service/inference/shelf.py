"""Shared memory in which decoded images lie until the worker has seen them.

The queue to the worker copies what it carries four times, so it carries only where images lie.
"""

import mmap
import os
import tempfile
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np

from models.arrays import UInt8Array


class Shelf:
    """Made in the main process; forked and spawned children share it. Costs memory where it is written to."""

    def __init__(self, shares: int, images: int, image_bytes: int) -> None:
        """Args: shares: API processes, which need no lock then; images: of each; image_bytes: of one."""
        self.images = images
        self.image_bytes = image_bytes
        self._open(anonymous_file("polyhead-pixels"), max(1, shares * images * image_bytes))

    def share(self, number: int) -> "Share":
        return Share(self, number * self.images)

    def view(self, place: int, size: int) -> UInt8Array:
        """(size,) uint8, not copied: what lies from `place` on."""
        return np.frombuffer(self._memory, np.uint8, size, place * self.image_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "image_bytes": self.image_bytes,
            "file": DupFd(self._file),
            "size": len(self._memory),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.images, self.image_bytes = state["images"], state["image_bytes"]
        self._open(state["file"].detach(), state["size"])

    def _open(self, file: int, size: int) -> None:
        os.ftruncate(file, size)
        self._file = file
        self._memory = mmap.mmap(file, size)


class Share:
    """What one API process may write to; only that process knows what is free."""

    def __init__(self, shelf: Shelf, first: int) -> None:
        self._shelf = shelf
        self._first = first
        self._taken = bytearray(shelf.images)

    def put(self, pixels: bytes | UInt8Array) -> int | None:
        """Returns: the place where they begin; None: they don't fit.

        Args: pixels: of any number of images, of any size.
        """
        places = self._places(len(pixels))
        start = self._taken.find(bytes(places))  # the lowest: what was used last is still in the cache
        if not places or start < 0:
            return None
        self._taken[start : start + places] = b"\1" * places
        place = self._first + start
        self._shelf.view(place, len(pixels))[:] = np.frombuffer(pixels, np.uint8)
        return place

    def free(self, place: int, size: int) -> None:
        """The worker may still be at a job that nobody waits for: what it then sees is nobody's answer.

        Args: size: bytes, of what was put there.
        """
        start, places = place - self._first, self._places(size)
        self._taken[start : start + places] = bytes(places)

    def _places(self, size: int) -> int:
        return -(-size // self._shelf.image_bytes)


def anonymous_file(name: str) -> int:
    """One that is memory where the system has such files, and gone with its last process everywhere.

    Args: name: shown in /proc/<pid>/fd.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
