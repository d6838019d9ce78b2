"""What the trainer's child does to hold a version on a new backbone against the one that it is to follow."""

import numpy as np

from models.evaluate import PRIMARY, align_scores, compare, interval
from service.trainer.child import Report
from service.trainer.jobs import Weighed, WeighedScore, WeighJob


def weigh(job: WeighJob, report: Report) -> Weighed:
    """Score two versions on the same held-out examples, of the classes that both know.

    A class that was added, renamed or removed since says nothing of the backbones.
    """
    del report
    metric, higher_is_better = PRIMARY[job.kind]
    old, new = job.old_scores, job.new_scores
    labels, targets = job.labels, job.targets
    if job.kind != "regression":
        old, new = align_scores(old, job.old_labels, labels), align_scores(new, job.new_labels, labels)
    both = np.array([label in job.old_labels and label in job.new_labels for label in labels], dtype=np.bool_)
    if job.kind == "multiclass":
        rows = both[targets]
        targets, old, new = targets[rows], old[rows], new[rows]
    elif job.kind == "multilabel":
        targets, old, new = targets[:, both], old[:, both], new[:, both]
        labels = tuple(label for label, kept in zip(labels, both, strict=True) if kept)
    if not targets.size:
        nothing = WeighedScore(value=None, interval=None)
        return Weighed(metric=metric, higher_is_better=higher_is_better, count=0, old=nothing, new=nothing)
    measured = compare(job.kind, targets, new, old)
    return Weighed(
        metric=metric,
        higher_is_better=higher_is_better,
        count=measured.count,
        old=WeighedScore(value=measured.old, interval=interval(job.kind, labels, targets, old)),
        new=WeighedScore(value=measured.new, interval=interval(job.kind, labels, targets, new)),
        spread=float(targets.std()) if job.kind == "regression" else 1.0,
    )
