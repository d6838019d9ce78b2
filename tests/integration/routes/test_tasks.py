"""Tasks: registered, listed, changed, deleted."""

import time

import pytest

from service.store.keys import task_prefix
from service.store.sweeping import sweep


def test_a_task_is_registered(client):
    answer = client.post("/v1/tasks", json={"name": "chairs", "kind": "multiclass", "classes": ["a", "b"]})
    assert answer.status_code == 201
    assert answer.headers["Location"] == "/v1/tasks/chairs"
    body = answer.json()
    assert body["classes"] == ["a", "b"]
    assert body["closed"] is True
    assert body["needs_training"] is False
    assert body["created_at"].endswith("Z")
    assert client.get("/v1/tasks/chairs").json() == body


def test_a_name_is_taken_once(client, task):
    answer = client.post("/v1/tasks", json={"name": task, "kind": "regression"})
    assert (answer.status_code, answer.json()["code"]) == (409, "task_exists")


@pytest.mark.parametrize(
    "name", ["", "A", "-a", "a_b", "a" * 64, "käse", "a/b", "a\n"],
    ids=["empty", "capital", "dash first", "underscore", "64 characters", "umlaut", "slash", "line end"],
)  # fmt: skip
def test_a_bad_name_is_refused(client, name):
    answer = client.post("/v1/tasks", json={"name": name, "kind": "multiclass"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/name"


def test_a_name_of_63_characters_is_fine(client):
    assert client.post("/v1/tasks", json={"name": "a" * 63, "kind": "multiclass"}).status_code == 201


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"kind": "multiclass"}, "/name"),
        ({"name": "x", "kind": "ranking"}, "/kind"),
        ({"name": "x", "kind": "multiclass", "classes": "a"}, "/classes"),
        ({"name": "x", "kind": "multiclass", "classes": ["a", ""]}, "/classes/1"),
        ({"name": "x", "kind": "multiclass", "classes": ["a", " "]}, "/classes/1"),
        ({"name": "x", "kind": "multiclass", "classes": ["a" * 129]}, "/classes/0"),
        ({"name": "x", "kind": "multiclass", "classes": []}, "/classes"),
        ({"name": "x", "kind": "multiclass", "classes": ["a", "a"]}, "/classes"),
        ({"name": "x", "kind": "regression", "classes": ["a"]}, "/classes"),
        ({"name": "x", "kind": "multiclass", "colour": 1}, "/colour"),
        ([], ""),
    ],
)
def test_a_bad_body_is_refused_with_a_pointer(client, body, pointer):
    answer = client.post("/v1/tasks", json=body)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_lists_are_pages_newest_first(client, new_task):
    names = [new_task() for _ in range(3)]
    first = client.get("/v1/tasks", params={"limit": 2}).json()
    assert [task["name"] for task in first["data"]] == [names[2], names[1]]
    assert first["has_more"] is True
    second = client.get("/v1/tasks", params={"limit": 1, "after": first["next"]}).json()
    assert [task["name"] for task in second["data"]] == [names[0]]


@pytest.mark.parametrize("limit", ["0", "501", "many"])
def test_a_limit_out_of_bounds_is_refused(client, limit):
    answer = client.get("/v1/tasks", params={"limit": limit})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "limit"


def test_a_task_is_changed(client, new_task):
    task = new_task(classes=["stool"])
    answer = client.patch(
        f"/v1/tasks/{task}",
        json={"description": "of oak", "add_classes": ["bench"], "rename_classes": {"stool": "bar stool"}},
    )
    assert answer.status_code == 200
    assert answer.json()["classes"] == ["bar stool", "bench"]
    assert answer.json()["description"] == "of oak"


def test_a_class_with_examples_stays(client, taught):
    answer = client.patch(f"/v1/tasks/{taught}", json={"remove_classes": ["red"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "class_in_use")


def test_an_etag_changes_with_the_task(client, task):
    first = client.get(f"/v1/tasks/{task}").headers["ETag"]
    second = client.patch(f"/v1/tasks/{task}", json={"description": "new"}).headers["ETag"]
    assert first != second
    assert client.get(f"/v1/tasks/{task}").headers["ETag"] == second


def test_a_stale_etag_changes_nothing(client, task):
    stale = client.get(f"/v1/tasks/{task}").headers["ETag"]
    before = client.patch(f"/v1/tasks/{task}", json={"description": "mine"}).json()
    for answer in (
        client.patch(f"/v1/tasks/{task}", json={"description": "yours"}, headers={"If-Match": stale}),
        client.delete(f"/v1/tasks/{task}", headers={"If-Match": stale}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (412, "stale_etag")
    assert client.get(f"/v1/tasks/{task}").json() == before


def test_a_current_etag_or_a_star_lets_changes_through(client, task):
    current = client.get(f"/v1/tasks/{task}").headers["ETag"]
    for matching in (f'"other", {current}', "*"):
        answer = client.patch(
            f"/v1/tasks/{task}", json={"description": matching}, headers={"If-Match": matching}
        )
        assert answer.status_code == 200


def test_a_weak_etag_never_matches(client, task):
    current = client.get(f"/v1/tasks/{task}").headers["ETag"]
    answer = client.delete(f"/v1/tasks/{task}", headers={"If-Match": f"W/{current}"})
    assert answer.status_code == 412


def test_a_task_that_is_held_already_is_not_sent_again(client, task):
    current = client.get(f"/v1/tasks/{task}").headers["ETag"]
    answer = client.get(f"/v1/tasks/{task}", headers={"If-None-Match": current})
    assert (answer.status_code, answer.content) == (304, b"")


def test_a_deleted_task_is_gone_and_its_images_after_the_grace_time(client, service, trained):
    known = service.store.tasks.get("default", trained)
    folder = service.settings.data_dir / "blobs" / task_prefix("default", known.id)
    assert folder.exists()
    assert client.delete(f"/v1/tasks/{trained}").status_code == 204
    assert client.get(f"/v1/tasks/{trained}").status_code == 404
    assert client.post(f"/v1/tasks/{trained}/predict", json={"input": "QUJD"}).status_code == 404
    assert folder.exists()
    for days in (0, 2):
        sweep(service.store.database, service.store.blobs, grace_s=86_400, now=time.time() + days * 86_400)
    assert not folder.exists()


def test_a_name_may_be_used_again_after_a_deletion(client, taught):
    client.delete(f"/v1/tasks/{taught}")
    answer = client.post("/v1/tasks", json={"name": taught, "kind": "regression"})
    assert (answer.status_code, answer.json()["examples"]) == (201, 0)


def test_a_task_that_is_being_trained_can_be_deleted(client, service, taught):
    run = client.post(f"/v1/tasks/{taught}/runs", json={}).json()
    claimed = service.store.runs.claim(60, 3)
    assert claimed.id == run["id"]
    assert client.delete(f"/v1/tasks/{taught}").status_code == 204
    assert client.get(f"/v1/runs/{run['id']}").status_code == 404


@pytest.mark.parametrize("name", ["nothing", "NO", "a%00b", "%F0%9F%98%80"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/examples"), ("POST", "/examples"),
        ("POST", "/runs"), ("GET", "/runs"), ("GET", "/versions"), ("GET", "/versions/1"),
        ("GET", "/versions/1/head.onnx"), ("GET", "/versions/1/model.onnx"), ("GET", "/versions/1/mistakes"),
        ("GET", "/aliases"), ("GET", "/aliases/production"), ("PUT", "/aliases/production"),
        ("DELETE", "/aliases/production"), ("POST", "/predict"), ("GET", "/examples/ex_1"),
        ("PATCH", "/examples/ex_1"), ("DELETE", "/examples/ex_1"), ("GET", "/examples/ex_1/image"),
    ],
)  # fmt: skip
def test_an_unknown_task_is_404_everywhere(client, method, path, name):
    bodies = {"/aliases/production": {"version": 1}, "/predict": {"input": "QUJD"}}
    body = bodies.get(path, {}) if method in {"POST", "PUT", "PATCH"} else None
    answer = client.request(method, f"/v1/tasks/{name}{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_task")
