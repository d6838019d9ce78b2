"""What crosses the queue to the worker, and how the jobs of many requests become one batch."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import structlog

from models.arrays import FloatArray, UInt8Array
from models.errors import BackboneError, InvalidHead, PolyheadError
from models.identity import AS_IT_IS, EMBEDDING
from service.metrics import BACKBONE_IMAGES, BACKBONE_PASSES, BATCH_IMAGES, STAGE_SECONDS

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HeadRef:
    """Which head, and where its file is."""

    digest: str  # sha256 of head.onnx, hex
    key: str  # of its blob
    output: str = EMBEDDING  # of the backbone, that it consumes: of a tail, a stage; PIXELS: its own network
    views: tuple[str, ...] = (AS_IT_IS,)  # of models.views, whose logits' mean is answered
    input_size: int | None = None  # pixels, of its own network
    pinned: bool = field(default=False, compare=False)  # it is kept when others make room


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Images of one request, at most a batch's worth. Times are CLOCK_MONOTONIC seconds of this machine."""

    pixels: bytes  # uint8, (N, H, W, C): a quarter of the bytes that float32 would be
    shape: tuple[int, ...]  # (N, H, W, C)
    heads: tuple[HeadRef, ...]  # each is run over all N
    embeddings: bool  # whether the answer carries them
    queued_at: float
    deadline: float  # after which nobody waits for the answer

    @property
    def images(self) -> int:
        return self.shape[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the images of one request."""

    embeddings: FloatArray | None  # (N, D), where they were asked for
    outputs: tuple[
        FloatArray | PolyheadError, ...
    ]  # one a head, in order: (N, C) probabilities | (N, 1) value


def split(
    pixels: UInt8Array,
    heads: tuple[HeadRef, ...],
    *,
    embeddings: bool,
    size: int,
    queued_at: float,
    deadline: float,
) -> list[Job]:
    """Cut the images of a request, (N, H, W, C), into jobs of at most `size`."""
    chunks = [pixels[start : start + size] for start in range(0, len(pixels), size)]
    return [
        Job(
            pixels=chunk.tobytes(),
            shape=chunk.shape,
            heads=heads,
            embeddings=embeddings,
            queued_at=queued_at,
            deadline=deadline,
        )
        for chunk in chunks
    ]


def joined(answers: Sequence[Answer | PolyheadError]) -> Answer:
    """The answers to the jobs of a request as one. A head that failed for some rows has failed.

    Raises: PolyheadError: what a job as a whole failed with.
    """
    parts: list[Answer] = []
    for answer in answers:
        if isinstance(answer, PolyheadError):
            raise answer
        parts.append(answer)
    if len(parts) == 1:
        return parts[0]
    embeddings = [part.embeddings for part in parts if part.embeddings is not None]
    outputs: list[FloatArray | PolyheadError] = []
    for column in zip(*(part.outputs for part in parts), strict=True):
        arrays = [output for output in column if not isinstance(output, PolyheadError)]
        failed = [output for output in column if isinstance(output, PolyheadError)]
        outputs.append(failed[0] if failed else np.concatenate(arrays))
    return Answer(np.concatenate(embeddings) if embeddings else None, tuple(outputs))


class Head(Protocol):
    def run(self, features: FloatArray, /) -> FloatArray:
        """(N, D) embeddings or (N, *stage shape) -> (N, C) probabilities or (N, 1) value."""
        ...


class Heads(Protocol):
    def begin(self, refs: Sequence[HeadRef]) -> None:
        """Start to load what isn't held, beside other work."""
        ...

    def get(self, ref: HeadRef) -> Head:
        """Raises: PolyheadError: this head can't be had."""
        ...


Features = Mapping[str, FloatArray]  # by output of the backbone, each with B rows


@dataclass(frozen=True, slots=True)
class Trunk:
    """The one backbone, that everything branches off from."""

    run: Callable[[UInt8Array, tuple[str, ...]], Features]  # (B, H, W, C) uint8 -> the outputs asked for
    outputs: frozenset[str]  # that it has: the embedding and the stages


def run_batch(jobs: Sequence[Job], trunk: Trunk, heads: Heads) -> list[Answer | PolyheadError]:
    """Put the images of all jobs through the backbone once, and each distinct head once over its rows.

    Args:    jobs: of any tasks, with images of one shape.
    Returns: one answer a job, in order. A head that fails is an error in the answers that asked for it; a
             backbone that fails is the answer of every job. Nothing is raised for them: the worker goes on.
    """
    if not any(job.images for job in jobs):  # probes
        return [Answer(None, ()) for _ in jobs]
    started = time.monotonic()
    for job in jobs:
        STAGE_SECONDS.labels("queue").observe(max(0.0, started - job.queued_at))
    heads.begin(list({ref: None for job in jobs for ref in job.heads}))
    try:
        features = _features(jobs, trunk)
    # Whatever the runtime throws, the requests of this batch are answered and the next batch is tried.
    except Exception as error:
        log.exception("the backbone failed on a batch", images=sum(job.images for job in jobs))
        failure = BackboneError(f"the backbone failed on the batch that held this image: {error}")
        return [failure for _ in jobs]
    embedded = time.monotonic()
    STAGE_SECONDS.labels("backbone").observe(embedded - started)
    outputs = _run_heads(jobs, features, heads)
    STAGE_SECONDS.labels("heads").observe(time.monotonic() - embedded)
    return [
        Answer(
            features[EMBEDDING][rows] if job.embeddings else None,
            tuple(outputs[ref, index] for ref in job.heads),
        )
        for index, (job, rows) in enumerate(zip(jobs, _rows(jobs), strict=True))
    ]


def _features(jobs: Sequence[Job], trunk: Trunk) -> Features:
    """What the jobs need of the backbone, and no more, in one pass."""
    # one that it doesn't have is that head's failure, not the batch's
    needed = {ref.output for job in jobs for ref in job.heads} & trunk.outputs
    if not needed or any(job.embeddings for job in jobs):
        needed.add(EMBEDDING)
    images = [
        np.frombuffer(job.pixels, np.uint8).reshape(job.shape) for job in jobs if job.images
    ]  # (N, H, W, C)
    pixels = images[0] if len(images) == 1 else np.concatenate(images)  # (B, H, W, C)
    features = trunk.run(pixels, tuple(sorted(needed)))
    BACKBONE_PASSES.inc()
    BACKBONE_IMAGES.inc(len(pixels))
    BATCH_IMAGES.observe(len(pixels))
    return features


def _run_heads(
    jobs: Sequence[Job], features: Features, heads: Heads
) -> dict[tuple[HeadRef, int], FloatArray | PolyheadError]:
    """The output of each head for each job (by its index) that asked for it."""
    rows = _rows(jobs)

    def rows_of(members: list[int]) -> list[slice]:
        return [rows[index] for index in members]

    wanted: dict[HeadRef, list[int]] = {}
    for index, job in enumerate(jobs):
        for ref in dict.fromkeys(job.heads):
            wanted.setdefault(ref, []).append(index)
    outputs: dict[tuple[HeadRef, int], FloatArray | PolyheadError] = {}
    for ref, members in wanted.items():
        scores = _run_head(heads, ref, features, None if len(members) == len(jobs) else rows_of(members))
        start = 0
        for index in members:
            end = start + jobs[index].images
            outputs[ref, index] = scores if isinstance(scores, PolyheadError) else scores[start:end]
            start = end
    return outputs


def _run_head(
    heads: Heads, ref: HeadRef, features: Features, rows: list[slice] | None
) -> FloatArray | PolyheadError:
    """Args: rows: of the batch, that it is run over; None: all."""
    if ref.output not in features:
        return InvalidHead(f"it takes {ref.output!r}, which this server's backbone doesn't give")
    given = features[ref.output]
    try:
        head = heads.get(ref)
        return head.run(given if rows is None else np.concatenate([given[each] for each in rows]))
    except PolyheadError as error:
        return error
    # One head's failure, whatever it is, must not reach its neighbours in the batch.
    except Exception as error:
        log.exception("a head failed", head=ref.digest)
        return InvalidHead(str(error))


def _rows(jobs: Sequence[Job]) -> list[slice]:
    """Where the images of each job are in the batch."""
    ends = np.cumsum([job.images for job in jobs]).tolist()
    return [slice(end - job.images, end) for job, end in zip(jobs, ends, strict=True)]
