"""Runs followed live, and resumed."""

import json
import threading
import time

import pytest


def read(client, run, **headers):
    """The events of a stream until it ends: (id, event, data)."""
    with client.stream("GET", f"/v1/runs/{run}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        text = "".join(answer.iter_text())
    events = []
    for block in text.split("\n\n"):
        said = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if said:
            events.append((int(said["id"]), said["event"], json.loads(said["data"])))
    return events


@pytest.fixture
def ended(client, trained):
    return client.get(f"/v1/tasks/{trained}/runs").json()["data"][0]["id"]


def test_a_run_is_followed_to_its_end(client, service, taught):
    run = client.post(f"/v1/tasks/{taught}/runs", json={}).json()["id"]

    def train():
        claimed = service.store.runs.claim(60, 3)
        service.store.runs.heartbeat(claimed.id, claimed.attempt, 60, {"phase": "fitting"})
        time.sleep(0.5)
        service.store.runs.finish(claimed.id, claimed.attempt, "cancelled")

    trainer = threading.Timer(0.3, train)
    trainer.start()
    events = read(client, run)
    trainer.join()
    assert [id_ for id_, _, _ in events] == list(range(1, len(events) + 1))
    said = [(event, data.get("state") or data.get("phase")) for _, event, data in events]
    assert said == [
        ("state", "queued"),
        ("state", "running"),
        ("progress", "fitting"),
        ("state", "cancelled"),
    ]


def test_a_stream_resumes_after_the_last_event_that_was_seen(client, ended):
    events = read(client, ended)
    assert read(client, ended, **{"Last-Event-ID": "2"}) == events[2:]


def test_a_reconnect_after_the_end_gets_204(client, ended):
    last = read(client, ended)[-1][0]
    answer = client.get(f"/v1/runs/{ended}/events", headers={"Last-Event-ID": str(last)})
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("nonsense", ["x", "-1", "9" * 30, "²"])
def test_an_id_that_was_never_given_out_starts_over(client, ended, nonsense):
    assert read(client, ended, **{"Last-Event-ID": nonsense.encode()})[0][0] == 1


def test_a_stream_ends_when_the_task_is_deleted(client, service, taught):
    run = client.post(f"/v1/tasks/{taught}/runs", json={}).json()["id"]
    deletion = threading.Timer(0.5, client.delete, [f"/v1/tasks/{taught}"])
    deletion.start()
    events = read(client, run)
    deletion.join()
    assert [event for _, event, _ in events] == ["state"]


def test_a_stream_ends_when_the_server_is_about_to_stop(client, service, taught):
    run = client.post(f"/v1/tasks/{taught}/runs", json={}).json()["id"]

    def stop():
        service.engine.stopping = True

    threading.Timer(0.5, stop).start()
    try:
        read(client, run)
    finally:
        service.engine.stopping = False
    client.post(f"/v1/runs/{run}/cancel")
