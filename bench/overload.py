"""Rows of overload: ten times what the server can do is offered, and what becomes of those it serves."""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Self

import httpx

from bench.contenders import Contenders, Polyhead
from bench.processes import BenchFailed
from bench.rows import Goal, Row, percentile, ratios

TIMES = 10  # what it can do
WHAT = f"offered {TIMES} x"
PROCESSES = ("polyhead-worker", "polyhead-api-0")
PROBES_APART_S = 0.2
RECOVERED = 2.0  # times a lone request's usual latency
PATIENCE_S = 30.0  # for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """What one round said."""

    capacity: float  # images/s, saturated
    served: float  # images/s of the flood that got an answer
    offered: float  # requests/s
    served_p99_ms: float
    saturated_p99_ms: float
    statuses: Counter[int]
    grown_mb: float  # private memory of worker and API process, at its most while it lasts
    probes: list[bool]  # of /livez: whether it was well
    recovery_s: float  # from the flood's last answer to a lone request that takes as long as ever

    @property
    def proper(self) -> float:
        """The share of answers and probes that were as they should be, 0-1."""
        proper = self.statuses[200] + self.statuses[429] + sum(self.probes)
        return proper / (self.statuses.total() + len(self.probes))


class Watch:
    """Asks for /livez and looks at memory, beside a flood."""

    def __init__(self, server: Polyhead) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most_mb = self.memory_mb()
        self.probes: list[bool] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def memory_mb(self) -> float:
        return sum(self._server.running.private_mb(name) for name in PROCESSES)

    def _look(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=5) as http:
            while not self._over.wait(PROBES_APART_S):
                try:
                    self.probes.append(http.get("/livez").status_code == 200)
                except httpx.HTTPError:
                    self.probes.append(False)
                self.most_mb = max(self.most_mb, self.memory_mb())


def overload(run: Contenders) -> list[Row]:
    """Raises: BenchFailed: the server has not recovered within PATIENCE_S."""
    with run.plain.running.frozen():
        floods = [_flood(run) for _ in range(run.scale.floods)]
    said = sum((flood.statuses for flood in floods), Counter[int]())
    offered = median(flood.offered for flood in floods)
    served, capacity = [flood.served for flood in floods], [flood.capacity for flood in floods]
    return [
        Row(
            name=f"{WHAT}: served, of what it can do",
            unit="images/s",
            values={"saturated": capacity, WHAT: served},
            compared=f"{WHAT} / saturated",
            figures=ratios(served, capacity),
            notes=[f"{offered:.0f} requests/s from {run.scale.flood_connections} connections: {dict(said)}"],
        ),
        _row(
            "p99 of what is served",
            "ms",
            [flood.served_p99_ms for flood in floods],
            saturated=[flood.saturated_p99_ms for flood in floods],
            goal=Goal(30_000, "lower", "ms"),  # the deadline of a request
        ),
        _row(
            "answered with 200 or 429, and alive by /livez",
            "x",
            [flood.proper for flood in floods],
            goal=Goal(1, "higher"),
        ),
        _row("memory over before", "MB", [flood.grown_mb for flood in floods]),
        _row(
            "until a lone request takes as long as ever",
            "s",
            [flood.recovery_s for flood in floods],
            goal=Goal(1, "lower", "s"),
        ),
    ]


def _row(
    name: str,
    unit: str,
    figures: list[float],
    *,
    saturated: list[float] | None = None,
    goal: Goal | None = None,
) -> Row:
    before = {} if saturated is None else {"saturated": saturated}
    return Row(
        name=f"{WHAT}: {name}",
        unit=unit,
        values=before | {WHAT: figures},
        compared=WHAT,
        figures=figures,
        figure_unit=unit,
        goal=goal,
    )


def _flood(run: Contenders) -> Flood:
    scale, server = run.scale, run.polyhead
    usual_ms = median(server.load(scale.lone).latencies_ms)
    saturated = server.load(scale.images, connections=scale.connections, seconds=scale.seconds)
    rate = TIMES * saturated.per_second
    watch = Watch(server)
    before_mb = watch.most_mb
    with watch:
        flood = server.ask(
            int(rate * scale.seconds),
            distinct=scale.images,  # too many for photos of their own
            rate=rate,
            seconds=scale.seconds,
            connections=scale.flood_connections,
        )
    ended = time.monotonic()
    served = [ms for ms, status in zip(flood.latencies_ms, flood.statuses, strict=True) if status == 200]
    if not served:
        raise BenchFailed(f"nothing was served in a flood: {Counter(flood.statuses)}")
    return Flood(
        capacity=saturated.per_second,
        served=len(served) / flood.seconds,
        offered=flood.images / flood.seconds,
        served_p99_ms=percentile(served, 0.99),
        saturated_p99_ms=percentile(saturated.latencies_ms, 0.99),
        statuses=Counter(flood.statuses),
        grown_mb=watch.most_mb - before_mb,
        probes=watch.probes,
        recovery_s=_recovery_s(server, usual_ms, ended),
    )


def _recovery_s(server: Polyhead, usual_ms: float, ended: float) -> float:
    while time.monotonic() - ended < PATIENCE_S:
        (latency_ms,) = server.ask(1, first=0).latencies_ms
        if latency_ms <= RECOVERED * usual_ms:
            return time.monotonic() - ended
    raise BenchFailed(f"no request was as fast as before within {PATIENCE_S} s of a flood")
