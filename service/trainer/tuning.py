"""What the trainer's child does for strategies with a tail of their own: cache feature maps, fit by gradient.

The maps lie in a file without a name: nothing of it outlives this process, however that ends.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import BackboneError, PolyheadError
from models.export import check_parity
from models.preprocess import DecodedImage
from models.strategies.options import OPTIONS
from models.views import fill_feature_maps
from service.errors import RunFailed
from service.trainer.child import Report
from service.trainer.fitting import BATCH, decode, prepared, runtime
from service.trainer.jobs import Fitted, MapsJob, TailFitJob, fitted_of

PARITY_MAPS = 64  # on which the exported tail must answer as torch does

_held: dict[str, Any] = {}  # the feature maps of the run in work, by "maps"


def map_features(job: MapsJob, report: Report) -> list[PolyheadError | None]:
    """Put the feature maps of some images, each in every view, into their rows of the scratch.

    Returns: for each image why it can't be read; where any can't, nothing is written.
    Raises:  RunFailed: the disk has no room. BackboneError.
    """
    if job.start == 0:
        drop()
        _held["maps"] = _scratch(job.folder, (job.total, len(job.views), *job.shape))
    maps = _held["maps"]
    decoded = [decode(image, job.backbone, job.max_pixels) for image in job.images]
    pixels = [each.pixels for each in decoded if isinstance(each, DecodedImage)]
    if len(pixels) == len(decoded):
        batches = (np.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH))
        fill_feature_maps(
            runtime(job.backbone),
            batches,
            job.stage,
            job.views,
            maps[job.start : job.start + len(pixels)],
            progress=lambda done: report({"done": done}),
        )
    return [each if isinstance(each, PolyheadError) else None for each in decoded]


def drop() -> None:
    """Let go of the feature maps."""
    _held.clear()


def fit_tail(job: TailFitJob, report: Report) -> Fitted:
    """Train a tail on the feature maps that `map_features` has cached, which are gone afterwards.

    Raises: UntrainableData, InvalidOption, NoTail, BackboneError, ExportError.
    """
    try:
        return _fit_tail(job, _held["maps"][: len(job.dataset)], report)
    finally:
        drop()


def _fit_tail(job: TailFitJob, maps: Any, report: Report) -> Fitted:
    report({"phase": "preparing"})
    import torch  # noqa: PLC0415 - seconds and 0.9 GB, which a trainer of heads never needs

    from models.backbone import build_backbone, weights_digest  # noqa: PLC0415 - torch
    from models.tail import split_at  # noqa: PLC0415 - torch
    from models.tuned_export import expected, tail_onnx  # noqa: PLC0415 - torch

    if job.backbone.config.threads is not None:
        torch.set_num_threads(job.backbone.config.threads)
    backbone = build_backbone(job.backbone.config)
    if weights_digest(backbone.module) != prepared(job.backbone).identity.weights_digest:
        raise BackboneError(f"backbone {backbone.name}: its weights changed after it was prepared")
    options: Any = OPTIONS[job.strategy](**job.options)
    split = split_at(backbone, options.blocks)
    tuned = _fit_of(job.strategy)(
        job.dataset,
        maps,
        split,
        options,
        total_backbone_parameters=job.total_backbone_parameters,
        report=report,
        clock=time.monotonic,
        min_examples_per_class=job.min_examples_per_class,
    )
    report({"phase": "exporting"})
    head = tuned.fit.head
    tail = tail_onnx(tuned.network, head, split.shape, metadata={"kind": head.kind})
    sample = np.asarray(maps[:PARITY_MAPS, 0], dtype=np.float32)
    wanted = expected(tuned.network, head, torch.from_numpy(sample))
    parity = {"head": check_parity(tail, sample, wanted, scale=job.spread)}
    return fitted_of(tuned.fit, seed=options.seed, tail=tail, parity=parity)


def _fit_of(strategy: str) -> Callable[..., Any]:
    if strategy == "lora":
        from models.strategies.lora import fit_lora  # noqa: PLC0415 - peft, which is an extra

        return fit_lora
    from models.strategies.last_block import fit_last_block  # noqa: PLC0415 - torch

    return fit_last_block


def _scratch(folder: Path, shape: tuple[int, ...]) -> Any:
    """A float16 array of a size that memory may not have. Raises: RunFailed: nor has the disk."""
    size = int(np.prod(shape, dtype=np.int64)) * 2
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # or a full disk would kill the process later
            return np.memmap(file, dtype=np.float16, mode="r+" if size else "w+", shape=shape)
    except OSError as error:
        raise RunFailed(
            f"there is no room for {size:,} bytes of feature maps in {folder}: {error.strerror}"
        ) from error
