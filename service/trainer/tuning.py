"""What the trainer's child does for strategies with a tail of their own: fit by gradient, export."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.arrays import FloatArray, UInt8Array
from models.errors import BackboneError
from models.export import check_parity
from models.factors import factors_file
from models.identity import BackboneConfig
from models.strategies.options import OPTIONS, LoraOptions
from models.views import RecomputedMaps
from service.trainer.child import Report
from service.trainer.fitting import BATCH, prepared, runtime
from service.trainer.jobs import BackboneJob, Fitted, TunedFitJob, fitted_of
from service.trainer.scratch import drop, held

PARITY_ROWS = 64  # on which the exported tail must answer as torch does


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TailTrial:
    """A tail that has been trained and stopped by validation, and what finishing it takes."""

    job: TunedFitJob
    candidate: Any  # models.strategies.explore.Candidate
    split: Any  # models.tail.Split
    maps: Any  # (N, V, *stage shape)
    options: Any


def fit_tail(job: TunedFitJob, report: Report) -> Fitted:
    """Train a tail on the scratch, which is gone afterwards.

    Raises: UntrainableData, InvalidOption, NoTail, BackboneError, ExportError.
    """
    try:
        return finish_tail(try_tail(job, report), report)
    finally:
        drop()


def try_tail(job: TunedFitJob, report: Report) -> TailTrial:
    """Train, and answer validation; the test is still unseen."""
    report({"phase": "preparing"})
    import torch  # noqa: F401, PLC0415 - seconds and 0.9 GB, which a trainer of heads never needs

    from models.strategies.explore import explore  # noqa: PLC0415 - torch

    options: Any = OPTIONS[job.strategy](**job.options)
    split = _split_of(job, options)
    maps = _maps(job, split.stage, split.shape)
    recipe = _recipe_of(job.strategy)(
        job.dataset, maps, split, options, total_backbone_parameters=job.total_backbone_parameters
    )
    candidate = explore(
        recipe,
        report=report,
        clock=time.monotonic,
        min_examples_per_class=job.min_examples_per_class,
        few_validation=job.few_validation,
    )
    return TailTrial(job=job, candidate=candidate, split=split, maps=maps, options=options)


def finish_tail(trial: TailTrial, report: Report) -> Fitted:
    """Score the test once, refit, export."""
    import torch  # noqa: PLC0415 - as above

    from models.strategies.finish import finish  # noqa: PLC0415 - torch
    from models.tuned_export import expected, tail_onnx  # noqa: PLC0415 - torch

    job, split, maps = trial.job, trial.split, trial.maps
    tuned = finish(trial.candidate, report=report)
    if job.strategy == "lora":
        from models.strategies.lora import merged  # noqa: PLC0415 - peft, which is an extra

        tuned = merged(tuned)
    report({"phase": "exporting"})
    head = tuned.fit.head
    tail = tail_onnx(tuned.network, head, split.shape, metadata={"kind": head.kind})
    rows = np.arange(min(PARITY_ROWS, len(job.dataset)))
    sample = np.asarray(maps[rows, np.zeros_like(rows)], dtype=np.float32)
    wanted = expected(tuned.network, head, torch.from_numpy(sample))
    parity = {"head": check_parity(tail, sample, wanted, scale=job.spread)}
    fitted = fitted_of(tuned.fit, seed=trial.options.seed, network=tail, parity=parity)
    return (
        fitted if tuned.factors is None else _with_factors(fitted, tuned.factors, trial.options, split, job)
    )


def _with_factors(
    fitted: Fitted, factors: dict[str, FloatArray], options: LoraOptions, split: Any, job: TunedFitJob
) -> Fitted:
    """The file of a lora's factors beside its merged tail."""
    from models.tail import targets  # noqa: PLC0415 - torch

    layers = sorted(targets(split.tail))
    data = factors_file(
        factors,
        fitted.head,
        rank=options.rank,
        alpha=options.alpha,
        stage=split.stage,
        targets=layers,
        backbone_digest=prepared(job.backbone).identity.digest,
    )
    said = {"bytes": len(data), "rank": options.rank, "alpha": options.alpha, "targets": layers}
    return replace(fitted, factors=data, decision=fitted.decision | {"factors": said})


def open_network(job: BackboneJob, config: BackboneConfig) -> Any:
    """The backbone in torch, at the input size of `config`.

    Raises: BackboneError: its weights are no longer those that were prepared, or it can't be built.
    """
    import torch  # noqa: PLC0415 - as above

    from models.backbone import build_backbone, weights_digest  # noqa: PLC0415 - torch

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    backbone = build_backbone(config)
    wanted = prepared(job).identity.weights_digest
    # at another size, position embeddings are interpolated: then it is the source that must be the same
    if weights_digest(backbone.module) != wanted and (
        config.input_size == job.config.input_size
        or weights_digest(build_backbone(job.config).module) != wanted
    ):
        raise BackboneError(f"backbone {backbone.name}: its weights changed after it was prepared")
    return backbone


def _maps(job: TunedFitJob, stage: str, shape: tuple[int, ...]) -> Any:
    """(N, V, *shape) float16, from the disk or from the trunk."""
    rows = held(len(job.dataset))
    if not job.recomputed:
        return rows
    run = runtime(job.backbone).run

    def trunk(pixels: UInt8Array) -> FloatArray:
        return run(pixels, (stage,))[stage]

    return RecomputedMaps(rows, trunk, job.views, shape, batch=BATCH)


def _split_of(job: TunedFitJob, options: Any) -> Any:
    from models.tail import split_at, stages_of  # noqa: PLC0415 - torch

    if job.strategy == "stages":
        return stages_of(prepared(job.backbone).identity.pooled)
    return split_at(open_network(job.backbone, job.backbone.config), options.blocks)


def _recipe_of(strategy: str) -> Callable[..., Any]:
    if strategy == "lora":
        from models.strategies.lora import lora  # noqa: PLC0415 - peft, which is an extra

        return lora
    if strategy == "stages":
        from models.strategies.stages import stages  # noqa: PLC0415 - torch

        return stages
    from models.strategies.last_block import last_block  # noqa: PLC0415 - torch

    return last_block
