"""What the trainer's child does for strategy auto: try a rung and keep it, let go of one, finish one.

What was tried stays here until the run ends: only answers to validation cross to the trainer, which chooses.
"""

import time
from typing import Any

import numpy as np

from models.domain import Domain, domain_of_batch_norms
from models.evaluate import interval
from models.identity import PIXELS
from models.preprocess import DecodedImage
from service.trainer.child import Report
from service.trainer.fitting import decode
from service.trainer.jobs import DomainJob, Explored, Fitted, HeadRungJob, TunedFitJob
from service.trainer.networks import NetworkTrial, finish_network, try_network
from service.trainer.scratch import drop
from service.trainer.tuning import TailTrial, finish_tail, open_network, try_tail

_trials: dict[str, TailTrial | NetworkTrial] = {}  # by strategy


def measure_domain(job: DomainJob, report: Report) -> Domain:
    """By the network's batch norms, which needs the images. Raises: BackboneError."""
    report({"phase": "measuring"})
    decoded = [decode(image, job.backbone, job.max_pixels) for image in job.images]
    pixels = [each.pixels for each in decoded if isinstance(each, DecodedImage)]
    if not pixels:
        return domain_of_batch_norms(None, 0)
    from models.batch_norms import batch_norm_distance  # noqa: PLC0415 - torch

    backbone = open_network(job.backbone, job.backbone.config)
    return domain_of_batch_norms(batch_norm_distance(backbone, np.stack(pixels)), len(pixels))


def try_head(job: HeadRungJob, report: Report) -> Explored:
    """The exact head, on the same validation examples as every other rung. Raises: UntrainableData."""
    from models.strategies.explore import explore  # noqa: PLC0415 - seconds and 0.9 GB, for torch
    from models.strategies.floor import head_rung  # noqa: PLC0415 - torch

    began = time.monotonic()
    recipe = head_rung(job.dataset, seed=job.seed, total_backbone_parameters=job.total_backbone_parameters)
    candidate = explore(
        recipe,
        report=report,
        min_examples_per_class=job.min_examples_per_class,
        few_validation=job.few_validation,
    )
    return _explored(candidate, time.monotonic() - began)


def try_rung(job: TunedFitJob, report: Report) -> Explored:
    """Train on the scratch, which the rung keeps. Raises: as `fit_tail` and `fit_network`."""
    began = time.monotonic()
    trial = (try_network if job.output == PIXELS else try_tail)(job, report)
    drop()  # the trial holds it
    _trials[job.strategy] = trial
    return _explored(trial.candidate, time.monotonic() - began)


def finish_rung(strategy: str, report: Report) -> Fitted:
    """Raises: as `fit_tail` and `fit_network`."""
    trial = _trials[strategy]
    try:
        if isinstance(trial, NetworkTrial):
            return finish_network(trial, report)
        return finish_tail(trial, report)
    finally:
        _trials.clear()


def drop_rung(strategy: str, report: Report) -> None:
    """Let go of a rung that isn't the best, or was never tried to its end, with its scratch."""
    del report
    _trials.pop(strategy, None)
    drop()


def _explored(candidate: Any, seconds: float) -> Explored:
    dataset, rows = candidate.recipe.dataset, candidate.validation_rows
    first = candidate.attempts[0]
    trained = {name for block in candidate.recipe.blocks for name in block.parameters}
    parameters = dict(first.adapted.network.named_parameters())
    own = sum(parameters[name].numel() for name in trained)
    score = candidate.validation or {}
    return Explored(
        ids=candidate.validation_ids,
        targets=dataset.targets[rows],
        scores=candidate.validation_scores,
        seconds=seconds,
        # a head that is only fitted takes as long again; what trains, its epochs
        refit_seconds=candidate.epochs * first.trained.seconds_per_epoch * len(dataset) / len(first.rows)
        if candidate.epochs
        else seconds,
        record={
            "validation": {
                "metric": score.get("name"),
                "score": score.get("value"),
                "interval": interval(
                    dataset.kind, dataset.labels, dataset.targets[rows], candidate.validation_scores
                ),
                "count": len(rows),
                "folds": None if candidate.folds is None else len(candidate.attempts),
            },
            "seconds": round(seconds, 2),
            "trainable_parameters": own + sum(each.numel() for each in first.adapted.head.parameters()),
            "epochs": [attempt.trained.epochs for attempt in candidate.attempts],
            "ended_by": [attempt.trained.ended for attempt in candidate.attempts],
        },
    )
