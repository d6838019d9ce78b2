"""From one backbone to another under load: prepared beside the old server, then moved over to a new one."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

import httpx
import pytest

from models.identity import BackboneConfig
from models.prepare import prepare_backbone
from tests.integration.routes.photos import files, photo
from tests.servers import SERVE, Server, clean_environment, serving, variable
from tests.stores import Cluster

OLD, NEW = "efficientnet_lite0", "efficientnet_lite1"
LABELS = ("red", "green")
PACE_S = 0.1  # between two requests of a client: steady, and not all that there is
PREPARING_S = 420.0  # the export of a network, on cores that are shared


@dataclass(slots=True)
class Clients:
    """Clients that predict one photo after another on the server that is theirs just then."""

    servers: list[Server]  # of each client
    answers: list[tuple[str, str, int]] = field(default_factory=list)  # server's URL, task, version
    failures: list[str] = field(default_factory=list)
    asked: dict[int, str] = field(default_factory=dict)  # by client: the URL that its request is at
    _moving: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run, args=(at,)) for at in range(len(self.servers))]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def after(self, server: Server, count: int = 8, within_s: float = 60.0) -> None:
        """Wait until that many more answers came from a server."""
        wanted, end = self.from_(server) + count, time.monotonic() + within_s
        while self.from_(server) < wanted:
            assert time.monotonic() < end, (self.failures, "too few answers")
            time.sleep(0.05)

    def move(self, client: int, server: Server) -> None:
        with self._moving:
            self.servers[client] = server

    def gone_from(self, server: Server, within_s: float = 60.0) -> None:
        """Wait until no request is at a server that is nobody's any more."""
        end = time.monotonic() + within_s
        while server.url in self.asked.values():
            assert time.monotonic() < end, "a request is still at it"
            time.sleep(0.05)

    def from_(self, server: Server) -> int:
        return sum(url == server.url for url, _, _ in self.answers)

    def _run(self, at: int) -> None:
        number = 0
        # A connection for each request, as in tests/e2e/load.py.
        with httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0)) as client:
            while not self._stop.wait(PACE_S):
                task = ("colours", "few")[number % 2]
                number += 1
                image = files(photo(LABELS[number % 2], 10_000 * (at + 1) + number))
                with self._moving:
                    server = self.servers[at]
                    self.asked[at] = server.url
                try:
                    answer = client.post(f"{server.url}/v1/tasks/{task}/predict", files=image)
                    assert answer.status_code == 200, answer.text
                    self.answers.append((server.url, task, answer.json()["version"]))
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(f"{server.url} {type(error).__name__}: {error}")
                self.asked[at] = ""


@pytest.fixture
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The settings that both deployments have, with both backbones exported, as an image brings them."""
    cache = tmp_path_factory.mktemp("cache")
    for name in (OLD, NEW):
        prepare_backbone(BackboneConfig(name=name), cache)
    with ExitStack() as stack:
        yield {
            "database_url": stack.enter_context(cluster.database()),
            "blob_url": cluster.blobs(),
            "cache_dir": str(cache),
            **cluster.environment,
        }


@pytest.mark.timeout(900)
def test_a_new_backbone_takes_over_without_a_failed_request(shared, tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with serving(tmp_path / "old", backbone=OLD, **shared) as old, old.client(timeout=300) as client:
        teach(client, "colours", 22)  # enough for a test split
        teach(client, "few", 6)  # judged out of fold
        with Clients([old, old]) as clients:
            clients.after(old)
            said = prepare(tmp_path, shared)
            states = {each["task"]: each["state"] for each in said["versions"]}
            assert states == {"colours": "published", "few": "published"}
            assert said["settings"]["POLYHEAD_BACKBONE"] == NEW
            with serving(tmp_path / "new", backbone=NEW, **shared) as new:
                clients.move(0, new)  # as in a rollout: some are there, some not yet
                clients.after(new)
                clients.after(old)
                with new.client(timeout=300) as their:
                    assert train(their, "colours", seed=1, publish="always")["published"]
                clients.move(1, new)
                clients.gone_from(old)
                assert old.stop() == 0
                clients.after(new)
                clients.end()  # before the new one is
                new_digest = backbone_of(new.url)
                used = set(clients.answers)
                digests = {(task, number): digest_of(new.url, task, number) for _, task, number in used}
    assert clients.failures == []
    old_digest = said["old_backbone"]["digest"]
    assert new_digest == said["new_backbone"]["digest"] != old_digest
    assert {url for url, _, _ in used} == {old.url, new.url}
    for url, task, version in used:
        assert digests[task, version] == (new_digest if url == new.url else old_digest)


def teach(client: httpx.Client, task: str, each: int) -> None:
    assert client.post("/v1/tasks", json={"name": task, "kind": "multiclass"}).status_code == 201
    for label in LABELS:
        photos = files(*(photo(label, number + len(task)) for number in range(each)))
        answer = client.post(f"/v1/tasks/{task}/examples", files=photos, data={"label": label})
        assert answer.status_code == 201, answer.text
    assert train(client, task)["published"]


def train(client: httpx.Client, task: str, **options: object) -> dict[str, object]:
    run = client.post(f"/v1/tasks/{task}/runs", json=options, headers={"Prefer": "wait=60"}).json()
    while run.get("state") in ("queued", "running"):
        run = client.get(f"/v1/runs/{run['id']}", headers={"Prefer": "wait=60"}).json()
    assert run.get("state") == "succeeded", run
    return run


def prepare(folder, shared) -> dict[str, object]:
    """`polyhead backbone prepare`, with the settings of the old deployment."""
    settings = {"backbone": OLD, "data_dir": str(folder / "prepare"), **shared}
    done = subprocess.run(
        [sys.executable, "-m", SERVE[0], "backbone", "prepare", NEW, "--json"],
        env=clean_environment() | {variable(name): value for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=PREPARING_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    return said


def backbone_of(url: str) -> str:
    digest: str = httpx.get(f"{url}/v1/backbone", timeout=60).json()["digest"]
    return digest


def digest_of(url: str, task: str, version: int) -> str:
    """The digest of the backbone that a version is of."""
    digest: str = httpx.get(f"{url}/v1/tasks/{task}/versions/{version}", timeout=60).json()["backbone_digest"]
    return digest
