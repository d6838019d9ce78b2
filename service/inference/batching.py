"""What crosses the queue to the worker and back, and what the worker needs of heads."""

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np

from models.arrays import FloatArray, UInt8Array
from models.errors import PolyheadError
from models.head import Kind
from models.identity import AS_IT_IS, EMBEDDING

Rows = TypeVar("Rows", UInt8Array, FloatArray)


# No slots on these three: pickle takes a plain `__dict__` in C, and slots one by one in Python.
@dataclass(frozen=True)
class HeadRef:
    """Which head, and where its file is."""

    digest: str  # sha256 of head.onnx, hex
    key: str  # of its blob
    output: str = EMBEDDING  # of the backbone, that it consumes: of a tail, a stage; PIXELS: its own network
    views: tuple[str, ...] = (AS_IT_IS,)  # of models.views, whose logits' mean is answered
    input_size: int | None = None  # pixels, of its own network
    alias: str | None = field(default=None, compare=False)  # that it was found by, of whatever task
    pinned: bool = field(default=False, compare=False)  # that alias keeps it when others make room

    def __hash__(self) -> int:
        return hash(self.digest)  # a batch of many heads asks for it again and again


@dataclass(frozen=True, kw_only=True)
class Job:
    """Images of one request, at most a batch's worth. Times are CLOCK_MONOTONIC seconds of this machine."""

    pixels: bytes | UInt8Array  # uint8, (N, H, W, C), flat: a quarter of the bytes that float32 would be
    shape: tuple[int, ...]  # (N, H, W, C)
    heads: tuple[HeadRef, ...]  # each is run over all N
    embeddings: bool  # whether the answer carries them
    queued_at: float
    deadline: float  # after which nobody waits for the answer
    known: bytes = b""  # float32, (N, D): embeddings in the place of pixels; the shape is theirs
    place: int | None = None  # on the shelf, of pixels that aren't carried

    @property
    def images(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"heads": pickle.dumps(self.heads, protocol=5)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, heads=_heads_in(state["heads"]))


@lru_cache(maxsize=64)  # of some hundred bytes a head
def _heads_in(packed: bytes) -> tuple[HeadRef, ...]:
    """An app asks for the same ones again and again: they are unpickled once, and the same tuple then."""
    heads: tuple[HeadRef, ...] = pickle.loads(packed)  # noqa: S301  # our own API process wrote it
    return heads


@dataclass(frozen=True)
class Answer:
    """What became of the images of one request."""

    embeddings: FloatArray | None  # (N, D), where they were asked for and weren't known
    outputs: tuple[
        FloatArray | PolyheadError, ...
    ]  # one a head, in order: (N, C) probabilities | (N, 1) value

    def __reduce__(self) -> tuple[Any, ...]:
        """Of many heads as one array: pickling each alone takes as long as half its run."""
        arrays = [each for each in self.outputs if isinstance(each, np.ndarray)]
        if len(arrays) < 2:
            return Answer, (self.embeddings, self.outputs)
        widths = [None if isinstance(each, PolyheadError) else each.shape[1] for each in self.outputs]
        failed = [each for each in self.outputs if isinstance(each, PolyheadError)]
        return _parted, (self.embeddings, np.concatenate(arrays, axis=1), widths, failed)


def _parted(
    embeddings: FloatArray | None,
    together: FloatArray,
    widths: Sequence[int | None],
    failed: Iterable[PolyheadError],
) -> Answer:
    """Undo `Answer.__reduce__`. Args: together: (N, sum of widths); widths: None where a head has failed."""
    outputs: list[FloatArray | PolyheadError] = []
    failures, start = iter(failed), 0
    for width in widths:
        if width is None:
            outputs.append(next(failures))
        else:
            outputs.append(together[:, start : start + width])
            start += width
    return Answer(embeddings, tuple(outputs))


def split(
    pixels: UInt8Array,
    heads: tuple[HeadRef, ...],
    *,
    embeddings: bool,
    size: int,
    queued_at: float,
    deadline: float,
    known: FloatArray | None = None,
) -> list[Job]:
    """Cut the images of a request, (N, H, W, C), and the known embeddings of others, (K, D), into jobs.

    Args: size: images of a job, at most.
    """

    def job(rows: UInt8Array | FloatArray, **said: Any) -> Job:
        return Job(shape=rows.shape, heads=heads, queued_at=queued_at, deadline=deadline, **said)

    jobs = [job(rows, pixels=np.ravel(rows), embeddings=embeddings) for rows in _chunks(pixels, size)]
    if known is not None:
        jobs += [
            job(rows, pixels=b"", known=rows.tobytes(), embeddings=False) for rows in _chunks(known, size)
        ]
    return jobs


def _chunks(rows: Rows, size: int) -> list[Rows]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


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
    """A head, a tail with its head, or a network of a task's own."""

    kind: Kind | None  # None: the file doesn't say, and has no mean over views
    size: int  # bytes of memory

    def run(self, inputs: FloatArray | UInt8Array, /) -> FloatArray:
        """(N, D) embeddings, (N, *stage shape) or (N, H, W, C) pixels -> (N, C) probabilities | (N, 1)."""
        ...

    def logits(self, inputs: FloatArray | UInt8Array, /) -> FloatArray:
        """As `run`, before softmax or sigmoid."""
        ...


class Group(Protocol):
    """Heads that run together."""

    def run(self, embeddings: FloatArray, /) -> list[FloatArray]:
        """(N, D) -> for each head (N, C) probabilities | (N, 1)."""
        ...


class Heads(Protocol):
    def begin(self, refs: Sequence[HeadRef]) -> None:
        """Start to load what isn't held, beside other work; learn what is pinned, and what no longer is."""
        ...

    def are_late(self, refs: Iterable[HeadRef]) -> bool:
        """Whether one of them is on its way for longer than others should wait."""
        ...

    def get(self, ref: HeadRef) -> Head:
        """Raises: PolyheadError: this head can't be had."""
        ...

    def together(self, refs: Sequence[HeadRef]) -> Group | None:
        """These heads, that take an embedding and no more, as one, where that is there."""
        ...
