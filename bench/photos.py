"""Distinct real photos, made once from a few data sets by seeded crops and kept on disk.

A pool is one file of concatenated images and one of offsets, so that the load generator maps it and no
request waits for a disk. Image `i` of a kind is the same on every machine with the same Pillow.
"""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from service.solar_cells import read_cells

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

VERSION = 2  # of the crops: a change makes every pool anew
MAKERS = 2  # threads; Pillow releases the GIL


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoKind:
    """What the images of a pool are."""

    name: str
    width: int  # pixels
    height: int
    media_type: str = "image/jpeg"
    cells_only: bool = False  # one solar cell an image, none used twice: for labelled examples
    mosaic: bool = False  # of sharp smaller ones, since no source here has as many pixels


JPEG_640 = PhotoKind(name="jpeg-640x480", width=640, height=480)
JPEG_224 = PhotoKind(name="jpeg-224", width=224, height=224)
JPEG_12MPX = PhotoKind(name="jpeg-12mpx", width=4000, height=3000, mosaic=True)
PNG_640 = PhotoKind(name="png-640x480", width=640, height=480, media_type="image/png")
TILE, TILES = PhotoKind(name="tile", width=500, height=375), 64
LABELLED = PhotoKind(name="labelled-640x480", width=640, height=480, cells_only=True)


@dataclass(frozen=True, slots=True)
class Photos:
    """A pool on disk."""

    path: Path  # the images, one after another; offsets beside it
    count: int
    media_type: str

    def open(self) -> "OpenPhotos":
        return OpenPhotos(
            np.memmap(self.path, np.uint8, "r"), np.load(self.path.with_suffix(".npy"), allow_pickle=False)
        )

    @property
    def mean_bytes(self) -> float:
        return self.path.stat().st_size / self.count


@dataclass(frozen=True, slots=True)
class OpenPhotos:
    data: Any  # (bytes,) uint8, mapped
    offsets: Any  # (N + 1,) int64

    def __getitem__(self, index: int) -> bytes:
        return bytes(self.data[self.offsets[index] : self.offsets[index + 1]])


def make_photos(kind: PhotoKind, count: int, folder: Path) -> Photos:
    """The first `count` images of a kind; from the cache where they are there."""
    path = folder / f"{kind.name}-{count}-v{VERSION}.bin"
    if not path.with_suffix(".npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        ends = [0]
        with partial.open("wb") as file, ThreadPoolExecutor(MAKERS) as pool:
            for data in _in_order(pool, kind, count):
                file.write(data)
                ends.append(ends[-1] + len(data))
        partial.replace(path)
        np.save(path.with_suffix(".npy"), np.array(ends, np.int64), allow_pickle=False)
    return Photos(path, count, kind.media_type)


def _in_order(pool: ThreadPoolExecutor, kind: PhotoKind, count: int) -> Iterator[bytes]:
    step = 256  # bounds what is held in memory
    for start in range(0, count, step):
        yield from pool.map(lambda index: make_photo(kind, index), range(start, min(start + step, count)))


def make_photo(kind: PhotoKind, index: int) -> bytes:
    """One crop, turned around or not and a little brighter or darker, so that no two are alike."""
    rng = np.random.default_rng([VERSION, index])
    image = _mosaic(kind, rng) if kind.mosaic else _cropped(kind, index, rng)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gain = rng.uniform(0.85, 1.15)
    image = image.point([min(255, round(value * gain)) for value in range(256)] * 3)
    file = io.BytesIO()
    if kind.media_type == "image/png":
        image.save(file, "PNG", compress_level=1)  # the rest is the encoder's time, not the decoder's
    else:
        image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _cropped(kind: PhotoKind, index: int, rng: np.random.Generator) -> Image.Image:
    source = _cell(index) if kind.cells_only or index % 2 else _colour_photos()[index // 2 % 2]
    box = _crop(source.size, kind, rng)
    return source.resize((kind.width, kind.height), Image.Resampling.BICUBIC, box=box)


def _mosaic(kind: PhotoKind, rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (kind.width, kind.height))
    for left in range(0, kind.width, TILE.width):
        for top in range(0, kind.height, TILE.height):
            image.paste(_tile(int(rng.integers(TILES))), (left, top))
    return image


@cache
def _tile(index: int) -> Image.Image:
    return _cropped(TILE, index, np.random.default_rng([VERSION, index]))


def _crop(size: tuple[int, int], kind: PhotoKind, rng: np.random.Generator) -> Box:
    """A box of the wanted proportions, 60-100% of the largest that fits."""
    width, height = size
    largest = min(width / kind.width, height / kind.height)
    scale = largest * rng.uniform(0.6, 1.0)
    left = rng.uniform(0, width - scale * kind.width)
    top = rng.uniform(0, height - scale * kind.height)
    return left, top, left + scale * kind.width, top + scale * kind.height


@cache
def _colour_photos() -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@cache
def _cells() -> list[Path]:
    return [cell.path for cell in read_cells()]


def _cell(index: int) -> Image.Image:
    paths = _cells()
    with Image.open(paths[index % len(paths)]) as image:
        return image.convert("RGB")
