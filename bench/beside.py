"""Rows of predictions beside work that yields to them: the upload of a task, and its training."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

from bench.contenders import Contenders, Polyhead
from bench.photos import JPEG_640
from bench.processes import BenchFailed
from bench.rows import Goal, Row, percentile, ratios

NAME = "beside-{}"
UPLOADED = 20  # photos a request
CLASSES = 10
LOAD = 0.25  # of what the server can do alone
CONNECTIONS = 8
SLICE_S = 1.0  # of predictions
RUN_S = 300


class Asking:
    """Predictions at a steady rate: the same photos every second, since nobody knows for how long."""

    def __init__(self, server: Polyhead, rate: float, photos: int) -> None:
        """Args: rate: requests/s; photos: that are sent again and again."""
        self._server = server
        self._rate = rate
        self._count = max(1, int(rate * SLICE_S))
        self._photos = photos
        self._first = server.pools[JPEG_640.name].take(photos)

    def slice(self) -> list[float]:
        """Latencies, ms, of a second."""
        done = self._server.ask(
            self._count,
            first=self._first,
            distinct=self._photos,
            rate=self._rate,
            seconds=SLICE_S,
            connections=CONNECTIONS,
        )
        if set(done.statuses) != {200}:
            raise BenchFailed(f"a prediction was answered with one of {set(done.statuses)}")
        return done.latencies_ms

    def while_going_on(self, work: "Future[None]") -> list[list[float]]:
        """Raises: whatever the work does."""
        slices = [self.slice()]
        while not work.done():
            slices.append(self.slice())
        work.result()
        return slices


def beside(run: Contenders) -> list[Row]:
    """Predictions at a steady rate, alone and while a task is taught; p95 of each."""
    scale = run.scale
    alone, uploading, training = list[float](), list[float](), list[float]()
    with run.plain.running.frozen():
        for number in range(scale.taught):
            most = run.polyhead.load(scale.images, connections=scale.connections, seconds=scale.seconds)
            asking = Asking(run.polyhead, LOAD * most.per_second, scale.images)
            alone.append(_p95([asking.slice() for _ in range(scale.quiet_slices)]))
            with ThreadPoolExecutor(1) as other:
                uploading.append(_p95(asking.while_going_on(other.submit(_upload, run, number))))
                training.append(_p95(asking.while_going_on(other.submit(_train, run, number))))
    goal = Goal(1.5, "lower")
    return [
        Row(
            name=f"predictions beside {what} of {scale.uploaded:,} photos: p95",
            unit="ms",
            values={"alone": alone, "beside": p95},
            compared="beside / alone",
            figures=ratios(p95, alone),
            goal=goal,
            notes=[f"at {LOAD:.0%} of what the server can do alone, {CONNECTIONS} connections"],
        )
        for what, p95 in (("the upload", uploading), ("the training", training))
    ]


def _p95(slices: list[list[float]]) -> float:
    return percentile([latency for each in slices for latency in each], 0.95)


def _upload(run: Contenders, number: int) -> None:
    scale, pool = run.scale, run.polyhead.pools[JPEG_640.name]
    photos, first = pool.photos.open(), pool.take(scale.uploaded)
    with httpx.Client(base_url=run.polyhead.url, timeout=60) as http:
        _check(http.post("/v1/tasks", json={"name": NAME.format(number), "kind": "multiclass"}), 201)
        for turn, start in enumerate(range(first, first + scale.uploaded, UPLOADED)):
            numbers = range(start, min(start + UPLOADED, first + scale.uploaded))
            files = [("file", (f"{each}.jpg", photos[each], JPEG_640.media_type)) for each in numbers]
            form = {"label": f"class-{turn % CLASSES}"}
            path = f"/v1/tasks/{NAME.format(number)}/examples"
            while (answer := http.post(path, files=files, data=form)).status_code == 429:
                time.sleep(float(answer.headers["Retry-After"]))
            _check(answer, 201)


def _train(run: Contenders, number: int) -> None:
    with httpx.Client(base_url=run.polyhead.url, timeout=RUN_S + 30) as http:
        prefer = {"Prefer": f"wait={RUN_S}"}
        answer = http.post(f"/v1/tasks/{NAME.format(number)}/runs", json={}, headers=prefer)
        if answer.json().get("state") != "succeeded":
            raise BenchFailed(f"a run beside predictions ended as {answer.text[:500]}")


def _check(answer: httpx.Response, wanted: int) -> None:
    if answer.status_code != wanted:
        raise BenchFailed(f"{answer.request.url}: {answer.status_code} {answer.text[:500]}")
