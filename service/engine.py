"""The LitServe seam: every private part of LitServe that is used is used here, and pinned by a test.

LitServe gives the spawned worker around one LitAPI. Its HTTP side is not used: its routes, middlewares and
API key never exist in our app. Nor is its `run`, since `service.processes.server` has the main loop
(docs/decisions/own-main-loop.md), nor are its queues, in whose place are channels
(docs/decisions/channels.md).
"""

import asyncio
import contextlib
import itertools
import math
import pickle
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import litserve
import structlog

from models.arrays import FloatArray, UInt8Array
from models.devices import CPU
from models.errors import PolyheadError
from models.identity import BackboneIdentity
from service.errors import DeadlineExceeded, Overloaded, WorkerFailed
from service.inference.batching import Answer, HeadRef, Job, joined, split
from service.inference.board import Board
from service.inference.channel import Exchange, Sender, channel, receive
from service.inference.lit_api import PATH, InferenceAPI
from service.inference.shelf import Shelf
from service.metrics import QUEUED_IMAGES, REJECTIONS, RESUBMITTED_JOBS, STAGE_SECONDS
from service.settings import Settings

__all__ = ["Answer", "Engine", "HeadRef", "Inference", "LitEngine"]

PROBE_S = 1.0
PROGRESS_S = 30.0  # a worker that was silent for longer is not alive
WATCH_S = 0.1

log = structlog.stdlib.get_logger(__name__)


class Engine(Protocol):
    """Embeds images and runs heads on them."""

    @property
    def identity(self) -> BackboneIdentity: ...

    async def submit(
        self,
        pixels: UInt8Array,
        heads: Sequence[HeadRef] = (),
        *,
        embeddings: bool = False,
        known: FloatArray | None = None,
    ) -> Answer:
        """Put images through the backbone once and through each head.

        Args:   pixels: (N, H, W, C) uint8 at the backbone's input size.
                known: (K, D) embeddings of further images, for heads that take an embedding and no more:
                these pass the backbone by. Outputs have the rows of the pixels first, embeddings only these.
                N + K >= 1.
        Raises: Overloaded, DeadlineExceeded, WorkerFailed, BackboneError.
        """
        ...

    async def alive(self) -> bool:
        """Whether images can still be answered here, sooner or later."""
        ...

    @property
    def full(self) -> bool:
        """Whether no image more would be taken now."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop, so that long answers should end."""
        ...


class Inference:
    """The main process's side: starts and replaces workers, and holds what outlives them."""

    def __init__(
        self,
        settings: Settings,
        identity: BackboneIdentity,
        backbone_file: Path,
        board: Board,
        devices: Sequence[str] = (CPU,),
    ) -> None:
        """Args: devices: as torch names them; each has `workers_per_device` workers."""
        self.settings = settings
        self.identity = identity
        self.board = board
        self.shelf = Shelf(
            settings.api_processes, settings.max_queued_images, identity.preprocessing.pixel_bytes
        )
        self.workers = len(devices) * settings.workers_per_device
        self._apis = [
            InferenceAPI(settings, identity, backbone_file, board, self.shelf, worker=number)
            for number in range(self.workers)
        ]
        # "cpu": LitServe's search for devices would import torch, and these are known.
        self._server = litserve.LitServer(
            self._apis[0],
            accelerator="cpu",
            workers_per_device=settings.workers_per_device,
            timeout=False,
            restart_workers=True,
        )
        self._server.devices = list(devices)
        channels, probes = ([channel() for _ in range(settings.api_processes)] for _ in range(2))
        self.ends = [mine for mine, _ in channels]  # of the API processes
        self.probe_ends = [mine for mine, _ in probes]  # so too
        # The workers', all of them the same: who has time takes the next job, and the kernel gives it to one.
        self.exchange = Exchange([its for _, its in channels], urgent=[its for _, its in probes])
        self._server.workers_setup_status = {}
        self._server.litapi_request_queues[PATH] = self._server._transport = self.exchange  # noqa: SLF001

    def start_worker(self, number: int) -> BaseProcess:
        """Start a worker, or one in the place of one that died; it is ready when the board says so."""
        return self._server.launch_single_inference_worker(self._apis[number], number)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let go of the channels; whoever still uses them has its own."""
        self.exchange.close()
        for end in (*self.ends, *self.probe_ends):
            end.close()

    @contextlib.asynccontextmanager
    async def engine(self, index: int) -> AsyncIterator["LitEngine"]:
        """The engine of this API process; `index` is its place among them."""
        engine = LitEngine(self, index)
        async with engine.running():
            yield engine


@dataclass(slots=True)
class Waiting:
    """A job that has no answer yet."""

    job: Job
    losses: int  # of workers, when it was queued
    queued_again: bool = False
    answer: Answer | PolyheadError | None = None
    answered: asyncio.Future[None] = field(default_factory=asyncio.Future)

    @property
    def over(self) -> bool:
        """Answered, or of no use to anybody: the worker drops it when its turn comes."""
        return self.answer is not None or self.job.deadline <= time.monotonic()

    def take(self, answer: Answer | PolyheadError) -> None:
        if self.answer is None:
            self.answer = answer
            if not self.answered.done():  # cancelled, where the request was given up
                self.answered.set_result(None)


class LitEngine:
    """Sends the images of one API process to the workers and takes their answers."""

    def __init__(self, inference: Inference, index: int) -> None:
        """Args: index: of the process, among those of HTTP."""
        self._identity = inference.identity
        self._settings = inference.settings
        self._board = inference.board
        self._share = inference.shelf.share(index)
        self._end = inference.ends[index]
        self._sender = Sender(self._end)
        self._probes = Sender(inference.probe_ends[index])
        self._waiting: dict[str, Waiting] = {}
        self._images = 0  # of the jobs in _waiting
        self._unanswered_since: float | None = None  # the first probe after the last answer
        # Of jobs: no two have the same, also of processes that came one after another in this place.
        self._uids = (f"{uuid.uuid4().hex}-{number}" for number in itertools.count())

    @property
    def identity(self) -> BackboneIdentity:
        return self._identity

    @property
    def full(self) -> bool:
        return self._images >= self._settings.max_queued_images

    @property
    def draining(self) -> bool:
        return self._board.draining

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._end, self._receive)
        watch = asyncio.create_task(self._watch(), name="engine-watch")
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            loop.remove_reader(self._end)
            loop.remove_writer(self._end)

    async def submit(
        self,
        pixels: UInt8Array,
        heads: Sequence[HeadRef] = (),
        *,
        embeddings: bool = False,
        known: FloatArray | None = None,
    ) -> Answer:
        # A known embedding counts as an image: it waits for its turn behind them, and for no shorter time.
        images = len(pixels) + (0 if known is None else len(known))
        # A lone request may be larger than the bound: it is refused only while others wait.
        if self._images and self._images + images > self._settings.max_queued_images:
            REJECTIONS.inc()
            raise Overloaded
        started = time.monotonic()
        deadline = started + self._settings.request_deadline_s
        jobs = split(
            pixels,
            tuple(heads),
            embeddings=embeddings,
            size=self._settings.max_batch_size,
            queued_at=started,
            deadline=deadline,
            known=known,
        )
        try:
            async with asyncio.timeout(self._settings.request_deadline_s):
                if len(jobs) == 1:
                    return joined([await self._ask(jobs[0])])
                return joined(await asyncio.gather(*(self._ask(job) for job in jobs)))
        except TimeoutError:
            raise DeadlineExceeded(seconds=self._settings.request_deadline_s) from None
        finally:
            STAGE_SECONDS.labels("total").observe(time.monotonic() - started)

    async def alive(self) -> bool:
        """Send a probe through a worker, ahead of the queue; during a long batch, progress counts instead."""
        if self._board.least_silence_s > PROGRESS_S:
            return False
        now = time.monotonic()
        self._unanswered_since = self._unanswered_since or now
        job = Job(
            pixels=b"", shape=(0,), heads=(), embeddings=False, queued_at=now, deadline=now + PROGRESS_S
        )
        try:
            async with asyncio.timeout(PROBE_S):
                return isinstance(await self._ask(job, self._probes), Answer)
        except TimeoutError:
            since = self._unanswered_since
            return since is None or time.monotonic() - since < PROGRESS_S

    async def _ask(self, job: Job, sender: Sender | None = None) -> Answer | PolyheadError:
        """Send one job and wait for its answer; a failure is a value, so that no sibling is left behind.

        Args: sender: default: that of the queue.
        """
        uid = next(self._uids)
        waiting = self._waiting[uid] = Waiting(self._shelved(job), self._board.losses)
        self._count(job.images)
        try:
            self._put(uid, waiting.job, sender or self._sender)
            await waiting.answered
        finally:
            # Given up before its deadline (the client went away), a job still lies in the queue: it counts
            # there until `_watch` sees its answer.
            if waiting.over:
                self._forget(uid)
        self._unanswered_since = None
        assert waiting.answer is not None  # or nothing would have ended the wait
        return waiting.answer

    def _shelved(self, job: Job) -> Job:
        """With its pixels in shared memory; as it is where they don't fit there."""
        place = self._share.put(job.pixels)
        return job if place is None else replace(job, pixels=b"", place=place)

    def _put(self, uid: str, job: Job, sender: Sender) -> None:
        """Send a job on its way; one that can't be sent fails alone."""
        try:
            all_gone = sender.send(pickle.dumps((uid, job), protocol=5))
            if not all_gone and sender is self._sender:  # a probe goes with the next one
                asyncio.get_running_loop().add_writer(self._end, self._flush)
        # Whatever it is, it is this job's alone: `_sweep` sends others after it.
        except Exception:
            log.exception("a job can't be sent")
            self._fail(uid)

    def _flush(self) -> None:
        """Send what there was no room for; said by the loop when there is some."""
        if self._sender.flush():
            asyncio.get_running_loop().remove_writer(self._end)

    def _receive(self) -> None:
        """Hand on the answers as they come, those of a batch in one message."""
        while True:
            try:
                said = receive(self._end)
                if said is None:
                    return
                answers = pickle.loads(said)  # noqa: S301  # our own worker wrote it
            # It is one batch's, whose deadline will tell; the others' answers are yet to come.
            except Exception:
                log.exception("a batch's answers can't be read")
                return  # the loop says it again where there is more
            for uid, answer in answers:
                waiting = self._waiting.get(uid)
                if waiting is not None:
                    waiting.take(answer)

    async def _watch(self) -> None:
        """Let go of jobs that nobody waits for, and repeat those that a worker lost."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._sweep()

    def _sweep(self) -> None:
        losses = self._board.losses
        for uid, waiting in list(self._waiting.items()):
            if waiting.over:
                self._forget(uid)
            elif waiting.losses < losses:
                if waiting.queued_again:  # two workers died of it, or beside it
                    self._fail(uid)
                    continue
                # Perhaps it is still in the queue, perhaps the dead worker had it, or another has it: whoever
                # takes both skips the second, and of two answers the second comes too late.
                waiting.losses, waiting.queued_again = losses, True
                RESUBMITTED_JOBS.inc()
                self._put(uid, waiting.job, self._sender)

    def _fail(self, uid: str) -> None:
        waiting = self._waiting.get(uid)
        if waiting is not None:
            waiting.take(WorkerFailed())

    def _forget(self, uid: str) -> None:
        waiting = self._waiting.pop(uid, None)
        if waiting is None:
            return
        self._count(-waiting.job.images)
        if waiting.job.place is not None:
            self._share.free(waiting.job.place, math.prod(waiting.job.shape))

    def _count(self, images: int) -> None:
        self._images += images
        QUEUED_IMAGES.set(self._images)
