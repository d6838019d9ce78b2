"""Quotas of a tenant, as its clients meet them."""

import io
import zipfile

import pytest

from tests.integration.routes.photos import files, photo


@pytest.fixture
def client(open_service, tmp_path):
    quotas = {"tenant_max_tasks": 2, "tenant_max_examples": 3, "tenant_max_active_runs": 1}
    with open_service(tmp_path / "data", **quotas) as service:
        service.client.post("/v1/tasks", json={"name": "a", "kind": "multiclass"})
        service.client.work = service.work
        yield service.client


def test_a_task_too_many_is_403(client):
    assert client.post("/v1/tasks", json={"name": "b", "kind": "multiclass"}).status_code == 201
    answer = client.post("/v1/tasks", json={"name": "c", "kind": "multiclass"})
    assert (answer.status_code, answer.json()["code"]) == (403, "quota_exceeded")
    assert "WWW-Authenticate" not in answer.headers


def test_examples_too_many_fail_alone_and_leave_no_bytes(client, tmp_path):
    images = files(*(photo("red", number) for number in range(5)))
    answer = client.post("/v1/tasks/a/examples", files=images, data={"label": "red"})
    assert answer.status_code == 207
    codes = [(each.get("error") or {}).get("code") for each in answer.json()["data"]]
    assert codes == [None, None, None, "quota_exceeded", "quota_exceeded"]
    kept = [path for path in (tmp_path / "data" / "blobs").rglob("images/*") if path.is_file()]
    assert len(kept) == 3
    again = client.post("/v1/tasks/a/examples", files=files(photo("red", 7)))
    assert (again.status_code, again.json()["code"]) == (403, "quota_exceeded")


def test_an_import_takes_what_fits(client):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as writer:
        for number in range(5):
            writer.writestr(f"red/{number}.jpg", photo("red", number))
    run = client.post("/v1/tasks/a/examples", files={"archive": ("a.zip", buffer.getvalue())}).json()["id"]
    client.work()
    assert client.get(f"/v1/runs/{run}").json()["result"]["created"] == 3
    results = client.get(f"/v1/runs/{run}/results").json()["data"]
    assert results[-1]["error"]["code"] == "quota_exceeded"


def test_a_run_too_many_is_429(client):
    client.post("/v1/tasks", json={"name": "b", "kind": "multiclass"})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as writer:
        writer.writestr("red/a.jpg", photo("red", 1))
    archive = {"archive": ("a.zip", buffer.getvalue())}
    assert client.post("/v1/tasks/a/examples", files=archive).status_code == 202
    answer = client.post("/v1/tasks/b/examples", files=archive)
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_runs")
    assert answer.headers["Retry-After"] == "5"
