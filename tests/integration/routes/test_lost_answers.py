"""The answer to a commit is lost: nobody knows whether it was carried out, so nothing is taken back."""

import io
import threading
import time
import zipfile
from collections.abc import Iterator

import pytest

from service.trainer.worker import work_on
from tests.integration.routes.local import Local
from tests.integration.routes.photos import files, photo
from tests.proxies import Proxy, before_database
from tests.stores import Cluster


@pytest.fixture
def behind_a_proxy(
    cluster: Cluster, open_service, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Local, Proxy]]:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    with (
        cluster.database() as url,
        before_database(url) as (proxy, through),
        open_service(tmp_path, database_url=through, blob_url=cluster.blobs()) as service,
    ):
        yield service, proxy


def test_an_upload_whose_commit_was_lost_keeps_its_bytes_so_that_sending_it_again_is_enough(behind_a_proxy):
    service, proxy = behind_a_proxy
    client = service.client
    client.post("/v1/tasks", json={"name": "colours", "kind": "multiclass"})
    image = photo("red", 1)

    proxy.lose_answer_after(b"INSERT INTO examples", b"COMMIT")
    lost = client.post("/v1/tasks/colours/examples", files=files(image), data={"label": "red"})
    assert lost.status_code == 503, lost.text

    again = client.post("/v1/tasks/colours/examples", files=files(image), data={"label": "red"})
    assert [each["status"] for each in again.json()["data"]] == ["duplicate"]
    kept = client.get(f"/v1/tasks/colours/examples/{again.json()['data'][0]['id']}/image")
    assert kept.status_code == 200, kept.text
    assert kept.content == image


def test_an_import_whose_commit_was_lost_keeps_its_bytes(behind_a_proxy):
    service, proxy = behind_a_proxy
    client = service.client
    client.post("/v1/tasks", json={"name": "archived", "kind": "multiclass"})
    image = photo("green", 1)
    archive = {"archive": ("one.zip", zipped({"green/1.jpg": image}), "application/zip")}
    assert client.post("/v1/tasks/archived/examples", files=archive).status_code == 202

    proxy.lose_answer_after(b"INSERT INTO examples", b"COMMIT")
    run = service.store.runs.claim(1, 3)
    assert run is not None
    work_on(run, service.bench, threading.Event())
    assert service.store.runs.get(run.tenant, run.id).state == "running"  # its trainer has dropped it

    while (next_claim := service.store.runs.claim(60, 3)) is None:
        time.sleep(0.1)
    work_on(next_claim, service.bench, threading.Event())
    ended = service.store.runs.get(run.tenant, run.id)
    assert (ended.state, ended.result["duplicates"]) == ("succeeded", 1)
    (listed,) = client.get("/v1/tasks/archived/examples").json()["data"]
    assert client.get(f"/v1/tasks/archived/examples/{listed['id']}/image").content == image


def test_an_archive_whose_commit_was_lost_is_imported(behind_a_proxy):
    service, proxy = behind_a_proxy
    client = service.client
    client.post("/v1/tasks", json={"name": "queued", "kind": "multiclass"})
    archive = {"archive": ("one.zip", zipped({"blue/1.jpg": photo("blue", 1)}), "application/zip")}
    proxy.lose_answer_after(b"INSERT INTO runs", b"COMMIT")
    assert client.post("/v1/tasks/queued/examples", files=archive).status_code == 503
    ended = service.work()
    assert (ended.state, ended.error) == ("succeeded", None)


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path, data in members.items():
            archive.writestr(path, data)
    return file.getvalue()
