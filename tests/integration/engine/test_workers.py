"""Several workers of one server: they share the jobs, and none waits for another that is gone.

Two of the CPU stand for those of several devices.
"""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers import Server, serving

IMAGE = bytes(range(256)) * 12  # (1, 32, 32, 3)
WORKER = "polyhead-worker"
DEADLINE_S = 10  # of a request: a worker can be started meanwhile, also on a busy machine


@pytest.fixture(scope="module")
def server(command, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("workers")
    settings = {"workers_per_device": "2", "api_processes": "2", "request_deadline_s": str(DEADLINE_S)}
    with serving(folder, command=command, **settings) as started:
        yield started


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as opened:
        yield opened


def workers(server: Server) -> list[int]:
    return sorted(pid for pid, comm in server.processes().items() if comm == WORKER)


def wait_for_two(server: Server, *, without: int) -> None:
    """Until another is there in its place."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if len(workers(server)) == 2 and without not in workers(server):
            return
        time.sleep(0.05)
    raise AssertionError(f"the workers are {workers(server)}\n{server.tail()}")


def submit(server: Server, images: int = 1) -> int:
    with server.client() as client:
        return client.post("/submit", content=IMAGE * images).status_code


@pytest.mark.parametrize("which", [0, 1])
def test_while_one_stands_still_the_other_answers(server, pool, which):
    stopped = workers(server)[which]
    os.kill(stopped, signal.SIGSTOP)
    try:
        started = time.monotonic()
        assert list(pool.map(lambda _: submit(server), range(40))) == [200] * 40
        assert time.monotonic() - started < DEADLINE_S
        with server.client() as client:
            assert client.get("/alive").json()["alive"] is True
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_what_a_killed_one_had_is_answered_by_the_other(server, pool):
    """It holds jobs when it dies: it is stopped while both take them."""
    killed, left = workers(server)
    for pid in (killed, left):
        os.kill(pid, signal.SIGSTOP)
    waiting = [pool.submit(submit, server) for _ in range(16)]
    time.sleep(0.2)
    os.kill(killed, signal.SIGCONT)
    os.kill(killed, signal.SIGKILL)
    os.kill(left, signal.SIGCONT)
    assert [each.result() for each in waiting] == [200] * 16
    wait_for_two(server, without=killed)


def test_killing_one_after_another_under_load_loses_no_request(server, pool):
    answers = [pool.submit(submit, server, 3) for _ in range(200)]
    for _ in range(2):
        killed = workers(server)[0]
        os.kill(killed, signal.SIGKILL)
        wait_for_two(server, without=killed)
    assert [each.result() for each in answers] == [200] * 200


def test_one_that_hangs_is_replaced_although_the_other_works(server, pool):
    hung, _ = workers(server)
    os.kill(hung, signal.SIGSTOP)
    end = time.monotonic() + 5 * DEADLINE_S
    while hung in workers(server):
        assert submit(server) == 200
        assert time.monotonic() < end
        time.sleep(0.1)
    wait_for_two(server, without=hung)
    assert "a worker hangs" in server.tail(100_000)
