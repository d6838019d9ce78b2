"""What the trainer's child does for strategy finetune, whose network is its task's own: fit, export."""

import time
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkTrial:
    """A network that has been trained and stopped by validation, and what finishing it takes."""

    job: TunedFitJob
    candidate: Any  # models.strategies.explore.Candidate
    backbone: Any  # models.backbone.Backbone, at the network's input size
    pixels: UInt8Array
    start: str  # where the head began, in words


def fit_network(job: TunedFitJob, report: Report) -> Fitted:
    """Train a whole network on the pixels of the scratch, which is gone afterwards.

    Raises: UntrainableData, InvalidOption, BackboneError, ExportError.
    """
    try:
        return finish_network(try_network(job, report), report)
    finally:
        drop()


def try_network(job: TunedFitJob, report: Report) -> NetworkTrial:
    """Train, and answer validation; the test is still unseen."""
    report({"phase": "preparing"})
    from models.strategies.explore import explore  # noqa: PLC0415 - torch
    from models.strategies.finetune import finetune  # noqa: PLC0415 - torch

    pixels = held(len(job.dataset))
    backbone = _open(NetworkJob(backbone=job.backbone, input_size=job.input_size))
    embeddings, start = _start(job, backbone, pixels, report)
    recipe = finetune(job.dataset, pixels, backbone, FinetuneOptions(**job.options), embeddings=embeddings)
    candidate = explore(
        recipe,
        report=report,
        clock=time.monotonic,
        min_examples_per_class=job.min_examples_per_class,
        few_validation=job.few_validation,
    )
    return NetworkTrial(job=job, candidate=candidate, backbone=backbone, pixels=pixels, start=start)


def finish_network(trial: NetworkTrial, report: Report) -> Fitted:
    """Score the test once, refit, export."""
    from models.strategies.finish import finish  # noqa: PLC0415 - torch
    from models.tuned_export import expected_of_network, network_onnx  # noqa: PLC0415 - torch

    job = trial.job
    tuned = finish(trial.candidate, report=report)
    report({"phase": "exporting"})
    head = tuned.fit.head
    network: Any = tuned.network
    data = network_onnx(trial.backbone, network, head, metadata={"kind": head.kind})
    if len(job.views) > 1:
        data = averaged(data, job.views)
    sample = np.array(trial.pixels[:PARITY_IMAGES])
    wanted = expected_of_network(trial.backbone, network, head, sample, job.views)
    parity = {"model": check_parity(data, sample, wanted, scale=job.spread)}
    fitted = fitted_of(tuned.fit, seed=trial.candidate.recipe.options.seed, network=data, parity=parity)
    return replace(fitted, decision=fitted.decision | {"start_embeddings": trial.start})


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
