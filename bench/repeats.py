"""Rows of images that are sent again, to a polyhead that keeps embeddings: a server of its own."""

from pathlib import Path
from statistics import median
from typing import Any

from bench.contenders import Contenders, Polyhead, second_polyhead
from bench.processes import BenchFailed
from bench.rows import Row, ratios

HITS = 'polyhead_embedding_cache_total{outcome="hit"}'
CACHE_BYTES = 256 * 2**20  # more than all of this row's embeddings
WARM_UP = 16


def repeats(run: Contenders, cache: Path) -> list[Row]:
    """The same images twice, and new ones with and without the cache, in turns. Raises: BenchFailed."""
    scale = run.scale
    speed: dict[str, list[float]] = {"no cache": [], "new": [], "again": []}
    p50: dict[str, list[float]] = {"new": [], "again": []}
    said: dict[str, Any] = {"connections": scale.connections, "seconds": scale.seconds}
    # The tasks are those of the other polyhead, which is idle meanwhile.
    starting = second_polyhead(run, run.folder / "data", cache, embedding_cache_bytes=CACHE_BYTES)
    with run.plain.running.frozen(), starting as server:
        server.load(min(WARM_UP, scale.images))
        for _ in range(scale.rounds):
            speed["no cache"].append(run.polyhead.load(scale.images, **said).per_second)
            new, again = _twice(server, scale.images, **said)
            speed["new"].append(new[0])
            speed["again"].append(again[0])
            new, again = _twice(server, scale.lone)
            p50["new"].append(new[1])
            p50["again"].append(again[1])
    notes = [
        "a server of its own with `POLYHEAD_EMBEDDING_CACHE_BYTES`; every image of the second time is a hit"
    ]
    return [
        Row(
            name="the same images again: throughput",
            unit="images/s",
            values={name: speed[name] for name in ("new", "again")},
            compared="again / new",
            figures=ratios(speed["again"], speed["new"]),
            notes=notes,
        ),
        Row(
            name="the same image again: lone request, p50",
            unit="ms",
            values=p50,
            compared="again / new",
            figures=ratios(p50["again"], p50["new"]),
        ),
        Row(
            name="what the cache costs where no image comes again: throughput",
            unit="images/s",
            values={name: speed[name] for name in ("no cache", "new")},
            compared="new / no cache",
            figures=ratios(speed["new"], speed["no cache"]),
        ),
    ]


def _twice(server: Polyhead, count: int, **said: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """Images/s and p50 (ms) of new images, then of the same ones. Raises: BenchFailed: one was no hit."""
    first = server.next_photo()
    new = server.load(count, **said)
    before = server.metric(HITS)
    again = server.load(new.images, first=first, **said)
    hits = server.metric(HITS) - before
    if hits != again.images:
        raise BenchFailed(f"{again.images} images were sent again and {hits:g} were known")
    return (new.per_second, median(new.latencies_ms)), (again.per_second, median(again.latencies_ms))
