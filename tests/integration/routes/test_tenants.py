"""Two tenants on one service: neither sees, changes or guesses the other's things."""

import threading
import time

import pytest

from service import administration
from service.routes import ROUTERS
from service.web.keyring import FRESH_S
from tests.integration.routes.keys import caller, keyed, new_key
from tests.integration.routes.photos import data_uri, files, photo

# What is nobody's, or makes a thing of the caller's own.
OWN = {
    "create_task", "list_tasks", "list_runs", "predict_many", "create_embeddings", "get_backbone",
    "download_backbone", "live", "ready", "metrics",
}  # fmt: skip
ROUTES = {
    route.operation_id: (next(iter(route.methods)), route.path)
    for router in ROUTERS
    for route in router.routes
    if route.operation_id not in OWN
}
BODIES = {"put_alias": {"version": 1}}


@pytest.fixture(scope="module")
def service(open_service, tmp_path_factory):
    with keyed(open_service, tmp_path_factory.mktemp("tenants")) as service:
        yield service


@pytest.fixture(scope="module")
def acme(service):
    return caller(service, "admin", tenant="acme")


@pytest.fixture(scope="module")
def other(service):
    return caller(service, "admin", tenant="other")


def teach(client, task):
    assert client.post("/v1/tasks", json={"name": task, "kind": "multiclass"}).status_code == 201
    for label in ("red", "blue"):
        images = files(*(photo(label, number) for number in range(4)))
        answer = client.post(f"/v1/tasks/{task}/examples", files=images, data={"label": label})
        assert answer.status_code == 201, answer.text


@pytest.fixture(scope="module")
def theirs(service, acme):
    """What acme has: a trained task, as path parameters."""
    teach(acme, "cells")
    run = acme.post("/v1/tasks/cells/runs", json={}).json()["id"]
    assert service.work().state == "succeeded"
    example = acme.get("/v1/tasks/cells/examples").json()["data"][0]["id"]
    return {"task": "cells", "run": run, "example": example, "version": 1, "alias": "production"}


@pytest.mark.parametrize("operation", ROUTES)
def test_everything_of_another_tenant_is_404(acme, other, theirs, operation):
    """The same as for what never was, to the letter; and nothing has changed."""
    method, path = ROUTES[operation]
    before = acme.get("/v1/tasks/cells").json()
    answer = other.request(method, path.format(**theirs), json=BODIES.get(operation))
    nowhere = {**theirs, "task": "never", "run": "run_never", "example": "ex_never"}
    never = other.request(method, path.format(**nowhere), json=BODIES.get(operation))
    assert answer.status_code == never.status_code == 404, answer.text
    said = answer.json()["detail"]
    for name in ("task", "run", "example"):
        said = said.replace(theirs[name], nowhere[name])
    assert said == never.json()["detail"]
    assert acme.get("/v1/tasks/cells").json() == before


@pytest.mark.parametrize("operation", sorted(set(ROUTES) - {"delete_task", "delete_alias", "delete_example"}))
def test_what_is_404_to_others_is_there_for_its_owner(acme, theirs, operation):
    """Else the test above would show nothing."""
    method, path = ROUTES[operation]
    answer = acme.request(method, path.format(**theirs), json=BODIES.get(operation))
    if operation == "download_factors":  # a head has none
        assert answer.json()["code"] == "no_factors"
    else:
        assert answer.status_code != 404


def test_lists_have_one_s_own_things_alone(acme, other, theirs):
    assert [task["name"] for task in acme.get("/v1/tasks").json()["data"]] == ["cells"]
    for path in ("/v1/tasks", "/v1/runs"):
        assert acme.get(path).json()["data"]
        assert other.get(path).json()["data"] == []


def test_another_tenant_s_task_fails_alone_in_a_fan_out(other, theirs):
    body = {"tasks": ["cells", "cells@1"], "input": data_uri(photo("red", 1))}
    answer = other.post("/v1/predict", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_task")


def test_a_prediction_that_was_cached_for_one_tenant_is_not_for_another(open_service, tmp_path):
    with keyed(open_service, tmp_path / "data", resolve_cache_s=60) as service:
        owner, stranger = (caller(service, "admin", tenant=tenant) for tenant in ("a", "b"))
        teach(owner, "cells")
        owner.post("/v1/tasks/cells/runs", json={})
        service.work()
        image = {"input": data_uri(photo("red", 1))}
        assert owner.post("/v1/tasks/cells/predict", json=image).status_code == 200
        assert stranger.post("/v1/tasks/cells/predict", json=image).status_code == 404


def test_tenants_may_have_tasks_of_the_same_name(service, acme, theirs):
    third = caller(service, "admin", tenant="third")
    teach(third, "cells")
    third.post("/v1/tasks/cells/runs", json={})
    run = service.work()
    assert (run.tenant, run.state) == ("third", "succeeded")
    third.delete("/v1/tasks/cells")
    assert third.get("/v1/tasks/cells").status_code == 404
    assert acme.get("/v1/tasks/cells/versions/1").status_code == 200
    assert acme.post("/v1/tasks/cells/predict", json={"input": data_uri(photo("red", 1))}).status_code == 200


def test_the_bytes_of_a_tenant_lie_below_its_name(service, acme, theirs):
    task = service.store.tasks.get("acme", "cells")
    example = service.store.examples.list(task, limit=1).data[0]
    assert example.blob_key.startswith("tenants/acme/tasks/")


def test_an_idempotency_key_is_a_tenant_s_own(acme, other):
    """Else one could read the other's answer, or be refused by it."""
    headers = {"Idempotency-Key": "the-same"}
    first = acme.post("/v1/tasks", json={"name": "mine", "kind": "multiclass"}, headers=headers)
    again = other.post("/v1/tasks", json={"name": "yours", "kind": "multiclass"}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert "Idempotent-Replayed" not in again.headers
    assert other.get("/v1/tasks/yours").status_code == 200


def test_a_key_of_a_lesser_scope_gets_no_stored_answer(service, acme):
    """Within a tenant, too: the scope is looked at before what is stored."""
    headers = {"Idempotency-Key": "of-a-trainer"}
    body = {"name": "told", "kind": "multiclass"}
    assert acme.post("/v1/tasks", json=body, headers=headers).status_code == 201
    reader = caller(service, "predict", tenant="acme")
    assert reader.post("/v1/tasks", json=body, headers=headers).status_code == 403
    assert acme.post("/v1/tasks", json=body, headers=headers).headers["Idempotent-Replayed"] == "true"


def test_a_key_without_a_tenant_has_the_one_that_is_everybody_s_where_keys_are_off(service, acme, theirs):
    default = caller(service, "admin")
    teach(default, "old")
    assert [task.name for task in service.store.tasks.list("default", limit=9).data] == ["old"]
    assert acme.get("/v1/tasks/old").status_code == 404
    assert default.get("/v1/tasks/cells").status_code == 404


def test_a_stream_of_events_ends_with_its_key(service, acme, theirs):
    """A run that waits for a trainer would be followed for ever."""
    run = acme.post("/v1/tasks/cells/runs", json={"force": True}).json()["id"]
    text, key_id = new_key(service.settings, "train", tenant="acme")
    lines = list[str]()

    def follow():
        with service.client.stream("GET", f"/v1/runs/{run}/events", headers={"X-API-Key": text}) as answer:
            lines.extend(answer.iter_lines())

    follower = threading.Thread(target=follow)
    follower.start()
    time.sleep(0.3)
    administration.revoke(service.settings, key_id)
    follower.join(FRESH_S + 4)
    assert not follower.is_alive()
    assert any("queued" in line for line in lines)
    acme.post(f"/v1/runs/{run}/cancel")
