"""What a training by gradient reads in every epoch, put into the child's scratch once a run."""

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from models.dataset import Dataset
from models.errors import UntrainableData
from models.identity import AS_IT_IS, PIXELS
from models.strategies.options import OPTIONS
from models.tails import check_pixels, kept_within, stages_shape
from models.views import views_of
from service.errors import RunFailed
from service.store.records import Run
from service.trainer.child import Report
from service.trainer.gathering import Snapshot, chunks
from service.trainer.jobs import FILL, Feed, FillJob
from service.trainer.lease import Lease
from service.trainer.workbench import Countdown, Workbench

TRIAL = 0.1  # share of the time that there is, in which the pace is not known well
HOPELESS = 3.0  # times as long as it may: how much slower than it will be a short while may look


class OutOfTime(Exception):
    """The scratch would take longer to fill than it may."""

    def __init__(self, *, seconds: float, most: float) -> None:
        super().__init__(f"its inputs would take {seconds:.0f} s to compute, and {most:.0f} s are the most")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """What is to lie in the scratch."""

    stage: str | None  # of the backbone, whose feature maps are kept; None: the pixels are
    views: tuple[str, ...]  # that are trained on or, by a network of its own, averaged over
    shape: tuple[int, ...]  # of a row
    recomputed: bool  # a tail's feature maps are computed of the pixels, in every epoch
    input_size: int  # pixels
    feed: Feed  # of the version
    record: dict[str, Any]  # for its decision

    def bytes_of(self, examples: int) -> int:
        return examples * math.prod(self.shape) * (1 if self.stage is None else 2)


def plan_filling(run: Run, bench: Workbench, examples: int, *, taken: int = 0) -> Filling:
    """What is to lie in the scratch.

    Args:   taken: bytes of it, by what is kept there already.
    Raises: InvalidOption: it is too small. NoTail.
    """
    room = max(0, bench.settings.scratch_bytes - taken)
    return (_pixels if run.strategy == "finetune" else _maps)(run, bench, examples, room)


def _maps(run: Run, bench: Workbench, examples: int, room: int) -> Filling:
    options: Any = OPTIONS[str(run.strategy)](**run.options)
    preprocessing = bench.identity.preprocessing
    tail = stages_shape(bench.identity) if run.strategy == "stages" else bench.tails.of(options.blocks)
    wanted = views_of(options.augmentation)
    kept = kept_within(tail, examples, wanted, room, pixel_bytes=preprocessing.pixel_bytes)
    size = preprocessing.input_size
    record = {
        "stage": tail.stage,
        "shape": list(tail.shape),
        "left_out": list(wanted[len(kept.views) :]),  # for want of scratch
        **asdict(kept),
    }
    return Filling(
        stage=None if kept.recomputed else tail.stage,
        views=kept.views,
        shape=(size, size, preprocessing.channels) if kept.recomputed else (len(kept.views), *tail.shape),
        recomputed=kept.recomputed,
        input_size=size,
        feed=Feed(output=tail.stage, views=kept.views if options.average_flips else (AS_IT_IS,)),
        record={"feature_maps": record},
    )


def _pixels(run: Run, bench: Workbench, examples: int, room: int) -> Filling:
    options: Any = OPTIONS[str(run.strategy)](**run.options)
    own = bench.identity.preprocessing
    preprocessing = replace(own, input_size=options.input_size or own.input_size)
    check_pixels(examples, room, preprocessing)
    size = preprocessing.input_size
    views = views_of(options.augmentation) if options.average_flips else (AS_IT_IS,)
    return Filling(
        stage=None,
        views=views,
        shape=(size, size, preprocessing.channels),
        recomputed=False,
        input_size=size,
        feed=Feed(output=PIXELS, views=views, input_size=size),
        record={"pixels": {"input_size": size, "bytes": examples * preprocessing.pixel_bytes}},
    )


def fill_scratch(
    filling: Filling,
    snapshot: Snapshot,
    dataset: Dataset,
    bench: Workbench,
    *,
    report: Report,
    lease: Lease,
    most_seconds: float = math.inf,
) -> Dataset:
    """Decode every image and, where maps are kept, run the trunk once for each view of it.

    Args:    most_seconds: judged by `check_pace`, after each chunk of images.
    Returns: the examples whose rows are written, in the rows' order; whoever was deleted meanwhile has none.
    Raises:  RunFailed: an image is lost or can't be read, or the disk is full; UntrainableData: all were
             deleted; OutOfTime, LostLease, BackboneError.
    """
    began = time.monotonic()
    known = set(dataset.ids)
    examples = [example for example in snapshot.examples if example.id in known]
    countdown = Countdown(report, len(examples))
    kept = set[str]()
    for chunk in chunks(bench.store, snapshot.task, examples):
        done = len(kept)
        job = FillJob(
            backbone=bench.backbone,
            images=tuple(data for _, data in chunk),
            max_pixels=bench.settings.max_image_pixels,
            input_size=filling.input_size,
            stage=filling.stage,
            views=filling.views,
            shape=filling.shape,
            start=done,
            total=len(examples),
            folder=bench.settings.resolved_scratch_dir,
        )
        answers = bench.call(
            FILL,
            job,
            report=lambda progress, done=done: countdown.show(done + progress["done"]),  # type: ignore[misc]
            lease=lease,
        )
        for (example, _), error in zip(chunk, answers, strict=True):
            if error is not None:
                raise RunFailed(f"the image of example {example.id} can't be read: {error}")
            kept.add(example.id)
        check_pace(time.monotonic() - began, len(kept), len(examples), most_seconds)
    if not kept:
        raise UntrainableData("all examples of the task were deleted while it was trained")
    rows = [row for row, id_ in enumerate(dataset.ids) if id_ in kept]
    return dataset.take(np.array(rows, dtype=np.int64))


def check_pace(seconds: float, done: int, total: int, most: float) -> None:
    """Give up what will take longer than it may, by the pace of what is done.

    The first images say little of the others: a graph is compiled, or a neighbour has the cores for a moment.
    So only what is hopeless is given up during the trial.

    Raises: OutOfTime.
    """
    expected = seconds / done * total if done else 0.0
    if expected > most * (HOPELESS if seconds < TRIAL * most else 1.0):
        raise OutOfTime(seconds=expected, most=most)
