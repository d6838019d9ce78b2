"""Views of an image that differ by flips: what is cached of a trunk, what answers are averaged over."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from models.arrays import FloatArray, HalfArray, IntArray, UInt8Array
from models.identity import AS_IT_IS
from models.prepared import Runtime
from models.strategies.options import Augmentation

VIEWS: dict[Augmentation, tuple[str, ...]] = {
    "none": (AS_IT_IS,),
    "light": (AS_IT_IS, "left-right"),
    "heavy": (AS_IT_IS, "left-right", "top-bottom", "both"),
}
AXES: dict[str, tuple[int, ...]] = {AS_IT_IS: (), "left-right": (2,), "top-bottom": (1,), "both": (1, 2)}


def views_of(augmentation: Augmentation) -> tuple[str, ...]:
    """The first is the image as it is."""
    return VIEWS[augmentation]


def flipped(pixels: UInt8Array, view: str) -> UInt8Array:
    """(N, H, W, C) -> the same shape, contiguous."""
    return np.ascontiguousarray(np.flip(pixels, AXES[view]))


def fill_feature_maps(
    runtime: Runtime,
    batches: Iterable[UInt8Array],
    stage: str,
    views: tuple[str, ...],
    out: HalfArray,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Run the trunk once for every image and view.

    Args:    batches: of (n, H, W, C) uint8, together N images, in order; out: (N, V, *stage shape) float16,
             memory-mapped as a rule; progress: told how many images are done, after each batch.
    Returns: N.
    """
    done = 0
    for pixels in batches:
        for number, view in enumerate(views):
            out[done : done + len(pixels), number] = halved(
                runtime.run(flipped(pixels, view), (stage,))[stage]
            )
        done += len(pixels)
        if progress:
            progress(done)
    return done


def halved(maps: FloatArray) -> HalfArray:
    """As float16, without infinities where they would overflow."""
    limit = np.finfo(np.float16).max
    return np.clip(maps, -limit, limit).astype(np.float16)


class RecomputedMaps:
    """Reads as an array of feature maps that are computed whenever they are read.

    The same numbers as `fill_feature_maps` leaves, at the cost of the trunk in every epoch.
    """

    def __init__(
        self,
        pixels: UInt8Array,
        trunk: Callable[[UInt8Array], FloatArray],
        views: Sequence[str],
        shape: tuple[int, ...],
        *,
        batch: int,
    ) -> None:
        """Args: trunk: (n, H, W, C) -> (n, *shape), n at most `batch`; pixels: (N, H, W, C)."""
        self._pixels = pixels
        self._trunk = trunk
        self._views = tuple(views)
        self._batch = batch
        self.shape = (len(pixels), len(self._views), *shape)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, rows_and_views: tuple[IntArray, IntArray]) -> HalfArray:
        """(n,) rows, (n,) numbers of views -> (n, *shape)."""
        rows, numbers = rows_and_views
        pixels = np.array(self._pixels[rows])
        for number, view in enumerate(self._views):
            chosen = numbers == number
            pixels[chosen] = flipped(pixels[chosen], view)
        return np.concatenate([halved(self._trunk(part)) for part in batched(pixels, self._batch)])


def batched(pixels: UInt8Array, size: int) -> Iterator[UInt8Array]:
    """(N, …) in pieces of at most `size` rows."""
    for start in range(0, len(pixels), size):
        yield pixels[start : start + size]
