"""`Idempotency-Key`: sent again, answered again, done once."""

import threading

import pytest

from service.errors import Overloaded
from tests.integration.routes.photos import data_uri, files, photo


def key(request):
    """A key that no other test has, as a header."""
    return {"Idempotency-Key": request.node.name[:200]}


def test_a_repetition_gets_the_first_answer(client, task, request):
    where, body = f"/v1/tasks/{task}/aliases/x", {"version": 1}
    first = client.put(where, json=body, headers=key(request))
    again = client.put(where, json=body, headers=key(request))
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]


def test_a_task_is_registered_once(client, request):
    body = {"name": "once", "kind": "multiclass"}
    first = client.post("/v1/tasks", json=body, headers=key(request))
    again = client.post("/v1/tasks", json=body, headers=key(request))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Location"] == "/v1/tasks/once"
    assert again.headers["ETag"] == first.headers["ETag"]


def test_a_form_is_the_same_form_with_another_boundary(client, task, request):
    def send():
        return client.post(
            f"/v1/tasks/{task}/examples",
            files=files(photo("red", 0)),
            data={"label": "red"},
            headers=key(request),
        )

    first, again = send(), send()
    assert first.request.headers["Content-Type"] != again.request.headers["Content-Type"]
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"


def test_another_body_is_refused(client, request):
    client.post("/v1/tasks", json={"name": "one-body", "kind": "multiclass"}, headers=key(request))
    answer = client.post(
        "/v1/tasks", json={"name": "another-body", "kind": "multiclass"}, headers=key(request)
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert client.get("/v1/tasks/another-body").status_code == 404


@pytest.mark.parametrize("other", ["path", "method", "query"])
def test_another_request_is_refused(client, task, request, other):
    client.post(f"/v1/tasks/{task}/runs", json={}, headers=key(request))
    method, path = "POST", f"/v1/tasks/{task}/runs"
    if other == "path":
        path = f"/v1/tasks/{task}/predict"
    elif other == "method":
        method = "PATCH"
    else:
        path += "?x=1"
    answer = client.request(method, path, json={}, headers=key(request))
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("bad", ["", " ", "a b", "x" * 256])
def test_a_key_that_is_none_is_refused(client, bad):
    answer = client.post(
        "/v1/tasks", json={"name": "keyless", "kind": "multiclass"}, headers={"Idempotency-Key": bad}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert client.get("/v1/tasks/keyless").status_code == 404


def test_a_refusal_for_want_of_room_is_not_kept(client, service, trained, request):
    body = {"input": data_uri(photo("red", 0))}
    service.engine.fails_with = Overloaded()
    try:
        first = client.post(f"/v1/tasks/{trained}/predict", json=body, headers=key(request))
    finally:
        service.engine.fails_with = None
    assert first.status_code == 429
    assert client.post(f"/v1/tasks/{trained}/predict", json=body, headers=key(request)).status_code == 200


def test_a_server_error_is_not_kept(client, service, trained, request):
    body = {"input": data_uri(photo("red", 0))}
    service.engine.fails_with = RuntimeError("a mistake of ours")
    try:
        first = client.post(f"/v1/tasks/{trained}/predict", json=body, headers=key(request))
    finally:
        service.engine.fails_with = None
    assert first.status_code == 500
    assert client.post(f"/v1/tasks/{trained}/predict", json=body, headers=key(request)).status_code == 200


def test_a_key_in_use_has_to_wait(client, service, taught, request):
    """The first request is held by `Prefer`, so the second finds its key in use."""
    answers = []

    def first():
        headers = key(request) | {"Prefer": "wait=2"}
        answers.append(client.post(f"/v1/tasks/{taught}/runs", json={}, headers=headers))

    thread = threading.Thread(target=first)
    thread.start()
    while not client.get(f"/v1/tasks/{taught}").json()["active_run"]:
        pass
    again = client.post(f"/v1/tasks/{taught}/runs", json={}, headers=key(request))
    assert (again.status_code, again.json()["code"]) == (409, "request_in_progress")
    assert again.headers["Retry-After"] == "1"
    client.post(f"/v1/runs/{client.get(f'/v1/tasks/{taught}').json()['active_run']}/cancel")
    thread.join()
    assert answers[0].json()["state"] == "cancelled"


def test_a_deletion_without_a_body_can_be_repeated(client, task, request):
    assert client.delete(f"/v1/tasks/{task}", headers=key(request)).status_code == 204
    assert client.delete(f"/v1/tasks/{task}", headers=key(request)).status_code == 204
    assert client.delete(f"/v1/tasks/{task}").status_code == 404


def test_a_large_answer_is_not_kept(client, service, request, open_service, tmp_path):
    """4,000 embeddings of 16 numbers in JSON are above a mebibyte."""
    pixel = data_uri(photo("red", 0, size=8))
    with open_service(tmp_path, max_images_per_request=5000) as roomy:
        body = {"input": [pixel] * 4000}
        answers = [roomy.client.post("/v1/embeddings", json=body, headers=key(request)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(answers[0].content) > 2**20
    assert "Idempotent-Replayed" not in answers[1].headers
    assert answers[0].json() == answers[1].json()
