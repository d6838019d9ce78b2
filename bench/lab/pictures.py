"""Pictures of lines, 16 x 16, for a network to learn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.arrays import IntArray, UInt8Array

SIDE = 16  # pixels
NOISE = 0.05  # standard deviation, of values from 0 to 1
LEAST, SPAN = -0.25, 1.5  # the value of a black pixel, and how far a white one's is from it
ALONG = np.arange(SIDE)


def figure(name: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """(16, 16) values: a figure of ones at a random place on zeros."""
    image = np.zeros((SIDE, SIDE))
    down, right = rng.integers(4, 12, 2)
    shift, inset = rng.integers(-3, 4), rng.integers(1, 4)
    if name in ("vertical", "cross"):
        image[:, right] = 1
    if name in ("horizontal", "cross"):
        image[down, :] = 1
    if name in ("diagonal", "saltire"):
        image[ALONG, (ALONG + shift) % SIDE] = 1
    if name in ("anti-diagonal", "saltire"):
        image[ALONG, (SIDE - 1 - ALONG + shift) % SIDE] = 1
    if name == "frame":
        image[inset, inset:-inset] = image[-inset - 1, inset:-inset] = 1
        image[inset:-inset, inset] = image[inset:-inset, -inset - 1] = 1
    return image


def pictures(
    names: Sequence[str], each: int, rng: np.random.Generator, *, moved: int = 0
) -> tuple[UInt8Array, IntArray]:
    """Figures with noise: (len(names) * each, 16, 16, 1), and their classes.

    Args: moved: pixels down and to the right, around the edge.
    """
    figures = [np.roll(figure(name, rng), (moved, moved), (0, 1)) for name in names for _ in range(each)]
    values = np.stack(figures) + rng.normal(0, NOISE, (len(figures), SIDE, SIDE))
    pixels = np.clip((values - LEAST) / SPAN * 255, 0, 255).astype(np.uint8)[..., None]
    return pixels, np.repeat(np.arange(len(names)), each)
