"""An inference worker: LitServe's one LitAPI with one backbone, and the loop that makes batches for it."""

import math
import os
import pickle
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from litserve import LitAPI
from litserve.loops.base import LitLoop

from models.devices import CPU
from models.errors import DeviceLost
from models.identity import BackboneConfig, BackboneIdentity
from models.prepared import Runtime
from service.inference.batching import Group, Job
from service.inference.board import Board
from service.inference.channel import Exchange
from service.inference.heads import HeadCache
from service.inference.running import Batch, Outcome, Trunk
from service.inference.shelf import Shelf
from service.metrics import EXPIRED_JOBS
from service.process import die_with, take_name
from service.settings import Settings
from service.telemetry import configure_logging

PATH = "/inference"  # names the queue; no route has it
LATE_S = 0.005  # between looks for a head that is late, where nothing else is to be done
IDLE_S = 0.5  # the longest wait for a first job, after which the worker says that it is alive
REMEMBERED = 10_000  # uids of jobs, to skip those that were queued twice

log = structlog.stdlib.get_logger(__name__)


class InferenceAPI(LitAPI):  # type: ignore[misc]  # litserve has no types
    """The one LitAPI: of a worker process, with one backbone, for all tasks."""

    def __init__(
        self,
        settings: Settings,
        identity: BackboneIdentity,
        backbone_file: Path,
        board: Board,
        shelf: Shelf,
        *,
        worker: int = 0,
    ) -> None:
        """Args: worker: its number, on the board."""
        super().__init__(
            max_batch_size=settings.max_batch_size,
            batch_timeout=0.0,  # the loop has no use for it
            api_path=PATH,
            loop=BatchLoop(),
        )
        self.settings = settings
        self.identity = identity
        self.backbone_file = backbone_file
        self.board = board
        self.shelf = shelf
        self.worker = worker
        self.main_pid = os.getpid()

    def setup(self, device: str) -> None:
        """Open the backbone and the blobs; runs in the worker, before its loop."""
        # Ctrl-C and systemd signal the whole group; the worker is needed until the last answer is out.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        take_name("polyhead-worker")
        die_with(self.main_pid)
        configure_logging(self.settings.log_level, f"worker-{self.worker}")
        # Late, because the main process imports this module and needs none of them.
        from models.head_session import HeadSession  # noqa: PLC0415
        from models.runtime import PreparedBackbone, open_runtime  # noqa: PLC0415
        from service.store.blobs import Blobs  # noqa: PLC0415

        config = self._config(device)
        runtime = open_runtime(
            PreparedBackbone(identity=self.identity, onnx_path=self.backbone_file, config=config)
        )
        blobs = Blobs(self.settings.resolved_blob_url)
        digest = self.identity.digest
        self.heads = HeadCache(
            blobs.get,
            lambda data, output: HeadSession(data, digest, output, threads=config.threads, device=device),
            open_group,
            capacity=self.settings.head_cache_entries,
            most_bytes=self.settings.head_cache_bytes,
        )
        if device != CPU:
            self._warm(runtime)
        self.trunk = Trunk(runtime.begin, self.identity.outputs)
        self.board.worker_came(self.worker)

    def _warm(self, runtime: Runtime) -> None:
        """Have graphs captured for all batches that will come, before anybody waits for one."""
        from models.cuda import buckets  # noqa: PLC0415

        declared = self.identity.preprocessing
        for rows in buckets(self.settings.max_batch_size):
            runtime.run(
                np.zeros((rows, declared.input_size, declared.input_size, declared.channels), np.uint8)
            )

    def _config(self, device: str) -> BackboneConfig:
        """Of this worker: its device, and on a CPU its part of the cores."""
        config = replace(self.settings.backbone_config, device=device)
        if device == CPU and config.threads is None and self.settings.workers_per_device > 1:
            cores = os.cpu_count() or 1
            config = replace(config, threads=max(1, cores // self.settings.workers_per_device))
        return config

    def decode_request(self, request: Any) -> Any:
        """Only inspected by LitServe, for a route that is never served."""
        return request

    def begin(self, jobs: Sequence[Job]) -> Batch:
        return Batch(jobs, self.trunk, self.heads)

    def predict(self, jobs: Sequence[Job]) -> list[Outcome]:
        """As LitServe's own loops would ask; ours begins a batch before it ends the last one."""
        return self.begin(jobs).outcomes()


def open_group(files: Sequence[bytes]) -> Group:
    """Opened when one is first wanted: onnx takes a moment and 11 MB."""
    from models.head_group import HeadGroup  # noqa: PLC0415

    return HeadGroup(files)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job that was taken, with where its answer goes."""

    sender: int  # the API process
    uid: str
    job: Job


class BatchLoop(LitLoop):  # type: ignore[misc]  # litserve has no types
    """Waits for a first job without polling, and makes a batch of all that has come by then.

    The next batch is begun when the backbone has cores that the end of the last one leaves idle, with what
    has come till then. So the window is the batch before: nothing for a lone job, as long as it takes to fill
    one where there are many, and no setting.
    """

    def __init__(self) -> None:
        super().__init__()
        self._begun: tuple[list[Ticket], Batch] | None = None
        self._held: Ticket | None = None  # taken from the queue, too large for the last batch
        self._late: list[Ticket] = []  # whose heads are on their way
        self._seen: dict[str, None] = {}  # uids, oldest first: jobs queued twice are answered once

    def run(  # noqa: PLR0917
        self,
        lit_api: InferenceAPI,
        device: str,  # noqa: ARG002  # LitServe's signature, as the next ones
        worker_id: int,  # noqa: ARG002
        request_queue: Exchange,
        transport: Exchange,
        workers_setup_status: Any,  # noqa: ARG002
        callback_runner: Any,  # noqa: ARG002
    ) -> None:
        """Begin a batch if there is one, and answer the one before; LitServe calls it again and again."""
        if self._begun is not None:
            self._begun[1].wait_for_room()
        try:
            tickets, _ = self.get_batch_requests(lit_api, request_queue, transport)
            lit_api.board.note_progress(lit_api.worker)
            last = self._begun
            self._begun = (tickets, lit_api.begin([each.job for each in tickets])) if tickets else None
            if last is not None:
                self._answer(*last, transport)
        except OSError as error:
            log.warning("the API processes can't be reached", error=str(error))
            raise SystemExit(1) from error
        except DeviceLost as error:  # the jobs are queued again for the worker that comes next
            log.error("the device is lost", error=str(error))  # noqa: TRY400 - its message says it all
            raise SystemExit(1) from error

    def _answer(self, tickets: Sequence[Ticket], batch: Batch, transport: Exchange) -> None:
        said: dict[int, list[tuple[str, Outcome]]] = {}
        for ticket, answer in zip(tickets, batch.outcomes(), strict=True):
            if isinstance(answer, Job):
                self._late.append(replace(ticket, job=answer))
            else:
                said.setdefault(ticket.sender, []).append((ticket.uid, answer))
        for sender, its in said.items():
            transport.send(pickle.dumps(its, protocol=5), sender)

    def get_batch_requests(
        self,
        lit_api: InferenceAPI,
        request_queue: Exchange,
        transport: Exchange,  # noqa: ARG002  # LitServe's signature
    ) -> tuple[list[Ticket], list[Any]]:
        batch = self._no_longer_late(lit_api)
        images = sum(ticket.job.images for ticket in batch)
        while images < lit_api.max_batch_size:
            wait_s = 0.0 if batch or self._begun else LATE_S if self._late else IDLE_S
            ticket = self._held or self._take(lit_api.shelf, request_queue, wait_s)
            self._held = None
            if ticket is None:
                break
            if batch and images + ticket.job.images > lit_api.max_batch_size:
                self._held = ticket
                break
            batch.append(ticket)
            images += ticket.job.images
        return batch, []

    def _no_longer_late(self, lit_api: InferenceAPI) -> list[Ticket]:
        """Those whose heads have come, or won't be waited for any longer."""
        late, self._late = self._late, []
        batch: list[Ticket] = []
        for ticket in late:
            if ticket.job.deadline <= time.monotonic():
                EXPIRED_JOBS.inc()
            elif lit_api.heads.are_late(ticket.job.heads):
                self._late.append(ticket)
            else:
                batch.append(ticket)
        return batch

    def _take(self, shelf: Shelf, request_queue: Exchange, wait_s: float) -> Ticket | None:
        """The next job that somebody still waits for; None: none came in time."""
        end = time.monotonic() + wait_s
        while True:
            found = request_queue.get(end - time.monotonic())
            if found is None:
                if time.monotonic() >= end:
                    return None
                continue  # another worker was quicker
            sender, said = found
            uid: str
            job: Job
            uid, job = pickle.loads(said)  # noqa: S301  # our own API process wrote it
            if uid in self._seen:
                continue
            self._seen[uid] = None
            if len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
            if job.deadline <= time.monotonic():
                EXPIRED_JOBS.inc()
                continue
            if job.place is not None:
                job = replace(job, pixels=shelf.view(job.place, math.prod(job.shape)))
            return Ticket(sender, uid, job)
