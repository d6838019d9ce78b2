"""The same routes in a real `polyhead serve`: forked API process, inference worker, trainer."""

import http.client
import json
import os
import signal
import socket
import time

import httpx
import pytest

from tests.integration.routes.photos import data_uri, files, photo
from tests.servers import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory, cache_dir):
    settings = {"cache_dir": str(cache_dir), "max_archive_bytes": str(2**20)}
    with serving(tmp_path_factory.mktemp("server"), **settings) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def trained(client):
    """A task taught and trained over HTTP alone."""
    assert client.post("/v1/tasks", json={"name": "colours", "kind": "multiclass"}).status_code == 201
    for label in ("red", "blue"):
        images = files(*(photo(label, number) for number in range(4)))
        answer = client.post("/v1/tasks/colours/examples", files=images, data={"label": label})
        assert answer.status_code == 201, answer.text
    answer = client.post("/v1/tasks/colours/runs", json={}, headers={"Prefer": "wait=60"})
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded"), answer.text
    return "colours"


def test_a_photo_is_classified(client, trained):
    answer = client.post(f"/v1/tasks/{trained}/predict", files=files(photo("red", 9), photo("blue", 9)))
    assert [each["label"] for each in answer.json()["predictions"]] == ["red", "blue"]
    assert answer.headers["X-Head-Version"] == "1"


def test_many_tasks_are_asked_at_once(client, trained):
    body = {"tasks": [trained, f"{trained}@1", "nobody"], "input": [data_uri(photo("red", 9)), "QUJD"]}
    answer = client.post("/v1/predict", json=body)
    assert answer.status_code == 207
    first, second, third = answer.json()["results"]
    assert first["predictions"] == second["predictions"]
    assert third["error"]["code"] == "unknown_task"


def test_embeddings_agree_with_openais_client_shape(client):
    answer = client.post("/v1/embeddings", json={"input": [data_uri(photo("red", n)) for n in range(20)]})
    assert [each["index"] for each in answer.json()["data"]] == list(range(20))


def test_a_run_is_followed_live(client, trained):
    run = client.post(f"/v1/tasks/{trained}/runs", json={"force": True}).json()["id"]
    with client.stream("GET", f"/v1/runs/{run}/events") as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    states = [json.loads(line[6:]).get("state") for line in lines]
    assert states[0] == "queued"
    assert states[-1] == "succeeded"


def test_it_is_alive_ready_and_counts(client, trained):
    assert client.get("/livez").json()["status"] == "ok"
    assert client.get("/readyz").json()["status"] == "ok"
    assert "polyhead_backbone_images_total" in client.get("/metrics").text


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/v1/embeddings", "image/jpeg"),
        ("/v1/tasks/{}/examples", "application/json"),
    ],
)
def test_a_body_over_the_limit_is_answered_and_the_connection_survives(
    client, trained, path, content_type, chunked
):
    """Clients that are still sending must get to read the answer."""
    body = b"A" * (70 * 2**20)

    def chunks():
        for start in range(0, len(body), 2**16):
            yield body[start : start + 2**16]

    answer = client.post(
        path.format(trained), content=chunks() if chunked else body, headers={"Content-Type": content_type}
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert client.get("/livez").status_code == 200


def test_an_early_answer_reaches_a_client_that_is_still_sending(client):
    answer = client.post("/v1/tasks/nobody/examples", files=files(os.urandom(40 * 2**20)))
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_task")


def status_on(connection: socket.socket) -> int:
    """Of the answer that comes next, read to its end."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def test_a_full_server_refuses_before_it_reads_and_the_connection_survives(tmp_path, cache_dir):
    body = photo("red", 1)
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: here\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with serving(tmp_path, cache_dir=str(cache_dir), max_queued_images="1") as server:
        worker = server.pid_of("polyhead-worker")
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with socket.create_connection(address, 20) as waiting, socket.create_connection(address, 20) as late:
            os.kill(worker, signal.SIGSTOP)
            try:
                waiting.sendall(head.encode() + body)
                with server.client() as client:
                    for _ in range(500):
                        if "polyhead_queued_images 1.0" in client.get("/metrics").text:
                            break
                        time.sleep(0.02)
                late.sendall(head.encode())
                assert status_on(late) == 429
            finally:
                os.kill(worker, signal.SIGCONT)
            assert status_on(waiting) == 200
            late.sendall(body + head.encode() + body)
            assert status_on(late) == 200


def test_a_broken_off_upload_changes_nothing(server, client, trained):
    before = client.get(f"/v1/tasks/{trained}").json()

    def broken():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + photo(
            "red", 55
        )
        raise ConnectionError

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with httpx.Client(base_url=server.url) as other, pytest.raises(ConnectionError):
        other.post(f"/v1/tasks/{trained}/examples", content=broken(), headers=headers)
    assert client.get(f"/v1/tasks/{trained}").json() == before
    assert "a request failed" not in server.log.read_text()


def test_an_endless_header_is_the_end_of_its_connection(server, client):
    with httpx.Client(base_url=server.url) as other:
        try:
            status = other.get("/livez", headers={"X-Long": "a" * 10**6}).status_code
        except httpx.TransportError:  # reset while it was still being sent
            status = 431
    assert status == 431
    assert client.get("/livez", headers={"X-Long": "a" * 50_000}).status_code == 200
