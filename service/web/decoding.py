"""Image work in a thread pool of the API process: Pillow and hashlib release the GIL."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from models.errors import PolyheadError
from models.identity import Preprocessing
from models.preprocess import DecodedImage, decode_image
from service.errors import Overloaded
from service.metrics import REJECTIONS, STAGE_SECONDS

In = TypeVar("In")
Out = TypeVar("Out")


class Decoder:
    """Decodes images to the backbone's input, a bounded number at a time."""

    def __init__(
        self, preprocessing: Preprocessing, *, threads: int, max_pixels: int, max_pending: int
    ) -> None:
        self._preprocessing = preprocessing
        self._max_pixels = max_pixels
        self._max_pending = max_pending
        self._pending = 0  # images handed to the pool and not back yet
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    @property
    def full(self) -> bool:
        """Whether no image more would be taken now."""
        return self._pending >= self._max_pending

    def decode(self, data: bytes, input_size: int | None = None) -> DecodedImage:
        """Decode one image, in the caller's thread.

        Args:   input_size: pixels; default: the backbone's, whose preprocessing it is otherwise.
        Raises: InvalidImage, UnsupportedImage, ImageTooLarge.
        """
        wanted = self._preprocessing
        if input_size is not None:
            wanted = replace(wanted, input_size=input_size)
        return decode_image(data, wanted, max_pixels=self._max_pixels)

    async def map(self, work: Callable[[In], Out], items: Sequence[In]) -> list[Out | PolyheadError]:
        """Run `work` on each item in the pool; an item that fails is its error, alone.

        Raises: Overloaded: the pool has all the images it may hold.
        """
        # A lone request may be larger than the bound: it is refused only while others wait.
        if self._pending and self._pending + len(items) > self._max_pending:
            REJECTIONS.inc()
            raise Overloaded
        self._pending += len(items)
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        try:
            begun = [loop.run_in_executor(self._pool, _attempt, work, item) for item in items]
            return [await begun[0]] if len(begun) == 1 else await asyncio.gather(*begun)
        finally:
            self._pending -= len(items)
            STAGE_SECONDS.labels("decode").observe(time.monotonic() - started)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _attempt(work: Callable[[In], Out], item: In) -> Out | PolyheadError:
    try:
        return work(item)
    except PolyheadError as error:
        return error
