"""The scratch of the child's run: what a training by gradient reads in every epoch, kept on disk.

It is a file without a name: nothing of it outlives this process, however that ends.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import PolyheadError
from models.preprocess import DecodedImage
from models.views import batched, fill_feature_maps
from service.errors import RunFailed
from service.trainer.child import Report
from service.trainer.fitting import BATCH, decode, runtime
from service.trainer.jobs import FillJob

_held: dict[str, Any] = {}  # what the run in work keeps, by "rows"


def fill(job: FillJob, report: Report) -> list[PolyheadError | None]:
    """Put some images into their rows of the scratch: the trunk's feature maps of each view, or the pixels.

    Returns: for each image why it can't be read; where any can't, nothing is written.
    Raises:  RunFailed: the disk has no room. BackboneError.
    """
    if job.start == 0:
        drop()
        kind = np.uint8 if job.stage is None else np.float16
        _held["rows"] = _scratch(job.folder, (job.total, *job.shape), kind)
    decoded: list[DecodedImage | PolyheadError] = []
    for image in job.images:
        decoded.append(decode(image, job.backbone, job.max_pixels, job.input_size))
        if job.stage is None and len(decoded) % BATCH == 0:
            report({"done": len(decoded)})
    pixels = [each.pixels for each in decoded if isinstance(each, DecodedImage)]
    if len(pixels) == len(decoded):
        rows = _held["rows"][job.start : job.start + len(pixels)]
        if job.stage is None:
            rows[:] = np.stack(pixels)
        else:
            fill_feature_maps(
                runtime(job.backbone),
                batched(np.stack(pixels), BATCH),
                job.stage,
                job.views,
                rows,
                progress=lambda done: report({"done": done}),
            )
    report({"done": len(decoded)})
    return [each if isinstance(each, PolyheadError) else None for each in decoded]


def held(count: int) -> Any:
    """The first rows: those of whoever was deleted meanwhile were never written."""
    return _held["rows"][:count]


def drop() -> None:
    """Let go of it all."""
    _held.clear()


def _scratch(folder: Path, shape: tuple[int, ...], kind: type[np.generic]) -> Any:
    """An array of a size that memory may not have. Raises: RunFailed: nor has the disk."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # or a full disk would kill the process later
            return np.memmap(file, dtype=kind, mode="r+" if size else "w+", shape=shape)
    except OSError as error:
        raise RunFailed(
            f"there is no room for {size:,} bytes of a training's scratch in {folder}: {error.strerror}"
        ) from error
