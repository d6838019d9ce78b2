"""Two servers that share PostgreSQL and S3: what is taught and moved on one is served by the other."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.integration.routes.photos import files, photo
from tests.servers import Server, clean_environment, serving
from tests.stores import Cluster

SEEN_S = 2.0  # within which a replica serves what another has published
LABELS = ("red", "green")


@pytest.fixture(scope="module")
def replicas(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Each with a data folder and a trainer of its own, as on two machines."""
    with ExitStack() as stack:
        url = stack.enter_context(cluster.database(migrated=False))
        shared = {"database_url": url, "blob_url": cluster.blobs(), **cluster.environment}
        shared["cache_dir"] = str(tmp_path_factory.mktemp("cache"))  # the second needs not export again
        migrate_by_many(shared["database_url"])
        first, second = (
            stack.enter_context(serving(tmp_path_factory.mktemp(name), **shared)) for name in ("one", "other")
        )
        yield first, second


def migrate_by_many(database_url: str) -> None:
    """As the pods of a deployment may, all at once."""
    environment = clean_environment() | {"POLYHEAD_DATABASE_URL": database_url}
    migrating = [
        subprocess.Popen([sys.executable, "-m", "service", "migrate"], env=environment) for _ in range(3)
    ]
    assert [each.wait(300) for each in migrating] == [0, 0, 0]


def test_what_one_replica_publishes_the_other_serves_within_two_seconds(replicas):
    with replicas[0].client(timeout=300) as one, replicas[1].client(timeout=60) as other:
        created = one.post("/v1/tasks", json={"name": "colours", "kind": "multiclass"})
        assert created.status_code == 201, created.text
        teach(one, range(24))
        assert predicted(other)["code"] == "nothing_published"

        assert train(one)["version"] == 1
        answer = seen(lambda: predicted(other), lambda said: said.get("version") == 1)
        assert [each["label"] for each in answer["predictions"]] == list(LABELS)

        teach(other, range(24, 40))  # the other way round, over the version that is cached by now
        assert predicted(one)["version"] == 1
        assert train(other)["version"] == 2
        seen(lambda: predicted(one), lambda said: said["version"] == 2)
        examples = one.get("/v1/tasks/colours").json()["examples"]
        assert examples == 80


def test_a_rollback_on_one_is_seen_by_the_other_within_two_seconds(replicas):
    with replicas[0].client(timeout=300) as one, replicas[1].client(timeout=60) as other:
        assert predicted(other)["version"] == 2
        for version in (1, 2):
            moved = one.put("/v1/tasks/colours/aliases/production", json={"version": version})
            assert moved.status_code == 200, moved.text
            seen(lambda: predicted(other), lambda said, version=version: said["version"] == version)


def test_an_image_that_one_replica_took_the_other_gives_back(replicas):
    with replicas[0].client() as one, replicas[1].client() as other:
        listed = one.get("/v1/tasks/colours/examples?limit=1").json()["data"]
        image = f"/v1/tasks/colours/examples/{listed[0]['id']}/image"
        assert other.get(image).content == one.get(image).content != b""
        assert other.get("/v1/tasks/colours/versions/1/model.onnx").status_code == 200


def teach(client: httpx.Client, numbers: range) -> None:
    for label in LABELS:
        photos = files(*(photo(label, number) for number in numbers))
        answer = client.post("/v1/tasks/colours/examples", files=photos, data={"label": label})
        assert answer.status_code == 201, answer.text


def train(client: httpx.Client) -> dict[str, Any]:
    """A run that has published by the time this returns."""
    run = client.post(
        "/v1/tasks/colours/runs", json={"publish": "always"}, headers={"Prefer": "wait=60"}
    ).json()
    while run.get("state") in ("queued", "running"):
        run = client.get(f"/v1/runs/{run['id']}", headers={"Prefer": "wait=60"}).json()
    assert (run.get("state"), run.get("published")) == ("succeeded", True), run
    return run


def predicted(client: httpx.Client) -> dict[str, Any]:
    """A prediction, or the problem that is said instead."""
    photos = files(*(photo(label, 90) for label in LABELS))
    said: dict[str, Any] = client.post("/v1/tasks/colours/predict", files=photos).json()
    return said


def seen(ask: Callable[[], dict[str, Any]], right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first right answer, if its question was asked in time."""
    began = time.monotonic()
    while True:
        asked_s = time.monotonic() - began
        answer = ask()
        if right(answer):
            return answer
        assert asked_s < SEEN_S, f"still {answer} after {asked_s:.2f} s"
        time.sleep(0.05)
