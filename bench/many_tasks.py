"""Rows of many tasks on one backbone: spread requests, fanned-out images, and memory."""

from dataclasses import dataclass, field
from statistics import median

import numpy as np

from bench.contenders import Contenders
from bench.heads import task_name
from bench.photos import JPEG_640
from bench.processes import BenchFailed
from bench.rows import Goal, Row, percentile, ratios

FAN_OUT = "/v1/predict"
MOST_TASKS = 200  # asked about one image while warming up
SEED = 0


@dataclass(slots=True)
class Measured:
    speed: list[float] = field(default_factory=list)  # images/s, one a round
    p95: list[float] = field(default_factory=list)  # ms


def memory(run: Contenders) -> list[Row]:
    """Private memory of the worker with every head loaded, over one head."""
    tasks = max(run.scale.tasks)
    one = run.polyhead.worker_mb()
    for start in range(0, tasks, MOST_TASKS):
        fields = [("tasks", task_name(number)) for number in range(start, min(start + MOST_TASKS, tasks))]
        run.polyhead.load(1, paths=[FAN_OUT], fields=fields)
    every = run.polyhead.worker_mb()
    goal = Goal(200, "lower", "MB") if tasks == 1000 else None
    return [
        Row(
            name=f"memory of {tasks:,} ten-class tasks",
            unit="MB",
            values={"1 task": [one], f"{tasks} tasks": [every]},
            compared=f"{tasks} tasks - 1 task",
            figures=[every - one],
            figure_unit="MB",
            goal=goal,
            notes=["private memory of the worker, after serving with one head and after running every head"],
        ),
    ]


def spread(run: Contenders) -> list[Row]:
    """Saturated with requests to 1, 10, 100, 1,000 tasks, evenly and by Zipf; every head is loaded."""
    scale = run.scale
    rng = np.random.default_rng(SEED)
    ways = {f"{scale.tasks[0]}": _paths(scale.tasks[0], scale.images, None)}
    for tasks in scale.tasks[1:]:
        ways[f"{tasks} evenly"] = _paths(tasks, scale.images, None)
        ways[f"{tasks} Zipf"] = _paths(tasks, scale.images, rng)
    measured = {way: Measured() for way in ways}
    with run.plain.running.frozen():
        for turn in range(scale.task_rounds):
            for way, paths in ways.items():
                # Evenly over 1,000 tasks takes more requests than a round has: the next one goes on.
                turned = paths[turn * scale.images % len(paths) :] + paths[: turn * scale.images % len(paths)]
                done = run.polyhead.load(
                    scale.images, connections=scale.connections, seconds=scale.seconds, paths=turned
                )
                measured[way].speed.append(done.per_second)
                measured[way].p95.append(percentile(done.latencies_ms, 0.95))
    base, *others = ways
    return [row for way in others for row in _rows(base, way, measured, max(scale.tasks))]


def _rows(base: str, way: str, measured: dict[str, Measured], most: int) -> list[Row]:
    with_goal = way.startswith(f"{most} ")
    one, many = measured[base], measured[way]
    return [
        Row(
            name=f"requests spread over {way}: throughput",
            unit="images/s",
            values={"1 task": one.speed, way: many.speed},
            compared=f"{way} / 1 task",
            figures=ratios(many.speed, one.speed),
            goal=Goal(0.95, "higher") if with_goal else None,
        ),
        Row(
            name=f"requests spread over {way}: p95",
            unit="ms",
            values={"1 task": one.p95, way: many.p95},
            compared=f"{way} / 1 task",
            figures=ratios(many.p95, one.p95),
            goal=Goal(1.1, "lower") if with_goal else None,
        ),
    ]


def _paths(tasks: int, requests: int, rng: np.random.Generator | None) -> list[str]:
    """Paths of requests: each task in turn, or drawn by Zipf (the k-th task as often as 1/k says)."""
    if rng is None:
        numbers = np.arange(max(tasks, requests)) % tasks
    else:
        weights = 1 / np.arange(1, tasks + 1)
        numbers = rng.choice(tasks, size=requests, p=weights / weights.sum())
    return [f"/v1/tasks/{task_name(int(number))}/predict" for number in numbers]


def fan_out(run: Contenders) -> list[Row]:
    """One image to many tasks: its latency, and the passes through the backbone. Raises: BenchFailed."""
    scale = run.scale
    p50: dict[int, list[float]] = {tasks: [] for tasks in scale.fan_outs}
    with run.plain.running.frozen():
        for _ in range(scale.rounds):
            for tasks in scale.fan_outs:
                before = run.polyhead.metric("polyhead_backbone_passes_total")
                fields = [("tasks", task_name(number)) for number in range(tasks)]
                count = max(2, scale.lone // 2)
                done = run.polyhead.load(count, paths=[FAN_OUT], fields=fields, kind=JPEG_640.name)
                passes = run.polyhead.metric("polyhead_backbone_passes_total") - before
                if passes != count:
                    raise BenchFailed(f"{count} images to {tasks} tasks took {passes:g} backbone passes")
                p50[tasks].append(median(done.latencies_ms))
    base, *others = scale.fan_outs
    return [
        Row(
            name=f"one image to {tasks} tasks, p50",
            unit="ms",
            values={f"{base} task": p50[base], f"{tasks} tasks": p50[tasks]},
            compared=f"{tasks} tasks / {base} task",
            figures=ratios(p50[tasks], p50[base]),
            goal=Goal(1.2, "lower") if tasks == scale.fan_out_goal else None,
            notes=["1 backbone pass each, by polyhead_backbone_passes_total"],
        )
        for tasks in others
    ]
