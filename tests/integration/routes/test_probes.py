"""Probes: alive, ready, degraded."""

import shutil

import pytest


@pytest.fixture
def fresh(open_service, tmp_path):
    with open_service(tmp_path / "data") as service:
        yield service


def test_it_is_alive_and_ready(client):
    assert client.get("/livez").json() == {"status": "ok", "degraded": []}
    assert client.get("/readyz").json() == {"status": "ok", "degraded": []}


def test_without_a_worker_it_is_neither(fresh):
    fresh.engine.is_alive = False
    for path in ("/livez", "/readyz"):
        answer = fresh.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")


def test_about_to_stop_it_is_alive_and_not_ready(fresh):
    fresh.engine.stopping = True
    assert fresh.client.get("/livez").status_code == 200
    assert fresh.client.get("/readyz").status_code == 503


def take_away(service):
    service.store.close()
    shutil.move(service.settings.data_dir, service.settings.data_dir.with_name("elsewhere"))


def test_a_store_that_was_never_reached_is_not_ready(fresh):
    take_away(fresh)
    answer = fresh.client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")


def test_a_store_that_only_requests_have_reached_is_degraded_too(fresh):
    """The first probe may come after it went away; this process has answered by then."""
    assert fresh.client.get("/v1/tasks").status_code == 200
    take_away(fresh)
    answer = fresh.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "degraded", "degraded": ["store"]})


def test_a_store_that_was_reached_once_is_only_degraded(fresh):
    assert fresh.client.get("/readyz").json()["status"] == "ok"
    take_away(fresh)
    fresh.client.app.state.parts.reach._asked_at -= 10
    answer = fresh.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "degraded", "degraded": ["store"]})
