"""Views of an image that differ by flips: what is cached of a trunk, what answers are averaged over."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from models.arrays import UInt8Array
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
    out: "np.ndarray[tuple[int, ...], np.dtype[np.float16]]",
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
            maps = runtime.run(flipped(pixels, view), (stage,))[stage]
            limit = np.finfo(np.float16).max
            out[done : done + len(pixels), number] = np.clip(maps, -limit, limit)
        done += len(pixels)
        if progress:
            progress(done)
    return done


def batched(pixels: UInt8Array, size: int) -> Iterator[UInt8Array]:
    """(N, …) in pieces of at most `size` rows."""
    for start in range(0, len(pixels), size):
        yield pixels[start : start + size]
