"""What the trainer's child does: decode and embed, fit, export. Jobs in, values out; no database, no store.

The backbone is opened at the first job that needs it and stays open, as everything here stays imported.
"""

import functools
import hashlib
import math
import os
import time
from dataclasses import replace

import numpy as np

from models.arrays import FloatArray, UInt8Array
from models.averaging import averaged
from models.errors import InvalidHead, PolyheadError
from models.evaluate import align_scores, compare
from models.export import (
    TOLERANCE,
    check_parity,
    head_metadata,
    head_onnx,
    model_onnx,
    read_linear_head,
    run_file,
    stamped,
)
from models.head import LinearHead, answers
from models.head_session import HeadSession
from models.identity import PIXELS, BackboneIdentity
from models.prepare import check_reference, prepare_backbone
from models.preprocess import DecodedImage, decode_image, perceptual_hash
from models.runtime import PreparedBackbone, Runtime, open_runtime
from models.strategies.head import PREVIOUS, fit_head
from models.strategies.options import AdamHeadOptions, HeadOptions
from models.views import flipped
from service.trainer.child import Report
from service.trainer.jobs import (
    BackboneJob,
    Embedded,
    EmbedJob,
    Exported,
    ExportJob,
    FitJob,
    Fitted,
    Judged,
    JudgeJob,
    fitted_of,
)

PARITY_EMBEDDINGS = 256  # of the task's own, on which an exported MLP must answer as it was trained
BATCH = 8  # images in one pass: more are no faster on a CPU, and progress comes in steps of it


def prepare(job: BackboneJob, report: Report) -> None:
    """Export the backbone unless it is cached. Raises: BackboneError."""
    del report
    prepared(job)


def warm(job: BackboneJob, report: Report) -> None:
    """Prepare the backbone, give way to everything else on this machine, then open the runtime.

    In this order: a server that starts beside may wait for the lock on the backbones' cache, and opening the
    runtime takes a second of CPU that the first run would else wait for.

    Raises: BackboneError.
    """
    del report
    prepared(job)
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, PermissionError):  # only Linux has it, and containers may forbid it
        os.nice(19)
    runtime(job)


def identify(job: BackboneJob, report: Report) -> BackboneIdentity:
    """Which backbone this trainer works with. Raises: BackboneError."""
    del report
    return prepared(job).identity


def embed(job: EmbedJob, report: Report) -> list[Embedded | PolyheadError]:
    """Decode and embed images; a bad one is an error in its place.

    Raises: BackboneError.
    """
    answers: list[Embedded | PolyheadError] = []
    for start in range(0, len(job.images), BATCH):
        images = job.images[start : start + BATCH]
        decoded = [decode(image, job.backbone, job.max_pixels) for image in images]
        vectors = iter(_vectors([each for each in decoded if isinstance(each, DecodedImage)], job.backbone))
        answers += [
            image if isinstance(image, PolyheadError) else _embedded(data, image, next(vectors))
            for data, image in zip(images, decoded, strict=True)
        ]
        report({"done": len(answers)})
    return answers


def fit(job: FitJob, report: Report) -> Fitted:
    """Raises: UntrainableData, ExportError."""
    if job.options.get("solver") == "adam":
        return _fit_by_adam(job, report)
    options = HeadOptions(**job.options)
    result = fit_head(
        job.dataset,
        options,
        total_backbone_parameters=job.total_backbone_parameters,
        report=report,
        min_examples_per_class=job.min_examples_per_class,
        start=_start_of(job),
    )
    if job.start is not None and result.decision["start"] == PREVIOUS:
        result = replace(result, decision=result.decision | {"start_version": job.start[0]})
    return fitted_of(result, seed=options.seed)


def _start_of(job: FitJob) -> LinearHead | None:
    """A file that can't be read is worth no failed run: the fit then starts from nothing."""
    try:
        return None if job.start is None else read_linear_head(job.start[1])
    except InvalidHead:
        return None


def _fit_by_adam(job: FitJob, report: Report) -> Fitted:
    report({"phase": "preparing"})
    import torch  # noqa: PLC0415 - seconds and 0.9 GB, which an exact head never needs

    from models.strategies.adam_head import fit_adam_head  # noqa: PLC0415 - torch
    from models.tuned_export import expected  # noqa: PLC0415 - torch

    options = AdamHeadOptions(**job.options)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its matrices are too small for several
    try:
        trained = fit_adam_head(
            job.dataset,
            options,
            total_backbone_parameters=job.total_backbone_parameters,
            report=report,
            clock=time.monotonic,
            min_examples_per_class=job.min_examples_per_class,
        )
    finally:
        torch.set_num_threads(threads)
    head, hidden = trained.fit.head, trained.hidden
    if hidden is None:
        return fitted_of(trained.fit, seed=options.seed)
    report({"phase": "exporting"})
    mlp = head_onnx(head, metadata={"kind": head.kind}, hidden=hidden)
    sample = job.dataset.embeddings[:PARITY_EMBEDDINGS]
    spread = float(job.dataset.targets.std()) if head.kind == "regression" else 1.0
    wanted = expected(trained.network, head, torch.from_numpy(sample))
    parity = {"head": check_parity(mlp, sample, wanted, scale=spread)}
    return fitted_of(trained.fit, seed=options.seed, network=mlp, parity=parity)


def export(job: ExportJob, report: Report) -> Exported:
    """Write the file that is served, and hold it and model.onnx against what is answered.

    A network of its own has been held against torch already, and is model.onnx itself.

    Raises: ExportError: a file's answers differ from those that are served, by more than fp32 explains.
    """
    del report
    feed = job.feed
    metadata = head_metadata(
        task=job.task,
        version=job.version,
        kind=job.head.kind,
        labels=job.head.labels,
        identity=prepared(job.backbone).identity,
        output=feed.output,
        views=feed.views,
        input_size=feed.input_size,
    )
    if job.network is not None and feed.output == PIXELS:
        return Exported(head=stamped(job.network, metadata), parity={})
    parity = {}
    if job.network is not None:
        head = stamped(job.network, metadata)
    else:
        head = head_onnx(job.head, metadata=metadata)
        fitted = job.head.predict(job.embeddings)
        parity["head"] = check_parity(head, job.embeddings, fitted, scale=job.spread)
    decoded = [decode(image, job.backbone, job.max_pixels) for image in job.images]
    images = [image.pixels for image in decoded if isinstance(image, DecodedImage)]
    if images:
        parity["model"] = _model_parity(job, head, np.stack(images))
    return Exported(head=head, parity=parity)


def _model_parity(job: ExportJob, head: bytes, pixels: UInt8Array) -> float:
    """How far model.onnx is from what is served: the mean of the head's logits over its views."""
    files, feed = prepared(job.backbone), job.feed
    HeadSession(head, files.identity.digest, feed.output)  # the server must take it
    run = runtime(job.backbone).run
    logits = [
        run_file(head, run(flipped(pixels, view), (feed.output,))[feed.output])[0] for view in feed.views
    ]
    served = answers(job.head.kind, np.mean(logits, axis=0, dtype=np.float32))
    model = model_onnx(files.onnx_path, head)
    if len(feed.views) > 1:
        model = averaged(model, feed.views)
    # The file computes in fp32: what a server at bf16 differs by is reported.
    tolerance = TOLERANCE if files.identity.precision == "fp32" else math.inf
    return check_parity(model, pixels, served, scale=job.spread, tolerance=tolerance)


def judge(job: JudgeJob, report: Report) -> Judged:
    """Whether a new version answers better than an old one."""
    del report
    old = job.old_scores
    if job.old_labels != job.labels:  # classes have come or gone since
        old = align_scores(old, job.old_labels, job.labels)
    measured = compare(job.kind, job.targets, job.scores, old)
    return Judged(**{field: getattr(measured, field) for field in Judged.__dataclass_fields__})


@functools.cache
def prepared(job: BackboneJob) -> PreparedBackbone:
    return prepare_backbone(job.config, job.cache_dir)


@functools.cache
def runtime(job: BackboneJob) -> Runtime:
    files = prepared(job)
    opened = open_runtime(files)
    check_reference(opened, files)
    return opened


def decode(
    data: bytes, backbone: BackboneJob, max_pixels: int, input_size: int | None = None
) -> DecodedImage | PolyheadError:
    preprocessing = prepared(backbone).identity.preprocessing
    if input_size is not None:
        preprocessing = replace(preprocessing, input_size=input_size)
    try:
        return decode_image(data, preprocessing, max_pixels=max_pixels)
    except PolyheadError as error:
        return error


def _vectors(images: list[DecodedImage], backbone: BackboneJob) -> FloatArray:
    """(N, D) embeddings."""
    if not images:
        return np.empty((0, 0), dtype=np.float32)
    return runtime(backbone).run(np.stack([image.pixels for image in images]))["embedding"]


def _embedded(data: bytes, image: DecodedImage, vector: FloatArray) -> Embedded:
    return Embedded(
        digest=hashlib.sha256(data).hexdigest(),
        media_type=image.media_type,
        width=image.width,
        height=image.height,
        perceptual_hash=perceptual_hash(image.pixels),
        embedding=vector.astype("<f4").tobytes(),
    )
