"""The contenders of one run, started and warm, behind one way to load them."""

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.heads import publish_tasks, task_name, write_head
from bench.limit import embed
from bench.photos import JPEG_640, Photos
from bench.processes import (
    BenchFailed,
    Child,
    Running,
    child,
    free_port,
    running,
    session_cpu_s,
    wait_for_http,
)
from bench.scale import Scale
from models.arrays import FloatArray
from models.identity import BackboneConfig

BATCH = 8  # images in a backbone pass, for every contender
DECODE_THREADS = 2
ENOUGH_S = 600.0  # for orders that end by count


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured."""

    seconds: float
    latencies_ms: list[float]
    statuses: list[int]  # of the same requests
    bodies: list[Any]
    client_cpu_s: float

    @property
    def images(self) -> int:
        return len(self.latencies_ms)

    @property
    def per_second(self) -> float:
        return self.images / self.seconds


@dataclass(slots=True)
class Pool:
    """Photos of one kind, none of which is given out twice."""

    photos: Photos
    used: int = 0

    def take(self, count: int) -> int:
        """The index of the first of `count` new photos."""
        first, self.used = self.used, self.used + count
        if self.used > self.photos.count:
            raise BenchFailed(f"{self.photos.path.name} has too few photos: {self.used} are wanted")
        return first


@dataclass(slots=True)
class HttpServer:
    """A server under load."""

    name: str
    port: int
    running: Running
    client: Child
    pools: dict[str, Pool]  # its own cursors: every server gets every photo once
    path: str  # of a prediction
    sent: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def load(self, count: int, **said: Any) -> Round:
        """Send up to `count` new photos and wait for the answers. Raises: BenchFailed: not all were 200."""
        done = self.ask(count, **said)
        if set(done.statuses) != {200}:
            raise BenchFailed(f"{self.name} answered {Counter(done.statuses)}\n{self.running.tail()}")
        return done

    def ask(self, count: int, *, first: int | None = None, **said: Any) -> Round:
        """As `load`, whatever is answered. Args: first: of photos that were sent before; None: new ones."""
        pool = self.pools[said.pop("kind", JPEG_640.name)]
        order = {
            "photos": str(pool.photos.path), "media_type": pool.photos.media_type,
            "first": pool.take(said.get("distinct") or count) if first is None else first,
            "count": count, "port": self.port, "connections": 1, "seconds": ENOUGH_S, "shape": "multipart",
            "paths": [self.path], "fields": [], "keep": False,
        }  # fmt: skip
        done = self.client.ask(**order | said)
        self.sent += len(done["latencies_ms"])
        return Round(done["seconds"], done["latencies_ms"], done["statuses"], done["bodies"], done["cpu_s"])


@dataclass(slots=True)
class Polyhead(HttpServer):
    """polyhead serve, with its own counters."""

    counted: float = field(default=0.0)

    def load(self, count: int, *, first: int | None = None, **said: Any) -> Round:
        """As any server's; and the backbone has seen exactly the new images that were sent."""
        before = self.metric("polyhead_backbone_images_total")
        done = HttpServer.load(self, count, first=first, **said)
        grown = self.metric("polyhead_backbone_images_total") - before
        if grown != (done.images if first is None else 0):
            raise BenchFailed(f"{done.images} images were sent and {grown:g} went through the backbone")
        self.counted += grown
        return done

    def next_photo(self) -> int:
        """The first one that the next `load` sends."""
        return self.pools[JPEG_640.name].used

    def metric(self, name: str) -> float:
        """A counter, with its labels as /metrics writes them."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def worker_mb(self) -> float:
        return self.running.private_mb("polyhead-worker")


@dataclass(slots=True)
class Limit:
    """The bare loop."""

    loop: Child
    pools: dict[str, Pool]

    def stream(self, count: int, seconds: float, kind: str = JPEG_640.name) -> tuple[float, float]:
        """Images a second at full speed, and milliseconds of CPU an image."""
        done = self._ask(kind, count, lone=False, seconds=seconds)
        images = len(done["labels"])
        return images / done["seconds"], 1000 * done["cpu_s"] / images

    def lone(self, count: int) -> list[float]:
        """Milliseconds of images that come one by one."""
        latencies: list[float] = self._ask(JPEG_640.name, count, lone=True)["latencies_ms"]
        return latencies

    def labels(self, count: int) -> list[str]:
        labels: list[str] = self._ask(JPEG_640.name, count, lone=False, seconds=ENOUGH_S)["labels"]
        return labels

    def _ask(self, kind: str, count: int, **said: Any) -> dict[str, Any]:
        pool = self.pools[kind]
        return self.loop.ask(photos=str(pool.photos.path), first=pool.take(count), count=count, **said)


@dataclass(frozen=True, slots=True)
class Contenders:
    limit: Limit
    polyhead: Polyhead
    plain: HttpServer
    folder: Path
    scale: Scale
    sample: FloatArray  # (N, D) embeddings of some photos, from which heads are made

    def cpu_s(self) -> float:
        """Seconds of CPU that all of ours have used, this process included."""
        pids = (self.limit.loop, self.polyhead.client, self.polyhead.running, self.plain.running)
        return time.process_time() + sum(session_cpu_s(each.process.pid) for each in pids)


@contextlib.contextmanager
def started(scale: Scale, pools: dict[str, Photos], folder: Path, cache: Path) -> Iterator[Contenders]:
    """Start all three with the same weights and the same head, and end them."""
    config = BackboneConfig(name=scale.backbone)
    sample = min(64, pools[JPEG_640.name].count)
    embeddings, identity = embed(config, cache, pools[JPEG_640.name].open(), sample)
    onnx, arrays = write_head(folder, embeddings, identity)
    publish_tasks(folder / "data", max(*scale.tasks, *scale.fan_outs), embeddings, identity)

    def fresh() -> dict[str, Pool]:
        return {name: Pool(photos) for name, photos in pools.items()}

    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(child("bench.limit", folder / "limit.log"))
        loop.ask(
            backbone=scale.backbone, cache=str(cache), head=str(onnx), threads=DECODE_THREADS, batch=BATCH
        )
        polyhead, plain = free_port(), free_port()
        serving = stack.enter_context(serve_polyhead(scale, polyhead, folder / "data", cache, folder))
        other = stack.enter_context(serve_plain(scale, plain, arrays, folder))
        wait_for_http(serving, f"http://127.0.0.1:{polyhead}/readyz")
        wait_for_http(other, f"http://127.0.0.1:{plain}/health")
        client = stack.enter_context(child("bench.client", folder / "client.log"))
        path = f"/v1/tasks/{task_name(0)}/predict"
        yield Contenders(
            Limit(loop, fresh()),
            Polyhead("polyhead", polyhead, serving, client, fresh(), path),
            HttpServer("plain LitServe", plain, other, client, fresh(), "/predict/0"),
            folder,
            scale,
            embeddings,
        )


@contextlib.contextmanager
def second_polyhead(
    run: Contenders, data_dir: Path, cache: Path, *, name: str = "polyhead", **more: object
) -> Iterator[Polyhead]:
    """One more polyhead, ready, without trainers and with every photo to come. Args: more: settings."""
    port = free_port()
    starting = serve_polyhead(run.scale, port, data_dir, cache, run.folder, trainers=0, **more)
    with starting as serving:
        wait_for_http(serving, f"http://127.0.0.1:{port}/readyz")
        pools = {kind: Pool(pool.photos) for kind, pool in run.polyhead.pools.items()}
        yield Polyhead(name, port, serving, run.polyhead.client, pools, run.polyhead.path)


def serve_polyhead(
    scale: Scale, port: int, data_dir: Path, cache: Path, folder: Path, **more: object
) -> contextlib.AbstractContextManager[Running]:
    """polyhead serve as it comes, but for what must be the same for all. Args: more: settings, by name."""
    settings = {
        "port": port, "data_dir": data_dir, "cache_dir": cache, "backbone": scale.backbone,
        "max_batch_size": BATCH, "decode_threads": DECODE_THREADS, "log_level": "warning", **more,
    }  # fmt: skip
    environment = {f"POLYHEAD_{name.upper()}": str(value) for name, value in settings.items()}
    return running(["service", "serve"], folder / "polyhead.log", environment)


def serve_plain(
    scale: Scale, port: int, head: Path, folder: Path
) -> contextlib.AbstractContextManager[Running]:
    said = {"port": port, "backbone": scale.backbone, "head": head, "batch": BATCH}
    return running(
        ["bench.plain", *(f"--{name}={value}" for name, value in said.items())], folder / "plain.log"
    )


def check_answers(all_three: Contenders, count: int) -> dict[str, float]:
    """The share of photos to which each pair gives the same label; also everyone's warm-up.

    Raises: BenchFailed: polyhead disagrees with the bare loop, which has its decoder, weights and runtime.
    """
    limit = all_three.limit.labels(count)
    polyhead = [body["predictions"][0]["label"] for body in all_three.polyhead.load(count, keep=True).bodies]
    plain = [body["label"] for body in all_three.plain.load(count, keep=True).bodies]
    if polyhead != limit:
        raise BenchFailed(f"polyhead answers {json.dumps(polyhead)}, the bare loop {json.dumps(limit)}")
    return {"polyhead and limit": same(polyhead, limit), "polyhead and plain LitServe": same(polyhead, plain)}


def same(these: Sequence[str], those: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(these, those, strict=True)) / len(these)
