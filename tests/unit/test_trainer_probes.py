"""A lone trainer answers whether it is alive, from what its main loop does, and its metrics."""

import time

import httpx
import pytest

from service.processes.listener import CannotListen
from service.processes.trainer_probes import Stop, answer_probes
from tests.servers import free_port


@pytest.fixture
def probed():
    """Answers for a trainer that hangs after half a second; its address and its stop event."""
    stop, port = Stop(), free_port()
    server = answer_probes("127.0.0.1", port, stop, hung_s=0.5)
    yield f"http://127.0.0.1:{port}", stop
    server.shutdown()
    server.server_close()


def test_a_trainer_that_looks_up_is_alive_and_one_that_does_not_hangs(probed):
    url, stop = probed
    stop.is_set()
    assert httpx.get(f"{url}/livez").status_code == 200
    time.sleep(0.6)
    assert httpx.get(f"{url}/livez").status_code == 503
    stop.is_set()
    assert httpx.get(f"{url}/livez").status_code == 200


def test_waiting_for_the_stop_is_no_sign_of_life(probed):
    """Threads beside the main loop wait for it, and would do so while that hangs."""
    url, stop = probed
    assert not stop.wait(0.6)
    assert httpx.get(f"{url}/livez").status_code == 503


def test_metrics_are_there_and_nothing_else(probed):
    url, _ = probed
    metrics = httpx.get(f"{url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE polyhead_trainer_runs_total counter" in metrics.text
    assert httpx.get(f"{url}/v1/tasks").status_code == 404


def test_a_port_in_use_is_said(probed):
    url, stop = probed
    with pytest.raises(CannotListen):
        answer_probes("127.0.0.1", int(url.rpartition(":")[2]), stop)
