"""What the trainer's child does for strategy finetune, whose network is its task's own: fit, export."""

import time
from dataclasses import replace
from typing import Any

import numpy as np

from models.arrays import FloatArray, UInt8Array
from models.averaging import averaged
from models.errors import BackboneError, InvalidOption
from models.export import check_parity
from models.strategies.options import FinetuneOptions
from models.views import batched
from service.trainer.child import Report
from service.trainer.fitting import BATCH, prepared
from service.trainer.jobs import Fitted, NetworkJob, TunedFitJob, fitted_of
from service.trainer.scratch import drop, held
from service.trainer.tuning import open_network

PARITY_IMAGES = 16  # on which the exported network must answer as torch does


def check_network(job: NetworkJob, report: Report) -> None:
    """Try the network at an input size of the task's own, before all images are decoded for it.

    Raises: InvalidOption: it can't be run so. BackboneError: it can't be run at all.
    """
    report({"phase": "preparing"})
    _open(job)


def fit_network(job: TunedFitJob, report: Report) -> Fitted:
    """Train a whole network on the pixels of the scratch, which is gone afterwards.

    Raises: UntrainableData, InvalidOption, BackboneError, ExportError.
    """
    try:
        return _fit_network(job, held(len(job.dataset)), report)
    finally:
        drop()


def _fit_network(job: TunedFitJob, pixels: UInt8Array, report: Report) -> Fitted:
    report({"phase": "preparing"})
    from models.strategies.finetune import fit_finetune  # noqa: PLC0415 - torch
    from models.tuned_export import expected_of_network, network_onnx  # noqa: PLC0415 - torch

    backbone = _open(NetworkJob(backbone=job.backbone, input_size=job.input_size))
    options = FinetuneOptions(**job.options)
    embeddings, start = _start(job, backbone, pixels, report)
    tuned = fit_finetune(
        job.dataset,
        pixels,
        backbone,
        options,
        embeddings=embeddings,
        report=report,
        clock=time.monotonic,
        min_examples_per_class=job.min_examples_per_class,
    )
    report({"phase": "exporting"})
    head = tuned.fit.head
    network: Any = tuned.network
    data = network_onnx(backbone, network, head, metadata={"kind": head.kind})
    if len(job.views) > 1:
        data = averaged(data, job.views)
    sample = np.array(pixels[:PARITY_IMAGES])
    wanted = expected_of_network(backbone, network, head, sample, job.views)
    parity = {"model": check_parity(data, sample, wanted, scale=job.spread)}
    fitted = fitted_of(tuned.fit, seed=options.seed, network=data, parity=parity)
    return replace(fitted, decision=fitted.decision | {"start_embeddings": start})


def _open(job: NetworkJob) -> Any:
    """The backbone at the input size, tried."""
    from models.graph import identify  # noqa: PLC0415 - torch

    own = prepared(job.backbone).identity.preprocessing.input_size
    try:
        size = job.backbone.config.input_size if job.input_size == own else job.input_size
        backbone = open_network(job.backbone, replace(job.backbone.config, input_size=size))
        identify(backbone, "fp32")
    except BackboneError as error:
        if job.input_size == own:
            raise
        raise InvalidOption("input_size", f"of {job.input_size} can't be used: {error}") from error
    return backbone


def _start(
    job: TunedFitJob, backbone: Any, pixels: UInt8Array, report: Report
) -> tuple[FloatArray | None, str]:
    """The embeddings that the exact head is fitted on where the cached ones aren't this network's; in words.

    Only the head's start depends on them: the split is that of the cached ones, as for every strategy.
    """
    identity = prepared(job.backbone).identity
    if job.input_size == identity.preprocessing.input_size and identity.precision == "fp32":
        return None, "those of the backbone"
    from models.graph import embed  # noqa: PLC0415 - torch

    found: list[FloatArray] = []
    began, done, total = time.monotonic(), 0, len(pixels)
    for part in batched(pixels, BATCH):
        found.append(embed(backbone, np.array(part)))
        done += len(part)
        left = (time.monotonic() - began) / done * (total - done)
        report({"phase": "embedding", "done": done, "total": total, "seconds_left": round(left, 1)})
    said = (
        f"computed once more, at {job.input_size} pixels in fp32: the backbone's own are of another network"
    )
    return np.concatenate(found), said
