"""Archives uploaded over HTTP and imported by a run."""

import io
import zipfile

import pytest

from tests.integration.routes.photos import photo


def summary(client, task):
    return client.get(f"/v1/tasks/{task}").json()


def archive(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as writer:
        for name, data in members.items():
            writer.writestr(name, data)
    return buffer.getvalue()


def test_an_archive_is_imported_by_a_run(client, service, task):
    data = archive(
        **{"red/a.jpg": photo("red", 0), "blue/b.jpg": photo("blue", 0), "blue/c.jpg": b"no image"}
    )
    answer = client.post(f"/v1/tasks/{task}/examples", files={"archive": ("photos.zip", data)})
    assert answer.status_code == 202, answer.text
    assert answer.headers["Retry-After"] == "1"
    run = answer.json()
    assert (run["kind"], run["state"], run["options"]) == ("import", "queued", {"filename": "photos.zip"})
    assert answer.headers["Location"] == f"/v1/runs/{run['id']}"
    service.work()
    run = client.get(answer.headers["Location"]).json()
    assert run["state"] == "succeeded"
    items = client.get(f"/v1/runs/{run['id']}/results").json()
    assert {item["filename"]: item["status"] for item in items["data"]} == {
        "blue/b.jpg": "created",
        "blue/c.jpg": None,
        "red/a.jpg": "created",
    }
    assert summary(client, task)["per_class"] == {"blue": 1, "red": 1}


def archives_of(service, task):
    known = service.store.tasks.get("default", task)
    imports = service.settings.data_dir / "blobs/tenants/default/tasks" / known.id / "imports"
    return list(imports.iterdir()) if imports.exists() else []


def test_an_import_that_is_cancelled_in_the_queue_takes_its_archive_along(client, service, task):
    data = archive(**{"red/a.jpg": photo("red", 0)})
    answer = client.post(f"/v1/tasks/{task}/examples", files={"archive": ("a.zip", data)})
    assert len(archives_of(service, task)) == 1
    cancelled = client.post(f"{answer.headers['Location']}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert archives_of(service, task) == []


def test_an_archive_waits_for_no_other_run_and_leaves_nothing(client, service, taught):
    run = client.post(f"/v1/tasks/{taught}/runs", json={}).json()
    answer = client.post(
        f"/v1/tasks/{taught}/examples", files={"archive": ("a.zip", archive(x=photo("red", 0)))}
    )
    assert (answer.status_code, answer.json()["run"]) == (409, run["id"])
    assert archives_of(service, taught) == []
    client.post(f"/v1/runs/{run['id']}/cancel")


def test_an_archive_comes_alone(client, task):
    parts = [("archive", ("a.zip", b"PK")), ("file", ("a.jpg", photo("red", 0)))]
    assert client.post(f"/v1/tasks/{task}/examples", files=parts).status_code == 422
    labelled = client.post(
        f"/v1/tasks/{task}/examples", files={"archive": ("a.zip", b"PK")}, data={"label": "x"}
    )
    assert labelled.status_code == 422


HOSTILE = {
    "outside": {"../../evil/a.jpg": photo("red", 0), "/etc/cron.d/a.jpg": photo("red", 1)},
    "bomb": {"red/a.jpg": bytes(300 * 2**20)},
    "no images": {"notes/a.txt": b"text"},
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_adds_nothing(client, service, task, members):
    before = summary(client, task)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, data in members.items():
            writer.writestr(name, data)
    answer = client.post(f"/v1/tasks/{task}/examples", files={"archive": ("x.zip", buffer.getvalue())})
    assert answer.status_code == 202
    service.work()
    run = client.get(answer.headers["Location"]).json()
    items = client.get(f"/v1/runs/{run['id']}/results").json()["data"]
    assert run["state"] == "failed" or all(item["error"] for item in items)
    assert summary(client, task) == before


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"text"], ids=["empty", "truncated", "text"])
def test_what_is_no_archive_fails_its_run(client, service, task, data):
    answer = client.post(f"/v1/tasks/{task}/examples", files={"archive": ("x.zip", data)})
    assert answer.status_code == 202
    service.work()
    run = client.get(answer.headers["Location"]).json()
    assert (run["state"], run["error"]["code"]) == ("failed", "invalid_archive")
