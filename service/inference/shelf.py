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
        self._open(_anonymous_file(), max(1, shares * images * image_bytes))

    def share(self, number: int) -> "Share":
        return Share(self, number * self.images)

    def view(self, place: int, images: int) -> UInt8Array:
        """(images * image_bytes,) uint8, not copied: `images` images from `place` on."""
        count, offset = images * self.image_bytes, place * self.image_bytes
        return np.frombuffer(self._memory, np.uint8, count, offset)

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

    def put(self, pixels: bytes | UInt8Array, images: int) -> int | None:
        """Returns: the place of the first, which the others follow; None: they don't fit.

        Args: pixels: of `images` images; of another size than the shelf's, they don't fit either.
        """
        if not images or len(pixels) != images * self._shelf.image_bytes:
            return None
        start = self._taken.find(bytes(images))  # the lowest: what was used last is still in the cache
        if start < 0:
            return None
        self._taken[start : start + images] = b"\1" * images
        place = self._first + start
        self._shelf.view(place, images)[:] = np.frombuffer(pixels, np.uint8)
        return place

    def free(self, place: int, images: int) -> None:
        """The worker may still be at a job that nobody waits for: what it then sees is nobody's answer."""
        start = place - self._first
        self._taken[start : start + images] = bytes(images)


def _anonymous_file() -> int:
    """One that is memory where the system has such files, and gone with its last process everywhere."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("polyhead-pixels")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
