"""Rows of one model per task: each peer at one task and at several, beside polyhead in the same run."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import Contenders, HttpServer, Pool
from bench.heads import task_name, write_arrays
from bench.peers.environment import python_of
from bench.peers.order import BATCH, Order
from bench.processes import BenchFailed, free_port, kill_marked, pss_mb, running, wait_for_http
from bench.rows import Row, percentile

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # as the other contenders; Ray's own is 15
    # As long as a busy machine may take to start a process.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """How one is started: which python with which words, and what says that it is ready."""

    name: str
    python: Callable[[Path], Path | None]  # None: ours
    words: Callable[[int, Order, Path], list[str]]
    ready: str
    settings: dict[str, str]


def _plain_words(port: int, order: Order, _folder: Path) -> list[str]:
    heads = [f"--head={head}" for head in order.heads]
    return ["bench.plain", f"--port={port}", f"--backbone={order.backbone}", f"--batch={BATCH}", *heads]


def _bentoml_words(port: int, _order: Order, _folder: Path) -> list[str]:
    return ["bentoml", "serve", "bench.peers.bentoml_each:Tasks", "--host=127.0.0.1", f"--port={port}"]


def _ray_words(port: int, _order: Order, folder: Path) -> list[str]:
    return ["bench.peers.ray_serve_each", f"--port={port}", f"--folder={folder}"]


PEERS = (
    Peer("LitServe, a LitAPI a task", lambda _: None, _plain_words, "/health", {}),
    Peer("BentoML", lambda cache: python_of("bentoml", cache), _bentoml_words, "/readyz", {}),
    Peer("Ray Serve", lambda cache: python_of("ray", cache), _ray_words, "/predict", RAY_SETTINGS),
)


@dataclass(frozen=True, slots=True)
class Measured:
    speed: float  # images/s
    p95_ms: float
    mb: float  # of all processes, what they share counted once


def peers(run: Contenders, cache: Path) -> list[Row]:
    """Rows of each; a peer that can't be installed or started, or answers with an error, is left out."""
    rows = list[Row]()
    with run.plain.running.frozen():
        for peer in PEERS[: run.scale.peers]:
            try:
                rows += _against(peer, run, cache)
            except BenchFailed as failure:
                print(f"{peer.name} is left out: {failure}", file=sys.stderr)
    return rows


def _against(peer: Peer, run: Contenders, cache: Path) -> list[Row]:
    """Raises: BenchFailed."""
    counts, mark = run.scale.peer_tasks, f"POLYHEAD_PORT={run.polyhead.port}"
    ours = [_measured(run.polyhead, run, _ours(tasks), mark) for tasks in counts]
    theirs = list[Measured]()
    for tasks in counts:
        with _started(peer, run, tasks, cache) as (server, its_mark):
            theirs.append(_measured(server, run, _theirs(tasks), its_mark))
    return _rows(peer.name, counts, ours, theirs)


def _ours(tasks: int) -> list[str]:
    return [f"/v1/tasks/{task_name(number)}/predict" for number in range(tasks)]


def _theirs(tasks: int) -> list[str]:
    return [f"/predict/{number}" for number in range(tasks)]


@contextlib.contextmanager
def _started(peer: Peer, run: Contenders, tasks: int, cache: Path) -> Iterator[tuple[HttpServer, str]]:
    """The server, and what is in the environment of all its processes."""
    order = Order(run.scale.backbone, tuple(write_arrays(run.folder, run.sample, tasks)))
    port = free_port()
    environment = order.environment | peer.settings | {"PYTHONPATH": str(Path.cwd()), "PEER_PORT": str(port)}
    command = peer.words(port, order, run.folder / "ray")
    log = run.folder / f"peer-{port}.log"
    mark = f"PEER_PORT={port}"
    try:
        with running(command, log, environment, python=peer.python(cache)) as started:
            wait_for_http(started, f"http://127.0.0.1:{port}{peer.ready}")
            pools = {name: Pool(pool.photos) for name, pool in run.polyhead.pools.items()}
            yield HttpServer(peer.name, port, started, run.polyhead.client, pools, "/"), mark
    finally:
        kill_marked(mark)  # Ray's own processes lead sessions of their own


def _measured(server: HttpServer, run: Contenders, paths: Sequence[str], mark: str) -> Measured:
    """Saturated, evenly over the tasks, after each was asked once."""
    scale = run.scale
    server.load(len(paths), paths=list(paths))
    done = server.load(scale.images, paths=list(paths), connections=scale.connections, seconds=scale.seconds)
    return Measured(done.per_second, percentile(done.latencies_ms, 0.95), pss_mb(mark))


def _rows(
    name: str, counts: tuple[int, int], ours: Sequence[Measured], theirs: Sequence[Measured]
) -> list[Row]:
    one, several = counts
    grown = [(measured[1].mb - measured[0].mb) / (several - one) for measured in (ours, theirs)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    if grown[1] > 0:
        fit = one + (memory - theirs[0].mb) / grown[1]
        most = f"about {fit:,.0f} tasks would fill this machine's {memory / 1024:.0f} GB"
    else:
        most = "less than two starts differ by"
    return [
        *(
            Row(
                name=f"one model per task, {name}, {tasks} tasks: throughput",
                unit="images/s",
                values={"polyhead": [own.speed], name: [other.speed]},
                compared=f"polyhead / {name}",
                figures=[own.speed / other.speed],
                notes=[f"p95: polyhead {own.p95_ms:.0f} ms, {name} {other.p95_ms:.0f} ms"],
            )
            for tasks, own, other in zip(counts, ours, theirs, strict=True)
        ),
        Row(
            name=f"one model per task, {name}: memory of one more task",
            unit="MB",
            values={"polyhead": [grown[0]], name: [grown[1]]},
            compared=name,
            figures=[grown[1]],
            figure_unit="MB",
            notes=[f"{theirs[0].mb:.0f} MB with {one}, {theirs[1].mb:.0f} MB with {several}: {most}"],
        ),
    ]
