"""SIGTERM lets what is in work finish; a main process killed with -9 leaves nothing; data outlives both."""

import io
import os
import signal
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.e2e.load import Load, embed, png
from tests.servers import Server, serving

REFUSED = {"ConnectError", "ReadError", "RemoteProtocolError"}  # before the request was taken


def test_sigterm_answers_what_is_in_flight_and_a_restart_goes_on_with_what_was_accepted(tmp_path):
    """One long test, because a start takes seconds. No trainer at first, so that a run stays queued."""
    with serving(tmp_path, trainers="0") as server:
        run = upload_archive(server)
        worker = server.pid_of("polyhead-worker")
        with Load(server) as load, ThreadPoolExecutor(9) as pool:
            events = pool.submit(follow, server, run)
            time.sleep(1)
            os.kill(worker, signal.SIGSTOP)  # these are in flight beyond doubt
            waiting = [pool.submit(ask, server) for _ in range(8)]
            time.sleep(1)
            server.process.send_signal(signal.SIGTERM)
            stopped_at = time.monotonic()
            time.sleep(0.5)
            os.kill(worker, signal.SIGCONT)
            code = server.process.wait(30)
            took_s = time.monotonic() - stopped_at
            assert [each.result() for each in waiting] == [200] * 8
            assert "event: state" in events.result()
        assert code == 0, server.tail()
        assert took_s < 15  # a stream that is open for as long as its run must not use up the drain
        assert not server.remaining()
        assert {each.how for each in load.requests if each.sent_at < stopped_at - 0.5} == {"200"}
        assert set(load.endings()) <= {"200", *REFUSED}

    with serving(tmp_path) as again:
        with again.client(timeout=90) as client:
            ended = client.get(f"/v1/runs/{run}", headers={"Prefer": "wait=60"}).json()
            assert ended["state"] == "succeeded", ended
            assert len(client.get("/v1/tasks/kept/examples").json()["data"]) == 1
            assert embed(client, png()).status_code == 200
        again.process.kill()
        assert not again.remaining()


def upload_archive(server: Server) -> str:
    """Register a task and queue the import of an archive with one photo; returns the run's id."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("noise/one.png", png())
    with server.client() as client:
        created = client.post("/v1/tasks", json={"name": "kept", "kind": "multiclass"})
        assert created.status_code == 201, created.text
        files = {"archive": ("one.zip", archive.getvalue(), "application/zip")}
        accepted = client.post("/v1/tasks/kept/examples", files=files)
        assert accepted.status_code == 202, accepted.text
        run: str = accepted.json()["id"]
        return run


def follow(server: Server, run: str) -> str:
    """All that a run's event stream says until the server ends it."""
    with server.client(timeout=60) as client:
        return client.get(f"/v1/runs/{run}/events").text


def ask(server: Server) -> int:
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=server.url, timeout=60, limits=limits) as client:
        return embed(client, png(1)).status_code
