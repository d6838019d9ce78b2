"""The batching loop on channels within this process: it blocks for the first job, then fills the batch."""

import hashlib
import pickle
import threading
import time
import weakref
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from models.errors import DeviceLost
from models.identity import BackboneIdentity, Preprocessing
from models.prepared import Deferred
from service.inference.batching import HeadRef, Job
from service.inference.board import Board
from service.inference.channel import Exchange, channel, receive
from service.inference.heads import HeadCache
from service.inference.lit_api import IDLE_S, BatchLoop, InferenceAPI, open_group
from service.inference.running import Trunk
from service.inference.shelf import Shelf
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


def api(tmp_path) -> InferenceAPI:
    settings = Settings(max_batch_size=4)
    return InferenceAPI(settings, IDENTITY, tmp_path / "backbone.onnx", Board(1), Shelf(1, 4, 3))


def ticket(uid: str, images: int = 1, *, expired: bool = False, **fields: Any) -> bytes:
    now = time.monotonic()
    job = Job(
        pixels=bytes(3 * images),
        shape=(images, 1, 1, 3),
        heads=(),
        embeddings=False,
        queued_at=now,
        deadline=now - 1 if expired else now + 60,
    )
    return pickle.dumps((uid, replace(job, **fields)))


class Jobs:
    """A channel with both its ends."""

    def __init__(self) -> None:
        self.end, its = channel()
        self.exchange = Exchange([its])
        weakref.finalize(self, self.end.close)
        weakref.finalize(self, self.exchange.close)

    def put(self, message: bytes) -> None:
        self.end.send(message)

    def answered(self) -> list[str]:
        """The uids of the answers that have come since the last call."""
        return [uid for said in iter(lambda: receive(self.end), None) for uid, _ in pickle.loads(said)]


def take(loop: BatchLoop, lit_api: InferenceAPI, jobs: Jobs) -> list[str]:
    tickets, timed_out = loop.get_batch_requests(lit_api, jobs.exchange, jobs.exchange)
    assert timed_out == []
    return [each.uid for each in tickets]


def test_what_lies_in_the_queue_fills_a_batch_at_once(tmp_path):
    jobs = Jobs()
    for uid in "abcdef":
        jobs.put(ticket(uid))
    loop, lit_api = BatchLoop(), api(tmp_path)
    assert take(loop, lit_api, jobs) == list("abcd")
    assert take(loop, lit_api, jobs) == list("ef")


def test_a_lone_job_waits_for_no_other(tmp_path):
    jobs = Jobs()
    jobs.put(ticket("lone"))
    started = time.monotonic()
    assert take(BatchLoop(), api(tmp_path), jobs) == ["lone"]
    assert time.monotonic() - started < IDLE_S / 2


def test_a_job_that_does_not_fit_opens_the_next_batch(tmp_path):
    jobs = Jobs()
    for uid, images in [("a", 3), ("b", 3), ("c", 1)]:
        jobs.put(ticket(uid, images))
    loop, lit_api = BatchLoop(), api(tmp_path)
    assert take(loop, lit_api, jobs) == ["a"]
    assert take(loop, lit_api, jobs) == ["b", "c"]


def test_an_empty_queue_is_waited_for_without_polling_and_not_for_ever(tmp_path):
    """The worker says that it is alive whenever it comes around."""
    started, cpu = time.monotonic(), time.thread_time()
    assert take(BatchLoop(), api(tmp_path), Jobs()) == []
    assert IDLE_S * 0.9 < time.monotonic() - started < IDLE_S * 3
    assert time.thread_time() - cpu < 0.05


def test_jobs_that_nobody_waits_for_are_dropped_before_any_work(tmp_path):
    jobs = Jobs()
    jobs.put(ticket("old", expired=True))
    jobs.put(ticket("new"))
    assert take(BatchLoop(), api(tmp_path), jobs) == ["new"]


def test_a_job_that_was_queued_twice_is_answered_once(tmp_path):
    jobs = Jobs()
    for uid in "aba":
        jobs.put(ticket(uid))
    assert take(BatchLoop(), api(tmp_path), jobs) == ["a", "b"]


def test_a_job_that_is_held_over_is_not_taken_for_a_double(tmp_path):
    jobs = Jobs()
    jobs.put(ticket("a", 3))
    jobs.put(ticket("b", 3))
    loop, lit_api = BatchLoop(), api(tmp_path)
    take(loop, lit_api, jobs)
    assert take(loop, lit_api, jobs) == ["b"]


def test_a_job_larger_than_a_batch_goes_alone(tmp_path):
    jobs = Jobs()
    jobs.put(ticket("large", 9))
    jobs.put(ticket("next"))
    assert take(BatchLoop(), api(tmp_path), jobs) == ["large"]


@pytest.mark.parametrize("size", [1, 256])
def test_batch_sizes_at_their_bounds_are_taken(tmp_path, size):
    settings = Settings(max_batch_size=size)
    lit_api = InferenceAPI(
        settings, replace(IDENTITY, name="other"), tmp_path / "x.onnx", Board(1), Shelf(1, 4, 3)
    )
    assert lit_api.max_batch_size == size


class First:
    """A head that answers the embedding's first number."""

    kind = "regression"
    size = 1

    def run(self, embeddings: np.ndarray) -> np.ndarray:
        return embeddings[:, :1]

    logits = run


class Worker:
    """The loop of a worker whose store keeps one head back until `came`."""

    def __init__(self, tmp_path, *, patience_s: float) -> None:
        self.came = threading.Event()
        self.passes: list[int] = []
        self.jobs = Jobs()
        self.sent = list[str]()
        self.loop, self.api = BatchLoop(), api(tmp_path)
        self.api.heads = HeadCache(
            self._fetch, lambda *_: First(), open_group, capacity=9, most_bytes=99, patience_s=patience_s
        )
        self.api.trunk = Trunk(
            lambda *asked: Deferred(partial(self._embed, *asked)), frozenset({"embedding"})
        )

    def _fetch(self, key: str) -> bytes:
        if key == "cold":
            self.came.wait(30)
        return key.encode()

    def _embed(self, pixels: np.ndarray, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
        self.passes.append(len(pixels))
        return {"embedding": pixels.mean(axis=(1, 2), dtype=np.float32)}

    def ask(self, key: str, uid: str) -> None:
        ref = HeadRef(hashlib.sha256(key.encode()).hexdigest(), key)
        self.jobs.put(ticket(uid, heads=(ref,)))

    def turn(self, times: int = 2) -> list[str]:
        """Two: a batch is begun in the first, and answered in the next."""
        for _ in range(times):
            self.loop.run(self.api, "cpu", 0, self.jobs.exchange, self.jobs.exchange, {}, None)
            self.sent += self.jobs.answered()
        return list(self.sent)


class Noted:
    """A pass of a backbone that tells what it is asked for."""

    def __init__(self, events: list[str], rows: int) -> None:
        self._events, self._rows = events, rows
        events.append(f"begin {rows}")

    def wait_for_room(self) -> None:
        self._events.append(f"room after {self._rows}")

    def outputs(self) -> dict[str, np.ndarray]:
        self._events.append(f"end {self._rows}")
        return {"embedding": np.zeros((self._rows, 3), np.float32)}


def test_a_batch_begins_when_the_last_one_leaves_room_and_not_when_it_is_answered(tmp_path):
    worker, events = Worker(tmp_path, patience_s=30), list[str]()
    worker.api.trunk = Trunk(lambda pixels, _: Noted(events, len(pixels)), frozenset({"embedding"}))
    for images in (4, 3):
        worker.jobs.put(ticket(str(images), images))
    assert worker.turn(3) == ["4", "3"]
    assert events == ["begin 4", "room after 4", "begin 3", "end 4", "room after 3", "end 3"]


def test_a_device_that_holds_up_its_caller_does_not_hold_up_the_last_batchs_answers(tmp_path):
    worker, events = Worker(tmp_path, patience_s=30), list[str]()

    def run(rows: int) -> dict[str, np.ndarray]:
        events.append(f"run {rows}, answered {worker.jobs.answered()}")
        return {"embedding": np.zeros((rows, 3), np.float32)}

    worker.api.trunk = Trunk(lambda pixels, _: Deferred(partial(run, len(pixels))), frozenset({"embedding"}))
    for images in (4, 3):
        worker.jobs.put(ticket(str(images), images))
    for _ in range(3):
        worker.loop.run(worker.api, "cpu", 0, worker.jobs.exchange, worker.jobs.exchange, {}, None)
    assert events == ["run 4, answered []", "run 3, answered ['4']"]
    assert worker.jobs.answered() == ["3"]


@pytest.mark.parametrize("when", ["begin", "end"])
def test_a_worker_whose_device_is_lost_ends_and_leaves_its_jobs_to_the_next(tmp_path, when):
    worker = Worker(tmp_path, patience_s=30)

    def lose() -> dict[str, np.ndarray]:
        raise DeviceLost("backbone none: CUDA error: unspecified launch failure")

    worker.api.trunk = Trunk(
        lambda *_: lose() if when == "begin" else Deferred(lose), frozenset({"embedding"})
    )
    worker.jobs.put(ticket("first"))
    with pytest.raises(SystemExit):
        worker.turn()
    assert worker.sent == []


def test_no_answer_waits_for_a_batch_to_fill_behind_it(tmp_path):
    worker = Worker(tmp_path, patience_s=30)
    worker.ask("warm", "first")
    worker.turn(1)
    started = time.monotonic()
    assert worker.turn(1) == ["first"]
    assert time.monotonic() - started < IDLE_S / 2


def test_a_cold_head_holds_up_none_but_its_own_job_which_needs_no_second_pass(tmp_path):
    worker = Worker(tmp_path, patience_s=30)
    for uid in ("cold", "warm"):
        worker.ask(uid, uid)
    assert worker.turn() == ["warm"]
    worker.ask("warm", "next")
    assert worker.turn() == ["warm", "next"]
    worker.came.set()
    end = time.monotonic() + 20
    while "cold" not in worker.turn() and time.monotonic() < end:
        pass
    assert worker.sent == ["warm", "next", "cold"]
    assert worker.passes == [2, 1]


def test_a_head_that_never_comes_is_given_up_after_a_while(tmp_path):
    worker = Worker(tmp_path, patience_s=0.2)
    worker.ask("cold", "cold")
    try:
        assert worker.turn() == []
        end = time.monotonic() + 20
        while not worker.turn() and time.monotonic() < end:
            pass
        assert worker.sent == ["cold"]
    finally:
        worker.came.set()


def test_a_late_job_whose_deadline_passes_is_dropped(tmp_path):
    worker = Worker(tmp_path, patience_s=30)
    worker.ask("cold", "cold")
    try:
        worker.turn()
        (late,) = worker.loop._late
        worker.loop._late = [replace(late, job=replace(late.job, deadline=time.monotonic()))]
        assert worker.turn(2) == []
        assert worker.loop._late == []
    finally:
        worker.came.set()
