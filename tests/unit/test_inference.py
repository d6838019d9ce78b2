"""The batching loop on a queue of this process: it blocks for the first job, then fills the batch."""

import queue
import threading
import time
from dataclasses import replace

import pytest

from models.identity import BackboneIdentity, Preprocessing
from service.inference.batching import Job
from service.inference.board import Board
from service.inference.lit_api import IDLE_S, BatchLoop, InferenceAPI
from service.settings import Settings

IDENTITY = BackboneIdentity(
    name="none",
    weights_digest="0" * 64,
    preprocessing=Preprocessing(
        input_size=1, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=1.0
    ),
    embedding_dim=3,
    features="mean colour",
    stages=(),
    precision="fp32",
    total_parameters=0,
    licence="Apache-2.0",
)


def api(tmp_path, window_ms: float = 50.0) -> InferenceAPI:
    settings = Settings(max_batch_size=4, batch_window_ms=window_ms)
    return InferenceAPI(settings, IDENTITY, tmp_path / "backbone.onnx", Board(1))


def ticket(uid: str, images: int = 1, *, expired: bool = False) -> tuple[int, str, float, Job]:
    now = time.monotonic()
    job = Job(
        pixels=bytes(3 * images),
        shape=(images, 1, 1, 3),
        heads=(),
        embeddings=False,
        queued_at=now,
        deadline=now - 1 if expired else now + 60,
    )
    return 0, uid, now, job


def take(loop: BatchLoop, lit_api: InferenceAPI, jobs: "queue.Queue[object]") -> list[str]:
    tickets, timed_out = loop.get_batch_requests(lit_api, jobs, None)
    assert timed_out == []
    return [each.uid for each in tickets]


def test_what_lies_in_the_queue_fills_a_batch_at_once(tmp_path):
    jobs: queue.Queue[object] = queue.Queue()
    for uid in "abcdef":
        jobs.put(ticket(uid))
    loop, lit_api = BatchLoop(), api(tmp_path, window_ms=0)
    assert take(loop, lit_api, jobs) == list("abcd")
    assert take(loop, lit_api, jobs) == list("ef")


def test_a_batch_waits_for_the_window_from_its_first_job_on(tmp_path):
    jobs: queue.Queue[object] = queue.Queue()
    late = threading.Timer(0.1, jobs.put, [ticket("late")])
    jobs.put(ticket("first"))
    late.start()
    assert take(BatchLoop(), api(tmp_path, window_ms=100.0), jobs)[0] == "first"
    late.join()


def test_a_full_batch_does_not_wait(tmp_path):
    jobs: queue.Queue[object] = queue.Queue()
    jobs.put(ticket("four", images=4))
    started = time.monotonic()
    assert take(BatchLoop(), api(tmp_path, window_ms=100.0), jobs) == ["four"]
    assert time.monotonic() - started < 0.08


def test_a_job_that_does_not_fit_opens_the_next_batch(tmp_path):
    jobs: queue.Queue[object] = queue.Queue()
    for uid, images in [("a", 3), ("b", 3), ("c", 1)]:
        jobs.put(ticket(uid, images))
    loop, lit_api = BatchLoop(), api(tmp_path, window_ms=0)
    assert take(loop, lit_api, jobs) == ["a"]
    assert take(loop, lit_api, jobs) == ["b", "c"]


def test_an_empty_queue_is_waited_for_without_polling_and_not_for_ever(tmp_path):
    """The wait is bounded: a killed worker's wait goes on in the manager, and would swallow a job."""
    started, cpu = time.monotonic(), time.thread_time()
    assert take(BatchLoop(), api(tmp_path), queue.Queue()) == []
    assert IDLE_S * 0.9 < time.monotonic() - started < IDLE_S * 3
    assert time.thread_time() - cpu < 0.05


def test_jobs_that_nobody_waits_for_are_dropped_before_any_work(tmp_path):
    jobs: queue.Queue[object] = queue.Queue()
    jobs.put(ticket("old", expired=True))
    jobs.put(ticket("new"))
    assert take(BatchLoop(), api(tmp_path, window_ms=0), jobs) == ["new"]


def test_a_job_that_was_queued_twice_is_answered_once(tmp_path):
    jobs: queue.Queue[object] = queue.Queue()
    for uid in "aba":
        jobs.put(ticket(uid))
    assert take(BatchLoop(), api(tmp_path, window_ms=0), jobs) == ["a", "b"]


def test_a_job_that_is_held_over_is_not_taken_for_a_double(tmp_path):
    jobs: queue.Queue[object] = queue.Queue()
    jobs.put(ticket("a", 3))
    jobs.put(ticket("b", 3))
    loop, lit_api = BatchLoop(), api(tmp_path, window_ms=0)
    take(loop, lit_api, jobs)
    assert take(loop, lit_api, jobs) == ["b"]


def test_a_job_larger_than_a_batch_goes_alone(tmp_path):
    jobs: queue.Queue[object] = queue.Queue()
    jobs.put(ticket("large", 9))
    jobs.put(ticket("next"))
    assert take(BatchLoop(), api(tmp_path, window_ms=0), jobs) == ["large"]


@pytest.mark.parametrize("size", [1, 256])
def test_batch_sizes_at_their_bounds_are_taken(tmp_path, size):
    settings = Settings(max_batch_size=size)
    lit_api = InferenceAPI(settings, replace(IDENTITY, name="other"), tmp_path / "x.onnx", Board(1))
    assert lit_api.max_batch_size == size
