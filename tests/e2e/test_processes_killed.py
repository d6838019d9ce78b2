"""Any process but the main one is killed with -9, under load: the server answers again, and nothing hangs."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.load import Load, embed, png
from tests.servers import Server, serving

DEADLINE_S = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("killed"), request_deadline_s=str(DEADLINE_S)) as started:
        yield started


def answers_again(server: Server, *, within_s: float) -> float:
    """Seconds until a request was answered."""
    started = time.monotonic()
    while time.monotonic() - started < within_s:
        with server.client() as client:
            if embed(client, png()).status_code == 200:
                break
    return time.monotonic() - started


def cpu_seconds(server: Server) -> float:
    """Of all processes of the server so far."""
    total = 0
    for pid in server.processes():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        total += int(fields[11]) + int(fields[12])  # user and system, in ticks
    return total / os.sysconf("SC_CLK_TCK")


def test_an_idle_server_uses_next_to_no_cpu(server):
    """The stock batching loop polls: it takes 43% of a core, twice."""
    share = 1.0
    end = time.monotonic() + 60  # the trainer imports for a while
    while share > 0.1 and time.monotonic() < end:
        before = cpu_seconds(server)
        time.sleep(2)
        share = (cpu_seconds(server) - before) / 2
    assert share <= 0.1


def test_requests_outlive_the_worker(server):
    worker = server.pid_of("polyhead-worker")
    with Load(server) as load:
        time.sleep(1)
        os.kill(worker, signal.SIGKILL)
        server.wait_for("polyhead-worker", other_than=worker)
        assert answers_again(server, within_s=DEADLINE_S) < DEADLINE_S
        time.sleep(1)
    assert set(load.endings()) == {"200"}
    assert load.longest_s() < DEADLINE_S


def test_an_api_process_takes_only_its_own_requests_with_it(server):
    killed = server.pid_of("polyhead-api-0")
    with Load(server) as load:
        time.sleep(1)
        os.kill(killed, signal.SIGKILL)
        killed_at = time.monotonic()
        server.wait_for("polyhead-api-0", other_than=killed)
        assert answers_again(server, within_s=DEADLINE_S) < DEADLINE_S
        time.sleep(1)
    lost = [each for each in load.requests if each.how != "200"]
    assert all(each.sent_at < killed_at + 0.1 for each in lost)
    assert len(lost) <= load.clients
    assert load.longest_s() < DEADLINE_S


def test_a_trainer_comes_back(server):
    killed = server.pid_of("polyhead-train")
    os.kill(killed, signal.SIGKILL)
    assert server.wait_for("polyhead-train", other_than=killed) != killed
