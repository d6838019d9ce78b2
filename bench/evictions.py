"""Rows of more tasks than the worker may hold heads of: most requests find theirs evicted."""

from pathlib import Path

from bench.contenders import Contenders, second_polyhead
from bench.heads import task_name
from bench.many_tasks import Measured
from bench.rows import Row, percentile, ratios

HELD = 0.1  # of the tasks' heads


def evictions(run: Contenders, cache: Path) -> list[Row]:
    """Requests spread evenly over all tasks, on a server of its own that may hold a tenth of their heads."""
    scale, tasks = run.scale, max(run.scale.tasks)
    held = max(1, int(HELD * tasks))
    # The tasks are those of the other polyhead, which is idle meanwhile.
    starting = second_polyhead(run, run.folder / "data", cache, head_cache_entries=held)
    one, many = Measured(), Measured()
    with run.plain.running.frozen(), starting as server:
        paths = [f"/v1/tasks/{task_name(number)}/predict" for number in range(tasks)]
        server.load(scale.lone)
        for turn in range(scale.task_rounds):
            start = turn * scale.images % tasks
            for measured, asked in ((one, [server.path]), (many, paths[start:] + paths[:start])):
                done = server.load(
                    scale.images, connections=scale.connections, seconds=scale.seconds, paths=asked
                )
                measured.speed.append(done.per_second)
                measured.p95.append(percentile(done.latencies_ms, 0.95))
    name = f"{tasks:,} tasks, {held} heads held"
    return [
        Row(
            name=f"{name}: throughput",
            unit="images/s",
            values={"1 task": one.speed, f"{tasks} evenly": many.speed},
            compared=f"{tasks} evenly / 1 task",
            figures=ratios(many.speed, one.speed),
            notes=["a server of its own; each task's turn comes long after its head was evicted"],
        ),
        Row(
            name=f"{name}: p95",
            unit="ms",
            values={"1 task": one.p95, f"{tasks} evenly": many.p95},
            compared=f"{tasks} evenly / 1 task",
            figures=ratios(many.p95, one.p95),
        ),
    ]
