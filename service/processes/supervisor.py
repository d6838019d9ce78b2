"""Keeps child processes running: a process that died is started again, later each time it fails at once."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import structlog

from models.errors import PolyheadError
from service.metrics import PROCESS_DEATHS, forget_process
from service.process import die_with, take_name
from service.processes.trainer_probes import Stop, answer_probes
from service.settings import Settings
from service.telemetry import configure_logging

log = structlog.stdlib.get_logger(__name__)

LONGEST_PAUSE_S = 30.0
SETTLED_S = 60.0  # a process that lived this long had started well


class ServerFailed(PolyheadError):
    """One line that says why the server can't go on."""


@dataclass(slots=True)
class Keeper:
    """One process that should always be there."""

    name: str
    start: Callable[[], BaseProcess]
    pause_s: float  # before the first restart; doubled for each next one
    process: BaseProcess | None = None
    deaths: int = 0  # in a row, without having settled
    started_at: float = field(default=0.0)
    due_at: float = field(default=0.0)

    def tick(self, now: float) -> None:
        """Start the process if it is missing and due; `now` is CLOCK_MONOTONIC seconds."""
        if self.process is not None and self.process.is_alive():
            if now - self.started_at > SETTLED_S:
                self.deaths = 0
            return
        if self.process is not None:
            self._bury(self.process, now)
        if now >= self.due_at:
            self.process, self.started_at = self.start(), now

    def _bury(self, process: BaseProcess, now: float) -> None:
        self.deaths += 1
        pause = min(self.pause_s * 2 ** (self.deaths - 1), LONGEST_PAUSE_S)
        self.due_at = now + pause
        log.error(
            "a process died", name=self.name, code=process.exitcode, deaths=self.deaths, again_in_s=pause
        )
        PROCESS_DEATHS.labels(self.name.rstrip("-0123456789")).inc()
        if process.pid is not None:
            forget_process(process.pid)
        process.join()
        self.process = None

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def end(self, deadline: float) -> bool:
        """Wait until `deadline` (CLOCK_MONOTONIC seconds), then kill. Returns whether it ended by itself."""
        if self.process is None:
            return True
        self.process.join(max(0.0, deadline - time.monotonic()))
        willing = not self.process.is_alive()
        if not willing:
            log.warning("a process had to be killed", name=self.name)
            self.process.kill()
            self.process.join()
        self.process = None
        return willing


def trainer(settings: Settings, number: int) -> Keeper:
    """Keep a trainer, which is what `polyhead worker` runs alone."""

    def start() -> BaseProcess:
        process = get_context("spawn").Process(
            target=run_trainer_process, args=(settings, os.getpid()), name=f"trainer-{number}"
        )
        process.start()
        return process

    return Keeper(f"trainer-{number}", start, pause_s=1.0)


def run_trainer_process(settings: Settings, parent: int | None) -> None:
    """Train until SIGTERM or SIGINT, which release the run in work for another trainer.

    Args: parent: the process without which this one should not go on; None: it stands alone.
    """
    take_name("polyhead-train")
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if parent is not None:
        die_with(parent, signal.SIGTERM)
    configure_logging(settings.log_level, "trainer")
    from service.trainer.worker import run_trainer  # noqa: PLC0415 - after the handlers: it imports for a second

    def ready() -> None:
        if parent is None and settings.metrics_port is not None:
            answer_probes(settings.host, settings.metrics_port, stop)

    try:
        run_trainer(settings, stop, ready)
    except PolyheadError as error:
        log.error("the trainer can't work", reason=str(error))  # noqa: TRY400 - its message says it all
        sys.exit(2)
