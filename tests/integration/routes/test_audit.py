"""A line for every change, with who and what, and nothing of what an image shows."""

import pytest

from service.app import openapi_schema
from service.web.audit import ASKING
from tests.integration.routes.keys import caller, keyed
from tests.integration.routes.photos import data_uri, files, photo


@pytest.fixture(scope="module")
def audited(open_service, tmp_path_factory):
    with keyed(open_service, tmp_path_factory.mktemp("audited")) as audited:
        yield audited


@pytest.fixture(scope="module")
def acme(audited):
    acme = caller(audited, "admin", tenant="acme")
    acme.post("/v1/tasks", json={"name": "cells", "kind": "multiclass"})
    for label in ("red", "blue"):
        images = files(*(photo(label, number) for number in range(4)))
        acme.post("/v1/tasks/cells/examples", files=images, data={"label": label})
    acme.post("/v1/tasks/cells/runs", json={})
    audited.work()
    return acme


@pytest.fixture
def lines(logged):
    """The audit's lines since the last look."""
    return lambda: logged("audit")


def test_a_line_says_who_changed_what(acme, audited, lines):
    acme.put("/v1/tasks/cells/aliases/candidate", json={"version": 1})
    (line,) = lines()
    key = next(key for key in audited.store.api_keys.list() if key.tenant == "acme")
    said = {name: line[name] for name in ("event", "tenant", "key", "path", "status", "version")}
    assert said == {
        "event": "put_alias",
        "tenant": "acme",
        "key": key.id,
        "path": "/v1/tasks/cells/aliases/candidate",
        "status": 200,
        "version": 1,
    }
    assert line["request_id"].startswith("req_")


def test_every_operation_that_changes_something_has_a_line(acme, audited, lines):
    changing = {
        operation["operationId"]
        for methods in openapi_schema()["paths"].values()
        for method, operation in methods.items()
        if method != "get"
    }
    acme.post("/v1/tasks", json={"name": "brief", "kind": "multiclass"})
    task = "/v1/tasks/brief"
    acme.patch(task, json={"description": "a secret description"})
    images = {"examples": [{"image": data_uri(photo("red", 1)), "label": "a secret label"}]}
    example = acme.post(f"{task}/examples", json=images).json()["data"][0]["id"]
    acme.patch(f"{task}/examples/{example}", json={"label": "another secret label"})
    acme.delete(f"{task}/examples/{example}")
    run = acme.post("/v1/tasks/cells/runs", json={"force": True}).json()["id"]
    acme.post(f"/v1/runs/{run}/cancel")
    acme.put("/v1/tasks/cells/aliases/x", json={"version": 1})
    acme.delete("/v1/tasks/cells/aliases/x")
    acme.delete(task)
    found = lines()
    assert {line["event"] for line in found} == changing - ASKING
    by_event = {line["event"]: line for line in found}
    assert by_event["create_task"]["made"] == "/v1/tasks/brief"
    assert by_event["add_examples"]["created"] == 1
    assert by_event["update_example"]["fields"] == ["label"]
    assert by_event["create_run"]["made"] == f"/v1/runs/{run}"
    assert "secret" not in str(found)


def test_what_changes_nothing_has_none(acme, lines):
    acme.get("/v1/tasks/cells")
    acme.post("/v1/tasks/cells/predict", json={"input": data_uri(photo("red", 1))})
    acme.post("/v1/tasks/cells/runs", json={"dry_run": True})
    acme.post("/v1/tasks", json={"name": "cells", "kind": "multiclass"})  # 409
    acme.post("/v1/tasks/cells/nowhere")
    acme.delete("/v1/tasks/nowhere")
    assert lines() == []


def test_a_repetition_is_one_change(acme, lines):
    for _ in range(2):
        body = {"name": "once", "kind": "multiclass"}
        acme.post("/v1/tasks", json=body, headers={"Idempotency-Key": "once"})
    assert [line["event"] for line in lines()] == ["create_task"]


def test_a_run_s_end_says_what_it_has_made(acme, audited, lines):
    acme.post("/v1/tasks/cells/runs", json={"force": True, "publish": "always"})
    lines()
    audited.work()
    (line,) = lines()
    assert (line["event"], line["tenant"], line["task_name"]) == ("end_run", "acme", "cells")
    assert (line["state"], line["published"]) == ("succeeded", True)
    assert line["version"] > 1


def test_where_keys_are_off_changes_have_lines_too(client, new_task, lines):
    new_task()
    (line,) = lines()
    assert (line["event"], line["tenant"], line["key"]) == ("create_task", "default", None)
