"""`polyhead serve`: one main process that starts the others, keeps them running, and ends them.

    main ─┬─ worker-0 …  the backbone and the heads
          ├─ api-0 …     HTTP, forked, on one listening socket
          └─ trainer-0 … runs

The main process has one thread, so that it may fork at any time, and imports no torch.
"""

import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from service.engine import Inference
from service.inference.board import Board
from service.process import die_with, take_name
from service.processes.connection import BoundedConnection
from service.processes.listener import BACKLOG, listen, several, shown_url
from service.processes.preflight import Prepared
from service.processes.supervisor import Keeper, ServerFailed, trainer
from service.settings import Settings
from service.store import Quotas, open_store
from service.telemetry import configure_logging
from service.web.parts import OpenParts, Parts

MakeApp = Callable[[Settings, OpenParts], FastAPI]

log = structlog.stdlib.get_logger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
TICK_S = 0.1
PAUSE_S = 0.1  # before what died for the first time is started again
HUNG_S = 5.0  # the shortest silence that is no slow batch
END_S = 5.0  # for what should end at once


class Server:
    """The processes of one `polyhead serve`."""

    def __init__(self, settings: Settings, prepared: Prepared, make_app: MakeApp) -> None:
        self.settings = settings
        self.prepared = prepared
        self.board = Board(settings.api_processes, len(prepared.devices) * settings.workers_per_device)
        self.stopping = False
        self.listener: socket.socket | None = None
        self.inference = Inference(
            settings, prepared.identity, prepared.backbone_file, self.board, prepared.devices
        )
        self.app = make_app(settings, self._open_parts)
        self.workers = [
            Keeper(f"worker-{number}", partial(self.inference.start_worker, number), pause_s=PAUSE_S)
            for number in range(self.inference.workers)
        ]
        self.apis = [
            Keeper(f"api-{index}", partial(self._fork_api, index), pause_s=PAUSE_S)
            for index in range(settings.api_processes)
        ]
        self.trainers = [trainer(settings, number) for number in range(settings.trainers)]

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises: ServerFailed: a part that can't be replaced is gone, or never started.
        """
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        try:
            self._start()
            while not self.stopping:
                time.sleep(TICK_S)
                self._tick()
            log.info("stopping")
        finally:
            self._end()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _start(self) -> None:
        take_name("polyhead")
        for each in self.workers:
            each.tick(time.monotonic())
        for number, worker in enumerate(self.workers):
            self._wait_for(worker, partial(self.board.has_worker, number))
        if self.stopping:
            return
        self.listener = listen(self.settings.host, self.settings.port)
        for index, api in enumerate(self.apis):
            api.tick(time.monotonic())
            self._wait_for(api, partial(self.board.has_api, index))
        if self.stopping:
            return
        for each in self.trainers:
            each.tick(time.monotonic())
        log.info("ready", backbone=self.prepared.identity.name, digest=self.prepared.identity.digest)
        where = shown_url(self.settings.host, self.settings.port)
        line = f"Polyhead is ready at {where} (backbone {self.prepared.identity.name}, docs at /docs)"
        with contextlib.suppress(BrokenPipeError):  # nobody reads it
            print(line, flush=True)  # noqa: T201

    def _wait_for(self, keeper: Keeper, ready: Callable[[], bool]) -> None:
        while not self.stopping and not ready():
            process = keeper.process
            if process is None or not process.is_alive():
                raise ServerFailed(f"the {keeper.name} process could not start: the log says why")
            time.sleep(0.02)

    def _tick(self) -> None:
        self._tick_workers()
        if not self.stopping:
            for each in (*self.apis, *self.trainers):
                each.tick(time.monotonic())

    def _tick_workers(self) -> None:
        for number, worker in enumerate(self.workers):
            if worker.process is not None and not worker.process.is_alive():
                self.board.worker_went(number)
            self._end_if_hung(number)
            worker.tick(time.monotonic())

    def _end_if_hung(self, number: int) -> None:
        """Kill a ready worker that has made no progress while two requests' deadlines passed."""
        silent_s = self.board.silence_s(number)
        if self.board.has_worker(number) and silent_s > max(HUNG_S, 2 * self.settings.request_deadline_s):
            log.error("a worker hangs", name=self.workers[number].name, silent_s=round(silent_s, 1))
            self.workers[number].signal(signal.SIGKILL)

    def _end(self) -> None:
        """Let what is in work finish, within `drain_s`, then end every process."""
        deadline = time.monotonic() + self.settings.drain_s
        self.board.drain()
        if self.listener is not None:
            self.listener.close()  # else the kernel would go on accepting for nobody
        for each in (*self.apis, *self.trainers):
            each.signal(signal.SIGTERM)
        while any(api.process is not None and api.process.is_alive() for api in self.apis):
            if time.monotonic() > deadline + END_S:
                break
            self._tick_workers()  # their answers are still waited for
            time.sleep(0.02)
        for each in (*self.apis, *self.trainers):
            each.end(deadline)
        for worker in self.workers:
            worker.signal(signal.SIGKILL)  # it holds nothing that matters
            worker.end(time.monotonic() + END_S)
        self.inference.close()

    def _fork_api(self, index: int) -> BaseProcess:
        process = get_context("fork").Process(
            target=self._serve_http, args=(index, os.getpid()), name=f"api-{index}"
        )
        # A signal in between would be taken by the child's copy of our handler, and be lost.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return process

    def _serve_http(self, index: int, main_pid: int) -> None:
        """What an API process does; uvicorn ends it gracefully on SIGTERM."""
        die_with(main_pid)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        take_name(f"polyhead-api-{index}")
        configure_logging(self.settings.log_level, f"api-{index}")
        assert self.listener is not None
        self.app.state.index = index
        config = uvicorn.Config(
            self.app,
            http=BoundedConnection,
            loop="uvloop",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=math.ceil(self.settings.drain_s),
        )
        uvicorn.Server(config).run(sockets=several(self.listener))

    @contextlib.asynccontextmanager
    async def _open_parts(self, app: FastAPI) -> AsyncIterator[Parts]:
        """Open what one API process works with, after the fork."""
        index: int = app.state.index
        store = open_store(
            self.settings.resolved_database_url, self.settings.resolved_blob_url, Quotas.of(self.settings)
        )
        try:
            async with self.inference.engine(index) as engine:
                parts = Parts.assemble(
                    settings=self.settings,
                    store=store,
                    engine=engine,
                    identity=self.prepared.identity,
                    backbone_file=self.prepared.backbone_file,
                    runtime=self.prepared.runtime,
                )
                try:
                    self.board.api_came(index)
                    yield parts
                finally:
                    parts.close()
        finally:
            store.close()
