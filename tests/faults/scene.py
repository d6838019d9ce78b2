"""What a fault acts on, and what it says of itself."""

import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.faults.deployment import Deployment, Member
from tests.faults.reader import Reader
from tests.faults.traffic import AIMED, Traffic

AGAIN_S = 60.0  # for a process to come back on a machine that is busy


@dataclass(frozen=True, slots=True)
class Injected:
    phase: str  # of the runs that were there
    broken_at: float  # CLOCK_MONOTONIC seconds
    mended_at: float
    during: str = ""  # what was seen meanwhile


@dataclass(slots=True)
class Scene:
    """What a fault acts on."""

    deployment: Deployment
    traffic: Traffic
    reader: Reader
    rng: random.Random
    refused_s: float  # for which a cut lasts that refuses
    frozen_s: float  # for which a cut lasts that says nothing

    def phases(self) -> str:
        return ", ".join(sorted(set(self.reader.active_runs().values()))) or "no run"

    def aim(self, **options: Any) -> str:
        """A run of the task that nothing else trains."""
        while (
            run := self.traffic.queue(self.rng.choice(self.deployment.replicas), AIMED, **options)
        ) is None:
            time.sleep(0.2)
        return run

    @contextlib.contextmanager
    def caught(self, method: bytes, what: str) -> Iterator[tuple[str, Member]]:
        """A run, and its trainer, which S3 keeps waiting: `GET images/` exports, `PUT heads/` publishes."""
        (task,) = self.reader.rows("SELECT id FROM tasks WHERE name = :name", name=AIMED)
        with contextlib.ExitStack() as stack:
            for trainer in self.deployment.trainers:
                stack.enter_context(trainer.objects.holding(method, f"/tasks/{task['id']}/{what}/".encode()))
            run = self.aim()
            end = time.monotonic() + 2 * AGAIN_S
            while not any(trainer.objects.held.is_set() for trainer in self.deployment.trainers):
                assert time.monotonic() < end, self.traffic.look(self.deployment.replicas[0], run)
                time.sleep(0.02)
            time.sleep(0.7)  # so that the phase is shown
            (trainer,) = [each for each in self.deployment.trainers if each.objects.held.is_set()]
            yield run, trainer

    def expect_success(self, run: str) -> None:
        said = self.traffic.follow(run)
        assert said.get("state") == "succeeded", said
        versions = self.reader.rows("SELECT number FROM versions WHERE run_id = :run", run=run)
        assert [each["number"] for each in versions] == [said["version"]]
