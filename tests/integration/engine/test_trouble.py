"""Workers that hang or are killed, queues that are full: every request still ends, and the server goes on.

A worker is stopped with SIGSTOP where a test needs it to hold jobs without answering.
"""

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from tests.servers import Server, serving

IMAGE = bytes(range(256)) * 12  # (1, 32, 32, 3)


@pytest.fixture(scope="module")
def patient(command, tmp_path_factory) -> Iterator[Server]:
    """A server whose requests outlive a worker's restart, and which holds four images."""
    folder = tmp_path_factory.mktemp("patient")
    with serving(folder, command=command, max_queued_images="4", request_deadline_s="25") as started:
        yield started


@pytest.fixture(scope="module")
def hasty(command, tmp_path_factory) -> Iterator[Server]:
    """A server whose requests end after a second."""
    folder = tmp_path_factory.mktemp("hasty")
    with serving(folder, command=command, request_deadline_s="1") as started:
        yield started


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as opened:
        yield opened


def submit(server: Server, images: int = 1) -> httpx.Response:
    with server.client() as client:
        return client.post("/submit", content=IMAGE * images)


def metric(server: Server, name: str) -> float:
    with server.client() as client:
        found = re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_until_held(server: Server, images: int) -> None:
    end = time.monotonic() + 10
    while metric_of_gauge(server) != images and time.monotonic() < end:
        time.sleep(0.02)


def metric_of_gauge(server: Server) -> float:
    return metric(server, "polyhead_queued_images")


def held_by(server: Server, pool: ThreadPoolExecutor, images: int) -> "list[Future[httpx.Response]]":
    """Stop the worker and leave it with this many requests of one image."""
    os.kill(server.pid_of("polyhead-worker"), signal.SIGSTOP)
    waiting = [pool.submit(submit, server) for _ in range(images)]
    wait_until_held(server, images)
    return waiting


def test_beyond_the_bound_requests_are_refused_at_once_and_those_within_are_answered(patient, pool):
    worker = patient.pid_of("polyhead-worker")
    waiting = held_by(patient, pool, 4)
    try:
        started = time.monotonic()
        assert submit(patient).status_code == 429
        assert time.monotonic() - started < 5
    finally:
        os.kill(worker, signal.SIGCONT)
    assert [each.result().status_code for each in waiting] == [200] * 4
    assert metric(patient, "polyhead_rejections_total") == 1


def test_a_lone_request_may_be_larger_than_the_bound(patient):
    assert submit(patient, images=6).status_code == 200


def test_what_waits_for_a_killed_worker_is_answered_by_the_next_one(patient, pool):
    worker = patient.pid_of("polyhead-worker")
    waiting = held_by(patient, pool, 3)
    os.kill(worker, signal.SIGKILL)
    assert [each.result().status_code for each in waiting] == [200] * 3
    assert patient.pid_of("polyhead-worker") != worker


def test_a_worker_that_is_killed_while_it_waits_swallows_no_job(patient, pool):
    os.kill(patient.pid_of("polyhead-worker"), signal.SIGKILL)
    waiting = [pool.submit(submit, patient) for _ in range(3)]
    assert [each.result().status_code for each in waiting] == [200] * 3


def test_a_server_whose_worker_is_being_replaced_is_alive(patient):
    worker = patient.pid_of("polyhead-worker")
    os.kill(worker, signal.SIGKILL)
    with patient.client() as client:
        assert client.get("/alive").json()["alive"] is True
    patient.wait_for("polyhead-worker", other_than=worker)
    assert submit(patient).status_code == 200


def test_an_api_process_that_was_killed_is_replaced(patient):
    killed = patient.pid_of("polyhead-api-0")
    os.kill(killed, signal.SIGKILL)
    patient.wait_for("polyhead-api-0", other_than=killed)
    assert submit(patient).status_code == 200


def test_requests_of_a_hung_worker_end_at_their_deadline_and_the_worker_is_replaced(hasty, pool):
    worker = hasty.pid_of("polyhead-worker")
    os.kill(worker, signal.SIGSTOP)
    started = time.monotonic()
    # They lie there for the next worker to drop.
    for response in pool.map(lambda _: submit(hasty), range(4)):
        assert (response.status_code, response.text) == (504, "no answer within 1 seconds")
    assert time.monotonic() - started < 5
    hasty.wait_for("polyhead-worker", other_than=worker)
    end = time.monotonic() + 20
    while submit(hasty).status_code != 200:
        assert time.monotonic() < end
    assert metric(hasty, "polyhead_expired_jobs_total") >= 1
