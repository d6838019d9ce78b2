"""One seed: a deployment under traffic, every fault in an order of the seed's, and what they left behind."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.deployment import deployed
from tests.faults.injections import FAULTS
from tests.faults.reader import Reader
from tests.faults.scene import Injected, Scene
from tests.faults.traffic import TASKS, Ledger, Traffic

HEALED_S = 60.0  # the longest wait until everything answers again: `make chaos` measures, a test doesn't
WRITES = ("upload", "publish")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a fault did."""

    seed: int
    fault: str
    phase: str  # of the runs that it met
    ready_s: float  # from when it was mended until both replicas answered everything
    predictions: str  # how those ended that were sent meanwhile, by status
    writes: str
    note: str


@dataclass(slots=True)
class Campaign:
    seed: int
    scene: Scene
    rows: list[Row] = field(default_factory=list)

    def inject(self, fault: str) -> Row:
        """Break, mend, and wait until both replicas answer predictions and writes.

        Raises: AssertionError.
        """
        injected = FAULTS[fault](self.scene)
        ready_s = self._wait_until_ready(injected)
        self.scene.reader.note_versions()
        ledger = self.scene.traffic.ledger
        row = Row(
            seed=self.seed,
            fault=fault,
            phase=injected.phase,
            ready_s=ready_s,
            predictions=_counted(ledger.endings(injected.broken_at, "predict")),
            writes=_counted(ledger.endings(injected.broken_at, *WRITES)),
            note=injected.during,
        )
        self.rows.append(row)
        return row

    def _wait_until_ready(self, injected: Injected) -> float:
        end = time.monotonic() + HEALED_S
        while not self._answers():
            assert time.monotonic() < end, [each.server.tail(2000) for each in self.scene.deployment.replicas]
            time.sleep(0.05)
        return max(0.0, time.monotonic() - injected.mended_at)

    def _answers(self) -> bool:
        if not self.scene.deployment.is_ready():
            return False
        number = self.scene.rng.randrange(20_000, 2**30)
        for replica in self.scene.deployment.replicas:
            said = self.scene.traffic.predict(replica, TASKS[0])
            if said is None or said.status_code != 200:
                return False
            if not self.scene.traffic.upload(replica, TASKS[0], "blue", range(number, number + 1)):
                return False
        return True


@contextmanager
def campaign(folder: Path, seed: int, *, refused_s: float, frozen_s: float) -> Iterator[Campaign]:
    """The traffic runs while the block does; what it has left is read after it.

    Raises: AssertionError: something is lost, changed, stuck or late.
    """
    with deployed(folder) as deployment:
        reader, traffic = Reader(deployment), Traffic(deployment, Ledger(), seed)
        with traffic:
            scene = Scene(
                deployment,
                traffic,
                reader,
                random.Random(seed),
                refused_s=refused_s,
                frozen_s=frozen_s,
            )
            yield Campaign(seed, scene)
        wrong = reader.check(traffic)
        assert not wrong, "\n".join(wrong[:20])


def summary(traffic: Traffic) -> str:
    ledger = traffic.ledger
    longest = max(each.seconds for each in ledger.requests)
    return (
        f"seed {traffic.seed}: {len(ledger.requests)} requests, the longest {longest:.1f} s; "
        f"acknowledged and there: {len(ledger.examples)} examples, {len(ledger.versions)} versions, "
        f"{len(ledger.runs)} runs; {len(ledger.predictions)} predictions as their versions answer"
    )


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = "| seed | fault | runs met | ready again, s | predictions | writes | seen |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row.seed} | {row.fault} | {row.phase} | {row.ready_s:.1f} | {row.predictions} | {row.writes} "
        f"| {row.note} |"
        for row in rows
    ]
    return "\n".join(lines)


def _counted(endings: dict[str, int]) -> str:
    return ", ".join(f"{count} {how}" for how, count in sorted(endings.items())) or "none"
