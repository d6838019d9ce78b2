"""Rows of serving one task: throughput at saturation, and what a lone request waits."""

import contextlib
from dataclasses import dataclass, field
from statistics import median

from bench.contenders import Contenders
from bench.rows import Goal, Row, differences, percentile, ratios


@dataclass(slots=True)
class Saturated:
    """One number a round and contender."""

    speed: dict[str, list[float]]  # images/s
    cpu: dict[str, list[float]]  # ms an image, of all processes
    client_ms: list[float] = field(default_factory=list)  # CPU of the load generator, a request
    p95_ms: list[float] = field(default_factory=list)  # polyhead's


def saturate(run: Contenders) -> Saturated:
    """Saturating clients, A B C A B C."""
    scale = run.scale
    names = ("limit", "polyhead", "plain LitServe")
    said = Saturated({name: [] for name in names}, {name: [] for name in names})
    for _ in range(scale.rounds):
        with run.plain.running.frozen():
            images_s, cpu_ms = run.limit.stream(scale.images, scale.seconds)
            said.speed["limit"].append(images_s)
            said.cpu["limit"].append(cpu_ms)
        for server in (run.polyhead, run.plain):
            with _alone(run, server.name):
                before = server.running.cpu_s()
                done = server.load(scale.images, connections=scale.connections, seconds=scale.seconds)
                said.cpu[server.name].append(1000 * (server.running.cpu_s() - before) / done.images)
            said.speed[server.name].append(done.per_second)
            if server is run.polyhead:
                said.client_ms.append(1000 * done.client_cpu_s / done.images)
                said.p95_ms.append(percentile(done.latencies_ms, 0.95))
    return said


def throughput(run: Contenders) -> list[Row]:
    """Images a second, and what an image costs."""
    said = saturate(run)
    notes = [
        f"{run.scale.connections} connections, multipart",
        f"polyhead's p95 under this load is {median(said.p95_ms):.0f} ms",
        f"the client used {median(said.client_ms):.2f} ms of CPU a request",
    ]
    polyhead, limit, plain = (said.speed[name] for name in ("polyhead", "limit", "plain LitServe"))
    return [
        Row(
            name="throughput against the limit",
            unit="images/s",
            values={"limit": limit, "polyhead": polyhead},
            compared="polyhead / limit",
            figures=ratios(polyhead, limit),
            goal=Goal(0.85, "higher"),
            notes=notes,
        ),
        Row(
            name="throughput against plain LitServe",
            unit="images/s",
            values={"polyhead": polyhead, "plain LitServe": plain},
            compared="polyhead / plain LitServe",
            figures=ratios(polyhead, plain),
            goal=Goal(5, "higher"),
        ),
        Row(
            name="the limit against plain LitServe",
            unit="images/s",
            values={"limit": limit, "plain LitServe": plain},
            compared="limit / plain LitServe",
            figures=ratios(limit, plain),
            goal=Goal(5, "higher"),
            notes=["no goal of ours: what is there to be had"],
        ),
        _cpu(said, "limit", "polyhead", Goal(0.85, "higher")),
        _cpu(said, "plain LitServe", "polyhead", Goal(5, "higher")),
    ]


def _cpu(said: Saturated, one: str, other: str, goal: Goal) -> Row:
    """What throughput would be compared as, were there nobody else: it is what an image costs."""
    costs = {name: said.cpu[name] for name in (one, other)}
    best = min(costs[one]) / min(costs[other])
    return Row(
        name=f"CPU of an image: {one}",
        unit="ms of CPU",
        values=costs,
        compared=f"{one} / {other}",
        figures=ratios(costs[one], costs[other]),
        goal=goal,
        notes=[
            "all processes of a server, without the client; the goal is throughput's",
            f"between the best rounds, since waiting for others only adds: {best:.2f}",
        ],
    )


def lone_request(run: Contenders) -> list[Row]:
    """The p50 of requests that come one by one, against the bare loop's own."""
    p50: dict[str, list[float]] = {"limit": [], "polyhead": [], "plain LitServe": []}
    for _ in range(run.scale.rounds):
        with run.plain.running.frozen():
            p50["limit"].append(median(run.limit.lone(run.scale.lone)))
        for server in (run.polyhead, run.plain):
            with _alone(run, server.name):
                p50[server.name].append(median(server.load(run.scale.lone).latencies_ms))
    return [
        Row(
            name="lone request, p50",
            unit="ms",
            values=p50,
            compared="polyhead - limit",
            figures=differences(p50["polyhead"], p50["limit"]),
            figure_unit="ms",
            goal=Goal(5, "lower", "ms"),
        ),
    ]


def _alone(run: Contenders, name: str) -> contextlib.AbstractContextManager[None]:
    """Plain LitServe's idle loops keep a core busy, so it stands still unless its turn has come."""
    return contextlib.nullcontext() if name == run.plain.name else run.plain.running.frozen()
