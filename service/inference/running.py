"""What the worker does with a batch: the backbone once, then what each task has of its own over its rows."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import structlog

from models.arrays import FloatArray, UInt8Array
from models.errors import BackboneError, DeviceLost, InvalidHead, PolyheadError
from models.head import Kind, answers
from models.identity import AS_IT_IS, EMBEDDING, PIXELS
from models.prepared import Pass
from models.views import AXES, flipped
from service.inference.batching import Answer, HeadRef, Heads, Job
from service.metrics import BACKBONE_IMAGES, BACKBONE_PASSES, BATCH_IMAGES, STAGE_SECONDS

MOST_ROWS = 64  # images and flips of them in one pass of the backbone, where the images alone aren't more

log = structlog.stdlib.get_logger(__name__)

Features = Mapping[str, FloatArray]  # by output of the backbone, each with a row for each of the pass
Part = tuple[int, str]  # the images of a job, by its index, in one view


@dataclass(frozen=True, slots=True)
class Trunk:
    """The one backbone, that everything branches off from."""

    begin: Callable[[UInt8Array, tuple[str, ...]], Pass]  # (B, H, W, C) uint8 -> the outputs asked for
    outputs: frozenset[str]  # that it has: the embedding and the stages


Outcome = Answer | PolyheadError | Job
"""Of a job. A job: its head is late, and so much of it is left to be asked in a later batch."""

Steps = Generator[Pass, None, list[Outcome]]


class Batch:
    """Jobs that are in work: their images pass the backbone once, and each distinct head once its rows."""

    def __init__(self, jobs: Sequence[Job], trunk: Trunk, heads: Heads) -> None:
        """Begin with it. Args: jobs, as `run_batch`."""
        self._steps = _steps(jobs, trunk, heads)
        self._pass: Pass | None = None  # that was begun last
        self._outcomes: list[Outcome] = []
        self._go_on()

    def wait_for_room(self) -> None:
        """Wait until the backbone has no more than the end of its pass to do."""
        if self._pass is not None:
            self._pass.wait_for_room()

    def outcomes(self) -> list[Outcome]:
        """Wait for them, as `run_batch` returns them."""
        while self._pass is not None:
            self._go_on()
        return self._outcomes

    def _go_on(self) -> None:
        try:
            self._pass = next(self._steps)
        except StopIteration as end:
            self._pass, self._outcomes = None, end.value


def run_batch(jobs: Sequence[Job], trunk: Trunk, heads: Heads) -> list[Outcome]:
    """Put the images of all jobs through the backbone once, and each distinct head once over its rows.

    Args:    jobs: of any tasks. Images of another shape than the backbone's are for networks that tasks own;
             known embeddings pass the backbone by, and are for heads that take nothing else of it.
    Returns: one answer a job, in order. A head that fails is an error in the answers that asked for it; a
             backbone that fails is the answer of every job that needs it. Nothing is raised for them: the
             worker goes on. A job whose head is late comes back, to be asked again, and the others don't wait
             for it: with its embeddings in the place of pixels, or, where more would have to be kept, as it
             was, before any work.
    """
    return Batch(jobs, trunk, heads).outcomes()


def _steps(jobs: Sequence[Job], trunk: Trunk, heads: Heads) -> Steps:
    """Each pass of the backbone when it has begun, and at the end what became of the jobs."""
    made: list[Outcome] = [Answer(None, ()) for _ in jobs]  # of probes
    distinct = {id(job.heads): job.heads for job in jobs}  # a worker has each tuple that comes often once
    heads.begin([ref for refs in distinct.values() for ref in refs])
    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, job in enumerate(jobs):
        if heads.are_late(job.heads) and not _takes_embeddings_alone(job):
            made[index] = job
        elif job.images:
            shapes.setdefault(job.shape[1:], []).append(index)
    now = [jobs[index] for indices in shapes.values() for index in indices]
    if not now:
        return made
    started = time.monotonic()
    for job in now:
        STAGE_SECONDS.labels("queue").observe(max(0.0, started - job.queued_at))
    BATCH_IMAGES.observe(sum(job.images for job in now))
    for indices in shapes.values():
        group = _Group([jobs[index] for index in indices], trunk, heads)
        answers = yield from group.steps()
        for index, answer in zip(indices, answers, strict=True):
            made[index] = answer
    return made


class _Group:
    """The jobs of a batch whose images have one shape, and what is known of their answers so far."""

    def __init__(self, jobs: Sequence[Job], trunk: Trunk, heads: Heads) -> None:
        self._jobs = jobs
        self._trunk = trunk
        self._heads = heads
        self._are_known = bool(jobs[0].known)  # embeddings have a shape of their own, so all or none
        self._pixels = [
            np.frombuffer(job.pixels, np.uint8).reshape(job.shape) for job in jobs if not self._are_known
        ]
        self._embeddings: dict[int, FloatArray] = {}  # by job, as the next two
        self._failed: dict[int, PolyheadError] = {}
        self._outputs: dict[tuple[HeadRef, int], list[FloatArray]] = {}  # answers; of several views, logits
        self._kinds: dict[HeadRef, Kind | None] = {}
        self._errors: dict[HeadRef, PolyheadError] = {}
        self._late: dict[int, Job] = {}  # by job: what is left of it
        # By job: what all of its heads say, where they ran as one.
        self._together: dict[int, tuple[FloatArray | PolyheadError, ...]] = {}

    def steps(self) -> Steps:
        if self._are_known:
            self._branch_off_known()
            return [self._answer(index) for index in range(len(self._jobs))]
        for parts in self._passes():
            yield from self._pass(parts)
        started = time.monotonic()
        self._run_networks()
        STAGE_SECONDS.labels("heads").observe(time.monotonic() - started)
        return [self._answer(index) for index in range(len(self._jobs))]

    def _passes(self) -> list[list[Part]]:
        """Who goes through the backbone together: all images as they are, and flips while there is room."""
        parts = [(index, view) for index, job in enumerate(self._jobs) for view in self._views(job)]
        parts.sort(key=lambda part: part[1] != AS_IT_IS)  # keeps the order otherwise
        plain = sum(self._jobs[index].images for index, view in parts if view == AS_IT_IS)
        most = max(MOST_ROWS, plain)
        passes, rows = list[list[Part]](), most
        for part in parts:
            images = self._jobs[part[0]].images
            if rows + images > most:
                passes.append([])
                rows = 0
            passes[-1].append(part)
            rows += images
        return passes

    def _views(self, job: Job) -> tuple[str, ...]:
        """In which a job's images go through the backbone; () where it needs nothing of it."""
        refs = [ref for ref in job.heads if ref.output in self._trunk.outputs]
        if job.heads and not (refs or job.embeddings):
            return ()
        known = (view for ref in refs for view in ref.views if view in AXES)
        return tuple(dict.fromkeys((AS_IT_IS, *known)))

    def _pass(self, parts: Sequence[Part]) -> Iterator[Pass]:
        started = time.monotonic()
        try:
            begun = self._begin(parts)
            yield begun
            features = begun.outputs()
        except DeviceLost:  # no later batch would be answered either
            raise
        # Whatever else the runtime throws, the requests of this batch are answered and the next is tried.
        except Exception as error:
            log.exception("the backbone failed on a batch", images=self._count(parts))
            failure = BackboneError(f"the backbone failed on the batch that held this image: {error}")
            self._failed |= {index: failure for index, _ in parts}
            return
        ran = time.monotonic()
        STAGE_SECONDS.labels("backbone").observe(ran - started)
        self._branch_off(parts, features)
        STAGE_SECONDS.labels("heads").observe(time.monotonic() - ran)

    def _begin(self, parts: Sequence[Part]) -> Pass:
        """With what the jobs need of the backbone, and no more."""
        needed = {
            ref.output
            for index, view in parts
            for ref in self._jobs[index].heads
            if view in ref.views and ref.output in self._trunk.outputs
        }
        if not needed or any(self._jobs[index].embeddings for index, _ in parts):
            needed.add(EMBEDDING)
        images = [
            self._pixels[index] if view == AS_IT_IS else flipped(self._pixels[index], view)
            for index, view in parts
        ]  # each (N, H, W, C)
        pixels = images[0] if len(images) == 1 else np.concatenate(images)  # (B, H, W, C)
        begun = self._trunk.begin(pixels, tuple(sorted(needed)))
        BACKBONE_PASSES.inc()
        BACKBONE_IMAGES.inc(len(pixels))
        return begun

    def _branch_off_known(self) -> None:
        """The jobs brought their embeddings: only the heads are left to do."""
        started = time.monotonic()
        rows = [np.frombuffer(job.known, np.float32).reshape(job.shape) for job in self._jobs]  # each (N, D)
        parts = [(index, AS_IT_IS) for index in range(len(self._jobs))]
        self._branch_off(parts, {EMBEDDING: np.concatenate(rows)})
        STAGE_SECONDS.labels("heads").observe(time.monotonic() - started)

    def _branch_off(self, parts: Sequence[Part], features: Features) -> None:
        ends = np.cumsum([self._jobs[index].images for index, _ in parts]).tolist()
        rows = {
            part: slice(end - self._jobs[part[0]].images, end) for part, end in zip(parts, ends, strict=True)
        }
        in_time = list[Part]()
        for (index, view), its in rows.items():
            job = self._jobs[index]
            if self._is_late(job):
                given = features[EMBEDDING][its]  # (N, D)
                self._late[index] = replace(job, pixels=b"", shape=given.shape, known=given.tobytes())
                continue
            in_time.append((index, view))
            if job.embeddings and view == AS_IT_IS:
                self._embeddings[index] = features[EMBEDDING][its]
        if len(in_time) == len(parts) and self._ran_together(rows, features):
            return
        wanted: dict[HeadRef, list[Part]] = {}
        for index, view in in_time:
            for ref in dict.fromkeys(self._jobs[index].heads):
                if ref.output in features and view in ref.views:
                    wanted.setdefault(ref, []).append((index, view))
        for ref, its_parts in wanted.items():
            given = features[ref.output]
            if len(its_parts) < len(parts):
                given = np.concatenate([given[rows[part]] for part in its_parts])
            self._run_head(ref, its_parts, given)

    def _ran_together(self, rows: Mapping[Part, slice], features: Features) -> bool:
        """Run the heads in one session, where all jobs want the same and there is such a session."""
        first, *others = (self._jobs[index].heads for index, _ in rows)
        if any(heads != first for heads in others) or not all(map(_takes_embedding, first)):
            return False
        group = self._heads.together(first)
        if group is None:
            return False
        try:
            made = group.run(features[EMBEDDING])
        # Whatever it is, they are tried one by one.
        except Exception:
            log.exception("a group of heads failed", heads=len(first))
            return False
        for (index, _), its in rows.items():
            self._together[index] = tuple(outputs[its] for outputs in made)
        return True

    def _is_late(self, job: Job) -> bool:
        """Whether to go on without it; whoever takes more was held back before the pass."""
        return self._heads.are_late(job.heads) and _takes_embeddings_alone(job)

    def _run_networks(self) -> None:
        """Those that tasks own, on the images; their files hold the flips that they average over."""
        wanted: dict[HeadRef, list[int]] = {}
        for index, job in enumerate(self._jobs):
            for ref in dict.fromkeys(job.heads):
                if ref.output == PIXELS:
                    wanted.setdefault(ref, []).append(index)
        for ref, its in wanted.items():
            images = [self._pixels[index] for index in its]
            given = images[0] if len(images) == 1 else np.concatenate(images)
            self._run_head(ref, [(index, AS_IT_IS) for index in its], given)

    def _run_head(self, ref: HeadRef, parts: Sequence[Part], inputs: FloatArray | UInt8Array) -> None:
        """Args: inputs: the rows of the parts, in order."""
        if ref in self._errors:
            return
        try:
            head = self._heads.get(ref)
            self._kinds[ref] = head.kind
            outputs = head.run(inputs) if _is_plain(ref) else head.logits(inputs)
        except PolyheadError as error:
            self._errors[ref] = error
            return
        # One head's failure, whatever it is, must not reach its neighbours in the batch.
        except Exception as error:
            log.exception("a head failed", head=ref.digest)
            self._errors[ref] = InvalidHead(str(error))
            return
        self._take(ref, parts, outputs)

    def _take(self, ref: HeadRef, parts: Sequence[Part], outputs: FloatArray) -> None:
        """Args: outputs: the rows of the parts, in order."""
        start = 0
        for index, _ in parts:
            end = start + self._jobs[index].images
            self._outputs.setdefault((ref, index), []).append(outputs[start:end])
            start = end

    def _answer(self, index: int) -> Outcome:
        if index in self._late:
            return self._late[index]
        if index in self._failed:
            return self._failed[index]
        outputs = self._together.get(index) or tuple(
            self._output(ref, index) for ref in self._jobs[index].heads
        )
        return Answer(self._embeddings.get(index), outputs)

    def _output(self, ref: HeadRef, index: int) -> FloatArray | PolyheadError:
        if ref in self._errors:
            return self._errors[ref]
        if ref.output != PIXELS and ref.output not in self._trunk.outputs:
            return InvalidHead(f"it takes {ref.output!r}, which this server's backbone doesn't give")
        given = self._outputs.get((ref, index), [])
        if _is_plain(ref):
            return given[0]
        if len(given) != len(ref.views):
            return InvalidHead(f"it answers for views that aren't known here: {', '.join(ref.views)}")
        kind = self._kinds[ref]
        assert kind is not None  # or there were no logits
        return answers(kind, np.mean(given, axis=0, dtype=np.float32))  # (V, N, C) -> (N, C)

    def _count(self, parts: Sequence[Part]) -> int:
        return sum(self._jobs[index].images for index, _ in parts)


def _takes_embeddings_alone(job: Job) -> bool:
    return all(map(_takes_embedding, job.heads))


def _takes_embedding(ref: HeadRef) -> bool:
    """Of an image as it is, and nothing else."""
    return ref.output == EMBEDDING and _is_plain(ref)


def _is_plain(ref: HeadRef) -> bool:
    """Whether one run gives its answer."""
    return ref.output == PIXELS or ref.views == (AS_IT_IS,)
